// SPDX-License-Identifier: Apache-2.0

package canon_test

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

func TestParseRefuses(t *testing.T) {
	small := canon.Limits{Bytes: 64, Depth: 3, Values: 8}
	tests := []struct{ name, in, code string }{
		{"empty", "", "json_syntax"},
		{"white space only", " \n", "json_syntax"},
		{"byte order mark", "\xef\xbb\xbf{}", "json_syntax"},
		{"one byte too many", strings.Repeat(" ", 64) + "1", "json_too_large"},
		{"bytes that are not UTF-8", "\"\xff\"", "json_invalid_utf8"},
		{"overlong encoding", "\"\xc0\xaf\"", "json_invalid_utf8"},
		{"a surrogate as bytes", "\"\xed\xa0\x80\"", "json_invalid_utf8"},
		{"high half alone", `"\ud800"`, "json_invalid_utf8"},
		{"high half and a letter", `"\ud800x"`, "json_invalid_utf8"},
		{"high half twice", `"\ud800\ud800"`, "json_invalid_utf8"},
		{"low half alone", `"\udc00"`, "json_invalid_utf8"},
		{"half in a name", `{"\udc00":1}`, "json_invalid_utf8"},
		{"the same name", `{"a":1,"a":2}`, "json_duplicate_key"},
		{"the same name, spelt otherwise", `{"a":1,"\u0061":2}`, "json_duplicate_key"},
		{"the empty name", `{"":1,"":2}`, "json_duplicate_key"},
		{"the same name further in", `[{"x":{"b":1,"b":1}}]`, "json_duplicate_key"},
		{"four arrays", `[[[[]]]]`, "json_too_deep"},
		{"four, mixed", `{"a":[{"b":[]}]}`, "json_too_deep"},
		{"nine values", `[1,2,3,4,5,6,7,8]`, "json_too_many_values"},
		{"two documents", `{} {}`, "json_trailing_data"},
		{"a comma after", `1,`, "json_trailing_data"},
		{"a zero byte after", "1\x00", "json_trailing_data"},
		{"leading zero", `01`, "json_trailing_data"},
		{"hexadecimal", `0x1`, "json_trailing_data"},
		{"plus", `+1`, "json_syntax"},
		{"bare minus", `-`, "json_syntax"},
		{"no digit after the point", `1.`, "json_syntax"},
		{"no digit before the point", `.5`, "json_syntax"},
		{"no digit after e", `1e+`, "json_syntax"},
		{"NaN", `NaN`, "json_syntax"},
		{"Infinity", `-Infinity`, "json_syntax"},
		{"half a word", `tru`, "json_syntax"},
		{"another case", `True`, "json_syntax"},
		{"single quotes", `'a'`, "json_syntax"},
		{"a comment", `/**/1`, "json_syntax"},
		{"trailing comma in an array", `[1,]`, "json_syntax"},
		{"trailing comma in an object", `{"a":1,}`, "json_syntax"},
		{"name without quotes", `{a:1}`, "json_syntax"},
		{"name without value", `{"a"}`, "json_syntax"},
		{"colon and nothing", `{"a":}`, "json_syntax"},
		{"no comma", `[1 2]`, "json_syntax"},
		{"open array", `[1`, "json_syntax"},
		{"open object", `{"a":1`, "json_syntax"},
		{"open string", `"a`, "json_syntax"},
		{"open escape", `"a\`, "json_syntax"},
		{"unknown escape", `"\x"`, "json_syntax"},
		{"three hexadecimal digits", `"\u00e"`, "json_syntax"},
		{"control character", "\"\n\"", "json_syntax"},
		{"control character after an escape", "\"\\n\t\"", "json_syntax"},
		{"wrong bracket", `[1}`, "json_syntax"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, err := canon.Parse([]byte(tt.in), small)
			if fault.CodeOf(err) != tt.code || fault.KindOf(err) != fault.Invalid {
				t.Fatalf("Parse(%q) = %v, %v; want code %s of kind invalid", tt.in, n, err, tt.code)
			}
		})
	}
}

func TestParseHoldsRanges(t *testing.T) {
	in := []byte(" { \"a\" : [ 1 , \"x\\u00e9\\ud83d\\ude00/\\/\" ] , \"A\":null,\"t\":true } ")
	n, err := canon.Parse(in, canon.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var walk func(*canon.Node)
	walk = func(n *canon.Node) {
		if !bytes.Equal(n.Raw, in[n.Start:n.End]) || len(n.Raw) != cap(n.Raw) {
			t.Errorf("Raw %q is not the capped input[%d:%d]", n.Raw, n.Start, n.End)
		}
		for _, m := range n.Members {
			walk(m.Value)
		}
		for _, i := range n.Items {
			walk(i)
		}
	}
	walk(n)
	if got := string(n.Get("a").Raw); got != `[ 1 , "x\u00e9\ud83d\ude00/\/" ]` {
		t.Errorf("raw of a = %s", got)
	}
	if s, ok := n.Get("a").Items[1].String(); !ok || s != "x\u00e9\U0001F600//" {
		t.Errorf("text = %q, %v", s, ok)
	}
	if i, ok := n.Get("a").Items[0].Int(); !ok || i != 1 {
		t.Errorf("Int = %d, %v", i, ok)
	}
	if b, ok := n.Get("t").Bool(); !ok || !b {
		t.Errorf("Bool = %v, %v", b, ok)
	}
	if !n.Get("A").IsNull() || n.Get("b").IsNull() || n.Get("a").IsNull() {
		t.Error("IsNull confuses null, absent and present")
	}
	if n.Get("T") != nil || n.Get("a").Get("x") != nil || (*canon.Node)(nil).Get("a").Get("b") != nil {
		t.Error("Get found what is not there")
	}
	if _, ok := n.Get("b").String(); ok {
		t.Error("an absent node is a string")
	}
	for lit, want := range map[string]bool{"12": true, "-9223372036854775808": true, "9223372036854775808": false, "1.0": false, "1e3": false} {
		m, err := canon.Parse([]byte(lit), canon.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := m.Int(); ok != want {
			t.Errorf("Int of %s = %v, want %v", lit, ok, want)
		}
	}
}

func TestManyMembers(t *testing.T) {
	var b strings.Builder
	b.WriteByte('{')
	for i := range 200 {
		b.WriteString(`"k` + strconv.Itoa(i) + `":` + strconv.Itoa(i) + `,`)
	}
	if _, err := canon.Parse([]byte(b.String()+`"last":0}`), canon.Limits{}); err != nil {
		t.Fatal(err)
	}
	for _, twice := range []string{"k0", "k23", "k24", "k25", "k199"} {
		if _, err := canon.Parse([]byte(b.String()+`"`+twice+`":0}`), canon.Limits{}); fault.CodeOf(err) != "json_duplicate_key" {
			t.Errorf("%s twice: %v", twice, err)
		}
	}
}

func TestDepthIsExact(t *testing.T) {
	nest := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if _, err := canon.Parse(nest(64), canon.Limits{}); err != nil {
		t.Errorf("64 deep: %v", err)
	}
	if _, err := canon.Parse(nest(65), canon.Limits{}); fault.CodeOf(err) != "json_too_deep" {
		t.Errorf("65 deep: %v", err)
	}
	if _, err := canon.Parse([]byte(strings.Repeat("[", 1<<20)), canon.Limits{Bytes: 1 << 22}); fault.CodeOf(err) != "json_too_deep" {
		t.Errorf("a million deep: %v", err)
	}
}

// genJSON makes valid documents whose names do not repeat.
func genJSON(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string { return drawJSON(t, depth) })
}

func drawJSON(t *rapid.T, depth int) string {
	pad := rapid.SampledFrom([]string{"", "", " ", "\n\t"})
	kind := rapid.IntRange(0, 6).Draw(t, "kind")
	if depth == 0 {
		kind %= 5
	}
	switch kind {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "word")
	case 1:
		return strconv.Itoa(rapid.IntRange(-1<<53, 1<<53).Draw(t, "int"))
	case 2:
		b, _ := json.Marshal(rapid.Float64().Draw(t, "float"))
		return string(b)
	case 3, 4:
		return quote(t, rapid.String().Draw(t, "text"))
	case 5:
		items := rapid.SliceOfN(rapid.Just(0), 0, 5).Draw(t, "items")
		var parts []string
		for range items {
			parts = append(parts, pad.Draw(t, "pad")+drawJSON(t, depth-1)+pad.Draw(t, "pad"))
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	names := rapid.SliceOfNDistinct(rapid.String(), 0, 6, rapid.ID[string]).Draw(t, "names")
	var parts []string
	for _, name := range names {
		parts = append(parts, pad.Draw(t, "pad")+quote(t, name)+pad.Draw(t, "pad")+":"+pad.Draw(t, "pad")+drawJSON(t, depth-1))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// quote spells a text in one of the ways that JSON allows.
func quote(t *rapid.T, s string) string {
	b, _ := json.Marshal(s)
	if rapid.Bool().Draw(t, "escape") {
		return asciiJSON(s)
	}
	return string(b)
}

func asciiJSON(s string) string {
	var out strings.Builder
	out.WriteString(`"`)
	for _, r := range s {
		if r > 0xFFFF {
			r -= 0x10000
			out.WriteString(hex4(0xD800+r>>10) + hex4(0xDC00+r&0x3FF))
			continue
		}
		out.WriteString(hex4(r))
	}
	return out.String() + `"`
}

func hex4(r rune) string {
	h := strconv.FormatInt(int64(r), 16)
	return `\u` + strings.Repeat("0", 4-len(h)) + h
}

func viaStandard(t interface{ Fatalf(string, ...any) }, b []byte) any {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("encoding/json refuses %q: %v", b, err)
	}
	return v
}

func TestParseAgreesWithStandard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := []byte(genJSON(4).Draw(t, "json"))
		n, err := canon.Parse(in, canon.Limits{})
		if err != nil {
			t.Fatalf("Parse(%q): %v", in, err)
		}
		if diff := cmp.Diff(viaStandard(t, in), n.Any()); diff != "" {
			t.Fatalf("%q reads otherwise (-encoding/json +canon):\n%s", in, diff)
		}
	})
}

func TestJCSIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := []byte(genJSON(4).Draw(t, "json"))
		once, err := canon.JCS(in)
		if err != nil {
			t.Fatalf("JCS(%q): %v", in, err)
		}
		twice, err := canon.JCS(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("JCS(%q) = %q, then %q, %v", in, once, twice, err)
		}
		if !utf8.Valid(once) || !json.Valid(once) {
			t.Fatalf("JCS(%q) = %q is not JSON in UTF-8", in, once)
		}
		// encoding/json reads the same value from both, numbers compared as doubles.
		var a, b any
		if json.Unmarshal(in, &a) != nil || json.Unmarshal(once, &b) != nil || !cmp.Equal(a, b) {
			t.Fatalf("JCS changed the value of %q to %q", in, once)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,"\ud83d\ude00",null,true,{"b":{}}]}`, `[`, `"\u00`, `{"a":1,"a":2}`, "\xff", `-0.0e+1`, " \t1 x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := canon.Parse(b, canon.Limits{Bytes: 1 << 16})
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("Parse(%q): kind %v", b, fault.KindOf(err))
			}
			if fault.CodeOf(err) == "json_syntax" && json.Valid(b) {
				t.Fatalf("Parse(%q): %v, but encoding/json accepts it", b, err)
			}
			return
		}
		if !json.Valid(b) {
			t.Fatalf("Parse accepts %q, encoding/json does not", b)
		}
		if diff := cmp.Diff(viaStandard(t, b), n.Any()); diff != "" {
			t.Fatalf("%q reads otherwise (-encoding/json +canon):\n%s", b, diff)
		}
	})
}

func FuzzJCS(f *testing.F) {
	for _, s := range []string{`{"b":1,"a":[1e21,0.000001,1e-7,-0]}`, `[333333333.33333329,1E30]`, `"\u20ac\u000F\n"`, `9007199254740993`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := canon.JCS(b)
		if err != nil {
			return
		}
		twice, err := canon.JCS(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("JCS(%q) = %q, then %q, %v", b, once, twice, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	in := []byte(`{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"send_mail","arguments":{"to":["a@example.org","b@example.org"],"subject":"minutes","body":"` +
		strings.Repeat("lorem ipsum dolor ", 40) + `"},"_meta":{"progressToken":"p-1"}}}`)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := canon.Parse(in, canon.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
