// SPDX-License-Identifier: Apache-2.0

package people

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// Lives of the single-use code that binds a person's key, and bounds of what is kept of a person.
const (
	DefaultCodeLife = 15 * time.Minute
	MaxCodeLife     = time.Hour
	maxGroups       = 64
	maxEmail        = 254 // RFC 5321 §4.5.3.1
)

// CheckName accepts the name of a person: lower-case letters, digits, single inner dots and hyphens, 1 to 63 bytes. There is
// one spelling: nothing is folded or trimmed. Error kind: Invalid, code "bad_name".
func CheckName(name string) error {
	if !word(name, "-.", 63) {
		return fault.New(fault.Invalid, "people.CheckName", "bad_name", "not a usable name for a person").
			WithFix("use 1 to 63 lower-case letters, digits, dots and hyphens, beginning and ending with a letter or digit")
	}
	return nil
}

// Check refuses a person who is malformed. Error kind: Invalid, codes "bad_name", "bad_role", "bad_group", "bad_email". A group
// may not have the name of a role: in approval rules a role counts as a group, and only a role gives it.
func (p Person) Check() error {
	const op = "people.Check"
	if err := CheckName(p.Name); err != nil {
		return err
	}
	if len(p.Roles) == 0 {
		return fault.New(fault.Invalid, op, "bad_role", "a person has at least one role").WithFix("give operator, approver or auditor")
	}
	for i, r := range p.Roles {
		if r != Operator && r != Approver && r != Auditor || slices.Contains(p.Roles[:i], r) {
			return fault.New(fault.Invalid, op, "bad_role", "role %.40q is unknown or named twice", r).WithFix("give operator, approver or auditor, each once")
		}
	}
	if len(p.Groups) > maxGroups {
		return fault.New(fault.Invalid, op, "bad_group", "a person stands in at most %d groups", maxGroups).WithFix("leave some out")
	}
	for i, g := range p.Groups {
		switch {
		case !word(g, "-", 63) || slices.Contains(p.Groups[:i], g):
			return fault.New(fault.Invalid, op, "bad_group", "group %.40q is malformed or named twice", g).
				WithFix("use 1 to 63 lower-case letters, digits and hyphens, each group once")
		case g == string(Operator) || g == string(Approver) || g == string(Auditor):
			return fault.New(fault.Invalid, op, "bad_group", "%s is a role, not a group", g).WithFix("give it as a role")
		}
	}
	if p.Email != "" {
		local, domain, ok := strings.Cut(p.Email, "@")
		if !ok || local == "" || !strings.Contains(domain, ".") || len(p.Email) > maxEmail || strings.ContainsFunc(p.Email, odd) || strings.Contains(domain, "@") {
			return fault.New(fault.Invalid, op, "bad_email", "not an e-mail address").WithFix("write it as name@example.org")
		}
	}
	return nil
}

// Standing lists what the person counts for in approval rules: groups and roles, sorted; nothing while suspended.
func (p Person) Standing() []string {
	if p.Suspended {
		return nil
	}
	out := slices.Clone(p.Groups)
	for _, r := range p.Roles {
		out = append(out, string(r))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// NewLoginCode makes a single-use code that lets the person bind one key before now+life; a life out of (0, MaxCodeLife]
// becomes DefaultCodeLife. The plain text is shown once; only the LoginCode, with its hash, is stored.
func NewLoginCode(person id.Person, by string, now time.Time, life time.Duration) (plain string, code LoginCode) {
	if life <= 0 || life > MaxCodeLife {
		life = DefaultCodeLife
	}
	plain = "lc_" + rand.Text()
	return plain, LoginCode{Hash: HashCode(plain), Person: person, MadeBy: by, ExpiresAt: now.Add(life).UTC()}
}

// HashCode returns what is stored of a login code: its SHA-256, hex. A code has 128 bits of randomness or more, so it needs no
// slow hash.
func HashCode(plain string) string { return canon.Sum([]byte(plain)) }

func odd(r rune) bool {
	return r <= ' ' || r == 0x7f || r > 0x7f || strings.ContainsRune(`"(),:;<>[\]`, r)
}

// word reports whether s is 1 to most lower-case letters, digits and the characters of inner, which stand singly and inside.
func word(s, inner string, most int) bool {
	last := true // an inner character may not come first
	for i := range len(s) {
		c := s[i]
		in := strings.IndexByte(inner, c) >= 0
		if !(in && !last || 'a' <= c && c <= 'z' || '0' <= c && c <= '9') {
			return false
		}
		last = in
	}
	return len(s) <= most && !last
}
