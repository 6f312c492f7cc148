// SPDX-License-Identifier: Apache-2.0

// Package sqlstore keeps the house's state in a SQL database: one text of SQL, one file of differences between dialects,
// numbered migrations, and group commit. It decides the order of commits and the position of every event; it never decides
// whether a change is allowed beyond the rules that the domain's store interfaces state.
package sqlstore

import (
	"context"
	"sync"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/store"
)

// Config says where the database is.
type Config struct {
	// Path is the SQLite file. Missing directories are made with mode 0700, the file with 0600.
	Path string
	// Readers bounds how many views run at once; 0 = 8.
	Readers int
	// Trace, if set, is called with "commit" after each durable commit and before its callers return. It is called by the one
	// committer, never in parallel with itself, and delays every caller that waits.
	Trace func(event string)
}

// Bounds of one group: how many callers share a commit, and for how long new ones may still join it.
const (
	groupCallers = 128
	groupTime    = 20 * time.Millisecond
)

// DB implements store.Store. It is safe for concurrent use.
type DB struct {
	dialect dialect
	trace   func(string)
	writer  *conn
	readers *pool
	queue   queue
	drained chan struct{} // closed when the committer has ended

	mu        sync.Mutex
	committed chan struct{}
	closed    bool

	groupTime  time.Duration // a constant but in tests
	failCommit func() error  // tests only: a commit that fails
}

var _ store.Store = (*DB)(nil)

// Open opens or makes the database, brings its schema up to date and starts the committer, which runs until Close.
// Errors: Conflict "database_newer" when a later version of the product has migrated it; Unavailable "store_..." when the
// file cannot be used; Invalid "no_path".
func Open(ctx context.Context, cfg Config) (*DB, error) {
	const op = "sqlstore.Open"
	if cfg.Path == "" {
		return nil, fault.New(fault.Invalid, op, "no_path", "no database file is configured").WithFix("set the data directory")
	}
	if cfg.Readers <= 0 {
		cfg.Readers = 8
	}
	d := sqliteDialect()
	if err := d.prepare(cfg); err != nil {
		return nil, fault.Wrap(op, err)
	}
	writing, reading, err := d.open(cfg)
	if err != nil {
		return nil, d.fail(op, err)
	}
	db := &DB{
		dialect: d, trace: cfg.Trace, readers: newPool(reading, cfg.Readers), queue: newQueue(),
		drained: make(chan struct{}), committed: make(chan struct{}), groupTime: groupTime,
	}
	if db.writer, err = newConn(ctx, writing); err == nil {
		if err = d.check(ctx, db.writer); err == nil {
			err = migrate(ctx, d, db.writer)
		}
	}
	if err != nil {
		_ = db.writer.close()
		_ = writing.Close()
		_ = reading.Close()
		return nil, d.fail(op, err)
	}
	go db.commits(writing)
	return db, nil
}

// Close refuses new work, lets what was accepted finish, and closes the database. Later calls fail with Unavailable,
// "store_closed". It is safe to call twice.
func (db *DB) Close() error {
	db.mu.Lock()
	first := !db.closed
	db.closed = true
	db.mu.Unlock()
	db.queue.close()
	<-db.drained
	if !first {
		return nil
	}
	return db.readers.close()
}

// Ping reports whether the database can be read.
func (db *DB) Ping(ctx context.Context) error {
	return db.View(ctx, func(t store.Tx) error {
		_, err := t.Events().Next()
		return err
	})
}

// Ready reports whether the database takes durable writes, by making one. The value is another every time: SQLite writes nothing for
// an update that changes nothing, and so would find a full or broken disk well.
func (db *DB) Ready(ctx context.Context) error {
	at := time.Now().UTC().Format(time.RFC3339Nano)
	return db.Update(ctx, func(t store.Tx) error { return t.Meta().Set("store.ready", at) })
}

// Committed implements store.Store.
func (db *DB) Committed() <-chan struct{} {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.committed
}

// announce wakes everyone who waits for events.
func (db *DB) announce() {
	db.mu.Lock()
	defer db.mu.Unlock()
	close(db.committed)
	db.committed = make(chan struct{})
}

// View implements store.Store. Writes fail with Invalid, "read_only".
func (db *DB) View(ctx context.Context, fn func(store.Tx) error) error {
	const op = "sqlstore.View"
	c, err := db.readers.get(ctx)
	if err != nil {
		return db.dialect.fail(op, err)
	}
	healthy := false
	defer func() { db.readers.put(c, healthy) }()
	if _, err := c.exec(ctx, db.dialect.view); err != nil {
		return db.dialect.fail(op, err)
	}
	// Rolled back even when fn ends the goroutine (a test that fails inside it does).
	defer func() {
		_, err := c.exec(context.WithoutCancel(ctx), "ROLLBACK")
		healthy = err == nil
	}()
	t := &transaction{d: db.dialect, c: c, ctx: ctx}
	defer t.end()
	return protect(op, t, fn)
}
