// SPDX-License-Identifier: Apache-2.0

package revocation

import (
	"math"
	"sync"
	"time"
)

// Index is the view of one process on who is dead, in memory. It holds the newest notice of each subject and knows when that
// knowledge was last confirmed. Safe for concurrent use.
type Index struct {
	mu       sync.RWMutex
	notices  map[subject]Notice
	position int64     // of the event table, up to which the view is complete; -1 before the first Load
	fresh    time.Time // when the view was last known to be complete; zero before the first Load
}

type subject struct{ kind, id string }

// NewIndex returns an empty view that is infinitely old: it knows of nobody, and says so through Age.
func NewIndex() *Index { return &Index{notices: map[subject]Notice{}, position: -1} }

// Apply takes one notice, as the bus or a commit in this process brings it. A stop applies at once, even without a position.
// Standing again is believed only from the event table: a notice that is not dead needs a position above that of the stop, and a
// final stop is never lifted. Apply does not make the view fresher.
func (x *Index) Apply(n Notice) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.apply(n)
}

func (x *Index) apply(n Notice) {
	key := subject{n.Kind, n.ID}
	old, known := x.notices[key]
	switch {
	case known && old.Dead && old.Final:
		if n.Dead && n.Final && n.Until.After(old.Until) && !old.Until.IsZero() {
			old.Until = n.Until
			x.notices[key] = old
		}
		return
	case n.Dead && n.Position == 0: // a signed denial without a place in the table; a later word of the table decides
		n.Position = max(x.position, old.Position)
	case n.Position < old.Position, !n.Dead && n.Position == 0:
		return
	case known && n.Position == old.Position && old.Dead && !n.Dead:
		return
	}
	x.notices[key] = n
}

// Load joins the notices in force as of a position of the event table, read at now, and forgets those that need not be known
// any more (Until has passed). A stop that the table does not list yet stays: the reading may be older than the stop.
func (x *Index) Load(notices []Notice, position int64, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range notices {
		x.apply(n)
	}
	for key, n := range x.notices {
		if !n.Until.IsZero() && now.After(n.Until) {
			delete(x.notices, key)
		}
	}
	x.seen(position, now)
}

// Seen confirms that nothing changed up to a position, as read at now.
func (x *Index) Seen(position int64, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seen(position, now)
}

func (x *Index) seen(position int64, now time.Time) {
	if position < x.position && !x.fresh.IsZero() {
		return // an older reading confirms nothing
	}
	x.position = position
	if now.After(x.fresh) {
		x.fresh = now
	}
}

// Dead returns the notice that stops the subject now, if there is one.
func (x *Index) Dead(kind, id string) (Notice, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n, ok := x.notices[subject{kind, id}]
	return n, ok && n.Dead
}

// Stops returns the notice that stops a credential of the subject issued at the given moment (whole seconds): the subject is
// dead, or it was dead after the issue and stands again since. So what was issued before a stop stays dead when the stop is lifted.
func (x *Index) Stops(kind, id string, issued time.Time) (Notice, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n, ok := x.notices[subject{kind, id}]
	return n, ok && (n.Dead || issued.Before(n.At.Truncate(time.Second)))
}

// Position returns the position of the event table up to which the view is complete, -1 if there is none yet.
func (x *Index) Position() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.position
}

// Age returns how long ago the view was last known to be complete. It is the longest duration before the first Load, and
// counts a clock that went back as age, never as freshness.
func (x *Index) Age(now time.Time) time.Duration {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.fresh.IsZero() {
		return math.MaxInt64
	}
	return now.Sub(x.fresh).Abs()
}
