// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"iter"
	"math"
	"testing"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/label"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

func aRun() run.Run {
	return run.Run{
		ID: id.NewRun(t0()), Agent: id.NewAgent(t0()), AgentName: "mailer-1", AgentType: "mailer",
		Opener: run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "jkt"}, Purpose: "pay <the> invoice",
		Plan:    []run.PlanStep{{Tool: "pay/transfer", Sinks: map[string][]string{"to": {"DE1"}}, Max: 1}},
		Budgets: run.Budgets{Steps: 3, Seconds: 60, Bytes: 100, Calls: map[string]int64{"money": 1, "access": 2}},
		State:   run.Active, OpenedAt: t0(), ExpiresAt: t0().Add(time.Minute), Version: 1,
	}
}

func insertRun(t *testing.T, st store.Store, r run.Run) {
	t.Helper()
	update(t, st, func(tx store.Tx) error { return tx.Runs().Insert(r) })
}

func getRun(t *testing.T, st store.Store, key id.Run) run.Run {
	t.Helper()
	return fetch(t, st, func(tx store.Tx) (run.Run, error) { return tx.Runs().Run(key) })
}

func runTests() []test {
	return []test{
		{"insert and read", func(t *testing.T, st store.Store) {
			r := aRun()
			absent(t, st, "no_run", func(tx store.Tx) error { _, err := tx.Runs().Run(r.ID); return err })
			r.Label = untrusted("mail/read")
			r.Spent = run.Spent{Steps: 1, Bytes: 2, Calls: map[string]int64{"money": 1}}
			insertRun(t, st, r)
			same(t, getRun(t, st, r.ID), r)
			refused(t, st, fault.Exists, "run_exists", func(tx store.Tx) error { return tx.Runs().Insert(r) })
		}},
		{"lists", func(t *testing.T, st store.Store) {
			a, b, c := aRun(), aRun(), aRun()
			b.Agent, b.Instance, b.Parent = a.Agent, id.NewInstance(t0()), a.ID
			c.State = run.Ended
			for _, r := range []run.Run{a, b, c} {
				insertRun(t, st, r)
			}
			for _, tc := range []struct {
				f    run.Filter
				want []string
			}{
				{run.Filter{}, []string{c.ID.String(), b.ID.String(), a.ID.String()}},
				{run.Filter{Limit: 2}, []string{c.ID.String(), b.ID.String()}},
				{run.Filter{Agent: a.Agent}, []string{b.ID.String(), a.ID.String()}},
				{run.Filter{Agent: a.Agent, Instance: b.Instance}, []string{b.ID.String()}},
				{run.Filter{Parent: a.ID}, []string{b.ID.String()}},
				{run.Filter{State: run.Ended}, []string{c.ID.String()}},
				{run.Filter{State: run.Expired}, nil},
			} {
				lists(t, st, func(tx store.Tx) iter.Seq2[run.Run, error] { return tx.Runs().Runs(tc.f) },
					func(r run.Run) string { return r.ID.String() }, tc.want...)
			}
		}},
		{"update moves the version", func(t *testing.T, st store.Store) {
			r := aRun()
			put := func(tx store.Tx) error { return tx.Runs().Update(r) }
			refused(t, st, fault.NotFound, "no_run", put)
			insertRun(t, st, r)
			r.State, r.EndReason, r.EndedAt, r.Instance = run.Ended, "done", t0(), id.NewInstance(t0())
			update(t, st, put)
			refused(t, st, fault.Conflict, "run_moved", put)
			r.Version = 2
			same(t, getRun(t, st, r.ID), r)
		}},
		{"update keeps counters and labels", func(t *testing.T, st store.Store) {
			r := aRun()
			insertRun(t, st, r)
			update(t, st, func(tx store.Tx) error {
				return tx.Runs().Spend(r.ID, run.Spend{Steps: 1, Bytes: 10, Stakes: []string{"money"}})
			})
			update(t, st, func(tx store.Tx) error { return tx.Runs().Join(r.ID, untrusted("mail/read")) })
			r.Version, r.Purpose = 2, "another" // a copy from before both, but for the version
			update(t, st, func(tx store.Tx) error { return tx.Runs().Update(r) })
			got := getRun(t, st, r.ID)
			if got.Spent.Steps != 1 || got.Spent.Bytes != 10 || got.Spent.Calls["money"] != 1 {
				t.Errorf("Update wrote over the counters: %+v", got.Spent)
			}
			if !got.Label.Equal(untrusted("mail/read")) {
				t.Errorf("Update removed a label: %+v", got.Label)
			}
			if got.Purpose != "another" || got.Version != 3 {
				t.Errorf("Update: %+v", got)
			}
		}},
		{"update changes limits", func(t *testing.T, st store.Store) {
			r := aRun()
			insertRun(t, st, r)
			r.Budgets.Steps = 1
			update(t, st, func(tx store.Tx) error { return tx.Runs().Update(r) })
			update(t, st, func(tx store.Tx) error { return tx.Runs().Spend(r.ID, run.Spend{Steps: 1}) })
			refused(t, st, fault.Limited, "budget_steps", func(tx store.Tx) error { return tx.Runs().Spend(r.ID, run.Spend{Steps: 1}) })
		}},
		{"join", func(t *testing.T, st store.Store) {
			r := aRun()
			join := func(l label.Label) func(store.Tx) error {
				return func(tx store.Tx) error { return tx.Runs().Join(r.ID, l) }
			}
			refused(t, st, fault.NotFound, "no_run", join(untrusted("mail/read")))
			insertRun(t, st, r)
			update(t, st, join(label.Label{}))
			if got := getRun(t, st, r.ID); got.Version != 1 {
				t.Errorf("a join that adds nothing moved the version to %d", got.Version)
			}
			update(t, st, join(untrusted("mail/read")))
			update(t, st, join(untrusted("mail/read")))
			got := getRun(t, st, r.ID)
			if got.Version != 2 || !got.Label.Equal(untrusted("mail/read")) {
				t.Errorf("after two equal joins: version %d, label %+v", got.Version, got.Label)
			}
			// A run that ended while its last answer was on the way is still marked.
			got.State = run.Ended
			update(t, st, func(tx store.Tx) error { return tx.Runs().Update(got) })
			update(t, st, join(untrusted("web/get")))
			if got := getRun(t, st, r.ID); !got.Label.Equal(untrusted("mail/read").Join(untrusted("web/get"))) {
				t.Errorf("label of the ended run: %+v", got.Label)
			}
		}},
		{"spend", func(t *testing.T, st store.Store) {
			r := aRun()
			spend := func(sp run.Spend) func(store.Tx) error {
				return func(tx store.Tx) error { return tx.Runs().Spend(r.ID, sp) }
			}
			refused(t, st, fault.NotFound, "no_run", spend(run.Spend{Steps: 1}))
			insertRun(t, st, r)
			update(t, st, spend(run.Spend{Steps: 1, Bytes: 60, Stakes: []string{"money", "access", "unbounded"}}))
			after := getRun(t, st, r.ID)
			if after.Version != 1 {
				t.Errorf("Spend moved the version to %d", after.Version)
			}
			same(t, after.Spent, run.Spent{Steps: 1, Bytes: 60, Calls: map[string]int64{"money": 1, "access": 1, "unbounded": 1}})
			for _, tc := range []struct {
				name string
				sp   run.Spend
				kind fault.Kind
				code string
			}{
				{"steps", run.Spend{Steps: 3}, fault.Limited, "budget_steps"},
				{"many steps", run.Spend{Steps: math.MaxInt64}, fault.Limited, "budget_steps"},
				{"steps with stakes", run.Spend{Steps: 3, Stakes: []string{"access"}}, fault.Limited, "budget_steps"},
				{"bytes", run.Spend{Steps: 1, Bytes: 41}, fault.Limited, "budget_bytes"},
				{"calls", run.Spend{Steps: 1, Stakes: []string{"access", "money"}}, fault.Limited, "budget_calls"},
				{"one stake twice", run.Spend{Steps: 1, Stakes: []string{"access", "access"}}, fault.Limited, "budget_calls"},
				{"giving back", run.Spend{Steps: -1}, fault.Invalid, "bad_spend"},
				{"giving bytes back", run.Spend{Bytes: -1}, fault.Invalid, "bad_spend"},
			} {
				// The refusal is caught and the rest committed: a spend that fails must take nothing by itself.
				update(t, st, func(tx store.Tx) error {
					want(t, tx.Runs().Spend(r.ID, tc.sp), tc.kind, tc.code)
					return tx.Meta().Set("refused", tc.name)
				})
				same(t, getRun(t, st, r.ID), after)
			}
			update(t, st, spend(run.Spend{Steps: 2, Bytes: 40, Stakes: []string{"access"}}))
			refused(t, st, fault.Limited, "budget_steps", spend(run.Spend{Steps: 1}))
			update(t, st, spend(run.Spend{})) // nothing always suffices
		}},
		{"spend needs an active run", func(t *testing.T, st store.Store) {
			for _, state := range []run.State{run.Suspended, run.Ended, run.Expired} {
				r := aRun()
				r.State = state
				insertRun(t, st, r)
				for _, sp := range []run.Spend{{Steps: 1}, {Steps: 1, Stakes: []string{"access"}}} {
					refused(t, st, fault.Suspended, "run_"+string(state), func(tx store.Tx) error { return tx.Runs().Spend(r.ID, sp) })
				}
			}
		}},
		{"handles", func(t *testing.T, st store.Store) {
			mine, yours := id.NewRun(t0()), id.NewRun(t0())
			owner := func(server, kind, value string) func(store.Tx) (id.Run, error) {
				return func(tx store.Tx) (id.Run, error) { return tx.Handles().Owner(server, kind, value) }
			}
			absent(t, st, "no_handle", func(tx store.Tx) error { _, err := owner("mail", "task", "1")(tx); return err })
			update(t, st, func(tx store.Tx) error { return tx.Handles().Bind("mail", "task", "1", mine) })
			update(t, st, func(tx store.Tx) error { return tx.Handles().Bind("mail", "task", "1", yours) })
			update(t, st, func(tx store.Tx) error { return tx.Handles().Bind("mail", "session", "1", yours) })
			same(t, fetch(t, st, owner("mail", "task", "1")), mine)
			same(t, fetch(t, st, owner("mail", "session", "1")), yours)
			absent(t, st, "no_handle", func(tx store.Tx) error { _, err := owner("files", "task", "1")(tx); return err })
		}},
	}
}
