// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/store"
)

func TestBootstrap(t *testing.T) {
	h := build(t)
	first, err := h.road.Bootstrap(t.Context(), "olga")
	if err != nil || first.Code == "" || !first.Seeded {
		t.Fatalf("%+v %v", first, err)
	}
	again, err := h.road.Bootstrap(t.Context(), "olga")
	if err != nil || again.Code == "" || again.Code == first.Code || again.Seeded {
		t.Fatalf("the operator has no key yet, so a new code is made: %+v %v", again, err)
	}
	if err := h.store.Update(t.Context(), func(tx store.Tx) error {
		_, err := tx.People().TakeCode(people.HashCode(again.Code), h.now())
		return err
	}); err != nil {
		t.Fatalf("the code does not work: %v", err)
	}
	h.login("olga")
	if third, err := h.road.Bootstrap(t.Context(), "someone-else"); err != nil || third.Code != "" {
		t.Fatalf("once an operator has logged in nothing is made: %+v %v", third, err)
	}
	if err := h.rules.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := h.road.People(t.Context(), h.as("olga"))
	if err != nil || len(all) != 1 {
		t.Fatalf("%v %v", all, err)
	}
	if v, _ := h.events(audit.PolicyApplied); len(v) != 1 || v[0].Actor.Kind != audit.ActorSystem {
		t.Fatalf("seeding is one event of the system: %v", v)
	}
}

func TestAddPerson(t *testing.T) {
	h := open(t)
	got, err := h.road.AddPerson(t.Context(), h.as("olga"), people.Person{Name: "ben", Email: "ben@example.org", Roles: []people.Role{people.Approver}})
	if err != nil {
		t.Fatal(err)
	}
	if got.Person.CreatedBy != "olga" || !got.ExpiresAt.Equal(h.now().Add(15*time.Minute)) {
		t.Fatalf("%+v", got)
	}
	if v := h.last(audit.PersonAdded); v.Actor.Name != "olga" || v.Subject != "person:ben" || v.Decision.IsZero() {
		t.Fatalf("%+v", v)
	}
	rows := []struct {
		name string
		p    people.Person
		kind fault.Kind
		code string
	}{
		{"same name", people.Person{Name: "ben", Roles: []people.Role{people.Approver}}, fault.Exists, "name_taken"},
		{"same address", people.Person{Name: "ben2", Email: "ben@example.org", Roles: []people.Role{people.Approver}}, fault.Exists, "email_taken"},
		{"tagged address", people.Person{Name: "ben2", Email: "Ben+2@Example.org", Roles: []people.Role{people.Approver}}, fault.Exists, "email_taken"},
		{"the program's name", people.Person{Name: "system", Roles: []people.Role{people.Approver}}, fault.Exists, "name_taken"},
		{"role as a group", people.Person{Name: "eve", Roles: []people.Role{people.Auditor}, Groups: []string{"approver"}}, fault.Invalid, "bad_group"},
		{"no role", people.Person{Name: "eve"}, fault.Invalid, "bad_role"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			_, err := h.road.AddPerson(t.Context(), h.as("olga"), r.p)
			wantCode(t, err, r.kind, r.code)
		})
	}
}

// TestRights walks actions that a role does not have: each denial names the rule and is on the record.
func TestRights(t *testing.T) {
	h := open(t)
	h.add("ben", []people.Role{people.Approver})
	h.add("ada", []people.Role{people.Auditor})
	g := h.agent("clerk-1", "olga")
	for _, who := range []string{"ben", "ada"} {
		c := h.as(who)
		for name, act := range map[string]func() error{
			"add a person": func() error {
				_, err := h.road.AddPerson(t.Context(), c, people.Person{Name: "eve", Roles: []people.Role{people.Operator}})
				return err
			},
			"make a code": func() error { _, err := h.road.LoginCode(t.Context(), c, "olga"); return err },
			"suspend":     func() error { _, err := h.road.SuspendPerson(t.Context(), c, "olga", ""); return err },
			"register":    func() error { _, err := h.road.Register(t.Context(), c, identity.Agent{Name: "x"}); return err },
			"join code":   func() error { _, err := h.road.JoinCode(t.Context(), c, g.Name); return err },
			"apply policies": func() error {
				_, err := h.road.ApplyPolicy(t.Context(), c, map[string]string{"a.cedar": ""}, "", 0)
				return err
			},
			"delete secret": func() error { return h.road.DeleteSecret(t.Context(), c, "office") },
			"open a run":    func() error { _, err := h.road.OpenRun(t.Context(), c, Opening{Agent: g.Name}); return err },
		} {
			t.Run(who+" may not "+name, func(t *testing.T) {
				h.wantDenied(t, act(), "default-deny")
			})
		}
	}
	if _, err := h.road.Approvals(t.Context(), h.as("ben"), "", 0); err != nil {
		t.Fatalf("an approver sees approvals: %v", err)
	}
	h.wantDenied(t, second(h.road.Events(t.Context(), h.as("ben"), audit.Filter{After: -1, Stream: audit.Agents}, "")), "default-deny")
	if _, err := h.road.Events(t.Context(), h.as("ada"), audit.Filter{After: -1}, ""); err != nil {
		t.Fatalf("an auditor reads both streams: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestSuspendPerson(t *testing.T) {
	h := open(t)
	h.add("ben", []people.Role{people.Approver})
	ben := h.as("ben")
	if _, err := h.road.SuspendPerson(t.Context(), h.as("olga"), "ben", "left the firm"); err != nil {
		t.Fatal(err)
	}
	if n, dead := h.index.Dead(revocation.Person, ben.Credential.Person.String()); !dead || n.Reason != "left the firm" {
		t.Fatalf("nobody was told: %+v %v", n, dead)
	}
	_, err := h.road.Approvals(t.Context(), ben, "", 0)
	wantCode(t, err, fault.Suspended, "person_suspended")
	_, err = h.road.Whoami(t.Context(), ben)
	wantCode(t, err, fault.Suspended, "person_suspended")
	_, err = h.road.LoginCode(t.Context(), h.as("olga"), "ben")
	wantCode(t, err, fault.Conflict, "person_suspended")

	if _, err := h.road.ResumePerson(t.Context(), h.as("olga"), "ben", ""); err != nil {
		t.Fatal(err)
	}
	if _, dead := h.index.Dead(revocation.Person, ben.Credential.Person.String()); dead {
		t.Fatal("still dead after resume")
	}
	if self, err := h.road.Whoami(t.Context(), ben); err != nil || self.Name != "ben" {
		t.Fatalf("%+v %v", self, err)
	}
	_, err = h.road.SuspendPerson(t.Context(), h.as("olga"), "olga", "")
	wantCode(t, err, fault.Conflict, "last_operator")
	_, err = h.road.AddPerson(t.Context(), h.as("olga"), people.Person{Name: "zoe", Roles: []people.Role{people.Operator}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.road.SuspendPerson(t.Context(), h.as("olga"), "olga", "")
	wantCode(t, err, fault.Conflict, "last_operator") // zoe has no key yet
	h.login("zoe")
	if _, err = h.road.SuspendPerson(t.Context(), h.as("olga"), "olga", ""); err != nil {
		t.Fatal(err)
	}
}

func TestRegister(t *testing.T) {
	h := open(t)
	g := h.agent("clerk-1", "olga")
	if g.State != identity.Registered || !g.ExpiresAt.Equal(h.now().Add(DefaultAgentLife)) {
		t.Fatalf("%+v", g)
	}
	if v := h.last(audit.AgentRegistered); v.Agent != g.ID || v.AgentType != "clerk" {
		t.Fatalf("%+v", v)
	}
	rows := []struct {
		name string
		in   identity.Agent
		kind fault.Kind
		code string
	}{
		{"same name", identity.Agent{Name: "clerk-1", Type: "clerk", Owner: "olga", Purpose: "x"}, fault.Exists, "name_taken"},
		{"owner unknown", identity.Agent{Name: "a", Type: "clerk", Owner: "nobody", Purpose: "x"}, fault.Invalid, "owner_unknown"},
		{"no owner", identity.Agent{Name: "a", Type: "clerk", Purpose: "x"}, fault.Invalid, "no_owner"},
		{"type unknown", identity.Agent{Name: "a", Type: "pilot", Owner: "olga", Purpose: "x"}, fault.Invalid, "type_unknown"},
		{"no purpose", identity.Agent{Name: "a", Type: "clerk", Owner: "olga"}, fault.Invalid, "no_purpose"},
		{"past", identity.Agent{Name: "a", Type: "clerk", Owner: "olga", Purpose: "x", ExpiresAt: h.now().Add(-time.Hour)}, fault.Invalid, "bad_expiry"},
		{"for ever", identity.Agent{Name: "a", Type: "clerk", Owner: "olga", Purpose: "x", ExpiresAt: h.now().Add(400 * 24 * time.Hour)}, fault.Invalid, "bad_expiry"},
		{"agent as orchestrator", identity.Agent{Name: "a", Type: "clerk", Owner: "olga", Purpose: "x", Orchestrator: true}, fault.Invalid, "bad_orchestrator"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			_, err := h.road.Register(t.Context(), h.as("olga"), r.in)
			wantCode(t, err, r.kind, r.code)
		})
	}
	code, err := h.road.JoinCode(t.Context(), h.as("olga"), "clerk-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.store.Update(t.Context(), func(tx store.Tx) error {
		c, err := tx.Once().TakeJoinCode(identity.HashCode(code.Code), h.now())
		if err == nil && (c.Agent != g.ID || c.MadeBy != "olga") {
			t.Errorf("%+v", c)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	h.wait(DefaultAgentLife)
	_, err = h.road.JoinCode(t.Context(), h.as("olga"), "clerk-1")
	wantCode(t, err, fault.Suspended, "agent_expired")
}

// TestCallerChangesMeanwhile: a right that was lost between decision and commit is not used.
func TestCallerChangesMeanwhile(t *testing.T) {
	h := open(t)
	h.add("zoe", []people.Role{people.Operator})
	a, err := h.road.allow(t.Context(), h.as("olga"), ActTypePut, resource("type", "x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.road.SuspendPerson(t.Context(), h.as("zoe"), "olga", ""); err != nil {
		t.Fatal(err)
	}
	ev := h.road.event(a, audit.TypeApplied, "type:x", typeData{Name: "x"})
	err = h.road.change(t.Context(), a, ev, func(tx store.Tx) error { return tx.Registry().PutType(identity.Type{Name: "x"}) })
	wantCode(t, err, fault.Conflict, "caller_changed")
	if err := h.store.View(t.Context(), func(tx store.Tx) error { _, err := tx.Registry().Type("x"); return err }); !fault.Is(err, fault.NotFound) {
		t.Fatalf("the change was made: %v", err)
	}
}

// TestActionsAreThePolicys: every action asked here is one that policies can name, and the other way round.
func TestActionsAreThePolicys(t *testing.T) {
	mine := []string{
		ActPersonList, ActPersonAdd, ActPersonSuspend, ActPersonResume, ActPersonCode, ActTypeList, ActTypePut, ActAgentList, ActAgentRead,
		ActAgentRegister, ActAgentJoinCode, ActAgentSuspend, ActAgentResume, ActAgentRetire, ActInstanceEnd, ActRunList, ActRunRead, ActRunOpen,
		ActRunEnd, ActGrantList, ActGrantAsk, ActGrantRevoke, ActApprovalList, ActApprovalRead, ActApprovalDecide, ActPolicyRead, ActPolicyCheck,
		ActPolicyApply, ActServerList, ActServerPut, ActServerPin, ActCatalogRead, ActCatalogApply, ActSecretList, ActSecretPut, ActSecretDelete,
		ActAuditRead, ActAuditExport, ActDecisionExplain, ActDoctor, ActSelf,
	}
	theirs := policy.PeopleActions()
	slices.Sort(mine)
	slices.Sort(theirs)
	if d := cmp.Diff(theirs, mine); d != "" {
		t.Fatal(d)
	}
}

// TestTypeAuthorship: who lets a type reach a tool is an author of what enables its calls; who takes reach away is not.
func TestTypeAuthorship(t *testing.T) {
	h := open(t)
	put := func(typ identity.Type) {
		t.Helper()
		typ.Name = "clerk"
		h.wait(time.Minute)
		if _, err := h.road.PutType(t.Context(), h.as("olga"), typ); err != nil {
			t.Fatal(err)
		}
	}
	authors := func(tool string) (n int) {
		t.Helper()
		if err := h.store.View(t.Context(), func(tx store.Tx) error {
			all, err := every(tx.Pins().Authors("office", tool, h.now()))
			n = len(all)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	put(identity.Type{Reads: []string{"office/mail_read"}, Writes: []string{"office/payment_send"}})
	if authors("mail_read") != 1 || authors("payment_send") != 1 || authors("file_read") != 0 {
		t.Fatal("a new reach has its author")
	}
	put(identity.Type{Reads: []string{"office/mail_read"}})
	if authors("mail_read") != 0 || authors("payment_send") != 0 {
		t.Fatal("taking away is not enabling")
	}
	put(identity.Type{Reads: []string{"office/mail_read"}, Writes: []string{"office/mail_read"}})
	if authors("mail_read") != 1 {
		t.Fatal("from reads to writes is a new reach")
	}
	put(identity.Type{Reads: []string{"office/*"}})
	if authors("anything") != 1 {
		t.Fatal("a whole server is every tool of it")
	}
}

func TestNoPolicyAllowsNothing(t *testing.T) {
	h := build(t)
	if _, err := h.road.Bootstrap(t.Context(), "olga"); err != nil {
		t.Fatal(err)
	}
	h.login("olga")
	_, err := h.road.People(t.Context(), h.as("olga"))
	wantCode(t, err, fault.Unavailable, "no_policy")
	_, err = h.road.People(context.Background(), Caller{})
	wantCode(t, err, fault.Unauthenticated, "no_credential")
}

func TestResetOperators(t *testing.T) {
	h := open(t)
	before := h.as("olga")
	lockOut := map[string]string{"people.cedar": `@id("nobody") @reason("nobody") permit (principal, action == Chaperone::Action::"self.read", resource);`}
	if _, err := h.road.ApplyPolicy(t.Context(), h.as("olga"), lockOut, "", 0); err != nil {
		t.Fatal(err)
	}
	h.wantDenied(t, second(h.road.People(t.Context(), h.as("olga"))), "default-deny")

	other := build(t)
	stranger := New(Deps{Store: h.store, Rules: h.rules, Seal: other.road.Seal, Now: h.now}, h.road.cfg)
	_, err := stranger.ResetOperators(t.Context(), "olga")
	wantCode(t, err, fault.Denied, "wrong_seal_key")

	first, err := h.road.ResetOperators(t.Context(), "olga")
	if err != nil || first.Code == "" || !first.Seeded {
		t.Fatalf("%+v %v", first, err)
	}
	h.last(audit.OperatorsReset)
	if err := h.rules.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = h.road.People(t.Context(), before)
	wantCode(t, err, fault.Unauthenticated, "key_mismatch")
	h.login("olga")
	if _, err := h.road.People(t.Context(), h.as("olga")); err != nil {
		t.Fatal(err)
	}
	kept, err := h.road.ResetOperators(t.Context(), "new.operator")
	if err != nil || kept.Seeded {
		t.Fatalf("policies that work stay: %+v %v", kept, err)
	}
}
