// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"unicode/utf8"

	"chaperone/internal/canon"
)

// Echo finds what an upstream says back of its own credential and takes it out. An echo is a run of at least 8 consecutive
// characters (bytes) of the secret, as it is, or in base64 (both alphabets, any alignment), or in hexadecimal (both cases); in
// each case also behind JSON escapes or percent-encoding, up to four layers of either, as in JSON that is quoted inside JSON. A
// run is found wherever it stands, so a secret that is cut over several strings or messages is found in every piece of that length.
//
// It is a guard against servers that repeat what they were sent: debug pages, error texts, logs. A server that means to give its own
// credential away can encode it in a way that nobody looks for.
//
// A nil *Echo, or one of no secret, finds nothing. An Echo is safe for concurrent use.
type Echo struct {
	exact windows // raw and base64 forms
	hex   windows // hexadecimal forms, in lower case
}

// NewEcho prepares the search for one injection's credential. For the place basic the base64 text that is sent counts as a
// credential of its own.
func NewEcho(in Injection) *Echo {
	if in.IsZero() {
		return nil
	}
	s := in.Value.Reveal()
	run := min(MinLength, len(s))
	e := &Echo{hex: windows{fold: true}}
	e.form([]byte(s), run)
	if in.Place == Basic {
		// Only the part of the sent text that spells the secret; the user is no secret.
		text, _ := aligned([]byte(s), (len(in.User)+1)%3, base64.RawStdEncoding)
		if n := inBase64(run); len(text) >= n {
			e.form(text, n)
		}
	}
	e.exact.build()
	e.hex.build()
	return e
}

// form adds every spelling of a byte string, looked for in runs of n bytes.
func (e *Echo) form(s []byte, n int) {
	e.exact.add(s, n)
	e.hex.add([]byte(hex.EncodeToString(s)), 2*n)
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			text, whole := aligned(s, shift, enc)
			want := inBase64(n)
			if len(text) < want {
				// A short secret as a whole: what stands between its neighbours is all there is to find.
				want = len(text)
			}
			if want >= 4 || whole {
				e.exact.add(text, want)
			}
		}
	}
}

// inBase64 is the fewest base64 characters that n bytes decide whole, over the three alignments.
func inBase64(n int) int {
	least := n * 2
	for shift := range 3 {
		least = min(least, (8*(shift+n))/6-(8*shift+5)/6)
	}
	return least
}

// aligned encodes s as it looks shift bytes after a multiple of three, without the characters that its neighbours decide.
// whole reports that nothing was cut off.
func aligned(s []byte, shift int, enc *base64.Encoding) (text []byte, whole bool) {
	padded := append(make([]byte, shift), s...)
	out := enc.AppendEncode(nil, padded)
	from, to := (8*shift+5)/6, 8*len(padded)/6
	return out[from:to], from == 0 && to == len(out)
}

// Text returns s, a header value or an error's text, without echoes.
func (e *Echo) Text(s string) string {
	if e == nil || s == "" {
		return s
	}
	b := []byte(s)
	return string(cut(b, e.find(b)))
}

// Message returns raw, one JSON document that doc is the parse of, without echoes, and how many it took out. Without an echo the
// result is raw itself. It stays valid JSON: an echo in a string or a member's name is replaced inside it; a number that holds one
// becomes a string; names that become equal are numbered.
func (e *Echo) Message(raw []byte, doc *canon.Node) ([]byte, int) {
	if e == nil || doc == nil {
		return raw, 0
	}
	if bytes.IndexByte(raw, '\\') < 0 && bytes.IndexByte(raw, '%') < 0 && !e.holds(raw) {
		return raw, 0 // one look is enough where nothing is escaped
	}
	w := &rewriter{e: e, raw: raw}
	w.value(doc)
	if w.n == 0 {
		return raw, 0
	}
	w.copyTo(len(raw))
	return w.out, w.n
}

// holds reports whether b holds an echo, without making maps.
func (e *Echo) holds(b []byte) bool {
	return !e.search(b, nil, layers, func([]int32, int, int) bool { return false })
}

const layers = 4

const mark = redacted

// find returns the ranges of b that hold an echo, merged and in order.
func (e *Echo) find(b []byte) []span {
	var out []span
	e.search(b, identity(len(b)), layers, func(at []int32, i, j int) bool {
		out = append(out, source(at, i, j))
		return true
	})
	return merge(out)
}

// search looks through b and everything it decodes to, and calls found with the map back to the source: byte i of what was searched
// stands for source[at[i]:at[i+1]]. It stops when found returns false. With at nil no maps are made.
func (e *Echo) search(b []byte, at []int32, deep int, found func(at []int32, i, j int) bool) bool {
	if !e.exact.each(b, func(i, j int) bool { return found(at, i, j) }) || !e.hex.each(b, func(i, j int) bool { return found(at, i, j) }) {
		return false
	}
	if deep == 0 {
		return true
	}
	for _, escape := range []byte{'\\', '%'} {
		if next, where, changed := decode(b, at, escape); changed && !e.search(next, where, deep-1, found) {
			return false
		}
	}
	return true
}

type span struct{ from, to int }

// source maps b[i:j] to the source. Bytes that one escape stands for share its start, so the end is where the next begins.
func source(at []int32, i, j int) span {
	for at[j] == at[j-1] {
		j++
	}
	return span{int(at[i]), int(at[j])}
}

func identity(n int) []int32 {
	at := make([]int32, n+1)
	for i := range at {
		at[i] = int32(i)
	}
	return at
}

func merge(in []span) []span {
	if len(in) < 2 {
		return in
	}
	sortSpans(in)
	out := in[:1]
	for _, s := range in[1:] {
		if last := &out[len(out)-1]; s.from <= last.to {
			last.to = max(last.to, s.to)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// cut replaces the ranges of b, widened to whole characters.
func cut(b []byte, spans []span) []byte {
	if len(spans) == 0 {
		return b
	}
	var out []byte
	last := 0
	for _, s := range spans {
		for s.from > last && s.from < len(b) && !utf8.RuneStart(b[s.from]) {
			s.from--
		}
		for s.to < len(b) && !utf8.RuneStart(b[s.to]) {
			s.to++
		}
		if s.to <= last {
			continue
		}
		out = append(append(out, b[last:max(last, s.from)]...), mark...)
		last = s.to
	}
	return append(out, b[last:]...)
}

// rewriter copies a document and replaces what holds an echo.
type rewriter struct {
	e    *Echo
	raw  []byte
	out  []byte
	done int // raw[:done] is in out
	n    int
}

func (w *rewriter) copyTo(i int) {
	w.out = append(w.out, w.raw[w.done:i]...)
	w.done = i
}

func (w *rewriter) replace(from, to int, with []byte) {
	w.copyTo(from)
	w.out = append(w.out, with...)
	w.done = to
	w.n++
}

func (w *rewriter) value(v *canon.Node) {
	switch v.Kind {
	case canon.String:
		if clean, ok := w.text(v.Start, v.End); ok {
			w.replace(v.Start, v.End, clean)
		}
	case canon.Number:
		if w.e.holds(v.Raw) {
			w.replace(v.Start, v.End, []byte(`"`+mark+`"`))
		}
	case canon.Array:
		for _, item := range v.Items {
			w.value(item)
		}
	case canon.Object:
		w.object(v)
	}
}

func (w *rewriter) object(v *canon.Node) {
	var names map[string]bool // made when the first name changes
	next := 2
	from := v.Start + 1
	for _, m := range v.Members {
		start, end := nameBefore(w.raw, from)
		if clean, ok := w.text(start, end); ok {
			if names == nil {
				names = map[string]bool{}
				for _, o := range v.Members {
					names[o.Key] = true
				}
			}
			base := clean[1 : len(clean)-1]
			for ; names[unquoted(clean)]; next++ {
				clean = []byte(`"` + string(base) + " " + strconv.Itoa(next) + `"`)
			}
			names[unquoted(clean)] = true
			w.replace(start, end, clean)
		}
		w.value(m.Value)
		from = m.Value.End
	}
}

// unquoted decodes a JSON string; what cannot be decoded (nothing that is called here) is its own text.
func unquoted(b []byte) string {
	if n, err := canon.Parse(b, canon.Limits{Bytes: len(b)}); err == nil {
		return n.Text
	}
	return string(b)
}

// nameBefore returns the range of the next member name at or after i, quotes included. raw is valid JSON.
func nameBefore(raw []byte, i int) (start, end int) {
	for raw[i] != '"' {
		i++
	}
	start = i
	for i++; raw[i] != '"'; i++ {
		if raw[i] == '\\' {
			i++
		}
	}
	return start, i + 1
}

// text returns the string token raw[start:end] without echoes, and whether it held any.
func (w *rewriter) text(start, end int) ([]byte, bool) {
	token := w.raw[start:end]
	inner := token[1 : len(token)-1]
	if !w.e.holds(inner) {
		return nil, false
	}
	spans := w.e.find(inner)
	// A range found in the undecoded bytes may begin or end inside an escape; it is widened to whole ones.
	clean := cut(inner, whole(inner, spans))
	out := append(append([]byte{'"'}, clean...), '"')
	return out, true
}

// whole widens ranges of a JSON string's inside so that no escape, and no surrogate pair, is cut in two.
func whole(b []byte, spans []span) []span {
	k := 0
	for i := 0; i < len(b) && k < len(spans); {
		n := 1
		if b[i] == '\\' {
			n = jsonEscape(b[i:])
		}
		for k < len(spans) && spans[k].to <= i {
			k++
		}
		for j := k; j < len(spans) && spans[j].from < i+n; j++ {
			if spans[j].from > i {
				spans[j].from = i
			}
			if spans[j].to > i && spans[j].to < i+n {
				spans[j].to = i + n
			}
		}
		i += n
	}
	return merge(spans)
}

// jsonEscape returns the length of the escape that b begins with, twelve for a surrogate pair.
func jsonEscape(b []byte) int {
	if len(b) < 2 || b[1] != 'u' {
		return min(2, len(b))
	}
	r, ok := hex4(b, 2)
	if !ok {
		return 2
	}
	if r >= 0xd800 && r < 0xdc00 && len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
		if low, ok := hex4(b, 8); ok && low >= 0xdc00 && low < 0xe000 {
			return 12
		}
	}
	return 6
}

func hex4(b []byte, i int) (rune, bool) {
	if i+4 > len(b) {
		return 0, false
	}
	var r rune
	for _, c := range b[i : i+4] {
		d, ok := digit(c)
		if !ok {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

func digit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// decode takes away one layer of JSON escapes (escape is a backslash) or of percent-encoding. Where there is none it says so and
// makes no copy. With at nil no map is made.
func decode(b []byte, at []int32, escape byte) (out []byte, where []int32, changed bool) {
	first := bytes.IndexByte(b, escape)
	if first < 0 {
		return b, at, false
	}
	out = append(make([]byte, 0, len(b)), b[:first]...)
	mapped := at != nil
	if mapped {
		where = append(make([]int32, 0, len(b)+1), at[:first]...)
	}
	for i := first; i < len(b); {
		var r rune
		size, raw := 0, false
		if b[i] == escape {
			r, size, raw = unescape(b[i:])
		}
		if size == 0 {
			out = append(out, b[i])
			if mapped {
				where = append(where, at[i])
			}
			i++
			continue
		}
		changed = true
		n := len(out)
		if raw {
			out = append(out, byte(r))
		} else {
			out = utf8.AppendRune(out, r)
		}
		if mapped {
			for range len(out) - n {
				where = append(where, at[i])
			}
		}
		i += size
	}
	if !changed {
		return b, at, false
	}
	if mapped {
		where = append(where, at[len(b)])
	}
	return out, where, true
}

// unescape reads one escape. size 0 = none. raw: r is a byte, not a character.
func unescape(b []byte) (r rune, size int, raw bool) {
	if len(b) < 2 {
		return 0, 0, false
	}
	if b[0] == '%' {
		if len(b) >= 3 {
			hi, ok1 := digit(b[1])
			lo, ok2 := digit(b[2])
			if ok1 && ok2 {
				return rune(hi<<4 | lo), 3, true
			}
		}
		return 0, 0, false
	}
	if b[0] != '\\' {
		return 0, 0, false
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2, true
	case 'b':
		return '\b', 2, true
	case 'f':
		return '\f', 2, true
	case 'n':
		return '\n', 2, true
	case 'r':
		return '\r', 2, true
	case 't':
		return '\t', 2, true
	case 'u':
		r, ok := hex4(b, 2)
		if !ok {
			return 0, 0, false
		}
		if n := jsonEscape(b); n == 12 {
			low, _ := hex4(b, 8)
			return (r-0xd800)<<10 | (low - 0xdc00) + 0x10000, 12, false
		}
		return r, 6, false
	}
	return 0, 0, false
}
