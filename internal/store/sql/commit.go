// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/store"
)

// call is one caller of Update on its way through a group.
type call struct {
	taken  atomic.Bool       // by the committer, or by the caller who gives up: the first wins
	turn   chan *transaction // the caller may run its function now
	ran    chan error        // what the function returned
	result chan error        // what Update returns; sent after the commit
}

// Update implements store.Store. fn runs on the caller's goroutine when its turn comes, so it may not call Update itself. A ctx
// that ends while the caller is queued takes it out of the queue (Unavailable, "store_cancelled"); once fn has run, the caller
// waits for the commit whatever its ctx says. A panic in fn becomes an Internal error and undoes what fn did.
func (db *DB) Update(ctx context.Context, fn func(store.Tx) error) error {
	const op = "sqlstore.Update"
	if err := ctx.Err(); err != nil {
		return db.dialect.fail(op, err)
	}
	c := &call{turn: make(chan *transaction, 1), ran: make(chan error, 1), result: make(chan error, 1)}
	if !db.queue.push(c) {
		return closedFault(op)
	}
	select {
	case t := <-c.turn:
		c.run(op, t, fn)
	case err := <-c.result:
		return err
	case <-ctx.Done():
		if c.taken.CompareAndSwap(false, true) {
			return db.dialect.fail(op, ctx.Err())
		}
		select {
		case t := <-c.turn:
			c.run(op, t, fn)
		case err := <-c.result:
			return err
		}
	}
	return <-c.result
}

// run calls fn and tells the committer what came of it, even when fn ends the goroutine.
func (c *call) run(op string, t *transaction, fn func(store.Tx) error) {
	err := error(fault.New(fault.Internal, op, "fn_ended", "the function ended its goroutine"))
	defer func() {
		t.end()
		c.ran <- err
	}()
	err = protect(op, t, fn)
}

// protect turns a panic of fn into an Internal error.
func protect(op string, t *transaction, fn func(store.Tx) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fault.New(fault.Internal, op, "fn_panicked", "internal error").WithCause(fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
		}
	}()
	return fn(t)
}

// group is one shared transaction.
type group struct {
	next    int64 // position of the next event
	last    int64 // time of the newest event, microseconds
	begun   int64 // next when the group began
	broken  error // the transaction is lost, for this reason
	members []member
}

type member struct {
	*call
	err error
}

// commits is the committer: it runs until the queue is closed and empty.
func (db *DB) commits(writing *sql.DB) {
	defer close(db.drained)
	for first := db.queue.wait(); first != nil; first = db.queue.wait() {
		db.commit(first)
	}
	_ = db.writer.close()
	_ = writing.Close()
}

// commit runs one group: first, and whoever is in the queue until the group is full; it never waits for more.
func (db *DB) commit(first *call) {
	const op = "sqlstore.Update"
	ctx := context.Background()
	g := &group{}
	if err := db.begin(ctx, g); err != nil {
		_, _ = db.writer.exec(ctx, "ROLLBACK")
		err = db.dialect.fail(op, err)
		for c, n := first, 1; c != nil; n++ {
			c.result <- err
			if c = nil; n < groupCallers {
				c = db.queue.pop()
			}
		}
		return
	}
	end := time.Now().Add(db.groupTime)
	for c := first; c != nil; {
		g.members = append(g.members, member{c, db.turn(ctx, g, c)})
		if c = nil; g.broken == nil && len(g.members) < groupCallers && time.Now().Before(end) {
			c = db.queue.pop()
		}
	}
	err := g.broken
	if err == nil {
		err = db.finish(ctx, g)
	}
	if err != nil {
		_, _ = db.writer.exec(ctx, "ROLLBACK") // fails where the database has done it already
		lost := commitFault(op, err)
		for _, m := range g.members {
			// A caller whose function failed may have failed on what a neighbour wrote and lost, so it must try again too.
			if fault.Is(m.err, fault.Unavailable) {
				m.result <- m.err
				continue
			}
			m.result <- lost
		}
		return
	}
	if db.trace != nil {
		db.trace("commit")
	}
	if g.next > g.begun {
		db.announce()
	}
	for _, m := range g.members {
		m.result <- m.err
	}
}

// begin starts the transaction and reads where the record stands.
func (db *DB) begin(ctx context.Context, g *group) error {
	if _, err := db.writer.exec(ctx, db.dialect.begin); err != nil {
		return err
	}
	err := db.writer.query(ctx, db.dialect.head, func(r *sql.Rows) error { return r.Scan(&g.next, &g.last) })
	g.begun = g.next
	return err
}

// turn lets one caller run its function and keeps or undoes what it did. The error is the caller's.
func (db *DB) turn(ctx context.Context, g *group, c *call) error {
	const op = "sqlstore.Update"
	t := &transaction{d: db.dialect, c: db.writer, ctx: ctx, g: g}
	c.turn <- t
	err := <-c.ran
	if g.broken != nil {
		return err
	}
	if err == nil {
		err = t.seal()
	}
	if g.broken != nil || !t.saved {
		return err
	}
	if err != nil {
		if _, undo := db.writer.exec(ctx, "ROLLBACK TO SAVEPOINT caller"); undo != nil {
			g.broken = undo
			return err
		}
	}
	if _, keep := db.writer.exec(ctx, "RELEASE SAVEPOINT caller"); keep != nil {
		g.broken = keep
	}
	return err
}

// finish moves the head and commits.
func (db *DB) finish(ctx context.Context, g *group) error {
	if g.next > g.begun {
		if _, err := db.writer.exec(ctx, "UPDATE head SET next = $1, last_at = $2 WHERE id = 1", g.next, g.last); err != nil {
			return err
		}
	}
	if db.failCommit != nil {
		if err := db.failCommit(); err != nil {
			return err
		}
	}
	_, err := db.writer.exec(ctx, "COMMIT")
	return err
}

func commitFault(op string, cause error) error {
	return fault.New(fault.Unavailable, op, "store_commit", "the change could not be made durable").
		WithFix("call again; if it goes on, look at the disk and the log").WithCause(cause)
}

// queue holds the callers that wait for the committer, in order of arrival.
type queue struct {
	mu      sync.Mutex
	waiting []*call
	closed  bool
	wake    chan struct{}
}

func newQueue() queue { return queue{wake: make(chan struct{}, 1)} }

// push reports whether the caller was accepted.
func (q *queue) push(c *call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting = append(q.waiting, c)
	q.signal()
	return true
}

// pop takes the next caller that has not given up; nil if there is none.
func (q *queue) pop() *call {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 {
		c := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		if c.taken.CompareAndSwap(false, true) {
			return c
		}
	}
	q.waiting = nil
	return nil
}

// wait is pop that blocks; nil means closed and empty.
func (q *queue) wait() *call {
	for {
		if c := q.pop(); c != nil {
			return c
		}
		q.mu.Lock()
		over := q.closed && len(q.waiting) == 0
		q.mu.Unlock()
		if over {
			return nil
		}
		<-q.wake
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
