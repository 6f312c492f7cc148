// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"chaperone/internal/fault"
)

//go:embed migrations
var migrations embed.FS

type migration struct {
	version int
	name    string
	text    string
}

// steps lists the migrations of a dialect: files NNNN_name.sql, numbered from 1 without a gap.
func steps(d dialect) ([]migration, error) {
	files, err := fs.Glob(migrations, "migrations/"+d.name+"/*.sql") // in lexical order
	if err != nil {
		return nil, err
	}
	var out []migration
	for i, path := range files {
		name := strings.TrimSuffix(path[strings.LastIndexByte(path, '/')+1:], ".sql")
		if want := fmt.Sprintf("%04d_", i+1); !strings.HasPrefix(name, want) {
			return nil, fmt.Errorf("migration %s: its name begins with %s", path, want)
		}
		text, err := migrations.ReadFile(path)
		if err != nil {
			return nil, err
		}
		out = append(out, migration{version: i + 1, name: name, text: string(text)})
	}
	return out, nil
}

// migrate brings the schema up to date, each step in a transaction of its own, and refuses one that is ahead of this program.
func migrate(ctx context.Context, d dialect, c *conn) error {
	all, err := steps(d)
	if err != nil {
		return err
	}
	for {
		done, err := migrateOne(ctx, d, c, all)
		if err != nil || done {
			return err
		}
	}
}

func migrateOne(ctx context.Context, d dialect, c *conn, all []migration) (done bool, err error) {
	if _, err := c.exec(ctx, d.begin); err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			_, _ = c.exec(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	if _, err = c.raw.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL)"); err != nil {
		return false, err
	}
	var at int
	err = c.query(ctx, "SELECT coalesce(max(version), 0) FROM migrations", func(r *sql.Rows) error { return r.Scan(&at) })
	switch {
	case err != nil:
		return false, err
	case at > len(all):
		return false, fault.New(fault.Conflict, "sqlstore.Open", "database_newer",
			"the database has schema version %d; this program knows up to %d", at, len(all)).
			WithFix("start the newer version of chaperone that migrated it, or restore a backup made by this version")
	case at == len(all):
		_, err = c.exec(ctx, "COMMIT")
		return true, err
	}
	m := all[at]
	if _, err = c.raw.ExecContext(ctx, m.text); err != nil {
		return false, fmt.Errorf("migration %s: %w", m.name, err)
	}
	if _, err = c.exec(ctx, "INSERT INTO migrations (version, name) VALUES ($1, $2)", m.version, m.name); err != nil {
		return false, err
	}
	_, err = c.exec(ctx, "COMMIT")
	return false, err
}
