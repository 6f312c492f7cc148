// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/enforce"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// looked counts the looks at the database.
type looked struct {
	store.Store
	n *atomic.Int64
}

func (l looked) View(ctx context.Context, fn func(store.Tx) error) error {
	l.n.Add(1)
	return l.Store.View(ctx, fn)
}

// TestWhoWaitsDoesNotPress: calls that wait for people look at the database a bounded number of times, however much is committed
// meanwhile, and still go on once they are approved.
func TestWhoWaitsDoesNotPress(t *testing.T) {
	var n atomic.Int64
	h := newHouse(t, func(h *house) { h.store = looked{h.store, &n} })
	const many = 64
	var wg sync.WaitGroup
	var ends [many]answer
	for i := range many {
		r := h.open(run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "ada-key"}, purpose)
		wg.Go(func() {
			args := fmt.Sprintf(`{"iban":"DE89 3704 0044 0532 0130 00","amount":%d}`, i)
			ends[i] = h.call("pay", args, in(r), func(q *enforce.Request) { q.Wait = 3 * time.Second })
		})
	}
	var open []approval.Approval
	for len(open) < many {
		time.Sleep(20 * time.Millisecond)
		open = nil
		h.view(func(tx store.Tx) error {
			for a, err := range tx.Approvals().Approvals(approval.Filter{State: approval.Pending}) {
				h.must(err)
				open = append(open, a)
			}
			return nil
		})
	}
	before, swarm := n.Load(), time.Now()
	commits := 0
	for ; time.Since(swarm) < time.Second; commits++ {
		h.want(h.call("note", `{}`), enforce.Released, "") // two commits each, and some looks of its own
		if commits == 50 {
			break
		}
	}
	took := time.Since(swarm)
	looks := n.Load() - before - int64(commits+1)*8
	if most := int64(many * (2 + took/(50*time.Millisecond))); looks > most {
		t.Errorf("%d waiting calls looked %d times during %d commits in %v, want at most %d", many, looks, commits*2, took, most)
	}
	h.must(h.decide(open[0].ID, "pia", approval.Yes))
	wg.Wait()
	released := 0
	for _, a := range ends {
		if a.Verdict == enforce.Released {
			released++
		}
	}
	if released != 1 {
		t.Errorf("%d of the waiting calls went on, want the one that was approved", released)
	}
}
