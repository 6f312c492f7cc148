// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"encoding/json"
	"iter"
	"testing"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/store"
)

func aGrant(state grant.State) grant.Grant {
	return grant.Grant{
		ID: id.NewGrant(t0()), Run: id.NewRun(t0()), Agent: id.NewAgent(t0()), Server: "pay", Tool: "transfer", CallDigest: "aa",
		Origin: grant.ByCall, State: state, Approval: id.NewApproval(t0()), Decision: id.NewDecision(t0()),
		CreatedAt: t0(), NotAfter: t0().Add(time.Minute), ChangedAt: t0(),
	}
}

func grantTests() []test {
	states := []grant.State{grant.Requested, grant.Active, grant.Used, grant.Released, grant.Expired, grant.Revoked}
	legal := map[[2]grant.State]bool{
		{grant.Requested, grant.Active}: true, {grant.Requested, grant.Revoked}: true, {grant.Requested, grant.Expired}: true,
		{grant.Active, grant.Used}: true, {grant.Active, grant.Expired}: true, {grant.Active, grant.Revoked}: true,
		{grant.Used, grant.Released}: true, {grant.Used, grant.Revoked}: true,
	}
	insert := func(t *testing.T, st store.Store, gs ...grant.Grant) {
		t.Helper()
		update(t, st, func(tx store.Tx) error {
			for _, g := range gs {
				if err := tx.Grants().Insert(g); err != nil {
					return err
				}
			}
			return nil
		})
	}
	get := func(t *testing.T, st store.Store, key id.Grant) grant.Grant {
		t.Helper()
		return fetch(t, st, func(tx store.Tx) (grant.Grant, error) { return tx.Grants().Grant(key) })
	}
	return []test{
		{"insert and read", func(t *testing.T, st store.Store) {
			g := aGrant(grant.Active)
			absent(t, st, "no_grant", func(tx store.Tx) error { _, err := tx.Grants().Grant(g.ID); return err })
			insert(t, st, g)
			same(t, get(t, st, g.ID), g)
			refused(t, st, fault.Exists, "grant_exists", func(tx store.Tx) error { return tx.Grants().Insert(g) })
		}},
		{"every move", func(t *testing.T, st store.Store) {
			at := t0().Add(time.Second)
			for _, stored := range states {
				for _, from := range states {
					for _, to := range states {
						g := aGrant(stored)
						insert(t, st, g)
						move := func(tx store.Tx) error { return tx.Grants().Move(g.ID, from, to, at, "because") }
						if stored == from && legal[[2]grant.State{from, to}] {
							update(t, st, move)
							g.State, g.ChangedAt, g.Reason = to, at, "because"
						} else {
							refused(t, st, fault.Conflict, "grant_"+string(stored), move)
						}
						same(t, get(t, st, g.ID), g)
					}
				}
			}
			refused(t, st, fault.NotFound, "no_grant", func(tx store.Tx) error {
				return tx.Grants().Move(id.NewGrant(t0()), grant.Active, grant.Used, at, "")
			})
		}},
		{"lists", func(t *testing.T, st store.Store) {
			a, b, c := aGrant(grant.Active), aGrant(grant.Used), aGrant(grant.Active)
			b.Run, c.Agent, c.CallDigest = a.Run, a.Agent, "bb"
			insert(t, st, a, b, c)
			for _, tc := range []struct {
				f    grant.Filter
				want []string
			}{
				{grant.Filter{}, []string{c.ID.String(), b.ID.String(), a.ID.String()}},
				{grant.Filter{Limit: 1}, []string{c.ID.String()}},
				{grant.Filter{Run: a.Run}, []string{b.ID.String(), a.ID.String()}},
				{grant.Filter{Agent: a.Agent}, []string{c.ID.String(), a.ID.String()}},
				{grant.Filter{State: grant.Active}, []string{c.ID.String(), a.ID.String()}},
				{grant.Filter{Run: a.Run, State: grant.Active, CallDigest: "aa"}, []string{a.ID.String()}},
				{grant.Filter{CallDigest: "cc"}, nil},
			} {
				lists(t, st, func(tx store.Tx) iter.Seq2[grant.Grant, error] { return tx.Grants().Grants(tc.f) },
					func(g grant.Grant) string { return g.ID.String() }, tc.want...)
			}
		}},
		{"ending a run", func(t *testing.T, st store.Store) {
			mine := id.NewRun(t0())
			var gs []grant.Grant
			for _, state := range states {
				g := aGrant(state)
				g.Run = mine
				gs = append(gs, g)
			}
			other := aGrant(grant.Active)
			insert(t, st, append(gs, other)...)
			at := t0().Add(time.Second)
			end := func(want int) {
				t.Helper()
				update(t, st, func(tx store.Tx) error {
					n, err := tx.Grants().EndRun(mine, at, "run ended")
					if n != want {
						t.Errorf("EndRun revoked %d; want %d", n, want)
					}
					return err
				})
			}
			end(3)
			for _, g := range gs {
				if g.State == grant.Requested || g.State == grant.Active || g.State == grant.Used {
					g.State, g.ChangedAt, g.Reason = grant.Revoked, at, "run ended"
				}
				same(t, get(t, st, g.ID), g)
			}
			same(t, get(t, st, other.ID), other)
			end(0)
		}},
	}
}

func anApproval() approval.Approval {
	key := id.NewApproval(t0())
	return approval.Approval{
		ID: key, State: approval.Pending,
		Call: approval.Call{
			Schema: "chaperone/call/1", Run: id.NewRun(t0()), Agent: id.NewAgent(t0()), KeyThumbprint: "jkt", Server: "pay", Endpoint: "https://pay",
			Kind: "tool", Tool: "transfer", ToolDigest: "dd", Arguments: json.RawMessage(`{"amount":1e21,"note":"<b>&\u0001","to":"DE1"}`), Effect: "irreversible",
			Stakes: []string{"money"},
		},
		CallDigest: "aa",
		Binding: approval.Binding{
			Schema: "chaperone/binding/1", CallDigest: "aa", Approval: key, Rules: []approval.Rule{{ID: "irreversible-needs-approval", TextDigest: "ee"}},
			PolicyDigest: "ff", Nonce: "n", NotAfter: t0().Add(time.Minute),
		},
		BindingDigest: "bb", Require: []approval.Requirement{{Group: "approver", Number: 1}}, Tier: approval.Confirm,
		AgentName: "mailer-1", AgentOwner: "ada", Requester: "ada", Purpose: "pay", Label: "trusted",
		Excluded: []approval.Exclusion{{Person: "ada", Why: "requester"}}, CreatedAt: t0(),
	}
}

func approvalTests() []test {
	get := func(t *testing.T, st store.Store, key id.Approval) approval.Approval {
		t.Helper()
		return fetch(t, st, func(tx store.Tx) (approval.Approval, error) { return tx.Approvals().Approval(key) })
	}
	return []test{
		{"insert, update and read", func(t *testing.T, st store.Store) {
			a := anApproval()
			absent(t, st, "no_approval", func(tx store.Tx) error { _, err := tx.Approvals().Approval(a.ID); return err })
			refused(t, st, fault.NotFound, "no_approval", func(tx store.Tx) error { return tx.Approvals().Update(a) })
			update(t, st, func(tx store.Tx) error { return tx.Approvals().Insert(a) })
			same(t, get(t, st, a.ID), a) // the arguments too, byte for byte
			refused(t, st, fault.Exists, "approval_exists", func(tx store.Tx) error { return tx.Approvals().Insert(a) })
			a.State, a.ClosedAt = approval.Approved, t0()
			a.Decisions = []approval.Decision{{
				Person: "ben", PersonID: id.NewPerson(t0()), Groups: []string{"approver"}, Verdict: approval.Yes, BindingDigest: "bb", Channel: "cli", At: t0(),
			}}
			update(t, st, func(tx store.Tx) error { return tx.Approvals().Update(a) })
			refused(t, st, fault.Conflict, "approval_moved", func(tx store.Tx) error { return tx.Approvals().Update(a) })
			a.Version = 1
			same(t, get(t, st, a.ID), a)
		}},
		{"lists", func(t *testing.T, st store.Store) {
			a, b, c := anApproval(), anApproval(), anApproval()
			b.Call.Run, c.State, c.CallDigest = a.Call.Run, approval.Denied, "cc"
			update(t, st, func(tx store.Tx) error {
				for _, v := range []approval.Approval{a, b, c} {
					if err := tx.Approvals().Insert(v); err != nil {
						return err
					}
				}
				return nil
			})
			b.State = approval.Approved
			update(t, st, func(tx store.Tx) error { return tx.Approvals().Update(b) })
			for _, tc := range []struct {
				f    approval.Filter
				want []string
			}{
				{approval.Filter{}, []string{c.ID.String(), b.ID.String(), a.ID.String()}},
				{approval.Filter{Limit: 1}, []string{c.ID.String()}},
				{approval.Filter{State: approval.Pending}, []string{a.ID.String()}},
				{approval.Filter{State: approval.Approved}, []string{b.ID.String()}},
				{approval.Filter{Run: a.Call.Run}, []string{b.ID.String(), a.ID.String()}},
				{approval.Filter{CallDigest: "aa", State: approval.Pending}, []string{a.ID.String()}},
				{approval.Filter{CallDigest: "xx"}, nil},
			} {
				lists(t, st, func(tx store.Tx) iter.Seq2[approval.Approval, error] { return tx.Approvals().Approvals(tc.f) },
					func(v approval.Approval) string { return v.ID.String() }, tc.want...)
			}
		}},
	}
}
