// SPDX-License-Identifier: Apache-2.0

package canon

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ownLimits bounds what JCS and Marshal take. It is wider than a message, because what is digested wraps one.
var ownLimits = Limits{Bytes: 16 << 20, Depth: 2 * DefaultDepth}

// JCS returns the canonical form of a JSON document (RFC 8785). It refuses what Parse refuses (at most 16 MiB, nested 128
// deep), and a number whose canonical text is another decimal number, code json_inexact_number: RFC 8785 would round it to
// the nearest double, and two different amounts would have one digest.
func JCS(b []byte) ([]byte, error) {
	n, err := Parse(b, ownLimits)
	if err != nil {
		return nil, err
	}
	return Canonical(n)
}

// Canonical returns the canonical form of a parsed value. Errors: json_inexact_number.
func Canonical(n *Node) ([]byte, error) {
	if n == nil {
		return nil, refuse("canon.Canonical", "json_syntax", "give a value", "there is no value")
	}
	return appendNode(make([]byte, 0, n.End-n.Start), n)
}

// Marshal returns the canonical bytes of a Go value, as encoding/json sees it. Beyond the errors of JCS it refuses strings
// that are not UTF-8 (json_invalid_utf8), which encoding/json would replace silently, and what encoding/json cannot
// encode (json_unsupported). An integer beyond 2^53 is inexact: write it as a string.
func Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, refuse("canon.Marshal", "json_unsupported", "give values that JSON has", "the value has no JSON form").WithCause(err)
	}
	// encoding/json writes U+FFFD itself as three bytes and uses the escape for bytes it replaced, but an escape may
	// also come from a json.RawMessage, hence the second look.
	if bytes.Contains(b, []byte(`\ufffd`)) && !validText(reflect.ValueOf(v)) {
		return nil, refuse("canon.Marshal", "json_invalid_utf8", "encode text as UTF-8", "a string of the value is not UTF-8")
	}
	return JCS(b)
}

// Digest returns the lower-case hexadecimal SHA-256 of Marshal(v), 64 characters.
func Digest(v any) (string, error) {
	b, err := Marshal(v)
	if err != nil {
		return "", err
	}
	return Sum(b), nil
}

// Sum returns the lower-case hexadecimal SHA-256 of the bytes as they are.
func Sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func appendNode(out []byte, n *Node) ([]byte, error) {
	var err error
	switch n.Kind {
	case Null:
		return append(out, "null"...), nil
	case Bool:
		return append(out, n.Text...), nil
	case Number:
		return appendNumber(out, n.Text)
	case String:
		return appendText(out, n.Text), nil
	case Array:
		out = append(out, '[')
		for i, item := range n.Items {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = appendNode(out, item); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	case Object:
		members := n.Members
		if !slices.IsSortedFunc(members, byName) {
			members = slices.Clone(members)
			slices.SortFunc(members, byName)
		}
		out = append(out, '{')
		for i := range members {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendText(out, members[i].Key), ':')
			if out, err = appendNode(out, members[i].Value); err != nil {
				return nil, err
			}
		}
		return append(out, '}'), nil
	}
	return nil, refuse("canon.Canonical", "json_syntax", "give a parsed value", "a value has no kind")
}

func byName(a, b Member) int { return compareUTF16(a.Key, b.Key) }

// compareUTF16 orders names by UTF-16 code units (RFC 8785 §3.2.3). That differs from the order of code points only where a
// character beyond U+FFFF, whose first unit is a surrogate, meets one from U+E000 to U+FFFF.
func compareUTF16(a, b string) int {
	for a != "" && b != "" {
		ra, na := utf8.DecodeRuneInString(a)
		rb, nb := utf8.DecodeRuneInString(b)
		if ra != rb {
			if (ra > 0xFFFF) != (rb > 0xFFFF) {
				ra, rb = firstUnit(ra), firstUnit(rb)
			}
			return cmp.Compare(ra, rb)
		}
		a, b = a[na:], b[nb:]
	}
	return cmp.Compare(len(a), len(b))
}

func firstUnit(r rune) rune {
	if r > 0xFFFF {
		return 0xD800 + (r-0x10000)>>10
	}
	return r
}

// appendText writes a string with the escapes of RFC 8785 §3.2.2.2: only what JSON obliges to escape, hexadecimal in lower case.
func appendText(out []byte, s string) []byte {
	const digits = "0123456789abcdef"
	out = append(out, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		out = append(out, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, '\\', 'b')
		case '\t':
			out = append(out, '\\', 't')
		case '\n':
			out = append(out, '\\', 'n')
		case '\f':
			out = append(out, '\\', 'f')
		case '\r':
			out = append(out, '\\', 'r')
		default:
			out = append(out, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(append(out, s[start:]...), '"')
}

func appendNumber(out []byte, lit string) ([]byte, error) {
	if len(lit) <= 15 && !strings.ContainsAny(lit, ".eE") && lit != "-0" {
		return append(out, lit...), nil // an integer of at most 15 digits is its own canonical form
	}
	start := len(out)
	f, err := strconv.ParseFloat(lit, 64)
	if err == nil {
		out = appendDouble(out, f)
	}
	if err != nil || !sameDecimal(lit, string(out[start:])) {
		return nil, refuse("canon.JCS", "json_inexact_number", "write the number with fewer digits, or as a string",
			"the number %s cannot be held exactly by a double", short(lit))
	}
	return out, nil
}

// appendDouble writes a finite double as ECMAScript's Number.prototype.toString does (RFC 8785 §3.2.2.3).
func appendDouble(out []byte, f float64) []byte {
	if f == 0 {
		return append(out, '0') // also for -0
	}
	if abs := math.Abs(f); abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(out, f, 'f', -1, 64)
	}
	out = strconv.AppendFloat(out, f, 'e', -1, 64)
	// Go writes e-07 where ECMAScript writes e-7.
	if n := len(out); n >= 4 && out[n-4] == 'e' && out[n-2] == '0' {
		out[n-2] = out[n-1]
		out = out[:n-1]
	}
	return out
}

// sameDecimal reports whether two number literals name the same decimal number.
func sameDecimal(a, b string) bool {
	na, da, ea, oka := decimal(a)
	nb, db, eb, okb := decimal(b)
	if da == "" || db == "" {
		return da == db // zero is zero, whatever its sign and exponent
	}
	return oka && okb && na == nb && da == db && ea == eb
}

// decimal splits a literal into sign, digits without leading or trailing zeros, and the power of ten of the digits read as
// 0.digits. ok is false where the exponent is out of any range that a double reaches.
func decimal(lit string) (negative bool, digits string, exponent int, ok bool) {
	lit, negative = strings.CutPrefix(lit, "-")
	mantissa, power, has := strings.Cut(strings.ToLower(lit), "e")
	ok = true
	if has {
		v, err := strconv.ParseInt(power, 10, 32)
		exponent, ok = int(v), err == nil
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = whole + fraction
	exponent += len(whole)
	trimmed := strings.TrimLeft(digits, "0")
	exponent -= len(digits) - len(trimmed)
	return negative, strings.TrimRight(trimmed, "0"), exponent, ok
}

// validText reports whether every string that encoding/json reads from v is UTF-8. What a MarshalJSON returns is its own
// affair. It runs only for values whose encoding shows that something may have been replaced.
func validText(v reflect.Value) bool {
	if !v.IsValid() {
		return true
	}
	if v.CanInterface() {
		switch m := v.Interface().(type) {
		case json.Marshaler:
			return true
		case encoding.TextMarshaler:
			if v.Kind() == reflect.Pointer && v.IsNil() {
				return true
			}
			b, err := m.MarshalText()
			return err == nil && utf8.Valid(b)
		}
	}
	switch v.Kind() {
	case reflect.String:
		return utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		return v.IsNil() || validText(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" && !validText(v.Field(i)) {
				return false
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if !validText(it.Key()) || !validText(it.Value()) {
				return false
			}
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return true
		}
		for i := range v.Len() {
			if !validText(v.Index(i)) {
				return false
			}
		}
	}
	return true
}
