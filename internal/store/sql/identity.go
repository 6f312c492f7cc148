// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"database/sql"
	"iter"
	"strings"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
)

var (
	typeTable  = table[identity.Type]{noun: "type", name: "types"}
	agentTable = table[identity.Agent]{noun: "agent", name: "agents", more: ", version", read: func(m memo, r *sql.Rows) (identity.Agent, error) {
		var version int64
		a, err := body[identity.Agent](m, r, &version)
		a.Version = version
		return a, err
	}}
	instanceTable = table[identity.Instance]{noun: "instance", name: "instances", more: ", carried, carried_version", read: readInstance}
)

type registry struct{ *transaction }

func (s registry) Type(name string) (identity.Type, error) {
	return typeTable.get(s.transaction, "WHERE name = $1", name)
}

func (s registry) PutType(v identity.Type) error {
	const op = "sqlstore.PutType"
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	_, err = s.exec(op, "INSERT INTO types (name, body) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET body = excluded.body", v.Name, text)
	return err
}

func (s registry) Types() iter.Seq2[identity.Type, error] {
	return typeTable.list(s.transaction, "ORDER BY name")
}

func (s registry) Agent(nameOrID string) (identity.Agent, error) {
	return agentTable.get(s.transaction, byNameOrID("agt_", nameOrID), nameOrID)
}

func (s registry) PutAgent(a identity.Agent) error {
	return putVersioned(s.transaction, "agents", "agent", a.ID.String(), a.Name, a.Version, a)
}

func (s registry) Agents() iter.Seq2[identity.Agent, error] {
	return agentTable.list(s.transaction, "ORDER BY name")
}

// byNameOrID tells an identifier by its prefix: names have no underscore.
func byNameOrID(prefix, nameOrID string) string {
	if strings.HasPrefix(nameOrID, prefix) {
		return "WHERE id = $1"
	}
	return "WHERE name = $1"
}

// putVersioned inserts v, or replaces it if version is the stored one, and then moves the version. A name is used once, by one
// identifier, for good: Exists "name_taken" for another's, Invalid "name_fixed" for a new name on an old identifier.
func putVersioned(t *transaction, tableName, noun, key, name string, version int64, v any) error {
	op := "sqlstore.put_" + noun
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	var stored string
	found := false
	err = t.query(op, "SELECT name FROM "+tableName+" WHERE id = $1", func(r *sql.Rows) error {
		found = true
		return r.Scan(&stored)
	}, key)
	switch {
	case err != nil:
		return err
	case !found:
		n, err := t.exec(op, "INSERT INTO "+tableName+" (id, name, version, body) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", key, name, version, text)
		if err == nil && n == 0 {
			err = fault.New(fault.Exists, op, "name_taken", "the name %q is, or was, another %s's", name, noun).WithFix("choose a name that was never used")
		}
		return err
	case stored != name:
		return fault.New(fault.Invalid, op, "name_fixed", "the %s %q cannot be renamed", noun, stored).WithFix("register a new %s under the new name", noun)
	}
	n, err := t.exec(op, "UPDATE "+tableName+" SET version = version + 1, body = $3 WHERE id = $1 AND version = $2", key, version, text)
	if err == nil && n == 0 {
		err = moved(op, noun)
	}
	return err
}

// moved is the answer to whoever writes over a version they have not read.
func moved(op, noun string) error {
	return fault.New(fault.Conflict, op, noun+"_moved", "the %s changed since it was read", noun).WithFix("read it again and repeat the change")
}

type instances struct{ *transaction }

func readInstance(m memo, r *sql.Rows) (identity.Instance, error) {
	var carried sql.RawBytes
	var version int64
	v, err := body[identity.Instance](m, r, &carried, &version)
	if err != nil {
		return v, err
	}
	v.CarriedVersion = version
	v.Carried, err = recall[label.Label](m, carried)
	return v, err
}

func (s instances) Instance(key id.Instance) (identity.Instance, error) {
	return instanceTable.get(s.transaction, "WHERE id = $1", key.String())
}

// PutInstance inserts or replaces. What the stored instance carries is never lost: on replacing, the labels are joined.
func (s instances) PutInstance(v identity.Instance) error {
	const op = "sqlstore.PutInstance"
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	carried, err := encode(op, v.Carried)
	if err != nil {
		return err
	}
	n, err := s.exec(op, `INSERT INTO instances (id, agent, carried, carried_version, body) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		v.ID.String(), v.Agent.String(), carried, v.CarriedVersion, text)
	if err != nil || n > 0 {
		return err
	}
	if _, err := s.exec(op, "UPDATE instances SET agent = $2, body = $3 WHERE id = $1", v.ID.String(), v.Agent.String(), text); err != nil {
		return err
	}
	return s.JoinCarried(v.ID, v.Carried)
}

func (s instances) ByAgent(agent id.Agent) iter.Seq2[identity.Instance, error] {
	return instanceTable.list(s.transaction, "WHERE agent = $1 ORDER BY seq", agent.String())
}

func (s instances) JoinCarried(key id.Instance, l label.Label) error {
	const op = "sqlstore.JoinCarried"
	v, err := s.Instance(key)
	if err != nil || v.Carried.Covers(l) {
		return err
	}
	carried, err := encode(op, v.Carried.Join(l))
	if err != nil {
		return err
	}
	n, err := s.exec(op, "UPDATE instances SET carried = $3, carried_version = carried_version + 1 WHERE id = $1 AND carried_version = $2",
		key.String(), v.CarriedVersion, carried)
	if err == nil && n == 0 {
		err = moved(op, "instance")
	}
	return err
}

type once struct{ *transaction }

// Spend implements identity.Once. There is no clock here: a key stays spent until Sweep finds it past its until.
func (s once) Spend(key string, until time.Time) error {
	const op = "sqlstore.Spend"
	n, err := s.exec(op, "INSERT INTO once (name, until) VALUES ($1, $2) ON CONFLICT DO NOTHING", key, micros(until))
	if err == nil && n == 0 {
		err = fault.New(fault.Exists, op, "replayed", "this was used before").WithFix("make a new one for each request")
	}
	return err
}

func (s once) PutJoinCode(v identity.JoinCode) error {
	return putCode(s.transaction, "join_codes", "join_code", v.Hash, v.ExpiresAt, v)
}

func (s once) TakeJoinCode(hash string, now time.Time) (identity.JoinCode, error) {
	return takeCode[identity.JoinCode](s.transaction, "join_codes", "join_code", hash, now)
}

// Sweep forgets what has passed: spent keys, codes of both kinds, and notices.
func (s once) Sweep(now time.Time) error {
	const op = "sqlstore.Sweep"
	for _, text := range []string{
		"DELETE FROM once WHERE until < $1",
		"DELETE FROM join_codes WHERE expires_at <= $1",
		"DELETE FROM login_codes WHERE expires_at <= $1",
		"DELETE FROM notices WHERE until > 0 AND until < $1",
	} {
		if _, err := s.exec(op, text, micros(now)); err != nil {
			return err
		}
	}
	return nil
}

func putCode(t *transaction, tableName, noun, hash string, expires time.Time, v any) error {
	op := "sqlstore.put_" + noun
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	return t.insert(op, noun, "INSERT INTO "+tableName+" (hash, expires_at, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", hash, micros(expires), text)
}

// takeCode removes and returns a code that is not past its end.
func takeCode[T any](t *transaction, tableName, noun, hash string, now time.Time) (out T, err error) {
	op := "sqlstore.take_" + noun
	found := false
	err = t.returning(op, "DELETE FROM "+tableName+" WHERE hash = $1 AND expires_at > $2 RETURNING body", func(r *sql.Rows) (err error) {
		found = true
		out, err = body[T](nil, r)
		return err
	}, hash, micros(now))
	if err == nil && !found {
		err = fault.New(fault.NotFound, op, noun, "the code is unknown, used or expired").WithFix("ask an operator for a new code")
	}
	return out, err
}
