// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"chaperone/internal/fault"
)

// dialect holds every difference between databases. The SQL elsewhere keeps to what SQLite and PostgreSQL share: $1 binds,
// ON CONFLICT, RETURNING, savepoints; and never goes on in a transaction after a failed statement without rolling back to
// its savepoint, so a taken key is met with ON CONFLICT DO NOTHING, not with the error.
type dialect struct {
	name  string // also the directory of its migrations
	begin string // starts a writing transaction that no other writer can overtake
	view  string // starts a reading transaction on one snapshot
	head  string // reads the head row, and locks it where begin does not lock out other writers

	prepare func(Config) error                            // makes what must be there before a connection
	open    func(Config) (write, read *sql.DB, _ error)   // connects nothing yet
	check   func(ctx context.Context, writer *conn) error // refuses a database without the durability that is promised
	// classify gives the code of a driver error and whether the whole transaction is lost with it.
	classify func(error) (code string, lost bool)
}

// explain gives the words of a code of classify: what is wrong, and the next step.
func explain(code string) (msg, fix string) {
	switch code {
	case "store_full":
		return "the disk or the database is full", "free space where the database is, then call again"
	case "store_read_only":
		return "the database cannot be written", "make the database file and its directory writable, then call again"
	case "store_io":
		return "the disk failed", "look at the system's log; when the disk is well, call again"
	case "store_busy":
		return "another process holds the database", "stop the other process that writes this database"
	case "store_open":
		return "the database cannot be opened", "check that the path exists and may be read and written"
	case "store_corrupt":
		return "the file is not a sound database", "restore it from a backup"
	case "store_cancelled":
		return "the caller gave up before the database answered", "call again"
	}
	return "the database refused the statement", "look at the log"
}

// fail turns an error of the driver or of a context into a fault; faults pass.
func (d dialect) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	code := "store_cancelled"
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		if code, _ = d.classify(err); code == "" {
			return fault.Wrap(op, err)
		}
	}
	msg, fix := explain(code)
	return fault.New(fault.Unavailable, op, code, "%s", msg).WithFix("%s", fix).WithCause(err)
}

func sqliteDialect() dialect {
	return dialect{
		name:  "sqlite",
		begin: "BEGIN IMMEDIATE",
		view:  "BEGIN",
		head:  "SELECT next, last_at FROM head WHERE id = 1",

		prepare: sqlitePrepare, open: sqliteOpen, check: sqliteCheck, classify: sqliteClassify,
	}
}

func sqlitePrepare(cfg Config) error {
	const op = "sqlstore.Open"
	// Both switches are of the whole process, may be set again and again, and stay as they are where the system lacks them:
	// fdatasync is as durable as fsync for what SQLite writes and skips the journal of the file's times; OFD locks survive
	// when other code of this process opens and closes the database file.
	_, _ = sqlite.Fdatasync(true)
	_, _ = sqlite.OFDLocking(true)
	err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700)
	if err == nil {
		// SQLite gives its -wal and -shm files the mode of the database file.
		var f *os.File
		if f, err = os.OpenFile(cfg.Path, os.O_CREATE|os.O_RDWR, 0o600); err == nil {
			var st os.FileInfo
			if st, err = f.Stat(); err == nil && st.Mode().Perm()&0o077 != 0 {
				err = f.Chmod(0o600)
			}
			_ = f.Close()
		}
	}
	if err != nil {
		return fault.New(fault.Unavailable, op, "store_open", "the database file cannot be made or opened: %s", cfg.Path).
			WithFix("check the path and who may write there").WithCause(err)
	}
	return nil
}

func sqliteOpen(cfg Config) (write, read *sql.DB, err error) {
	dsn := func(pragmas ...string) string {
		q := url.Values{"_pragma": append(pragmas, "busy_timeout(5000)", "foreign_keys(1)", "temp_store(2)", "trusted_schema(0)")}
		return "file:" + (&url.URL{Path: cfg.Path}).EscapedPath() + "?" + q.Encode()
	}
	// The checkpoint runs in the commit that passes the limit; 4,000 pages (16 MiB) make it rare and keep the log small.
	write, err = sql.Open("sqlite", dsn("journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint(4000)", "cache_size(-32000)"))
	if err != nil {
		return nil, nil, err
	}
	write.SetMaxOpenConns(1)
	read, err = sql.Open("sqlite", dsn("query_only(1)", "cache_size(-8000)"))
	if err != nil {
		_ = write.Close()
		return nil, nil, err
	}
	return write, read, nil
}

func sqliteCheck(ctx context.Context, c *conn) error {
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		err := c.query(ctx, "PRAGMA "+pragma, func(r *sql.Rows) error { return r.Scan(&got) })
		if err != nil {
			return err
		}
		if !strings.EqualFold(got, want) {
			return fault.New(fault.Unavailable, "sqlstore.Open", "store_not_durable", "SQLite's %s is %s here, not %s", pragma, got, want).
				WithFix("put the database on a local file system that supports shared memory")
		}
	}
	return nil
}

func sqliteClassify(err error) (string, bool) {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return "", true // the connection, or something never met: nothing after it can be trusted
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_CONSTRAINT, lib.SQLITE_TOOBIG, lib.SQLITE_MISMATCH, lib.SQLITE_RANGE, lib.SQLITE_ERROR:
		return "", false
	case lib.SQLITE_FULL:
		return "store_full", true
	case lib.SQLITE_READONLY, lib.SQLITE_PERM:
		return "store_read_only", true
	case lib.SQLITE_IOERR, lib.SQLITE_NOLFS:
		return "store_io", true
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED, lib.SQLITE_PROTOCOL:
		return "store_busy", true
	case lib.SQLITE_CANTOPEN:
		return "store_open", true
	case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
		return "store_corrupt", true
	case lib.SQLITE_INTERRUPT:
		return "store_cancelled", true
	}
	return "store_failed", true
}
