// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"database/sql"
	"iter"
	"time"

	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/policy"
	"chaperone/internal/secret"
)

var (
	bundleTable = table[policy.Bundle]{noun: "policy", name: "bundles"}
	serverTable = table[catalog.Server]{noun: "server", name: "servers"}
	entryTable  = table[catalog.Entry]{noun: "entry", name: "entries"}
	pinTable    = table[catalog.Pin]{noun: "pin", name: "pins", more: ", raw, seen", read: func(m memo, r *sql.Rows) (catalog.Pin, error) {
		var raw, seen []byte
		v, err := body[catalog.Pin](m, r, &raw, &seen)
		v.Raw, v.Seen = raw, seen
		return v, err
	}}
	authorTable = table[catalog.Authorship]{noun: "author", name: "authors"}
	secretTable = table[secret.Sealed]{noun: "secret", name: "secrets"}
)

type bundles struct{ *transaction }

func (s bundles) Active() (policy.Bundle, error) {
	return bundleTable.get(s.transaction, "ORDER BY version DESC LIMIT 1")
}

func (s bundles) Insert(b policy.Bundle) error {
	const op = "sqlstore.Policies.Insert"
	text, err := encode(op, b)
	if err != nil {
		return err
	}
	n, err := s.exec(op, `INSERT INTO bundles (version, body) SELECT CAST($1 AS BIGINT), CAST($2 AS TEXT)
		WHERE (SELECT coalesce(max(version), 0) FROM bundles) = CAST($1 AS BIGINT) - 1 ON CONFLICT DO NOTHING`, b.Version, text)
	if err == nil && n == 0 {
		err = moved(op, "policy")
	}
	return err
}

func (s bundles) Version(v int64) (policy.Bundle, error) {
	return bundleTable.get(s.transaction, "WHERE version = $1", v)
}

func (s bundles) Bundles() iter.Seq2[policy.Bundle, error] {
	return bundleTable.list(s.transaction, "ORDER BY version")
}

const catalogVersion = "catalog.version"

type catalogue struct{ *transaction }

func (s catalogue) Version() (int64, error) {
	return s.counter("sqlstore.Catalog.Version", catalogVersion)
}

// PutServer inserts or replaces by name: Exists, "name_taken", if the name is another server's.
func (s catalogue) PutServer(v catalog.Server) error {
	const op = "sqlstore.PutServer"
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	n, err := s.exec(op, `INSERT INTO servers (name, id, body) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET body = excluded.body WHERE servers.id = excluded.id`, v.Name, v.ID.String(), text)
	if err != nil {
		return err
	}
	if n == 0 {
		return fault.New(fault.Exists, op, "name_taken", "there is another server named %q", v.Name).WithFix("choose another name, or change the server that has it")
	}
	return s.bump(op, catalogVersion)
}

func (s catalogue) Servers() iter.Seq2[catalog.Server, error] {
	return serverTable.list(s.transaction, "ORDER BY name")
}

func (s catalogue) PutEntry(v catalog.Entry) error {
	const op = "sqlstore.PutEntry"
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	if _, err := s.exec(op, `INSERT INTO entries (server, kind, name, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (server, kind, name) DO UPDATE SET body = excluded.body`, v.Server, string(v.Kind), v.Name, text); err != nil {
		return err
	}
	return s.bump(op, catalogVersion)
}

func (s catalogue) Entries() iter.Seq2[catalog.Entry, error] {
	return entryTable.list(s.transaction, "ORDER BY server, kind, name")
}

type pins struct{ *transaction }

func (s pins) Put(v catalog.Pin) error {
	const op = "sqlstore.Pins.Put"
	raw, seen := []byte(v.Raw), []byte(v.Seen)
	v.Raw, v.Seen = nil, nil // in columns, verbatim
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	if _, err := s.exec(op, `INSERT INTO pins (server, kind, name, raw, seen, body) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (server, kind, name) DO UPDATE SET raw = excluded.raw, seen = excluded.seen, body = excluded.body`,
		v.Server, string(v.Kind), v.Name, raw, seen, text); err != nil {
		return err
	}
	return s.bump(op, catalogVersion)
}

func (s pins) Pins() iter.Seq2[catalog.Pin, error] {
	return pinTable.list(s.transaction, "ORDER BY server, kind, name")
}

func (s pins) Delete(server string, kind catalog.ItemKind, name string) error {
	const op = "sqlstore.Pins.Delete"
	n, err := s.exec(op, "DELETE FROM pins WHERE server = $1 AND kind = $2 AND name = $3", server, string(kind), name)
	if err != nil {
		return err
	}
	if n == 0 {
		return pinTable.missing()
	}
	return s.bump(op, catalogVersion)
}

func (s pins) AddAuthor(v catalog.Authorship) error {
	const op = "sqlstore.AddAuthor"
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	_, err = s.exec(op, "INSERT INTO authors (server, kind, name, at, body) VALUES ($1, $2, $3, $4, $5)",
		v.Server, string(v.Kind), v.Name, micros(v.At), text)
	return err
}

// Authors implements catalog.Pins, oldest first: changes of the named thing and of the server it stands on, made at since or later.
func (s pins) Authors(server, name string, since time.Time) iter.Seq2[catalog.Authorship, error] {
	return authorTable.list(s.transaction, "WHERE server = $1 AND (name = $2 OR kind = 'server') AND at >= $3 ORDER BY seq", server, name, micros(since))
}

type secrets struct{ *transaction }

func (s secrets) Secret(server string) (secret.Sealed, error) {
	return secretTable.get(s.transaction, "WHERE server = $1", server)
}

func (s secrets) Put(v secret.Sealed) error {
	const op = "sqlstore.Secrets.Put"
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	_, err = s.exec(op, "INSERT INTO secrets (server, body) VALUES ($1, $2) ON CONFLICT (server) DO UPDATE SET body = excluded.body", v.Server, text)
	return err
}

func (s secrets) Delete(server string) error {
	n, err := s.exec("sqlstore.Secrets.Delete", "DELETE FROM secrets WHERE server = $1", server)
	if err == nil && n == 0 {
		err = secretTable.missing()
	}
	return err
}

func (s secrets) Secrets() iter.Seq2[secret.Sealed, error] {
	return secretTable.list(s.transaction, "ORDER BY server")
}
