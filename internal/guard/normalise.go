// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// The types of sink values.
const (
	Email   = "email"
	Domain  = "domain"
	URL     = "url"
	IBAN    = "iban"
	Account = "account"
	Channel = "channel"
	User    = "user"
	Path    = "path"
	Phone   = "phone"
	Name    = "name"
	Number  = "number"
)

// Types lists the types of sink values.
func Types() []string {
	return []string{Email, Domain, URL, IBAN, Account, Channel, User, Path, Phone, Name, Number}
}

// maxValue bounds a value, in bytes. Longer ones are not well-formed.
const maxValue = 2048

// Normalise returns the canonical form of a value of a type and whether it is well-formed. It is idempotent, and two values
// have one form only if they name the same thing to whoever receives them. What is not plainly written is refused instead of
// mended: white space around the value, invisible and control characters, and text that Unicode compatibility (NFKC) would
// change, because the receiver may read a full-width or ligature letter as another address than we would. An unknown type
// has no well-formed values.
func Normalise(typ, raw string) (string, bool) {
	if raw == "" || len(raw) > maxValue || !plain(raw) {
		return "", false
	}
	if n, ok := normalise(typ, raw); ok {
		return n, true
	}
	return "", false
}

func normalise(typ, raw string) (string, bool) {
	switch typ {
	case Email:
		return email(raw)
	case Domain:
		return domain(raw)
	case URL:
		return address(raw)
	case IBAN:
		return iban(raw)
	case Account:
		return account(raw)
	case Channel:
		return channel(raw)
	case User:
		return user(raw)
	case Path:
		return filePath(raw)
	case Phone:
		return phone(raw)
	case Name:
		return name(raw)
	case Number:
		return number(raw)
	}
	return "", false
}

// plain reports whether the text is visible, assigned, NFKC-stable Unicode with no space around it.
func plain(s string) bool {
	ascii := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= utf8.RuneSelf {
			ascii = false
		} else if c < ' ' || c == 0x7f {
			return false
		}
	}
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	if ascii {
		return true
	}
	if !utf8.ValidString(s) || !norm.NFKC.IsNormalString(s) {
		return false
	}
	for i, r := range s {
		if r == ' ' {
			continue
		}
		if i == 0 && unicode.Is(unicode.M, r) || !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S) || blank(r) {
			return false
		}
	}
	return true
}

// blank reports whether a letter, mark or symbol shows nothing. These are the default-ignorable code points (Unicode
// DerivedCoreProperties) that are not of category Cf, and the blank Braille pattern.
func blank(r rune) bool {
	switch {
	case r == 0x034f, r == 0x115f, r == 0x1160, r == 0x17b4, r == 0x17b5, r == 0x3164, r == 0xffa0, r == 0x2800:
		return true
	case r >= 0x180b && r <= 0x180f, r >= 0xfe00 && r <= 0xfe0f, r >= 0xe0000 && r <= 0xe0fff:
		return true
	}
	return false
}

// lower folds the case of ASCII letters only. Folding others (the Kelvin sign, the dotless i) would join two names into one.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

func digit(c byte) bool  { return c >= '0' && c <= '9' }
func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// only reports whether every byte is an ASCII letter, a digit or one of the others.
func only(s, others string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !digit(c) && !letter(c) && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return s != ""
}

// email accepts one addr-spec of RFC 5322 with a dot-atom local part (letters of any script, RFC 6531) and a host name of at
// least two labels. Quoted local parts, display names, lists, comments and address literals are refused. Case is folded in
// both parts, for ASCII letters: no mail system in use tells them apart, and a stated address is often typed with a capital.
func email(s string) (string, bool) {
	at := strings.IndexByte(s, '@')
	if at < 1 || at != strings.LastIndexByte(s, '@') || len(s) > 254 || at > 64 {
		return "", false
	}
	local := s[:at]
	if local[0] == '.' || local[len(local)-1] == '.' || strings.Contains(local, "..") {
		return "", false
	}
	for _, r := range local {
		if r < utf8.RuneSelf {
			if !only(string(r), ".!#$%&'*+/=?^_`{|}~-") {
				return "", false
			}
		} else if !unicode.In(r, unicode.L, unicode.M, unicode.Nd) {
			return "", false
		}
	}
	host, ok := domain(s[at+1:])
	if !ok {
		return "", false
	}
	return lower(local) + "@" + host, true
}

// domain accepts a host name of at least two labels and returns its A-label form in lower case. The profile maps nothing:
// what would have to be mapped to become a host name is refused.
func domain(s string) (string, bool) {
	h, ok := host(s)
	if !ok || !strings.Contains(h, ".") {
		return "", false
	}
	return h, true
}

func host(s string) (string, bool) {
	s = lower(s)
	if len(s) > 253 || strings.HasSuffix(s, ".") {
		return "", false
	}
	a, err := idna.New(idna.ValidateForRegistration(), idna.StrictDomainName(true), idna.VerifyDNSLength(true)).ToASCII(s)
	if err != nil || a == "" {
		return "", false
	}
	labels := strings.Split(a, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || !only(l, "-") || l[0] == '-' || l[len(l)-1] == '-' {
			return "", false
		}
	}
	// A last label of digits is an address in one of its many spellings (inet_aton), not a name.
	last := labels[len(labels)-1]
	if digit(last[0]) {
		return "", false
	}
	return a, true
}

// address accepts an absolute URL with an authority (RFC 3986) and returns it with scheme and host in lower case, the default
// port gone, an empty path as "/", and percent-escapes in one spelling. User information, dot segments, empty segments,
// backslashes, spaces and IP addresses in other than their plain form are refused: readers differ about them.
func address(s string) (string, bool) {
	if strings.ContainsAny(s, " \\\"<>^`{|}") {
		return "", false
	}
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.User != nil || u.Host == "" {
		return "", false
	}
	scheme := lower(u.Scheme)
	if !slices.Contains([]string{"http", "https", "ws", "wss", "ftp", "sftp", "ssh", "git", "s3", "gs"}, scheme) {
		return "", false
	}
	name, port := u.Hostname(), u.Port()
	if strings.HasPrefix(u.Host, "[") {
		ip, err := netip.ParseAddr(name)
		if err != nil || !ip.Is6() || ip.Zone() != "" || ip.Is4In6() {
			return "", false
		}
		name = "[" + ip.String() + "]"
	} else if ip, err := netip.ParseAddr(name); err == nil {
		name = ip.String()
	} else if h, ok := host(name); ok {
		name = h
	} else {
		return "", false
	}
	if strings.HasSuffix(u.Host, ":") {
		return "", false
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", false
		}
		port = strconv.FormatUint(n, 10)
		if port == map[string]string{"http": "80", "ws": "80", "https": "443", "wss": "443", "ftp": "21", "ssh": "22", "sftp": "22"}[scheme] {
			port = ""
		}
	}
	if port != "" {
		name += ":" + port
	}
	authority, rest := s[strings.Index(s, "://")+3:], ""
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority, rest = authority[:i], authority[i:]
	}
	if strings.Contains(authority, "%") {
		return "", false
	}
	rest, ok := escapes(rest)
	if !ok {
		return "", false
	}
	if !strings.HasPrefix(rest, "/") {
		rest = "/" + rest
	}
	p := rest
	if i := strings.IndexAny(p, "?#"); i >= 0 {
		p = p[:i]
	}
	for i, seg := range strings.Split(p[1:], "/") {
		if seg == "." || seg == ".." || seg == "" && i < strings.Count(p[1:], "/") {
			return "", false
		}
	}
	return scheme + "://" + name + rest, true
}

// escapes spells percent-escapes in one way: unreserved characters plain, the others as upper-case hex of UTF-8.
func escapes(s string) (string, bool) {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", false
			}
			v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			c = byte(v)
			i += 2
			if c < ' ' || c == 0x7f || c == '\\' {
				return "", false
			}
			if only(string(rune(c)), "-._~") && c < utf8.RuneSelf {
				b.WriteByte(c)
				continue
			}
		} else if c < utf8.RuneSelf {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String(), true
}

// ibanLengths is the registry of ISO 13616, country code and length.
const ibanLengths = "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29ES24FI18FK18FO18FR27GB22GE22GI23GL18" +
	"GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28NL18" +
	"NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20YE30"

// iban accepts an International Bank Account Number (ISO 13616): registered country, its length, check digits (mod 97). Single
// spaces between groups are allowed and go.
func iban(s string) (string, bool) {
	if strings.Contains(s, "  ") {
		return "", false
	}
	s = upper(strings.ReplaceAll(s, " ", ""))
	if len(s) < 15 || len(s) > 34 || !only(s, "") || !letter(s[0]) || !letter(s[1]) || !digit(s[2]) || !digit(s[3]) {
		return "", false
	}
	want := 0
	for i := 0; i < len(ibanLengths); i += 4 {
		if ibanLengths[i:i+2] == s[:2] {
			want, _ = strconv.Atoi(ibanLengths[i+2 : i+4])
		}
	}
	if want != len(s) {
		return "", false
	}
	rem := 0
	for _, c := range []byte(s[4:] + s[:4]) {
		if digit(c) {
			rem = (rem*10 + int(c-'0')) % 97
		} else {
			rem = (rem*100 + int(c-'A') + 10) % 97
		}
	}
	return s, rem == 1
}

// account accepts an account or card number of 4 to 34 ASCII letters and digits, with at least 4 digits. Single spaces and
// hyphens between groups go.
func account(s string) (string, bool) {
	if strings.Contains(s, "  ") || strings.Contains(s, "--") || strings.HasPrefix(s, "-") || strings.HasSuffix(s, "-") {
		return "", false
	}
	s = upper(strings.NewReplacer(" ", "", "-", "").Replace(s))
	digits := 0
	for i := 0; i < len(s); i++ {
		if digit(s[i]) {
			digits++
		}
	}
	return s, len(s) >= 4 && len(s) <= 34 && digits >= 4 && only(s, "")
}

func channel(s string) (string, bool) {
	s = lower(strings.TrimPrefix(s, "#"))
	return s, len(s) <= 80 && only(s, "._-")
}

// user accepts a handle of ASCII letters, digits, dots, hyphens and underscores, with or without "@", or an e-mail address.
func user(s string) (string, bool) {
	h := strings.TrimPrefix(s, "@")
	if strings.Contains(h, "@") {
		return email(s)
	}
	h = lower(h)
	return h, len(h) <= 64 && only(h, "._-")
}

// filePath accepts a clean slash-separated path; case matters. Dot segments, empty segments and backslashes are refused, one
// trailing slash goes.
func filePath(s string) (string, bool) {
	if len(s) > 1024 || strings.Contains(s, "\\") || strings.Contains(s, "//") {
		return "", false
	}
	p := s
	if len(p) > 1 {
		p = strings.TrimSuffix(p, "/")
	}
	if p == "." || p == ".." || path.Clean(p) != p || strings.HasPrefix(p, "../") {
		return "", false
	}
	for seg := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(seg, " ") || strings.HasSuffix(seg, " ") {
			return "", false
		}
	}
	return p, true
}

// phone accepts 7 to 15 digits (ITU-T E.164), with "+" or "00" before them or neither; single spaces, dots, hyphens and one
// pair of parentheses around a group go. "(0)" is refused: whether it is dialled depends on the reader. A number without
// country code equals only itself.
func phone(s string) (string, bool) {
	if strings.Contains(s, "(0)") || strings.Count(s, "(") > 1 || strings.Count(s, "(") != strings.Count(s, ")") {
		return "", false
	}
	sign, rest := "", s
	if r, ok := strings.CutPrefix(rest, "+"); ok {
		sign, rest = "+", r
	} else if r, ok := strings.CutPrefix(rest, "00"); ok {
		sign, rest = "+", r
	}
	if rest == "" || !digit(rest[0]) && rest[0] != '(' || !digit(rest[len(rest)-1]) {
		return "", false
	}
	var b strings.Builder
	open, run := false, 0
	for i := 0; i < len(rest); i++ {
		c := rest[i]
		switch {
		case digit(c):
			b.WriteByte(c)
			run = 0
			continue
		case c == '(' && !open:
			open = true
		case c == ')' && open:
			open = false
		case c == ' ' || c == '.' || c == '-':
			if run++; run > 1 {
				return "", false
			}
		default:
			return "", false
		}
	}
	d := b.String()
	if open || len(d) < 7 || len(d) > 15 || sign == "+" && d[0] == '0' || strings.HasPrefix(d, "00") {
		return "", false
	}
	return sign + d, true
}

// name accepts a line of at most 200 bytes without doubled spaces. ASCII case is folded.
func name(s string) (string, bool) {
	return lower(s), len(s) <= 200 && !strings.Contains(s, "  ")
}

// number accepts a decimal number, with commas between groups of three or none, and returns it without leading or trailing
// zeros. Exponents are refused.
func number(s string) (string, bool) {
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	whole, frac, dot := strings.Cut(s, ".")
	if dot && frac == "" || len(s) > 40 {
		return "", false
	}
	if groups := strings.Split(whole, ","); len(groups) > 1 {
		for i, g := range groups {
			if i == 0 && (g == "" || len(g) > 3) || i > 0 && len(g) != 3 {
				return "", false
			}
		}
		whole = strings.Join(groups, "")
	}
	if whole == "" || strings.Trim(whole, "0123456789") != "" || strings.Trim(frac, "0123456789") != "" {
		return "", false
	}
	whole, frac = strings.TrimLeft(whole, "0"), strings.TrimRight(frac, "0")
	if whole == "" {
		whole = "0"
	}
	out := whole
	if frac != "" {
		out += "." + frac
	}
	if neg && out != "0" {
		out = "-" + out
	}
	return out, true
}
