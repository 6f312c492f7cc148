// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"sync"
	"sync/atomic"
	"time"

	"chaperone/internal/id"
)

// turns lets calls of one run that lost a race be decided again one after the other, so that many parallel reads of different
// sources do not push each other out until all have given up. It is no lock of correctness: the commit's comparison is.
type turns struct {
	mu    sync.Mutex
	lines map[id.Run]*line
}

type line struct {
	mu      sync.Mutex
	waiting int
}

func newTurns() *turns { return &turns{lines: map[id.Run]*line{}} }

func (t *turns) take(r id.Run) (release func()) {
	t.mu.Lock()
	l := t.lines[r]
	if l == nil {
		l = &line{}
		t.lines[r] = l
	}
	l.waiting++
	t.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		if l.waiting--; l.waiting == 0 {
			delete(t.lines, r)
		}
	}
}

// lock takes the run's turn, once.
func (c *call) lock() {
	if c.turn == nil {
		c.turn = c.turns.take(c.cred.Run)
	}
}

// unlock gives the turn back, if this call has it.
func (c *call) unlock() {
	if c.turn != nil {
		c.turn()
		c.turn = nil
	}
}

// held counts the calls that wait for people, so that all of them together look at the database no more than about 500 times a second,
// however many they are: what one captured agent can make wait must not slow the others down.
type held struct{ n atomic.Int64 }

// pause is how long one of them lets pass after a commit before it looks again.
func (h *held) pause() time.Duration {
	return max(50*time.Millisecond, time.Duration(h.n.Load())*2*time.Millisecond)
}

// limiter bounds how many refusals are written in a minute of those whom it costs nothing to be refused (callers who proved nothing, runs
// that have used up their steps), so that they cannot fill the record. What it holds back is counted and named in the next one
// that is written.
type limiter struct {
	mu    sync.Mutex
	since time.Time
	n     int64
	held  int64
}

const strangersPerMinute = 120

func newLimiter() *limiter { return &limiter{} }

// admit reports whether one more may be written, and how many were held back since the last that was.
func (l *limiter) admit(now time.Time) (ok bool, held int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= time.Minute || now.Before(l.since) {
		l.since, l.n = now, 0
	}
	if l.n >= strangersPerMinute {
		l.held++
		return false, 0
	}
	l.n++
	held, l.held = l.held, 0
	return true, held
}
