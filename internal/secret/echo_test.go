// SPDX-License-Identifier: Apache-2.0

package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"chaperone/internal/canon"
	"chaperone/internal/secret"
)

func echoOf(s string) *secret.Echo {
	return secret.NewEcho(secret.Injection{Server: "office", Place: secret.Bearer, Value: secret.NewValue(s)})
}

func clean(t interface {
	Helper()
	Fatalf(string, ...any)
}, e *secret.Echo, raw string) (string, int) {
	t.Helper()
	doc, err := canon.Parse([]byte(raw), canon.Limits{})
	if err != nil {
		t.Fatalf("the test's own message %q: %v", raw, err)
	}
	out, n := e.Message([]byte(raw), doc)
	return string(out), n
}

func TestEchoForms(t *testing.T) {
	const s = `k3y/with+"odd"%20\parts~é-0123456789`
	plain := "sk-live-Zx81Qm0pLr7TtVbN"
	esc := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	u := func(s string) string {
		var b strings.Builder
		for _, r := range s {
			fmt.Fprintf(&b, `\u%04X`, r)
		}
		return b.String()
	}
	pct := func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			fmt.Fprintf(&b, "%%%02x", c)
		}
		return b.String()
	}
	b64 := base64.StdEncoding.EncodeToString
	tests := []struct{ name, secret, in, want string }{
		{"as it is", plain, `{"a":"x ` + plain + ` y"}`, `{"a":"x [redacted] y"}`},
		{"in a name", plain, `{"` + plain + `":1}`, `{"[redacted]":1}`},
		{"two names that become one", plain, `{"` + plain[:10] + `":1,"` + plain[10:] + `":2,"[redacted] 3":3}`, `{"[redacted]":1,"[redacted] 2":2,"[redacted] 3":3}`},
		{"in a number", "12345678901234", `{"a":12345678901234,"b":-1}`, `{"a":"[redacted]","b":-1}`},
		{"behind JSON escapes", plain, `{"a":"` + u(plain) + `"}`, `{"a":"[redacted]"}`},
		{"some of it behind JSON escapes", plain, `{"a":"(` + u(plain[:3]) + plain[3:9] + u(plain[9:]) + `)"}`, `{"a":"([redacted])"}`},
		{"odd characters", s, `{"a":` + esc("<"+s+">") + `}`, `{"a":"\u003c[redacted]\u003e"}`},
		{"JSON inside JSON", s, `{"a":` + esc(`{"b":`+esc(s)+`}`) + `}`, `{"a":"{\"b\":\"[redacted]\"}"}`},
		{"JSON inside JSON inside JSON, escaped", plain, `{"a":` + esc(`{"b":`+esc(`["`+u(plain)+`"]`)+`}`) + `}`, `{"a":"{\"b\":\"[\\\"[redacted]\\\"]\"}"}`},
		{"percent", plain, `{"a":"?key=` + pct(plain) + `&b=1"}`, `{"a":"?key=[redacted]&b=1"}`},
		{"percent twice", plain, `{"a":"` + pct(pct(plain)) + `"}`, `{"a":"[redacted]"}`},
		{"hex", plain, `{"a":"0x` + hex.EncodeToString([]byte(plain)) + `"}`, `{"a":"0x[redacted]"}`},
		{"HEX", plain, `{"a":"` + strings.ToUpper(hex.EncodeToString([]byte(plain))) + `"}`, `{"a":"[redacted]"}`},
		{"half a byte of hex before it", plain, `{"a":"f` + hex.EncodeToString([]byte(plain)) + `"}`, `{"a":"f[redacted]"}`},
		{"a run of eight", plain, `{"a":"` + plain[4:12] + `"}`, `{"a":"[redacted]"}`},
		{"a run of seven", plain, `{"a":"` + plain[4:11] + `"}`, `{"a":"` + plain[4:11] + `"}`},
		{"over two strings", plain, `{"a":["` + plain[:9] + `","` + plain[9:] + `"]}`, `{"a":["[redacted]","[redacted]"]}`},
		{"another case", plain, `{"a":"` + strings.ToLower(plain) + `"}`, `{"a":"[redacted]zx81qm0plr7ttvbn"}`},
		{"no echo, odd spelling", plain, "{ \"a\" : 1.50e+3,\n\"\\u0061b\":\"\\/\" }", "{ \"a\" : 1.50e+3,\n\"\\u0061b\":\"\\/\" }"},
		{"unknown members stay", plain, `{"z":1e400,"a":"` + plain + `","_meta":{"k":[ ]}}`, `{"z":1e400,"a":"[redacted]","_meta":{"k":[ ]}}`},
		{"inside an emoji's neighbourhood", plain, `{"a":"\ud83d\ude00` + plain + `\ud83d\ude00é"}`, `{"a":"\ud83d\ude00[redacted]\ud83d\ude00é"}`},
	}
	for shift := range 4 {
		for _, pad := range []string{"", "??>>"} {
			tests = append(tests, struct{ name, secret, in, want string }{
				fmt.Sprintf("base64 at %d %q", shift, pad), plain, `{"a":"` + b64([]byte("Bearer "[:shift]+plain+pad)) + `"}`, "",
			}, struct{ name, secret, in, want string }{
				fmt.Sprintf("base64url at %d %q", shift, pad), plain, `{"a":"` + base64.RawURLEncoding.EncodeToString([]byte("Bearer "[:shift]+plain+pad)) + `"}`, "",
			})
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, n := clean(t, echoOf(tt.secret), tt.in)
			if tt.want != "" && got != tt.want {
				t.Errorf("\n in   %s\n got  %s\n want %s", tt.in, got, tt.want)
			}
			if (n > 0) != (got != tt.in) {
				t.Errorf("count %d, changed %v", n, got != tt.in)
			}
			if tt.name != "a run of seven" {
				if where := leaks(tt.secret, got); where != "" {
					t.Errorf("%s leaks %s", got, where)
				}
			}
		})
	}
}

func TestEchoOfBasicFindsWhatWasSent(t *testing.T) {
	in := secret.Injection{Server: "office", Place: secret.Basic, User: "svc", Value: secret.NewValue("sk-live-Zx81Qm0pLr7TtVbN")}
	e := secret.NewEcho(in)
	sent := base64.StdEncoding.EncodeToString([]byte("svc:sk-live-Zx81Qm0pLr7TtVbN"))
	for _, s := range []string{sent, base64.StdEncoding.EncodeToString([]byte("Authorization: Basic " + sent)), hex.EncodeToString([]byte(sent))} {
		if got := e.Text("a " + s + " b"); strings.Contains(got, s) || !strings.Contains(got, "[redacted]") {
			t.Errorf("%q became %q", s, got)
		}
	}
	if got := e.Text("the user svc"); got != "the user svc" {
		t.Errorf("the user is no secret: %q", got)
	}
}

func TestEchoOfNothing(t *testing.T) {
	var none *secret.Echo
	if got := none.Text("abc"); got != "abc" {
		t.Error(got)
	}
	if none = secret.NewEcho(secret.Injection{}); none != nil {
		t.Error("an injection of nothing has an echo")
	}
	if out, n := none.Message([]byte(`{}`), nil); string(out) != "{}" || n != 0 {
		t.Error(string(out), n)
	}
}

var (
	jsonEscape = regexp.MustCompile(`\\(u[0-9a-fA-F]{4}|["\\/bfnrt])`)
	percent    = regexp.MustCompile(`%[0-9a-fA-F]{2}`)
	b64run     = regexp.MustCompile(`[A-Za-z0-9+/]{8,}|[A-Za-z0-9_-]{8,}`)
	hexrun     = regexp.MustCompile(`[0-9a-fA-F]{16,}`)
)

// leaks is the slow second opinion: it decodes everything in every way, with other code, and looks for eight characters in a row.
func leaks(s, msg string) string {
	var v any
	d := json.NewDecoder(strings.NewReader(msg))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return "nothing, but is no JSON: " + err.Error()
	}
	found := ""
	look := func(text, how string) {
		for i := 0; i+8 <= len(s); i++ {
			if strings.Contains(text, s[i:i+8]) {
				found = strconv.Quote(s[i:i+8]) + " " + how
			}
		}
	}
	var all func(text string, deep int, how string)
	all = func(text string, deep int, how string) {
		look(text, how)
		for _, run := range hexrun.FindAllString(text, -1) {
			for off := range 2 {
				r := run[off:]
				if b, err := hex.DecodeString(r[:len(r)/2*2]); err == nil {
					look(string(b), how+" hex")
				}
			}
		}
		for _, run := range b64run.FindAllString(text, -1) {
			for off := range 4 {
				r := run[min(off, len(run)):]
				r = r[:len(r)/4*4+map[bool]int{true: len(r) % 4}[len(r)%4 > 1]]
				for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
					if b, err := enc.DecodeString(r); err == nil {
						look(string(b), how+" base64")
					}
				}
			}
		}
		if deep == 0 {
			return
		}
		if jsonEscape.MatchString(text) {
			all(jsonEscape.ReplaceAllStringFunc(text, func(m string) string {
				var r string
				if json.Unmarshal([]byte(`"`+m+`"`), &r) != nil {
					return "?"
				}
				return r
			}), deep-1, how+" json")
		}
		if percent.MatchString(text) {
			all(percent.ReplaceAllStringFunc(text, func(m string) string {
				b, _ := hex.DecodeString(m[1:])
				return string(b)
			}), deep-1, how+" percent")
		}
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			all(v, 3, "text")
		case json.Number:
			look(v.String(), "number")
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			for k, x := range v {
				all(k, 3, "name")
				walk(x)
			}
		}
	}
	walk(v)
	return found
}

func genSecret(t *rapid.T) string {
	return rapid.StringOfN(rapid.RuneFrom([]rune(`abcXYZ0189+/%\"-_~ &=`)), 8, 40, -1).Filter(func(s string) bool { return len(s) >= 8 }).Draw(t, "secret")
}

// spell writes text in a random spelling of one to three layers.
func spell(t *rapid.T, text string) string {
	for range rapid.IntRange(0, 2).Draw(t, "layers") {
		switch rapid.IntRange(0, 6).Draw(t, "form") {
		case 0:
			b, _ := json.Marshal(text)
			text = string(b)
		case 1:
			var b strings.Builder
			for _, r := range text {
				if rapid.Bool().Draw(t, "escape") && r < 0x10000 {
					fmt.Fprintf(&b, `\u%04x`, r)
				} else {
					b.WriteRune(r)
				}
			}
			text = b.String()
		case 2:
			var b strings.Builder
			for _, c := range []byte(text) {
				fmt.Fprintf(&b, "%%%02X", c)
			}
			text = b.String()
		case 3:
			return base64.StdEncoding.EncodeToString([]byte(rapid.StringN(0, 3, 3).Draw(t, "before") + text))
		case 4:
			return base64.RawURLEncoding.EncodeToString([]byte(rapid.StringN(0, 3, 3).Draw(t, "before") + text))
		case 5:
			return strings.ToUpper(hex.EncodeToString([]byte(text)))
		case 6:
			return hex.EncodeToString([]byte(text))
		}
	}
	return text
}

func TestEchoProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSecret(t)
		e := echoOf(s)
		from := rapid.IntRange(0, len(s)-8).Draw(t, "from")
		to := rapid.IntRange(from+8, len(s)).Draw(t, "to")
		// Encoded forms keep the spelling of the secret as it is, so the encoders come last.
		piece := s[from:to]
		text := rapid.StringN(0, 5, -1).Draw(t, "pre") + spell(t, piece) + rapid.StringN(0, 5, -1).Draw(t, "post")
		inner, err := json.Marshal(text)
		if err != nil || !utf8.ValidString(text) {
			return
		}
		msg := fmt.Sprintf(`{"jsonrpc": "2.0","id":1 ,"result":{%s:[%s, 1.0]}}`, inner, inner)
		doc, err := canon.Parse([]byte(msg), canon.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		out, n := e.Message([]byte(msg), doc)
		if _, err := canon.Parse(out, canon.Limits{}); err != nil {
			t.Fatalf("%s became %s: %v", msg, out, err)
		}
		if where := leaks(s, string(out)); where != "" {
			t.Fatalf("secret %q in %s leaks %s in %s (%d)", s, msg, where, out, n)
		}
	})
}

func TestEchoLeavesTheRestAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSecret(t)
		text := rapid.String().Draw(t, "text")
		inner, _ := json.Marshal(text)
		msg := fmt.Sprintf(`{"a":%s,"b":[%s]}`, inner, inner)
		if leaks(s, msg) != "" {
			return
		}
		doc, err := canon.Parse([]byte(msg), canon.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if out, n := echoOf(s).Message([]byte(msg), doc); n != 0 || string(out) != msg {
			t.Fatalf("secret %q changed %s to %s", s, msg, out)
		}
	})
}

func FuzzEcho(f *testing.F) {
	f.Add("sk-live-Zx81Qm0pLr7TtVbN", []byte(`{"a":"sk-live-Zx81Qm0pLr7TtVbN","b":[1,"\u0073k-live-Z"]}`))
	f.Add(`u0073abc\"`, []byte(`{"a":"\u0073abc\\\"","\ud83d\ude00":12345678}`))
	f.Add("12345678", []byte(`[12345678,1234567,"MTIzNDU2Nzg=","3132333435363738","%31%32345678"]`))
	f.Fuzz(func(t *testing.T, s string, raw []byte) {
		if len(s) < 8 || !utf8.ValidString(s) || strings.Contains(s, "[redacted]") || strings.Contains("[redacted]", s[:8]) {
			return
		}
		doc, err := canon.Parse(raw, canon.Limits{Bytes: 1 << 16})
		if err != nil {
			return
		}
		e := echoOf(s)
		out, n := e.Message(raw, doc)
		if n == 0 {
			if !bytes.Equal(out, raw) {
				t.Fatal("changed without an echo")
			}
			return
		}
		again, err := canon.Parse(out, canon.Limits{Bytes: 1 << 18})
		if err != nil {
			t.Fatalf("%q became %q: %v", raw, out, err)
		}
		if _, n := e.Message(out, again); n != 0 {
			t.Fatalf("secret %q: %q still holds an echo of %q", s, out, raw)
		}
	})
}

func BenchmarkEchoClean(b *testing.B) {
	raw := []byte(`{"a":"` + strings.Repeat("the quick brown fox jumps over the lazy dog\\n 100% ", 20000) + `"}`)
	doc, err := canon.Parse(raw, canon.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	e := echoOf("sk-live-Zx81Qm0pLr7TtVbN")
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		e.Message(raw, doc)
	}
}
