// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"sync"

	"chaperone/internal/fault"
)

// maxStatements bounds the prepared statements of one connection; texts beyond it are prepared for one use.
const maxStatements = 256

// conn is one connection with its prepared statements. It belongs to one goroutine at a time.
type conn struct {
	raw        *sql.Conn
	statements map[string]*sql.Stmt
	memo       memo
}

func newConn(ctx context.Context, db *sql.DB) (*conn, error) {
	raw, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{raw: raw, statements: map[string]*sql.Stmt{}, memo: memo{}}, nil
}

func (c *conn) close() error {
	if c == nil {
		return nil
	}
	for _, s := range c.statements {
		_ = s.Close()
	}
	return c.raw.Close()
}

// prepared returns the statement of a text, and whether the caller must close it.
func (c *conn) prepared(ctx context.Context, text string) (s *sql.Stmt, once bool, err error) {
	if s, ok := c.statements[text]; ok {
		return s, false, nil
	}
	if s, err = c.raw.PrepareContext(ctx, text); err != nil {
		return nil, false, err
	}
	if len(c.statements) >= maxStatements {
		return s, true, nil
	}
	c.statements[text] = s
	return s, false, nil
}

// exec runs a statement and returns how many rows it changed.
func (c *conn) exec(ctx context.Context, text string, args ...any) (int64, error) {
	s, once, err := c.prepared(ctx, text)
	if err != nil {
		return 0, err
	}
	if once {
		defer s.Close()
	}
	res, err := s.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// query runs a statement and calls each for every row.
func (c *conn) query(ctx context.Context, text string, each func(*sql.Rows) error, args ...any) error {
	s, once, err := c.prepared(ctx, text)
	if err != nil {
		return err
	}
	if once {
		defer s.Close()
	}
	rows, err := s.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// pool hands out a bounded number of reading connections, opened when first needed.
type pool struct {
	db   *sql.DB
	free chan *conn // nil entries are connections not opened yet
	shut chan struct{}
	once sync.Once
}

func newPool(db *sql.DB, size int) *pool {
	p := &pool{db: db, free: make(chan *conn, size), shut: make(chan struct{})}
	for range size {
		p.free <- nil
	}
	return p
}

func (p *pool) get(ctx context.Context) (*conn, error) {
	select {
	case <-p.shut:
		return nil, closedFault("sqlstore.View")
	default:
	}
	select {
	case c := <-p.free:
		if c != nil {
			return c, nil
		}
		c, err := newConn(ctx, p.db)
		if err != nil {
			p.free <- nil
			return nil, err
		}
		return c, nil
	case <-p.shut:
		return nil, closedFault("sqlstore.View")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pool) put(c *conn, healthy bool) {
	if !healthy {
		_ = c.close()
		c = nil
	}
	p.free <- c
}

// close waits for the views that are running.
func (p *pool) close() (err error) {
	p.once.Do(func() {
		close(p.shut)
		for range cap(p.free) {
			_ = (<-p.free).close()
		}
		err = p.db.Close()
	})
	return err
}

func closedFault(op string) error {
	return fault.New(fault.Unavailable, op, "store_closed", "the database is closed").WithFix("the program is stopping; call again when it is up")
}
