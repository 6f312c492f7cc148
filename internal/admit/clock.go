// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"sync"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/store"
)

// maxStep is how far the wall clock may go back before nothing is issued any more.
const maxStep = 30 * time.Second

// clock remembers the latest wall time seen, from the record and from calls. All times are stripped of Go's monotonic reading:
// with it, a wall clock that was set back would go unnoticed.
type clock struct {
	mu      sync.Mutex
	high    time.Time
	loaded  bool // the time of the last event on record was taken in
	stepped bool // the present step back was put on record, or tried to be
}

func (r *Road) wall() time.Time { return r.deps.Now().Round(0).UTC() }

// now returns the moment at which something may be issued. Error: Unavailable, "clock_stepped_back", when the wall clock is over
// 30 s behind the latest time seen here or on record; the first such call writes system.clock_stepped.
func (r *Road) now(ctx context.Context) (time.Time, error) {
	if err := r.loadClock(ctx); err != nil {
		return time.Time{}, err
	}
	wall := r.wall()
	c := &r.clock
	c.mu.Lock()
	back := c.high.Sub(wall)
	tell := back > maxStep && !c.stepped
	c.stepped = back > maxStep
	if wall.After(c.high) {
		c.high = wall
	}
	high := c.high
	c.mu.Unlock()
	if tell {
		r.deps.Log.ErrorContext(ctx, "the wall clock stepped back", "seconds", back.Seconds())
		ev := r.event(audit.SystemClockStepped, audit.Actor{Kind: audit.ActorSystem}, wall, clockData{Was: high, Is: wall, BackSeconds: int64(back.Seconds())})
		if err := r.record(ctx, ev); err != nil {
			r.deps.Log.ErrorContext(ctx, "the step of the clock could not be put on record", "error", err)
		}
	}
	if back > maxStep {
		return time.Time{}, steppedBack(back)
	}
	return wall, nil
}

type clockData struct {
	Was         time.Time `json:"was"`
	Is          time.Time `json:"is"`
	BackSeconds int64     `json:"back_seconds"`
}

// loadClock takes in the time of the last event, once, so that a step back while the program was off is seen too.
func (r *Road) loadClock(ctx context.Context) error {
	c := &r.clock
	c.mu.Lock()
	loaded := c.loaded
	c.mu.Unlock()
	if loaded {
		return nil
	}
	var last time.Time
	if err := r.deps.Store.View(ctx, func(tx store.Tx) (err error) { last, err = tx.Events().Last(); return err }); err != nil {
		return fault.Wrap("admit.clock", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loaded = true
	if last.After(c.high) {
		c.high = last
	}
	return nil
}

// moment is the time by which what was issued before is judged: it never goes back, so that a clock that does revives nothing.
func (r *Road) moment() time.Time {
	wall := r.wall()
	r.clock.mu.Lock()
	defer r.clock.mu.Unlock()
	if r.clock.high.After(wall) {
		return r.clock.high
	}
	r.clock.high = wall
	return wall
}

// checkClock compares a moment with the record inside a transaction, where other processes' events are seen as well.
func checkClock(tx store.Tx, at time.Time) error {
	last, err := tx.Events().Last()
	if err != nil {
		return err
	}
	if back := last.Sub(at); back > maxStep {
		return steppedBack(back)
	}
	return nil
}

func steppedBack(back time.Duration) error {
	return fault.New(fault.Unavailable, "admit.clock", "clock_stepped_back", "the wall clock is %d s behind the record", int64(back.Seconds())).
		WithFix("set the clock right; issuing goes on when it is less than 30 s behind the last event")
}

// Healthy returns nil if credentials can be issued as far as this process knows, else why not: clock_stepped_back, or
// revocation_stale. It does no I/O.
func (r *Road) Healthy() error {
	wall := r.wall()
	r.clock.mu.Lock()
	back := r.clock.high.Sub(wall)
	r.clock.mu.Unlock()
	if back > maxStep {
		return steppedBack(back)
	}
	if r.deps.Index.Age(r.deps.Now()) > r.cfg.MaxAge {
		return stale()
	}
	return nil
}
