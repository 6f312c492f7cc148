// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"bytes"
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/id"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

func openAt(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(context.Background(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func open(t testing.TB) *DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "data", "chaperone.db"))
}

// event is a typical one: a leaf of 400 bytes about a call in a run.
func event(agent id.Agent, inRun id.Run) audit.Sealed {
	now := time.Now()
	return audit.Sealed{
		Event: audit.Event{ID: id.NewEvent(now), Stream: audit.Agents, Type: "call.decided", At: now, Agent: agent, Run: inRun, Decision: id.NewDecision(now)},
		Leaf:  bytes.Repeat([]byte("x"), 400),
	}
}

// One durable commit at a time.
func BenchmarkUpdate1(b *testing.B) { benchmarkUpdate(b, 1) }

// Sixty-four callers share commits.
func BenchmarkUpdate64(b *testing.B) { benchmarkUpdate(b, 64) }

func benchmarkUpdate(b *testing.B, writers int) {
	db := open(b)
	agent, inRun := id.NewAgent(time.Now()), id.NewRun(time.Now())
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				e := event(agent, inRun)
				if err := db.Update(context.Background(), func(t store.Tx) error { return t.Events().Append(e) }); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

// One view that reads a run, as step 3 of the road does.
func BenchmarkView(b *testing.B) {
	db := open(b)
	r := run.Run{ID: id.NewRun(time.Now()), State: run.Active, Purpose: "answer the mail", OpenedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}
	if err := db.Update(context.Background(), func(t store.Tx) error { return t.Runs().Insert(r) }); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // as a request has one
	defer cancel()
	for b.Loop() {
		if err := db.View(ctx, func(t store.Tx) error { _, err := t.Runs().Run(r.ID); return err }); err != nil {
			b.Fatal(err)
		}
	}
}
