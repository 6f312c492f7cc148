// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/store"
)

// anEvent is sealed as far as a store looks.
func anEvent(kind string) audit.Sealed {
	key := id.NewEvent(t0())
	return audit.Sealed{
		Event: audit.Event{ID: key, Stream: audit.Agents, Type: kind, At: t0()},
		Leaf:  []byte(fmt.Sprintf("{ \"id\": %q, \"<&>\":1.0 }\x00\xff", key)),
	}
}

func record(position int64, e audit.Sealed) audit.Record {
	return audit.Record{Position: position, ID: e.Event.ID, Leaf: e.Leaf, Parts: e.Parts}
}

func appendAll(t *testing.T, st store.Store, es ...audit.Sealed) {
	t.Helper()
	update(t, st, func(tx store.Tx) error {
		for _, e := range es {
			if err := tx.Events().Append(e); err != nil {
				return err
			}
		}
		return nil
	})
}

func records(t *testing.T, st store.Store, f audit.Filter) []audit.Record {
	t.Helper()
	return fetch(t, st, func(tx store.Tx) ([]audit.Record, error) { return all(tx.Events().Records(f)) })
}

func next(t *testing.T, st store.Store) int64 {
	t.Helper()
	return fetch(t, st, func(tx store.Tx) (int64, error) { return tx.Events().Next() })
}

func eventTests() []test {
	return []test{
		{"append and read", func(t *testing.T, st store.Store) {
			if n := next(t, st); n != 0 {
				t.Errorf("an empty record has next %d", n)
			}
			last := func(tx store.Tx) (time.Time, error) { return tx.Events().Last() }
			if at := fetch(t, st, last); !at.IsZero() {
				t.Errorf("an empty record has a last time %v", at)
			}
			a, b := anEvent("call.decided"), anEvent("call.outcome")
			a.Parts = []audit.Part{
				{Name: "arguments", Salt: []byte{1}, Bytes: []byte("{}\x00")},
				{Name: "result", Salt: []byte{2}, Erased: "retention"},
			}
			b.Event.At = t0().Add(time.Second)
			appendAll(t, st, a, b)
			same(t, records(t, st, audit.Filter{After: -1}), []audit.Record{record(0, a), record(1, b)})
			bare := record(0, a)
			bare.Parts = nil
			same(t, records(t, st, audit.Filter{After: -1, Limit: 1, Bare: true}), []audit.Record{bare})
			same(t, next(t, st), 2)
			same(t, fetch(t, st, last), b.Event.At.UTC())
		}},
		{"positions are gapless over failures", func(t *testing.T, st store.Store) {
			a, b, c, lost := anEvent("a"), anEvent("b"), anEvent("c"), anEvent("lost")
			appendAll(t, st, a)
			refused(t, st, fault.Limited, "later", func(tx store.Tx) error {
				if err := tx.Events().Append(lost); err != nil {
					return err
				}
				return fault.New(fault.Limited, "test", "later", "something else failed")
			})
			appendAll(t, st, b, c)
			same(t, records(t, st, audit.Filter{After: -1}), []audit.Record{record(0, a), record(1, b), record(2, c)})
		}},
		{"next inside an update", func(t *testing.T, st store.Store) {
			appendAll(t, st, anEvent("a"))
			update(t, st, func(tx store.Tx) error {
				if err := tx.Events().Append(anEvent("b")); err != nil {
					return err
				}
				n, err := tx.Events().Next()
				if n != 1 {
					t.Errorf("next is %d; the event appended here stands at 1", n)
				}
				return err
			})
			same(t, next(t, st), 2)
		}},
		{"refusals", func(t *testing.T, st store.Store) {
			big, empty, nameless, twice := anEvent("a"), anEvent("a"), anEvent("a"), anEvent("a")
			big.Leaf = bytes.Repeat([]byte("x"), audit.MaxLeaf+1)
			empty.Leaf = nil
			nameless.Event.ID = id.Event{}
			put := func(es ...audit.Sealed) func(store.Tx) error {
				return func(tx store.Tx) error {
					for _, e := range es {
						if err := tx.Events().Append(e); err != nil {
							return err
						}
					}
					return tx.Meta().Set("written", "yes")
				}
			}
			refused(t, st, fault.Invalid, "leaf_too_large", put(big))
			refused(t, st, fault.Invalid, "bad_event", put(empty))
			refused(t, st, fault.Invalid, "bad_event", put(nameless))
			refused(t, st, fault.Exists, "event_exists", put(twice, twice))
			same(t, fetch(t, st, func(tx store.Tx) (string, error) { return tx.Meta().Get("written") }), "")
			appendAll(t, st, twice)
			refused(t, st, fault.Exists, "event_exists", put(twice))
			refused(t, st, fault.Exists, "event_exists", func(tx store.Tx) error { return tx.Events().Append(twice) })
			same(t, next(t, st), 1)
			same(t, fetch(t, st, func(tx store.Tx) (string, error) { return tx.Meta().Get("written") }), "")
		}},
		{"filters", func(t *testing.T, st store.Store) {
			agent, run, decision, approval := id.NewAgent(t0()), id.NewRun(t0()), id.NewDecision(t0()), id.NewApproval(t0())
			var es []audit.Sealed
			for i := range 6 {
				e := anEvent("call.decided")
				e.Event.Agent = agent
				switch i {
				case 0:
					e.Event.Stream, e.Event.Type, e.Event.Agent = audit.People, "policy.applied", id.Agent{}
				case 1, 4:
					e.Event.Run = run
				case 2:
					e.Event.Decision = decision
				case 3:
					e.Event.Approval, e.Event.Type = approval, "approval.requested"
				}
				es = append(es, e)
			}
			appendAll(t, st, es...)
			for _, tc := range []struct {
				f    audit.Filter
				want []string
			}{
				{audit.Filter{After: -1}, []string{"0", "1", "2", "3", "4", "5"}},
				{audit.Filter{}, []string{"1", "2", "3", "4", "5"}}, // positions greater than 0
				{audit.Filter{After: 3}, []string{"4", "5"}},
				{audit.Filter{After: 5}, nil},
				{audit.Filter{After: -1, Limit: 2}, []string{"0", "1"}},
				{audit.Filter{After: -1, Limit: 2, Newest: true}, []string{"5", "4"}},
				{audit.Filter{Newest: true}, []string{"5", "4", "3", "2", "1", "0"}},
				{audit.Filter{Newest: true, After: 3}, []string{"5", "4"}},
				{audit.Filter{After: -1, Stream: audit.People}, []string{"0"}},
				{audit.Filter{After: -1, Type: "approval.requested"}, []string{"3"}},
				{audit.Filter{After: -1, Agent: agent}, []string{"1", "2", "3", "4", "5"}},
				{audit.Filter{After: 1, Run: run}, []string{"4"}},
				{audit.Filter{After: -1, Run: run, Newest: true}, []string{"4", "1"}},
				{audit.Filter{After: -1, Decision: decision}, []string{"2"}},
				{audit.Filter{After: -1, Approval: approval, Agent: agent, Type: "approval.requested", Stream: audit.Agents}, []string{"3"}},
				{audit.Filter{After: -1, ID: es[4].Event.ID}, []string{"4"}},
				{audit.Filter{After: -1, ID: es[4].Event.ID, Type: "approval.requested"}, nil},
			} {
				lists(t, st, func(tx store.Tx) iter.Seq2[audit.Record, error] { return tx.Events().Records(tc.f) },
					func(r audit.Record) string { return fmt.Sprint(r.Position) }, tc.want...)
			}
		}},
		{"long ranges", func(t *testing.T, st store.Store) {
			const many = 2500
			var es []audit.Sealed
			for range many {
				es = append(es, anEvent("call.decided"))
			}
			appendAll(t, st, es...)
			for _, f := range []audit.Filter{{After: -1, Limit: many}, {After: -1, Limit: many * 2}, {After: 99, Limit: 700}, {After: -1, Limit: 700, Newest: true}, {After: -1}} {
				got := records(t, st, f)
				want, at, step := min(many-int(f.After)-1, f.Limit), f.After+1, int64(1)
				if f.Limit == 0 {
					want = 1000
				}
				if f.Newest {
					at, step = many-1, -1
				}
				if len(got) != want {
					t.Fatalf("%+v: %d records; want %d", f, len(got), want)
				}
				for i, r := range got {
					if r.Position != at+step*int64(i) {
						t.Fatalf("%+v: record %d stands at %d", f, i, r.Position)
					}
				}
			}
			// Ranging may stop early, and the transaction is usable meanwhile.
			view(t, st, func(tx store.Tx) error {
				for r, err := range tx.Events().Records(audit.Filter{After: -1}) {
					if err != nil {
						return err
					}
					if _, err := tx.Events().Next(); err != nil {
						return err
					}
					if r.Position == 300 {
						break
					}
				}
				return nil
			})
		}},
		{"committed", func(t *testing.T, st store.Store) {
			ch := st.Committed()
			closed := func() bool {
				select {
				case <-ch:
					return true
				default:
					return false
				}
			}
			update(t, st, func(tx store.Tx) error { return tx.Meta().Set("a", "b") })
			if closed() {
				t.Error("Committed fired for a commit without events")
			}
			_ = st.Update(context.Background(), func(tx store.Tx) error {
				_ = tx.Events().Append(anEvent("lost"))
				return fault.New(fault.Limited, "test", "later", "something else failed")
			})
			if closed() {
				t.Error("Committed fired for an event that was undone")
			}
			appendAll(t, st, anEvent("a"))
			if !closed() {
				t.Error("Committed did not fire before the caller returned")
			}
			ch = st.Committed()
			if closed() {
				t.Error("the next channel is closed already")
			}
		}},
		{"skip", func(t *testing.T, st store.Store) {
			update(t, st, func(tx store.Tx) error {
				if _, ok := tx.Events().(audit.Skipper); !ok {
					t.Skip("this store has no audit.Skipper")
				}
				return nil
			})
			skip := func(tx store.Tx, to int64) error { return tx.Events().(audit.Skipper).Skip(to) }
			a, b, c := anEvent("a"), anEvent("b"), anEvent("c")
			appendAll(t, st, a)
			refused(t, st, fault.Invalid, "skip_back", func(tx store.Tx) error { return skip(tx, 0) })
			refused(t, st, fault.Limited, "later", func(tx store.Tx) error {
				if err := skip(tx, 9); err != nil {
					return err
				}
				return fault.New(fault.Limited, "test", "later", "something else failed")
			})
			same(t, next(t, st), 1)
			update(t, st, func(tx store.Tx) error {
				if err := skip(tx, 5); err != nil {
					return err
				}
				if n, err := tx.Events().Next(); err != nil || n != 5 {
					t.Errorf("after Skip(5) next is %d, %v", n, err)
				}
				if err := tx.Events().Append(b); err != nil {
					return err
				}
				want(t, skip(tx, 5), fault.Invalid, "skip_back") // b stands there
				return tx.Events().Append(c)
			})
			same(t, records(t, st, audit.Filter{After: -1}), []audit.Record{record(0, a), record(5, b), record(6, c)})
			same(t, next(t, st), 7)
			update(t, st, func(tx store.Tx) error { return skip(tx, 9) })
			same(t, next(t, st), 9)
		}},
	}
}
