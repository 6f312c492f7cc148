// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/tlog"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/store"
)

// Run follows the event table until ctx ends: every committed event goes into the log, in order, its index its position. It
// resumes where the tree ends, so that nothing is added twice; where the disk fails it tries again, and Lag grows. A batch that was handed
// over is waited for, and its checkpoint published, before Run returns.
//
// It returns nil when ctx ended, and a fault, at once and for good, when the log and the table contradict each other:
// log_ahead (the log has records that the table has not), log_gap (the table has no record that the log needs next), log_diverged (a record
// in the table is not the one in the log), log_order (a leaf did not get the index that is its position). All are of kind Conflict.
func (l *Log) Run(ctx context.Context, st store.Store) (err error) {
	const op = "ledger.Run"
	if err := l.begin(); err != nil {
		return err
	}
	defer l.end()
	if err := l.compare(ctx, st); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	// tessera's background work outlives ctx until what it was given is on the disk.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	l.guard.allow(true)
	defer l.guard.allow(false)
	driver, err := posix.New(inner, posix.Config{Path: l.dir})
	if err != nil {
		return unusable(op, l.dir, err)
	}
	appender, shutdown, _, err := tessera.NewAppender(inner, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(l.guard).
		WithCheckpointInterval(l.cfg.Interval).
		WithCheckpointRepublishInterval(0).
		WithBatching(batch, 10*time.Millisecond))
	if err != nil {
		return unusable(op, l.dir, err)
	}
	f := follower{log: l, store: st, appender: appender}
	if err = f.run(ctx); err != nil {
		return err
	}
	last, cancel := context.WithTimeout(inner, 5*time.Second)
	defer cancel()
	if err := shutdown(last); err != nil {
		l.cfg.Log.WarnContext(ctx, "log_checkpoint_late", "error", err)
	}
	return nil
}

func (l *Log) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ran {
		return fault.New(fault.Conflict, "ledger.Run", "log_in_use", "the log is being followed already").WithFix("open it again")
	}
	l.ran, l.running = true, true
	if l.behind.IsZero() {
		l.behind = l.caught // until the table was read, nothing is known
	}
	return nil
}

func (l *Log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = false
	if !l.behind.IsZero() && l.behind.Before(l.caught) {
		l.caught = l.behind
	}
}

// compare refuses to go on where the table and the log contradict each other: the log is ahead, or the last records of the tree are
// not the table's.
func (l *Log) compare(ctx context.Context, st store.Store) error {
	next, err := l.same(ctx, st)
	if err != nil {
		return err
	}
	lost, ahead, err := l.Ahead(ctx, st)
	if err != nil {
		return err
	}
	if ahead {
		return fault.New(fault.Conflict, "ledger.Run", "log_ahead", "the log has %d records and the database %d: the database is older than its log", lost.TreeSize, lost.From).
			WithFix("put back the newest database, or accept the loss of records %d to %d with `chaperone restore --accept`", lost.From, lost.To)
	}
	size := int64(l.size.Load())
	if size < l.guard.anchor.Size || size == 0 {
		l.floor.Store(next)
	}
	return nil
}

// same compares the last records that both have, at most 256 of them, and returns the table's next position.
func (l *Log) same(ctx context.Context, st store.Store) (next int64, err error) {
	_, next, err = read(ctx, st, 0, 0)
	if err != nil {
		return 0, err
	}
	size := int64(l.size.Load())
	end := min(size, next)
	from := max(0, end-256)
	rows, _, err := read(ctx, st, from, int(end-from))
	if err != nil {
		return 0, err
	}
	tree := l.tiles(tlog.Tree{N: size, Hash: l.guard.root()})
	for _, r := range rows {
		if r.position >= end {
			break
		}
		h, err := tree.ReadHashes([]int64{tlog.StoredHashIndex(0, r.position)})
		if err != nil {
			return 0, l.damaged("a tile cannot be read").WithCause(err)
		}
		if h[0] != tlog.RecordHash(r.leaf) {
			return 0, fault.New(fault.Conflict, "ledger.Run", "log_diverged", "record %d (%s) in the database is not the one in the log", r.position, r.id).
				WithFix("restore the database and the log from the same copy, or find out who changed the table")
		}
	}
	return next, nil
}

// row is what the log needs of a record.
type row struct {
	position int64
	id       string
	at       time.Time
	leaf     []byte
}

// read returns up to limit records from a position on, and the position after the newest.
func read(ctx context.Context, st store.Store, from int64, limit int) (rows []row, next int64, err error) {
	err = st.View(ctx, func(tx store.Tx) error {
		rows = rows[:0] // View may run it again
		log := tx.Events()
		if next, err = log.Next(); err != nil || limit <= 0 {
			return err
		}
		for r, err := range log.Records(audit.Filter{After: from - 1, Limit: limit, Bare: true}) {
			if err != nil {
				return err
			}
			rows = append(rows, row{r.Position, r.ID.String(), r.ID.Time(), append([]byte(nil), r.Leaf...)})
		}
		return nil
	})
	return rows, next, err
}

// follower moves events from the table into the log.
type follower struct {
	log      *Log
	store    store.Store
	appender *tessera.Appender
}

func (f *follower) run(ctx context.Context) error {
	poll := time.NewTicker(f.log.cfg.Poll)
	defer poll.Stop()
	wait := newBackoff()
	for {
		woken := f.store.Committed() // taken before reading: a commit in between wakes the next turn
		more, err := f.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && fault.Is(err, fault.Conflict):
			return err
		case err != nil:
			pause := wait.next()
			f.log.cfg.Log.ErrorContext(ctx, "log_append_failed", "error", err, "retry_in", pause)
			if !sleep(ctx, pause) {
				return nil
			}
			continue
		}
		wait.reset()
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.log.guard.alarm:
			return f.log.guard.tampering()
		case <-poll.C:
		case <-woken:
			f.log.waiting(f.log.cfg.Now())
			if !sleep(ctx, f.log.cfg.Gather) {
				return nil
			}
		}
	}
}

// step adds the next batch. more says that the table had at least a whole one.
func (f *follower) step(ctx context.Context) (more bool, err error) {
	size := int64(f.log.size.Load())
	asked := f.log.cfg.Now()
	rows, _, err := read(ctx, f.store, size, batch)
	if err != nil {
		return false, err
	}
	if len(rows) == 0 {
		f.log.current(asked)
		return false, nil
	}
	f.log.waiting(rows[0].at)
	for i, r := range rows {
		if r.position != size+int64(i) {
			return false, fault.New(fault.Conflict, "ledger.Run", "log_gap", "the log needs record %d next and the database continues with %d", size+int64(i), r.position).
				WithFix("put the log directory back from its copy: the database lost these records in a restore and cannot give them")
		}
	}
	if err := f.append(ctx, rows); err != nil {
		return false, err
	}
	return true, nil
}

// append hands a batch over and waits for all of it, even when ctx ends meanwhile, since what was handed over may be on the disk.
func (f *follower) append(ctx context.Context, rows []row) error {
	const op = "ledger.Run"
	// A missing state directory would panic inside the driver.
	if _, err := f.log.root.Stat(stateDir); err != nil {
		return unusable(op, f.log.dir, err)
	}
	entries := make([]*tessera.Entry, len(rows))
	hashes := make([]tlog.Hash, len(rows))
	for i, r := range rows {
		entries[i] = tessera.NewEntry(r.leaf)
		hashes[i] = tlog.Hash(entries[i].LeafHash())
	}
	f.log.guard.expect(hashes)
	futures := make([]tessera.IndexFuture, len(rows))
	for i, e := range entries {
		futures[i] = f.appender.Add(context.WithoutCancel(ctx), e)
	}
	var failed error
	for i, future := range futures {
		index, err := future()
		switch {
		case err != nil && failed == nil:
			failed = err
		case err == nil && (index.IsDup || index.Index != uint64(rows[i].position)):
			return fault.New(fault.Conflict, op, "log_order", "record %d (%s) stands at %d in the log", rows[i].position, rows[i].id, index.Index).
				WithFix("stop, and move the log directory away; it is made again from the event table")
		}
	}
	done := len(rows)
	if failed != nil {
		// Part of the batch, or all of it, may be in the tree all the same.
		tree, err := f.log.load()
		if err != nil {
			return err
		}
		if done, err = f.log.guard.reached(tree); err != nil {
			return err
		}
	}
	if err := f.log.guard.added(done); err != nil {
		return err
	}
	f.log.size.Store(uint64(rows[0].position) + uint64(done))
	if errors.Is(failed, tessera.ErrPushback) {
		return fault.New(fault.Unavailable, op, "log_busy", "the log asks to wait").WithCause(failed)
	}
	if failed != nil {
		return unusable(op, f.log.dir, failed)
	}
	return nil
}

// backoff doubles from 50 ms to 5 s.
type backoff struct{ pause time.Duration }

func newBackoff() *backoff { return &backoff{} }

func (b *backoff) next() time.Duration {
	b.pause = min(max(2*b.pause, 50*time.Millisecond), 5*time.Second)
	return b.pause
}

func (b *backoff) reset() { b.pause = 0 }

// sleep reports whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
