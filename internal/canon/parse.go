// SPDX-License-Identifier: Apache-2.0

package canon

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Parse reads one JSON value (RFC 8259) in one pass. It refuses, with kind Invalid: json_too_large, json_invalid_utf8 (bytes
// that are not UTF-8, and \u escapes of half a surrogate pair), json_duplicate_key (names compared after decoding),
// json_too_deep, json_too_many_values, json_trailing_data and json_syntax. It makes one copy of the input for the texts;
// Raw shares the input.
func Parse(b []byte, lim Limits) (*Node, error) {
	lim = lim.withDefaults()
	if len(b) > lim.Bytes {
		return nil, refuse("canon.Parse", "json_too_large", "send a smaller document", "the document has %d bytes, %d are allowed", len(b), lim.Bytes)
	}
	if !utf8.Valid(b) {
		return nil, refuse("canon.Parse", "json_invalid_utf8", "encode the document as UTF-8", "byte %d is not UTF-8", firstInvalid(b))
	}
	p := parser{b: b, s: string(b), lim: lim}
	p.space()
	n, err := p.value(0)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.i < len(b) {
		return nil, refuse("canon.Parse", "json_trailing_data", "send one document and nothing after it", "data follows the document at byte %d", p.i)
	}
	return n, nil
}

func firstInvalid(b []byte) int {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(b)
}

// manyMembers is the size from which an object's names are checked through a map instead of one by one.
const manyMembers = 24

type parser struct {
	b   []byte
	s   string // b as a string: texts without escapes are slices of it
	i   int
	lim Limits

	values int
	nodes  []Node   // what is left of the current slab
	items  []*Node  // stacks of the containers being read;
	fields []Member // each takes its own part when it ends
}

func (p *parser) syntax(want string) error {
	if p.i >= len(p.b) {
		return refuse("canon.Parse", "json_syntax", "send a whole JSON document", "the document ends where %s was expected", want)
	}
	return refuse("canon.Parse", "json_syntax", "send a JSON document (RFC 8259)", "%s expected at byte %d", want, p.i)
}

func (p *parser) space() {
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *parser) node() (*Node, error) {
	p.values++
	if p.values > p.lim.Values {
		return nil, refuse("canon.Parse", "json_too_many_values", "send fewer values in one document", "the document has more than %d values", p.lim.Values)
	}
	if len(p.nodes) == 0 {
		// A slab holds what the rest of the input is likely to need, so small documents take one allocation.
		p.nodes = make([]Node, min(max((len(p.b)-p.i)/32, 4), 256))
	}
	n := &p.nodes[0]
	p.nodes = p.nodes[1:]
	return n, nil
}

func (p *parser) value(depth int) (*Node, error) {
	if p.i >= len(p.b) {
		return nil, p.syntax("a value")
	}
	n, err := p.node()
	if err != nil {
		return nil, err
	}
	n.Start = p.i
	switch c := p.b[p.i]; {
	case c == '{':
		n.Kind = Object
		err = p.object(n, depth+1)
	case c == '[':
		n.Kind = Array
		err = p.array(n, depth+1)
	case c == '"':
		n.Kind = String
		n.Text, err = p.text()
	case c == '-' || c >= '0' && c <= '9':
		n.Kind = Number
		err = p.number()
		n.Text = p.s[n.Start:p.i]
	case c == 't':
		n.Kind, n.Text = Bool, "true"
		err = p.word("true")
	case c == 'f':
		n.Kind, n.Text = Bool, "false"
		err = p.word("false")
	case c == 'n':
		n.Kind = Null
		err = p.word("null")
	default:
		err = p.syntax("a value")
	}
	if err != nil {
		return nil, err
	}
	n.End = p.i
	n.Raw = p.b[n.Start:n.End:n.End]
	return n, nil
}

func (p *parser) word(w string) error {
	if len(p.s)-p.i < len(w) || p.s[p.i:p.i+len(w)] != w {
		return p.syntax(w)
	}
	p.i += len(w)
	return nil
}

func (p *parser) number() error {
	if p.b[p.i] == '-' {
		p.i++
	}
	switch {
	case p.i < len(p.b) && p.b[p.i] == '0':
		p.i++
	case !p.digits():
		return p.syntax("a digit")
	}
	if p.i < len(p.b) && p.b[p.i] == '.' {
		p.i++
		if !p.digits() {
			return p.syntax("a digit")
		}
	}
	if p.i < len(p.b) && p.b[p.i]|0x20 == 'e' {
		p.i++
		if p.i < len(p.b) && (p.b[p.i] == '+' || p.b[p.i] == '-') {
			p.i++
		}
		if !p.digits() {
			return p.syntax("a digit")
		}
	}
	return nil
}

func (p *parser) digits() bool {
	start := p.i
	for p.i < len(p.b) && p.b[p.i] >= '0' && p.b[p.i] <= '9' {
		p.i++
	}
	return p.i > start
}

func (p *parser) enter(depth int) error {
	if depth > p.lim.Depth {
		return refuse("canon.Parse", "json_too_deep", "nest less deeply", "the document nests deeper than %d at byte %d", p.lim.Depth, p.i)
	}
	p.i++
	p.space()
	return nil
}

func (p *parser) array(n *Node, depth int) error {
	if err := p.enter(depth); err != nil {
		return err
	}
	if p.i < len(p.b) && p.b[p.i] == ']' {
		p.i++
		return nil
	}
	base := len(p.items)
	for {
		item, err := p.value(depth)
		if err != nil {
			return err
		}
		p.items = append(p.items, item)
		p.space()
		if p.i >= len(p.b) {
			return p.syntax("',' or ']'")
		}
		switch p.b[p.i] {
		case ',':
			p.i++
			p.space()
		case ']':
			p.i++
			n.Items = append([]*Node(nil), p.items[base:]...)
			p.items = p.items[:base]
			return nil
		default:
			return p.syntax("',' or ']'")
		}
	}
}

func (p *parser) object(n *Node, depth int) error {
	if err := p.enter(depth); err != nil {
		return err
	}
	if p.i < len(p.b) && p.b[p.i] == '}' {
		p.i++
		return nil
	}
	base := len(p.fields)
	var seen map[string]bool
	for {
		if p.i >= len(p.b) || p.b[p.i] != '"' {
			return p.syntax("a member name")
		}
		at := p.i
		key, err := p.text()
		if err != nil {
			return err
		}
		if seen, err = p.unique(seen, p.fields[base:], key, at); err != nil {
			return err
		}
		p.space()
		if p.i >= len(p.b) || p.b[p.i] != ':' {
			return p.syntax("':'")
		}
		p.i++
		p.space()
		v, err := p.value(depth)
		if err != nil {
			return err
		}
		p.fields = append(p.fields, Member{Key: key, Value: v})
		p.space()
		if p.i >= len(p.b) {
			return p.syntax("',' or '}'")
		}
		switch p.b[p.i] {
		case ',':
			p.i++
			p.space()
		case '}':
			p.i++
			n.Members = append([]Member(nil), p.fields[base:]...)
			p.fields = p.fields[:base]
			return nil
		default:
			return p.syntax("',' or '}'")
		}
	}
}

// unique refuses key if it is among so far, and keeps the set of names once the object is large.
func (p *parser) unique(seen map[string]bool, so []Member, key string, at int) (map[string]bool, error) {
	twice := false
	switch {
	case len(so) < manyMembers:
		for i := range so {
			twice = twice || so[i].Key == key
		}
	case seen == nil:
		seen = make(map[string]bool, 4*manyMembers)
		for i := range so {
			seen[so[i].Key] = true
		}
		fallthrough
	default:
		twice = seen[key]
		seen[key] = true
	}
	if twice {
		return seen, refuse("canon.Parse", "json_duplicate_key", "give each member once", "the member %s appears twice (byte %d)", strconv.Quote(short(key)), at)
	}
	return seen, nil
}

// short keeps error messages small whatever the input holds.
func short(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	i := most
	for i > 0 && !utf8.RuneStart(s[i]) {
		i--
	}
	return s[:i] + "..."
}

// text reads a string, the cursor on its opening quote.
func (p *parser) text() (string, error) {
	p.i++
	start := p.i
	for p.i < len(p.b) {
		switch c := p.b[p.i]; {
		case c == '"':
			p.i++
			return p.s[start : p.i-1], nil
		case c == '\\':
			return p.escaped(start)
		case c < 0x20:
			return "", p.syntax("an escaped control character")
		}
		p.i++
	}
	return "", p.syntax("'\"'")
}

// escaped reads the rest of a string that has at least one escape, the cursor on it.
func (p *parser) escaped(start int) (string, error) {
	out := append(make([]byte, 0, p.i-start+32), p.b[start:p.i]...)
	for p.i < len(p.b) {
		c := p.b[p.i]
		switch {
		case c == '"':
			p.i++
			return string(out), nil
		case c < 0x20:
			return "", p.syntax("an escaped control character")
		case c != '\\':
			out = append(out, c)
			p.i++
			continue
		}
		p.i++
		if p.i >= len(p.b) {
			return "", p.syntax("an escape")
		}
		switch c := p.b[p.i]; c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, err := p.unicode()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
			continue
		default:
			return "", p.syntax("an escape")
		}
		p.i++
	}
	return "", p.syntax("'\"'")
}

// unicode reads uXXXX, and the second half where it is the first of a pair; the cursor is on the u.
func (p *parser) unicode() (rune, error) {
	at := p.i - 1
	r, err := p.hex()
	if err != nil {
		return 0, err
	}
	if !utf16.IsSurrogate(r) {
		return r, nil
	}
	if r < 0xDC00 && p.i+1 < len(p.b) && p.b[p.i] == '\\' && p.b[p.i+1] == 'u' {
		p.i++
		low, err := p.hex()
		if err != nil {
			return 0, err
		}
		if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
			return both, nil
		}
	}
	return 0, refuse("canon.Parse", "json_invalid_utf8", "write characters outside the basic plane as a whole surrogate pair", "half a surrogate pair at byte %d", at)
}

func (p *parser) hex() (rune, error) {
	p.i++
	var r rune
	for range 4 {
		if p.i >= len(p.b) {
			return 0, p.syntax("a hexadecimal digit")
		}
		c := p.b[p.i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, p.syntax("a hexadecimal digit")
		}
		r = r<<4 | rune(c)
		p.i++
	}
	return r, nil
}
