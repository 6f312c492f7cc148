// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/label"
	"chaperone/internal/people"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

func goexit() { runtime.Goexit() }

func listRuns(tx store.Tx) iter.Seq2[run.Run, error] { return tx.Runs().Runs(run.Filter{}) }

// race runs fn n times at once, as updates, and returns how often it succeeded; every failure must be of the kind and code.
func race(t *testing.T, st store.Store, n int, kind fault.Kind, code string, fn func(i int, tx store.Tx) error) int {
	t.Helper()
	var won atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			err := st.Update(context.Background(), func(tx store.Tx) error { return fn(i, tx) })
			switch {
			case err == nil:
				won.Add(1)
			case !fault.Is(err, kind) || fault.CodeOf(err) != code:
				t.Errorf("caller %d: %v; want %s %q", i, err, kind, code)
			}
		})
	}
	close(start)
	wg.Wait()
	return int(won.Load())
}

func concurrencyTests() []test {
	return []test{
		{"one winner", func(t *testing.T, st store.Store) {
			g, a, r := aGrant(grant.Active), anApproval(), aRun()
			update(t, st, func(tx store.Tx) error {
				if err := tx.Approvals().Insert(a); err != nil {
					return err
				}
				if err := tx.Runs().Insert(r); err != nil {
					return err
				}
				return tx.Grants().Insert(g)
			})
			for _, tc := range []struct {
				name string
				kind fault.Kind
				code string
				fn   func(int, store.Tx) error
			}{
				{"grant", fault.Conflict, "grant_used", func(_ int, tx store.Tx) error { return tx.Grants().Move(g.ID, grant.Active, grant.Used, t0(), "") }},
				{"approval", fault.Conflict, "approval_moved", func(_ int, tx store.Tx) error { return tx.Approvals().Update(a) }},
				{"run", fault.Conflict, "run_moved", func(_ int, tx store.Tx) error { return tx.Runs().Update(r) }},
				{"once", fault.Exists, "replayed", func(_ int, tx store.Tx) error { return tx.Once().Spend("jti", t0()) }},
				{"agent name", fault.Exists, "name_taken", func(_ int, tx store.Tx) error { return tx.Registry().PutAgent(anAgent("a")) }},
			} {
				if won := race(t, st, 50, tc.kind, tc.code, tc.fn); won != 1 {
					t.Errorf("%s: %d of 50 won", tc.name, won)
				}
			}
		}},
		{"budgets are never overspent", func(t *testing.T, st store.Store) {
			r := aRun()
			r.Budgets = run.Budgets{Steps: 20, Bytes: 1 << 20, Calls: map[string]int64{"money": 7}}
			insertRun(t, st, r)
			if won := race(t, st, 40, fault.Limited, "budget_calls", func(_ int, tx store.Tx) error {
				return tx.Runs().Spend(r.ID, run.Spend{Steps: 1, Stakes: []string{"money"}})
			}); won != 7 {
				t.Errorf("%d calls passed; the budget is 7", won)
			}
			if won := race(t, st, 40, fault.Limited, "budget_steps", func(_ int, tx store.Tx) error {
				return tx.Runs().Spend(r.ID, run.Spend{Steps: 1})
			}); won != 13 {
				t.Errorf("%d steps passed; 13 were left", won)
			}
		}},
		{"no label is lost", func(t *testing.T, st store.Store) {
			r := aRun()
			insertRun(t, st, r)
			want := label.Label{}
			for i := range 40 {
				want = want.Join(untrusted(fmt.Sprint("mail/", i)))
			}
			race(t, st, 40, fault.Internal, "none", func(i int, tx store.Tx) error {
				return tx.Runs().Join(r.ID, untrusted(fmt.Sprint("mail/", i)))
			})
			if got := getRun(t, st, r.ID); !got.Label.Equal(want) || got.Version != 41 {
				t.Errorf("version %d, label %+v", got.Version, got.Label)
			}
		}},
		{"write skew", func(t *testing.T, st store.Store) {
			// Each suspends one of two operators if the other still stands. One at a time, one must remain.
			for round := range 10 {
				pair := []people.Person{aPerson(fmt.Sprint("ada", round)), aPerson(fmt.Sprint("ben", round))}
				update(t, st, func(tx store.Tx) error {
					for _, p := range pair {
						if err := tx.People().PutPerson(p); err != nil {
							return err
						}
					}
					return nil
				})
				won := race(t, st, 2, fault.Conflict, "last_operator", func(i int, tx store.Tx) error {
					mine, err := tx.People().Person(pair[i].Name)
					if err != nil {
						return err
					}
					other, err := tx.People().Person(pair[1-i].Name)
					if err != nil {
						return err
					}
					if other.Suspended {
						return fault.New(fault.Conflict, "test", "last_operator", "no operator would be left")
					}
					mine.Suspended = true
					return tx.People().PutPerson(mine)
				})
				if won != 1 {
					t.Fatalf("round %d: %d of 2 suspended the other", round, won)
				}
			}
		}},
		{"a failing caller does not touch its neighbours", func(t *testing.T, st store.Store) {
			const callers = 90
			won := race(t, st, callers, fault.Limited, "third", func(i int, tx store.Tx) error {
				if err := tx.Meta().Set(fmt.Sprint("caller", i), "yes"); err != nil {
					return err
				}
				e := anEvent("call.decided")
				e.Event.Type = fmt.Sprint("type", i)
				if err := tx.Events().Append(e); err != nil {
					return err
				}
				if i%3 == 0 {
					return fault.New(fault.Limited, "test", "third", "every third fails")
				}
				return nil
			})
			if won != callers*2/3 {
				t.Errorf("%d callers succeeded", won)
			}
			for i := range callers {
				want := "yes"
				if i%3 == 0 {
					want = ""
				}
				same(t, fetch(t, st, get(fmt.Sprint("caller", i))), want)
				n := len(records(t, st, audit.Filter{After: -1, Type: fmt.Sprint("type", i)}))
				if (n == 1) != (i%3 != 0) {
					t.Errorf("caller %d has %d events", i, n)
				}
			}
			for i, r := range records(t, st, audit.Filter{After: -1}) {
				if r.Position != int64(i) {
					t.Fatalf("record %d stands at %d", i, r.Position)
				}
			}
		}},
		{"a caller in the queue can give up", func(t *testing.T, st store.Store) {
			inside, leave := make(chan struct{}), make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				_ = st.Update(context.Background(), func(tx store.Tx) error {
					close(inside)
					<-leave
					return nil
				})
			})
			<-inside
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			var ran atomic.Bool
			err := st.Update(ctx, func(store.Tx) error { ran.Store(true); return nil })
			want(t, err, fault.Unavailable, "store_cancelled")
			close(leave)
			wg.Wait()
			update(t, st, func(tx store.Tx) error { return nil }) // comes after it in the queue
			if ran.Load() {
				t.Error("the function of a caller who gave up ran")
			}
		}},
		{"what a caller who gives up is told is what happened", func(t *testing.T, st store.Store) {
			var wg sync.WaitGroup
			for i := range 400 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i*10)*time.Microsecond)
					defer cancel()
					name := fmt.Sprint("caller", i)
					err := st.Update(ctx, func(tx store.Tx) error { return tx.Meta().Set(name, "yes") })
					if err != nil && fault.CodeOf(err) != "store_cancelled" {
						t.Error(err)
					}
					var got string
					if err := st.View(context.Background(), func(tx store.Tx) (err error) { got, err = tx.Meta().Get(name); return err }); err != nil {
						t.Error(err)
					}
					if (got == "yes") != (err == nil) {
						t.Errorf("caller %d was told %v; its change is there: %t", i, err, got == "yes")
					}
				})
			}
			wg.Wait()
		}},
		{"readers see whole commits", func(t *testing.T, st store.Store) {
			r := id.NewRun(t0())
			stop := make(chan struct{})
			var wg sync.WaitGroup
			defer wg.Wait()
			defer close(stop)
			for range 4 {
				wg.Go(func() {
					for seen := int64(0); ; {
						select {
						case <-stop:
							return
						default:
						}
						if err := st.View(context.Background(), func(tx store.Tx) error {
							n, err := tx.Events().Next()
							if err != nil {
								return err
							}
							rs, err := all(tx.Events().Records(audit.Filter{After: -1, Run: r}))
							if err != nil {
								return err
							}
							if int64(len(rs)) != n || n%2 != 0 || n < seen {
								t.Errorf("a view after %d events sees %d of %d", seen, len(rs), n)
							}
							seen = n
							return nil
						}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			for range 50 {
				a, b := anEvent("a"), anEvent("b")
				a.Event.Run, b.Event.Run = r, r
				appendAll(t, st, a, b)
			}
		}},
		{"committed wakes a follower for every event", func(t *testing.T, st store.Store) {
			const callers, each = 8, 25
			done := make(chan struct{})
			go func() {
				defer close(done)
				for seen := int64(0); seen < callers*each; {
					ch := st.Committed()
					var n int64
					if err := st.View(context.Background(), func(tx store.Tx) (err error) { n, err = tx.Events().Next(); return err }); err != nil {
						t.Error(err)
						return
					}
					if n > seen {
						seen = n
						continue
					}
					select {
					case <-ch:
					case <-time.After(10 * time.Second):
						t.Errorf("the follower sleeps at %d", seen)
						return
					}
				}
			}()
			race(t, st, callers, fault.Internal, "none", func(_ int, tx store.Tx) error {
				for range each {
					if err := tx.Events().Append(anEvent("a")); err != nil {
						return err
					}
				}
				return nil
			})
			<-done
		}},
	}
}
