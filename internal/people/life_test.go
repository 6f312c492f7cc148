// SPDX-License-Identifier: Apache-2.0

package people

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/fault"
	"chaperone/internal/id"
)

func TestCheck(t *testing.T) {
	good := Person{Name: "ada.l", Email: "ada@example.org", Roles: []Role{Operator, Approver}, Groups: []string{"finance", "on-call"}}
	rows := map[string]struct {
		change func(*Person)
		code   string
	}{
		"good":              {func(*Person) {}, ""},
		"no name":           {func(p *Person) { p.Name = "" }, "bad_name"},
		"capital":           {func(p *Person) { p.Name = "Ada" }, "bad_name"},
		"dot at the end":    {func(p *Person) { p.Name = "ada." }, "bad_name"},
		"two dots":          {func(p *Person) { p.Name = "a..b" }, "bad_name"},
		"slash":             {func(p *Person) { p.Name = "a/b" }, "bad_name"},
		"long":              {func(p *Person) { p.Name = strings.Repeat("a", 64) }, "bad_name"},
		"no role":           {func(p *Person) { p.Roles = nil }, "bad_role"},
		"unknown role":      {func(p *Person) { p.Roles = []Role{"root"} }, "bad_role"},
		"role twice":        {func(p *Person) { p.Roles = []Role{Auditor, Auditor} }, "bad_role"},
		"group like a role": {func(p *Person) { p.Groups = []string{"approver"} }, "bad_group"},
		"group twice":       {func(p *Person) { p.Groups = []string{"x", "x"} }, "bad_group"},
		"group with colon":  {func(p *Person) { p.Groups = []string{"x:1"} }, "bad_group"},
		"address":           {func(p *Person) { p.Email = "ada" }, "bad_email"},
		"two addresses":     {func(p *Person) { p.Email = "a@x.org,b@x.org" }, "bad_email"},
		"homoglyph":         {func(p *Person) { p.Email = "ad\u0430@example.org" }, "bad_email"},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			p := good
			r.change(&p)
			err := p.Check()
			if r.code == "" && err != nil || r.code != "" && (fault.CodeOf(err) != r.code || fault.KindOf(err) != fault.Invalid) {
				t.Fatalf("got %v, want %q", err, r.code)
			}
		})
	}
}

func TestStanding(t *testing.T) {
	p := Person{Roles: []Role{Operator, Approver}, Groups: []string{"finance"}}
	if d := cmp.Diff([]string{"approver", "finance", "operator"}, p.Standing()); d != "" {
		t.Fatal(d)
	}
	p.Suspended = true
	if len(p.Standing()) != 0 {
		t.Fatal("a suspended person counts for nothing")
	}
}

func TestLoginCode(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	plain, code := NewLoginCode(id.NewPerson(now), "ada", now, 0)
	if HashCode(plain) != code.Hash || strings.Contains(code.Hash, plain) || !code.ExpiresAt.Equal(now.Add(DefaultCodeLife)) {
		t.Fatalf("%+v", code)
	}
	if again, _ := NewLoginCode(code.Person, "ada", now, 0); again == plain {
		t.Fatal("a code came twice")
	}
}
