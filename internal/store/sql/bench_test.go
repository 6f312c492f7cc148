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
func event(agent id.Agent, run id.Run) audit.Sealed {
	now := time.Now()
	return audit.Sealed{
		Event: audit.Event{ID: id.NewEvent(now), Stream: audit.Agents, Type: "call.decided", At: now, Agent: agent, Run: run, Decision: id.NewDecision(now)},
		Leaf:  bytes.Repeat([]byte("x"), 400),
	}
}

// One durable commit at a time.
func BenchmarkUpdate1(b *testing.B) { benchmarkUpdate(b, 1) }

// Sixty-four callers share commits.
func BenchmarkUpdate64(b *testing.B) { benchmarkUpdate(b, 64) }

func benchmarkUpdate(b *testing.B, writers int) {
	db := open(b)
	agent, run := id.NewAgent(time.Now()), id.NewRun(time.Now())
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				e := event(agent, run)
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
