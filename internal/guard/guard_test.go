// SPDX-License-Identifier: Apache-2.0

package guard_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chaperone/internal/fault"
	"chaperone/internal/guard"
)

func TestNormalise(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, c := range []struct{ typ, raw, want string }{ // want "" = refused
		{guard.Email, "Alice@Acme.COM", "alice@acme.com"},
		{guard.Email, "a.b+tag@sub.acme.co.uk", "a.b+tag@sub.acme.co.uk"},
		{guard.Email, "post@bücher.de", "post@xn--bcher-kva.de"},
		{guard.Email, "post@xn--bcher-kva.de", "post@xn--bcher-kva.de"},
		{guard.Email, "jörg@acme.com", "jörg@acme.com"},
		{guard.Email, "alice@acme.com,eve@evil.test", ""},
		{guard.Email, "alice@acme.com;eve@evil.test", ""},
		{guard.Email, "Alice <alice@acme.com>", ""},
		{guard.Email, `"alice"@acme.com`, ""},
		{guard.Email, "alice@acme.com@evil.test", ""},
		{guard.Email, " alice@acme.com", ""},
		{guard.Email, "alice@acme.com\n", ""},
		{guard.Email, "alice@acme.com\r\nBcc: eve@evil.test", ""},
		{guard.Email, "alice@[10.0.0.1]", ""},
		{guard.Email, "alice@10.0.0.1", ""},
		{guard.Email, "alice@localhost", ""},
		{guard.Email, "alice@acme.com.", ""},
		{guard.Email, "alice@-acme.com", ""},
		{guard.Email, ".alice@acme.com", ""},
		{guard.Email, "al..ice@acme.com", ""},
		{guard.Email, "alice(c)@acme.com", ""},
		{guard.Email, long + "a@acme.com", ""},
		{guard.Email, long + "@acme.com", long + "@acme.com"},
		{guard.Email, "alice", ""},
		{guard.Email, "", ""},
		// look-alikes and the invisible
		{guard.Email, "\uff41lice@acme.com", ""},                    // full-width a: NFKC would make it alice
		{guard.Email, "alice@acme\u3002com", ""},                    // ideographic full stop
		{guard.Email, "ali\u200bce@acme.com", ""},                   // zero-width space
		{guard.Email, "ali\u00adce@acme.com", ""},                   // soft hyphen
		{guard.Email, "alice\u202e@acme.com", ""},                   // bidi override
		{guard.Email, "alice\ufe0f@acme.com", ""},                   // variation selector
		{guard.Email, "alice\U000e0041@acme.com", ""},               // tag letter
		{guard.Email, "\u212aate@acme.com", ""},                     // Kelvin sign, lower case k
		{guard.Email, "al\u0131ce@acme.com", "al\u0131ce@acme.com"}, // dotless i is another address
		{guard.Email, "alice\u3164@acme.com", ""},                   // Hangul filler, a letter that shows nothing
		{guard.Email, "\x80alice@acme.com", ""},

		{guard.Domain, "Acme.com", "acme.com"},
		{guard.Domain, "acme.com.", ""},
		{guard.Domain, "acme", ""},
		{guard.Domain, "acme..com", ""},
		{guard.Domain, "127.0.0.1", ""},
		{guard.Domain, "0x7f.1", ""},
		{guard.Domain, "a_b.com", ""},
		{guard.Domain, "acme.com/x", ""},
		{guard.Domain, "xn--a.com", ""},
		{guard.Domain, "стр.рф", "xn--p1abd.xn--p1ai"},

		{guard.URL, "HTTPS://Acme.com", "https://acme.com/"},
		{guard.URL, "https://acme.com:443/a%7eb?x=%2f#F", "https://acme.com/a~b?x=%2F#F"},
		{guard.URL, "http://acme.com:8080/a", "http://acme.com:8080/a"},
		{guard.URL, "http://127.0.0.1/a", "http://127.0.0.1/a"},
		{guard.URL, "http://[::1]:80/", "http://[::1]/"},
		{guard.URL, "http://bücher.de/ü", "http://xn--bcher-kva.de/%C3%BC"},
		{guard.URL, "https://acme.com/b/", "https://acme.com/b/"},
		{guard.URL, "https://acme.com@evil.test/", ""},
		{guard.URL, "https://u:p@acme.com/", ""},
		{guard.URL, "https://acme.com\\@evil.test/", ""},
		{guard.URL, "https://acme.com/a/../b", ""},
		{guard.URL, "https://acme.com/a/%2E%2e/b", ""},
		{guard.URL, "https://acme.com//b", ""},
		{guard.URL, "https://%61cme.com/", ""},
		{guard.URL, "https://acme.com:/", ""},
		{guard.URL, "https://acme.com:99999/", ""},
		{guard.URL, "http://2130706433/", ""},
		{guard.URL, "http://0177.0.0.1/", ""},
		{guard.URL, "http://[::ffff:127.0.0.1]/", ""},
		{guard.URL, "javascript:alert(1)", ""},
		{guard.URL, "file:///etc/passwd", ""},
		{guard.URL, "//acme.com/x", ""},
		{guard.URL, "https://acme.com/a b", ""},
		{guard.URL, "https://acme.com/%zz", ""},
		{guard.URL, "https://acme.com/%0a", ""},
		{guard.URL, "https:///x", ""},

		{guard.IBAN, "DE89 3704 0044 0532 0130 00", "DE89370400440532013000"},
		{guard.IBAN, "gb29nwbk60161331926819", "GB29NWBK60161331926819"},
		{guard.IBAN, "DE89370400440532013001", ""}, // check digits
		{guard.IBAN, "DE8937040044053201300", ""},  // length
		{guard.IBAN, "ZZ89370400440532013000", ""}, // country
		{guard.IBAN, "DE89-3704-0044-0532-0130-00", ""},
		{guard.IBAN, "DE89  370400440532013000", ""},

		{guard.Account, "1234-5678", "12345678"},
		{guard.Account, "ab 1234", "AB1234"},
		{guard.Account, "abcd", ""},
		{guard.Account, "123", ""},
		{guard.Account, "1234/5678", ""},

		{guard.Channel, "#General", "general"},
		{guard.Channel, "general", "general"},
		{guard.Channel, "##general", ""},
		{guard.Channel, "gen eral", ""},

		{guard.User, "@Bob", "bob"},
		{guard.User, "Bob@Acme.com", "bob@acme.com"},
		{guard.User, "bob smith", ""},

		{guard.Path, "/srv/data/", "/srv/data"},
		{guard.Path, "Report.pdf", "Report.pdf"},
		{guard.Path, "../etc/passwd", ""},
		{guard.Path, "a/../b", ""},
		{guard.Path, "./a", ""},
		{guard.Path, "a//b", ""},
		{guard.Path, `a\b`, ""},
		{guard.Path, "a\x00b", ""},
		{guard.Path, "a /b", ""},

		{guard.Phone, "+49 30 1234567", "+49301234567"},
		{guard.Phone, "0049301234567", "+49301234567"},
		{guard.Phone, "(030) 123-4567", "0301234567"},
		{guard.Phone, "+49 (0)30 1234567", ""},
		{guard.Phone, "+0301234567", ""},
		{guard.Phone, "12345", ""},
		{guard.Phone, "+49 30 1234567 ext 2", ""},
		{guard.Phone, "+49 30 12 34 56 78 90 12", ""},

		{guard.Name, "Acme GmbH", "acme gmbh"},
		{guard.Name, "Acme  GmbH", ""},
		{guard.Name, "Acme\tGmbH", ""},
		{guard.Name, "Acme\u00a0GmbH", ""},
		{guard.Name, "Ac\u200dme", ""},
		{guard.Name, "\u0410cme", "\u0410cme"}, // Cyrillic A: a name, but another one

		{guard.Number, "1,234.50", "1234.5"},
		{guard.Number, "-0.0", "0"},
		{guard.Number, "007", "7"},
		{guard.Number, "1,23", ""},
		{guard.Number, "1e3", ""},
		{guard.Number, "1.", ""},

		{"colour", "red", ""},
	} {
		got, ok := guard.Normalise(c.typ, c.raw)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("Normalise(%s, %q) = %q, %v; want %q", c.typ, c.raw, got, ok, c.want)
		}
	}
}

func TestSinkValues(t *testing.T) {
	args := json.RawMessage(`{
		"to": "Alice@acme.com", "cc": null, "bcc": ["x@y.com", 7], "n": 12, "a.b": "z@y.com",
		"recipients": [{"email": "e@y.com"}, {"name": "no mail"}, {"email": {"x": 1}}, "odd"],
		"deep": {"to": [["p@y.com"], []]}, "one": {"email": "q@y.com"}, "blank": ""}`)
	for _, c := range []struct {
		path string
		want []guard.Value
	}{
		{"to", []guard.Value{{"to", "email", "Alice@acme.com", "alice@acme.com", true}}},
		{"absent", nil},
		{"cc", []guard.Value{{"cc", "email", "null", "", false}}},
		{"n", []guard.Value{{"n", "email", "12", "", false}}},
		{"blank", []guard.Value{{"blank", "email", "", "", false}}},
		{"bcc", []guard.Value{{"bcc", "email", `["x@y.com", 7]`, "", false}}},
		{"bcc[]", []guard.Value{{"bcc[0]", "email", "x@y.com", "x@y.com", true}, {"bcc[1]", "email", "7", "", false}}},
		{"to[]", []guard.Value{{"to", "email", `"Alice@acme.com"`, "", false}}},
		{`a\.b`, []guard.Value{{"a.b", "email", "z@y.com", "z@y.com", true}}},
		{"a.b", nil},
		{"to.x", []guard.Value{{"to", "email", `"Alice@acme.com"`, "", false}}},
		{"recipients[].email", []guard.Value{
			{"recipients[0].email", "email", "e@y.com", "e@y.com", true},
			{"recipients[2].email", "email", `{"x": 1}`, "", false},
			{"recipients[3]", "email", `"odd"`, "", false}}},
		{"deep.to[][]", []guard.Value{{"deep.to[0][0]", "email", "p@y.com", "p@y.com", true}}},
		{"one[].email", []guard.Value{{"one", "email", `{"email": "q@y.com"}`, "", false}}},
		{"TO", nil},
	} {
		got, err := guard.SinkValues(args, []guard.Sink{{c.path, "email"}})
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", c.path, d)
		}
	}
	if got, err := guard.SinkValues(nil, []guard.Sink{{"to", "email"}}); err != nil || got != nil {
		t.Errorf("no arguments: %v, %v", got, err)
	}
	if got, _ := guard.SinkValues([]byte(`[1]`), []guard.Sink{{"to", "email"}}); len(got) != 1 || got[0].OK {
		t.Errorf("arguments that are no object: %v", got)
	}
	if _, err := guard.SinkValues([]byte(`{"to":"a@b.com","to":"e@evil.test"}`), []guard.Sink{{"to", "email"}}); fault.CodeOf(err) != "json_duplicate_key" {
		t.Errorf("duplicate key: %v", err)
	}
	for _, p := range []string{"", ".", "a.", ".a", "a..b", "a[", "a]", "a[0]", "a[]b", "a[]..b", "a.[]", `a\`, strings.Repeat("a", 513)} {
		if _, err := guard.SinkValues([]byte(`{}`), []guard.Sink{{p, "email"}}); fault.CodeOf(err) != "bad_sink" {
			t.Errorf("path %q: %v", p, err)
		}
		if err := guard.CheckSink(guard.Sink{p, "email"}); fault.CodeOf(err) != "bad_sink" {
			t.Errorf("CheckSink %q: %v", p, err)
		}
	}
	if err := guard.CheckSink(guard.Sink{"to", "e-mail"}); fault.CodeOf(err) != "bad_sink" {
		t.Errorf("unknown type: %v", err)
	}
	if err := guard.CheckSink(guard.Sink{"[].to", "email"}); err != nil {
		t.Errorf("array at the root: %v", err)
	}
}

func TestReadPurpose(t *testing.T) {
	for _, c := range []struct {
		purpose string
		typ     string
		want    []string
	}{
		{"Reply to bob@acme.com.", guard.Email, []string{"bob@acme.com"}},
		{"Reply to <Bob@Acme.com>, and carol@acme.com's assistant", guard.Email, []string{"bob@acme.com", "carol@acme.com"}},
		{"cc:dave@acme.com;eve@acme.com,fay@acme.com", guard.Email, []string{"dave@acme.com", "eve@acme.com", "fay@acme.com"}},
		{"mailto:bob@acme.com", guard.Email, []string{"bob@acme.com"}},
		{"b@acme.com/x and x@y", guard.Email, nil},
		{"Pay DE89 3704 0044 0532 0130 00 the 12 euro", guard.IBAN, []string{"DE89370400440532013000"}},
		{"Pay iban:DE89370400440532013000.", guard.IBAN, []string{"DE89370400440532013000"}},
		{"Pay DE89 3704 0044 0532 0130 01", guard.IBAN, nil},
		{"Pay account 12345678 or 2024", guard.Account, []string{"12345678"}},
		{"See https://acme.com/a_(b). And (https://acme.com/c)!", guard.URL, []string{"https://acme.com/a_(b)", "https://acme.com/c"}},
		{"look at acme.com, report.pdf, archive.zip, v1.2 and e.g. this", guard.Domain, []string{"acme.com"}},
		{"look at report.pdf, /srv/data/x and notes.md.", guard.Path, []string{"/srv/data/x", "notes.md", "report.pdf"}},
		{`open "archive.zip"`, guard.Domain, nil},
		{`open "archive.zip"`, guard.Path, []string{"archive.zip"}},
		{"call +49 30 1234567, not 2026-11-23", guard.Phone, []string{"+49301234567"}},
		{"post in #general and tell @bob", guard.Channel, []string{"general"}},
		{"post in #general and tell @bob", guard.User, []string{"bob"}},
		{"Pay $1,200.50 and 15 EUR to Bob", guard.Number, []string{"1200.5", "15"}},
		{"Send Alice Meyer the report about Bob's invoice", guard.Name, []string{"alice meyer", "bob", "send alice meyer"}},
		{`rename it to 'Quarterly plan' and "Old plan", it's Bob's`, guard.Name, []string{"bob", "old", "old plan", "quarterly", "quarterly plan"}},
		{"write to „Jörg Müller“", guard.Name, []string{"jörg müller"}},
		{"write to Jo\u0308rg", guard.Name, []string{"jörg"}},
		{"\xff bob@acme.com", guard.Email, nil},
		{"", guard.Email, nil},
	} {
		if d := cmp.Diff(c.want, guard.Read(c.purpose, nil).Values(c.typ)); d != "" {
			t.Errorf("%q as %s: (-want +got)\n%s", c.purpose, c.typ, d)
		}
	}
}

func value(typ, raw string) guard.Value {
	n, ok := guard.Normalise(typ, raw)
	return guard.Value{Type: typ, Raw: raw, Norm: n, OK: ok}
}

func TestClears(t *testing.T) {
	s := guard.Read("Pay the invoice of bob@acme.com to DE89 3704 0044 0532 0130 00 and file report.pdf", []guard.PlanSink{{"email", "Plan@acme.com"}, {"", "#ops"}})
	for _, c := range []struct {
		typ, raw string
		want     bool
	}{
		{guard.Email, "BOB@acme.com", true},
		{guard.Email, "plan@acme.com", true},
		{guard.Email, "ob@acme.com", false},            // a part
		{guard.Email, "bob@acme.com.evil.test", false}, // an extension
		{guard.Email, "bob@acme.com,eve@evil.test", false},
		{guard.Email, "b\u043eb@acme.com", false},  // Cyrillic o
		{guard.Email, "bob@\u0430cme.com", false},  // Cyrillic a
		{guard.Email, "bo\u200bb@acme.com", false}, // zero width
		{guard.Email, "\uff42ob@acme.com", false},  // full width
		{guard.Domain, "acme.com", false},          // another type
		{guard.Name, "bob@acme.com", false},
		{guard.IBAN, "DE89370400440532013000", true},
		{guard.IBAN, "GB29NWBK60161331926819", false},
		{guard.Path, "report.pdf", true},
		{guard.Path, "/tmp/report.pdf", false},
		{guard.Path, "Report.pdf", false},
		{guard.Channel, "ops", true},
		{"colour", "red", false},
	} {
		if got := s.Clears(value(c.typ, c.raw)); got != c.want {
			t.Errorf("%s %q cleared = %v, want %v", c.typ, c.raw, got, c.want)
		}
	}
	if (guard.Stated{}).Clears(value(guard.Email, "bob@acme.com")) || guard.Read("", nil).Clears(value(guard.Email, "bob@acme.com")) {
		t.Error("nothing stated clears something")
	}
	// A value is judged by what will be forwarded, not by what its Norm claims, and never if it is not OK.
	if s.Clears(guard.Value{Type: guard.Email, Raw: "eve@evil.test", Norm: "bob@acme.com", OK: true}) {
		t.Error("a forged Norm cleared a value")
	}
	if s.Clears(guard.Value{Type: guard.Email, Raw: "bob@acme.com", Norm: "bob@acme.com"}) {
		t.Error("a value that is not OK was cleared")
	}
}

// genText makes text near the edge of the types: pieces of addresses, signs, look-alikes, invisible characters.
func genText() *rapid.Generator[string] {
	piece := rapid.SampledFrom([]string{"bob", "acme", "com", "@", ".", ":", "/", "//", "#", "+", "-", " ", "%2e", "%41", "..", "https://", "DE89", "3704", "0044", "0",
		"12", ",", "'", "\"", "(", ")", "[", "]", "\\", "\u200b", "\u202e", "\u0430", "\uff41", "\u212a", "ß", "é", "e\u0301", "\u3002", "xn--", "\x00", "\n", "A", "Z9", "_", "~", "`"})
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.OneOf(piece, rapid.String()), 1, 8).Draw(t, "pieces"), "")
	})
}

func checkNormalise(t interface{ Fatalf(string, ...any) }, typ, raw string) {
	n, ok := guard.Normalise(typ, raw)
	if !ok {
		if n != "" {
			t.Fatalf("%s %q: refused with the form %q", typ, raw, n)
		}
		return
	}
	again, ok := guard.Normalise(typ, n)
	if !ok || again != n {
		t.Fatalf("%s %q: form %q becomes %q, %v", typ, raw, n, again, ok)
	}
	for _, r := range n + raw {
		if r < ' ' || r == 0x7f || r >= 0x200b && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0xe0000 && r <= 0xe0fff || r == 0xfeff {
			t.Fatalf("%s: accepted %q", typ, raw)
		}
	}
}

func TestNormaliseIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkNormalise(t, rapid.SampledFrom(guard.Types()).Draw(t, "type"), genText().Draw(t, "raw"))
	})
}

// Whatever the purpose, a value is cleared only if its canonical form is among the stated ones, and inserting an invisible or
// foreign character into a cleared value un-clears it.
func TestTamperingUnclears(t *testing.T) {
	values := map[string]string{guard.Email: "bob@acme.com", guard.URL: "https://acme.com/pay?x=1", guard.IBAN: "DE89370400440532013000", guard.Domain: "acme.com",
		guard.Path: "docs/report.pdf", guard.Phone: "+49301234567", guard.Channel: "#general", guard.User: "@bob"}
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom(guard.Types()).Filter(func(s string) bool { return values[s] != "" }).Draw(t, "type")
		v := values[typ]
		s := guard.Read("please use "+v+" for it", nil)
		if !s.Clears(value(typ, v)) {
			t.Fatalf("%s is not stated by its purpose", v)
		}
		i := rapid.IntRange(0, len(v)).Draw(t, "at")
		bad := v[:i] + rapid.SampledFrom([]string{"\u200b", "\u00ad", "\u202e", "\ufe0f", "\u3164", "\u0430", "\u0301", "\t", "\n", "\x00", "\u00a0"}).Draw(t, "insert") + v[i:]
		if s.Clears(value(typ, bad)) {
			t.Fatalf("%q was cleared by %q", bad, v)
		}
		if tail := rapid.StringMatching(`[a-z0-9]{1,5}`).Draw(t, "tail"); s.Clears(value(typ, v+tail)) {
			t.Fatalf("%q was cleared by %q", v+tail, v)
		}
	})
}

// Reading states only whole words: every stated e-mail stands in the purpose, with no letter or digit against it.
func TestRecognisedStandsInPurpose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := genText().Draw(t, "a") + genText().Draw(t, "b")
		for _, v := range guard.Read(text, nil).Values(guard.Email) {
			if local, _, _ := strings.Cut(v, "@"); !strings.Contains(strings.ToLower(text), strings.ToLower(local)) && strings.IndexFunc(local, func(r rune) bool { return r > 127 }) < 0 {
				t.Fatalf("%q states %q", text, v)
			}
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add("Pay bob@acme.com at https://acme.com the \"sum\" of DE89 3704 0044 0532 0130 00", `{"to":["a@b.com"]}`, "to[]")
	f.Add("'a' “b” «c» +49 30 123456", `{"a":{"b":[{"c":1}]}}`, `a.b[].c`)
	f.Add("", "{", `a\.`)
	f.Fuzz(func(t *testing.T, purpose, args, path string) {
		s := guard.Read(purpose, nil)
		for _, typ := range guard.Types() {
			checkNormalise(t, typ, purpose)
			for _, v := range s.Values(typ) {
				if !s.Clears(value(typ, v)) {
					t.Fatalf("the stated %s %q is not cleared", typ, v)
				}
			}
			vals, err := guard.SinkValues([]byte(args), []guard.Sink{{path, typ}})
			if err != nil {
				continue
			}
			for _, v := range vals {
				if s.Clears(v) && !v.OK {
					t.Fatalf("cleared %v", v)
				}
			}
		}
	})
}
