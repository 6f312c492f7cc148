// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/enforce"
	"chaperone/internal/store"
)

// Rows whose guard is commit 1 itself: what happens when everybody comes at once, and when it cannot be written.

// meeting holds every Update back until a number of them have come, so that all of them have decided before the first one commits.
type meeting struct {
	store.Store
	mu   sync.Mutex
	left int
	met  chan struct{}
}

func (m *meeting) call(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.met = n, make(chan struct{})
}

func (m *meeting) Update(ctx context.Context, fn func(store.Tx) error) error {
	m.mu.Lock()
	met := m.met
	if m.left > 0 {
		if m.left--; m.left == 0 {
			close(met)
		}
	}
	m.mu.Unlock()
	if met != nil {
		select {
		case <-met:
		case <-time.After(20 * time.Second): // one of them never came, and the test shall say so
		}
	}
	return m.Store.Update(ctx, fn)
}

func TestMatrix_FiftyUsesMeetAtTheCommit(t *testing.T) {
	var m *meeting
	h := newHouse(t, func(h *house) {
		m = &meeting{Store: h.db}
		h.store = m
	})
	asking := enforce.Ask{Credential: h.credential(h.run.ID), Run: h.run.ID, Server: "office", Tool: "pay", Arguments: json.RawMessage(pays)}
	g, err := h.engine.AskGrant(t.Context(), asking)
	h.must(err)
	h.must(h.decide(g.Outcome.Approval.ID, "pia", approval.Yes))
	if g, err = h.engine.AskGrant(t.Context(), asking); err != nil || g.Grant.State != "active" {
		t.Fatalf("%+v %v", g, err)
	}
	const uses = 50
	m.call(uses)
	answers := make(chan answer, uses)
	for range uses {
		go func() { answers <- h.call("pay", pays) }()
	}
	released := 0
	for range uses {
		switch a := <-answers; a.Verdict {
		case enforce.Released:
			released++
		case enforce.Pending:
		default:
			t.Errorf("%s %q %v", a.Verdict, a.Code, a.err)
		}
	}
	if n := len(h.office.calls()); released != 1 || n != 1 {
		t.Fatalf("one grant was used %d times and forwarded %d times, want once and grant_used for the others", released, n)
	}
	rows := h.events(h.run.ID, audit.CallDecided)
	if got := rows[len(rows)-1].Data.Decided.Code; got != "grant_used" {
		t.Errorf("the reason on the record is %q, want grant_used", got)
	}
}

// full can be read and no longer written.
type full struct {
	store.Store
	down atomic.Bool
}

func (s *full) Update(ctx context.Context, fn func(store.Tx) error) error {
	if s.down.Load() {
		return errors.New("no space left on device")
	}
	return s.Store.Update(ctx, fn)
}

func TestMatrix_StoreDownAtTheCommit(t *testing.T) {
	var s *full
	h := newHouse(t, func(h *house) {
		s = &full{Store: h.db}
		h.store = s
	})
	h.want(h.call("note", `{}`), enforce.Released, "")
	s.down.Store(true)
	before := len(h.office.calls())
	effect := h.call("note", `{}`)
	if n := len(h.office.calls()) - before; n != 0 {
		t.Errorf("an effect that is not on the record was forwarded %d times, want store_unavailable and nothing forwarded", n)
	}
	h.want(effect, enforce.Failed, "store_unavailable")
	read := h.call("list_files", `{}`) // is asked for, and must stay here
	if n := len(read.out.messages); n != 0 {
		t.Errorf("an answer that is not on the record was released in %d messages, want store_unavailable and nothing released", n)
	}
	h.want(read, enforce.Failed, "store_unavailable")
	s.down.Store(false)
	h.want(h.call("note", `{}`), enforce.Released, "")
}
