// SPDX-License-Identifier: Apache-2.0

package ledger_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"

	"chaperone/internal/audit"
)

// intrude adds a leaf to the log directory behind the follower's back, with the same key.
func (h *house) intrude(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: h.log()})
	must(t, err)
	// A checkpoint interval of an hour: the intruder changes the tree and leaves the signing to us.
	appender, _, _, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().WithCheckpointSigner(h.config(t).Signer).
		WithCheckpointInterval(time.Hour).WithCheckpointRepublishInterval(0).WithBatching(1, time.Millisecond))
	must(t, err)
	_, err = appender.Add(ctx, tessera.NewEntry([]byte("never in the table")))()
	must(t, err)
}

// A leaf that came into the log by another way is met loudly, and no checkpoint that covers it is ever signed.
func TestForeignLeafStopsTheFollower(t *testing.T) {
	h := newHouse(t)
	h.append(t, 10)
	l := h.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, h.store) }()
	settled(t, l, h, 10)
	h.intrude(t)
	h.append(t, 1)
	select {
	case err := <-done:
		wantCode(t, err, "log_order")
	case <-time.After(10 * time.Second):
		t.Fatal("the follower goes on")
	}
	raw, err := os.ReadFile(filepath.Join(h.log(), "checkpoint"))
	must(t, err)
	if cp, err := audit.OpenCheckpoint(raw, h.config(t).Key); err != nil || cp.Size != 10 {
		t.Errorf("a checkpoint of %d records was signed: %v", cp.Size, err)
	}
	must(t, l.Close())
	// The next start refuses too, and does not mistake it for a restored database.
	l = h.open(t)
	wantCode(t, ran(t, l, h.store), "log_diverged")
	must(t, l.Close())
	// And the way out that the fault names works.
	must(t, os.RemoveAll(h.log()))
	l, stop := h.follow(t)
	settled(t, l, h, 11)
	if r := h.verified(t, l, raw); !r.OK() {
		t.Errorf("%s", r)
	}
	must(t, stop())
}

// A disk that fails delays the record and loses nothing; the lag says how long.
func TestFailingDiskDelays(t *testing.T) {
	h := newHouse(t)
	h.append(t, 5)
	l, stop := h.follow(t)
	settled(t, l, h, 5)
	if lag := l.Lag(time.Now()); lag != 0 {
		t.Errorf("nothing waits, lag %v", lag)
	}
	state := filepath.Join(h.log(), ".state")
	must(t, os.Rename(state, state+".gone"))
	h.append(t, 7)
	first := time.Now()
	waitFor(t, func() bool { return l.Lag(time.Now()) > 0 })
	time.Sleep(100 * time.Millisecond)
	if lag := l.Lag(time.Now()); lag < 100*time.Millisecond || lag > time.Since(first)+time.Second {
		t.Errorf("lag %v", lag)
	}
	if lag := l.Lag(time.Now().Add(time.Minute)); lag < time.Minute {
		t.Errorf("lag in a minute %v", lag)
	}
	must(t, os.Rename(state+".gone", state))
	settled(t, l, h, 12)
	waitFor(t, func() bool { return l.Lag(time.Now()) == 0 })
	must(t, stop())
	if r := h.verified(t, h.open(t), nil); !r.OK() || r.Records != 12 {
		t.Errorf("%s", r)
	}
}

// Where nobody follows, the lag grows from the last moment of which something is known.
func TestLagWithoutAFollower(t *testing.T) {
	h := newHouse(t)
	l := h.open(t)
	if lag := l.Lag(time.Now().Add(time.Minute)); lag < 59*time.Second {
		t.Errorf("before the start: %v", lag)
	}
	must(t, l.Close())
	l, stop := h.follow(t)
	settled(t, l, h, 0)
	waitFor(t, func() bool { return l.Lag(time.Now()) == 0 })
	if lag := l.Lag(time.Now().Add(time.Minute)); lag < 59*time.Second {
		t.Errorf("a follower that has not looked for a minute: %v", lag)
	}
	must(t, stop())
	if lag := l.Lag(time.Now().Add(time.Minute)); lag < 59*time.Second {
		t.Errorf("after the stop: %v", lag)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

func BenchmarkFollow(b *testing.B) {
	h := newHouse(b)
	l, _ := h.follow(b)
	total := 0
	for b.Loop() {
		h.append(b, 2000)
		total += 2000
		for l.Size() < uint64(total) {
			time.Sleep(time.Millisecond)
		}
	}
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "leaves/s")
}
