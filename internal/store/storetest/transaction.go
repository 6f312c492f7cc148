// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/secret"
	"chaperone/internal/store"
)

func get(name string) func(store.Tx) (string, error) {
	return func(tx store.Tx) (string, error) { return tx.Meta().Get(name) }
}

func transactionTests() []test {
	return []test{
		{"an error undoes the caller's work and is returned as it is", func(t *testing.T, st store.Store) {
			mine := errors.New("mine")
			err := st.Update(context.Background(), func(tx store.Tx) error {
				if err := tx.Meta().Set("a", "1"); err != nil {
					return err
				}
				if err := tx.Runs().Insert(aRun()); err != nil {
					return err
				}
				return mine
			})
			if err != mine { //nolint:errorlint // the very same error
				t.Errorf("Update returned %v", err)
			}
			same(t, fetch(t, st, get("a")), "")
			lists(t, st, listRuns, func(r run.Run) string { return r.ID.String() })
			if err := st.View(context.Background(), func(store.Tx) error { return mine }); err != mine { //nolint:errorlint // the very same error
				t.Errorf("View returned %v", err)
			}
		}},
		{"a transaction reads its own writes", func(t *testing.T, st store.Store) {
			update(t, st, func(tx store.Tx) error {
				if err := tx.Meta().Set("a", "1"); err != nil {
					return err
				}
				got, err := tx.Meta().Get("a")
				if got != "1" {
					t.Errorf("read %q", got)
				}
				return err
			})
		}},
		{"a panic is an internal error", func(t *testing.T, st store.Store) {
			refused(t, st, fault.Internal, "fn_panicked", func(tx store.Tx) error {
				if err := tx.Meta().Set("a", "1"); err != nil {
					return err
				}
				panic("secret")
			})
			same(t, fetch(t, st, get("a")), "")
			want(t, st.View(context.Background(), func(store.Tx) error { panic("secret") }), fault.Internal, "fn_panicked")
			update(t, st, func(tx store.Tx) error { return tx.Meta().Set("a", "2") })
			same(t, fetch(t, st, get("a")), "2")
		}},
		{"a function that ends its goroutine does not stop the store", func(t *testing.T, st store.Store) {
			for _, in := range []func(context.Context, func(store.Tx) error) error{st.Update, st.View} {
				done := make(chan struct{})
				go func() {
					defer close(done)
					_ = in(context.Background(), func(tx store.Tx) error {
						_ = tx.Meta().Set("a", "1")
						goexit()
						return nil
					})
				}()
				<-done
			}
			same(t, fetch(t, st, get("a")), "")
			update(t, st, func(tx store.Tx) error { return tx.Meta().Set("a", "2") })
		}},
		{"a transaction is not kept", func(t *testing.T, st store.Store) {
			var kept store.Tx
			update(t, st, func(tx store.Tx) error { kept = tx; return nil })
			want(t, kept.Meta().Set("a", "1"), fault.Internal, "tx_over")
			want(t, kept.Events().Append(anEvent("late")), fault.Internal, "tx_over")
			view(t, st, func(tx store.Tx) error { kept = tx; return nil })
			_, err := kept.Meta().Get("a")
			want(t, err, fault.Internal, "tx_over")
		}},
		{"a view cannot write", func(t *testing.T, st store.Store) {
			r := aRun()
			update(t, st, func(tx store.Tx) error {
				if err := tx.Runs().Insert(r); err != nil {
					return err
				}
				return tx.Pins().Put(catalog.Pin{Server: "pay", Kind: catalog.KindTool, Name: "transfer"})
			})
			for name, write := range map[string]func(store.Tx) error{
				"type":       func(tx store.Tx) error { return tx.Registry().PutType(identity.Type{Name: "x"}) },
				"agent":      func(tx store.Tx) error { return tx.Registry().PutAgent(anAgent("x")) },
				"instance":   func(tx store.Tx) error { return tx.Instances().PutInstance(anInstance(id.NewAgent(t0()))) },
				"once":       func(tx store.Tx) error { return tx.Once().Spend("x", t0()) },
				"sweep":      func(tx store.Tx) error { return tx.Once().Sweep(t0()) },
				"join code":  func(tx store.Tx) error { return tx.Once().PutJoinCode(identity.JoinCode{Hash: "x"}) },
				"take code":  func(tx store.Tx) error { _, err := tx.Once().TakeJoinCode("x", t0()); return err },
				"person":     func(tx store.Tx) error { return tx.People().PutPerson(aPerson("x")) },
				"login code": func(tx store.Tx) error { return tx.People().PutCode(people.LoginCode{Hash: "x"}) },
				"take login": func(tx store.Tx) error { _, err := tx.People().TakeCode("x", t0()); return err },
				"run":        func(tx store.Tx) error { return tx.Runs().Insert(aRun()) },
				"run update": func(tx store.Tx) error { return tx.Runs().Update(r) },
				"run spend":  func(tx store.Tx) error { return tx.Runs().Spend(r.ID, run.Spend{Steps: 1}) },
				"run join":   func(tx store.Tx) error { return tx.Runs().Join(r.ID, label.Label{Integrity: label.Untrusted}) },
				"handle":     func(tx store.Tx) error { return tx.Handles().Bind("x", "task", "1", r.ID) },
				"grant":      func(tx store.Tx) error { return tx.Grants().Insert(aGrant(grant.Active)) },
				"grant move": func(tx store.Tx) error {
					return tx.Grants().Move(id.NewGrant(t0()), grant.Active, grant.Used, t0(), "")
				},
				"end run":     func(tx store.Tx) error { _, err := tx.Grants().EndRun(r.ID, t0(), ""); return err },
				"approval":    func(tx store.Tx) error { return tx.Approvals().Insert(anApproval()) },
				"approval up": func(tx store.Tx) error { return tx.Approvals().Update(anApproval()) },
				"policy":      func(tx store.Tx) error { return tx.Policies().Insert(policy.Bundle{Version: 1}) },
				"server":      func(tx store.Tx) error { return tx.Catalog().PutServer(catalog.Server{Name: "x"}) },
				"entry":       func(tx store.Tx) error { return tx.Catalog().PutEntry(catalog.Entry{Name: "x"}) },
				"pin":         func(tx store.Tx) error { return tx.Pins().Put(catalog.Pin{Name: "x"}) },
				"pin delete":  func(tx store.Tx) error { return tx.Pins().Delete("pay", catalog.KindTool, "transfer") },
				"author":      func(tx store.Tx) error { return tx.Pins().AddAuthor(catalog.Authorship{Name: "x"}) },
				"secret":      func(tx store.Tx) error { return tx.Secrets().Put(secret.Sealed{Server: "x"}) },
				"secret gone": func(tx store.Tx) error { return tx.Secrets().Delete("x") },
				"notice":      func(tx store.Tx) error { return tx.Revocations().Put(revocation.Notice{Kind: "run", ID: "x"}) },
				"event":       func(tx store.Tx) error { return tx.Events().Append(anEvent("x")) },
				"meta":        func(tx store.Tx) error { return tx.Meta().Set("x", "y") },
			} {
				if err := st.View(context.Background(), write); !fault.Is(err, fault.Invalid) || fault.CodeOf(err) != "read_only" {
					t.Errorf("%s in a view: %v; want invalid \"read_only\"", name, err)
				}
			}
		}},
		{"a view is one snapshot", func(t *testing.T, st store.Store) {
			appendAll(t, st, anEvent("a"))
			view(t, st, func(tx store.Tx) error {
				for range 2 {
					n, err := tx.Events().Next()
					if err != nil {
						return err
					}
					rs, err := all(tx.Events().Records(audit.Filter{After: -1}))
					if err != nil {
						return err
					}
					if n != 1 || len(rs) != 1 {
						t.Errorf("the view sees %d events and next %d", len(rs), n)
					}
					appendAll(t, st, anEvent("b")) // beside the view
				}
				return nil
			})
			same(t, next(t, st), 3)
		}},
		{"a dead context", func(t *testing.T, st store.Store) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			ran := false
			for _, in := range []func(context.Context, func(store.Tx) error) error{st.Update, st.View} {
				err := in(ctx, func(store.Tx) error { ran = true; return nil })
				want(t, err, fault.Unavailable, "store_cancelled")
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%v does not wrap the context's error", err)
				}
			}
			if ran {
				t.Error("the function ran")
			}
		}},
		{"a context that ends after fn ran does not undo", func(t *testing.T, st store.Store) {
			ctx, cancel := context.WithCancel(context.Background())
			if err := st.Update(ctx, func(tx store.Tx) error {
				defer cancel()
				return tx.Meta().Set("a", "1")
			}); err != nil {
				t.Errorf("Update: %v", err)
			}
			same(t, fetch(t, st, get("a")), "1")
		}},
		{"times keep milliseconds", func(t *testing.T, st store.Store) {
			// Before 1970, and far ahead: columns and bodies agree.
			for _, at := range []time.Time{time.Date(1969, 1, 1, 0, 0, 0, 999e6, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 1e6, time.UTC)} {
				g := aGrant(grant.Active)
				g.CreatedAt, g.NotAfter, g.ChangedAt = at, at, at
				update(t, st, func(tx store.Tx) error { return tx.Grants().Insert(g) })
				same(t, fetch(t, st, func(tx store.Tx) (grant.Grant, error) { return tx.Grants().Grant(g.ID) }), g)
			}
		}},
	}
}
