// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"log/slog"
	"strings"

	"chaperone/internal/fault"
)

// MinLength is the fewest characters a secret may have: its echo in an answer is searched for in runs of this length.
const MinLength = 8

// MaxLength is the most characters a secret may have.
const MaxLength = 8192

// Value is a secret in the clear. It never prints: String, GoString, JSON, text and logs all say [redacted]. The zero value is "no
// secret".
type Value struct{ s string }

// NewValue wraps a secret in the clear.
func NewValue(s string) Value { return Value{s} }

// Reveal returns the secret. It is called where the bytes of one upstream request are made, and where an echo is looked for.
func (v Value) Reveal() string { return v.s }

// IsZero reports whether there is no secret.
func (v Value) IsZero() bool { return v.s == "" }

const redacted = "[redacted]"

// String implements fmt.Stringer without the secret.
func (Value) String() string { return redacted }

// GoString implements fmt.GoStringer without the secret.
func (Value) GoString() string { return redacted }

// LogValue implements slog.LogValuer without the secret.
func (Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON implements json.Marshaler without the secret.
func (Value) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText implements encoding.TextMarshaler without the secret.
func (Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Injection is an opened upstream credential for one exchange: what, where, and towards which server only. The zero value injects
// nothing. It prints without the secret.
type Injection struct {
	Server  string
	Place   Place
	Name    string // header or query parameter
	User    string // basic
	Value   Value
	Version int64 // of the stored secret
}

// IsZero reports whether there is nothing to inject.
func (i Injection) IsZero() bool { return i.Value.IsZero() }

// String names the place and not the secret.
func (i Injection) String() string { return "secret for " + i.Server + " as " + string(i.Place) }

// GoString is String, so that %#v says no more.
func (i Injection) GoString() string { return i.String() }

// LogValue implements slog.LogValuer without the secret.
func (i Injection) LogValue() slog.Value {
	return slog.GroupValue(slog.String("server", i.Server), slog.String("place", string(i.Place)), slog.Int64("version", i.Version))
}

// Check refuses an injection that is not one of the four places done properly. It is used when a secret is stored and again
// before each use. Kind Invalid; codes secret_place, secret_name, secret_user, secret_short, secret_long, secret_value.
func (i Injection) Check() error {
	if err := CheckPlace(i.Place, i.Name, i.User); err != nil {
		return err
	}
	return CheckValue(i.Place, i.Value)
}

// CheckPlace refuses a place, name and user that do not go together.
func CheckPlace(place Place, name, user string) error {
	refuse := func(code, fix, format string, args ...any) error {
		return fault.New(fault.Invalid, "secret.CheckPlace", code, format, args...).WithFix("%s", fix)
	}
	if user != "" && place != Basic {
		return refuse("secret_user", "leave the user out, or choose the place basic", "a user goes only with the place basic")
	}
	switch place {
	case Bearer:
		if name != "" {
			return refuse("secret_name", "leave the name out", "the place bearer takes no name")
		}
	case Basic:
		if name != "" {
			return refuse("secret_name", "leave the name out", "the place basic takes no name")
		}
		if user == "" || strings.Contains(user, ":") || !printable(user) {
			return refuse("secret_user", "give a user of printable ASCII without a colon (RFC 7617)", "the place basic needs a user, and a user cannot hold a colon")
		}
	case Header:
		if !headerName(name) {
			return refuse("secret_name", "give a header name such as X-Api-Key", "%q is not a header name (RFC 9110 token of at most 64 characters)", name)
		}
		if reservedHeader(name) {
			return refuse("secret_name", "use the place bearer or basic for Authorization, and another name for anything else",
				"the header %s belongs to the transport or the protocol and cannot carry a secret", name)
		}
	case Query:
		if name == "" || len(name) > 64 || !printable(name) || strings.ContainsAny(name, "&=#?%+ ") {
			return refuse("secret_name", "give a parameter name such as key", "%q is not a query parameter name", name)
		}
	default:
		return refuse("secret_place", "choose bearer, basic, header or query", "%q is not a place for a secret", string(place))
	}
	return nil
}

// CheckValue refuses a secret that cannot travel in its place, or that is too short for its echo to be found.
func CheckValue(place Place, v Value) error {
	refuse := func(code, fix, format string, args ...any) error {
		return fault.New(fault.Invalid, "secret.CheckValue", code, format, args...).WithFix("%s", fix)
	}
	s := v.Reveal()
	switch {
	case len(s) < MinLength:
		return refuse("secret_short", "use a longer secret", "a secret of fewer than %d characters cannot be told from ordinary text in an answer", MinLength)
	case len(s) > MaxLength:
		return refuse("secret_long", "use a shorter secret", "a secret may have at most %d characters", MaxLength)
	}
	if (place == Bearer || place == Header) && (!printable(s) || s[0] == ' ' || s[len(s)-1] == ' ') {
		return refuse("secret_value", "give printable ASCII without spaces around it", "the secret holds characters that a header cannot carry")
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r == '\ufffd' {
			return refuse("secret_value", "remove line ends and other control characters", "the secret holds a control character")
		}
	}
	return nil
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

func headerName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// reservedHeader names the headers that the transport writes, that MCP gives a meaning, or that another place covers.
func reservedHeader(name string) bool {
	n := strings.ToLower(name)
	switch n {
	case "authorization", "proxy-authorization", "dpop", "cookie", "host", "content-length", "content-type", "content-encoding",
		"transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect", "date", "via", "forwarded", "accept",
		"accept-encoding", "origin", "referer", "last-event-id", "range":
		return true
	}
	for _, p := range []string{"mcp-", "proxy-", "sec-", "x-forwarded-"} {
		if strings.HasPrefix(n, p) {
			return true
		}
	}
	return false
}
