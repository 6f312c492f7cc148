// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"database/sql"
	"iter"
	"strconv"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/revocation"
)

// page is how many events Records reads at once.
const page = 256

// staged is an event that waits for its position, or a skip to one.
type staged struct {
	event audit.Sealed
	skip  int64 // the position to go to; 0 = an event
}

type events struct{ *transaction }

var _ audit.Skipper = events{}

// Append implements audit.Log. The event gets its position when the function has returned without an error. Errors: Invalid
// "leaf_too_large", "bad_event"; an identifier that is on the record already fails the whole Update with Exists, "event_exists".
func (s events) Append(e audit.Sealed) error {
	const op = "sqlstore.Append"
	if err := s.usable(op); err != nil {
		return err
	}
	switch {
	case s.g == nil:
		return s.writable(op) // refuses
	case len(e.Leaf) > audit.MaxLeaf:
		return fault.New(fault.Invalid, op, "leaf_too_large", "the leaf has %d bytes, more than %d", len(e.Leaf), audit.MaxLeaf).WithFix("move large matter into parts")
	case len(e.Leaf) == 0 || e.Event.ID.IsZero():
		return fault.New(fault.Invalid, op, "bad_event", "an event has an identifier and a leaf").WithFix("seal the event first")
	}
	s.staged = append(s.staged, staged{event: e})
	return nil
}

// Skip implements audit.Skipper.
func (s events) Skip(to int64) error {
	const op = "sqlstore.Skip"
	if err := s.writable(op); err != nil {
		return err
	}
	next := s.g.next
	for _, e := range s.staged {
		next = max(next+1, e.skip)
	}
	switch {
	case to < next:
		return fault.New(fault.Invalid, op, "skip_back", "position %d is taken; the next is %d", to, next)
	case to > next:
		s.staged = append(s.staged, staged{skip: to})
	}
	return nil
}

// seal writes the staged events at the next positions, in order. The committer calls it when the function has succeeded.
func (t *transaction) seal() error {
	const op = "sqlstore.Append"
	// Without a savepoint an event on its own is one statement, which leaves nothing behind when it fails.
	alone := len(t.staged) == 1 && len(t.staged[0].event.Parts) == 0
	t.over = false
	defer t.end()
	next, last := t.g.next, t.g.last
	for _, waiting := range t.staged {
		if waiting.skip > 0 {
			next = waiting.skip
			continue
		}
		e := waiting.event
		if !alone {
			if err := t.writable(op); err != nil {
				return err
			}
		}
		n, err := t.c.exec(t.ctx, `INSERT INTO events (position, id, stream, type, at, agent, run, decision, approval, parts, leaf)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING`,
			next, e.Event.ID.String(), string(e.Event.Stream), e.Event.Type, micros(e.Event.At), e.Event.Agent.String(),
			e.Event.Run.String(), e.Event.Decision.String(), e.Event.Approval.String(), len(e.Parts), e.Leaf)
		if err != nil {
			return t.fail(op, err)
		}
		if n == 0 {
			return fault.New(fault.Exists, op, "event_exists", "the event %s is on the record already", e.Event.ID).WithFix("give each event an identifier of its own")
		}
		for _, p := range e.Parts {
			if err := t.insert(op, "part", `INSERT INTO parts (position, name, salt, bytes, erased) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
				next, p.Name, notNil(p.Salt), p.Bytes, p.Erased); err != nil {
				return err
			}
		}
		next, last = next+1, micros(e.Event.At)
	}
	for _, n := range t.notices {
		if _, err := t.exec(op, "UPDATE notices SET position = $3 WHERE kind = $1 AND id = $2", n[0], n[1], max(next-1, 0)); err != nil {
			return err
		}
	}
	t.g.next, t.g.last = next, last
	return nil
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (s events) head(op string) (next, last int64, err error) {
	if err := s.usable(op); err != nil {
		return 0, 0, err
	}
	if s.g != nil { // as if the callers before this one had committed; they will, or this one fails with them
		return s.g.next, s.g.last, nil
	}
	err = s.query(op, "SELECT next, last_at FROM head WHERE id = 1", func(r *sql.Rows) error { return r.Scan(&next, &last) })
	return next, last, err
}

// Next implements audit.Log. In Update it is the position that the first event appended by this function gets: Append does not
// move it, Skip does.
func (s events) Next() (int64, error) {
	next, _, err := s.head("sqlstore.Next")
	for _, e := range s.staged {
		next = max(next, e.skip)
	}
	return next, err
}

func (s events) Last() (time.Time, error) {
	_, last, err := s.head("sqlstore.Last")
	return fromMicros(last), err
}

// Records implements audit.Log. It reads in pages, so a long range needs little memory; events staged in this transaction are
// not seen. With Newest, an After of 0 bounds nothing.
func (s events) Records(f audit.Filter) iter.Seq2[audit.Record, error] {
	const op = "sqlstore.Records"
	return func(yield func(audit.Record, error) bool) {
		left := f.Limit
		if left <= 0 {
			left = 1000
		}
		after, before := f.After, int64(-1)
		if f.Newest && after == 0 {
			after = -1
		}
		for left > 0 {
			rows, err := s.page(op, f, after, before, min(left, page))
			if err != nil {
				yield(audit.Record{}, err)
				return
			}
			for _, r := range rows {
				if r.parts > 0 && !f.Bare {
					if r.Parts, err = s.parts(op, r.Position); err != nil {
						yield(audit.Record{}, err)
						return
					}
				}
				if !yield(r.Record, nil) {
					return
				}
				if f.Newest {
					before = r.Position
				} else {
					after = r.Position
				}
			}
			if len(rows) < min(left, page) {
				return
			}
			left -= len(rows)
		}
	}
}

type eventRow struct {
	audit.Record
	parts int
}

// eventQuery selects one page, from just after one position (oldest first) or from just before another (newest first; -1 = the end).
func eventQuery(f audit.Filter, after, before int64, limit int) (text string, args []any) {
	var w where
	w.add("position > ", after)
	if before >= 0 {
		w.add("position < ", before)
	}
	w.eq("id", f.ID.String())
	// These indexes leave the empty value out; the planner takes one only where the text of the query leaves it out, too.
	w.eq("decision <> '' AND decision", f.Decision.String())
	w.eq("approval <> '' AND approval", f.Approval.String())
	w.eq("run <> '' AND run", f.Run.String())
	w.eq("agent <> '' AND agent", f.Agent.String())
	w.eq("type", f.Type)
	w.eq("stream", string(f.Stream))
	order := " ORDER BY position"
	if f.Newest {
		order += " DESC"
	}
	w.args = append(w.args, limit)
	return "SELECT position, id, leaf, parts FROM events " + w.String() + order + " LIMIT $" + strconv.Itoa(len(w.args)), w.args
}

func (s events) page(op string, f audit.Filter, after, before int64, limit int) (rows []eventRow, err error) {
	text, args := eventQuery(f, after, before, limit)
	err = s.query(op, text, func(r *sql.Rows) error {
		var row eventRow
		var key string
		var leaf []byte
		if err := r.Scan(&row.Position, &key, &leaf, &row.parts); err != nil {
			return err
		}
		row.Leaf = leaf
		if err := row.ID.UnmarshalText([]byte(key)); err != nil {
			return err
		}
		rows = append(rows, row)
		return nil
	}, args...)
	return rows, err
}

func (s events) parts(op string, position int64) (out []audit.Part, err error) {
	err = s.query(op, "SELECT name, salt, bytes, erased FROM parts WHERE position = $1 ORDER BY name", func(r *sql.Rows) error {
		var p audit.Part
		if err := r.Scan(&p.Name, &p.Salt, &p.Bytes, &p.Erased); err != nil {
			return err
		}
		out = append(out, p)
		return nil
	}, position)
	return out, err
}

const epoch = "revocation.epoch"

type notices struct{ *transaction }

// Put implements revocation.Store: one notice a subject, the newest. A final stop stays: a second stop leaves it as it is, and lifting
// it is Conflict, "stop_final". A notice whose Position is 0 gets that of the last event of its transaction.
func (s notices) Put(n revocation.Notice) error {
	const op = "sqlstore.Revocations.Put"
	var final bool
	err := s.query(op, "SELECT final FROM notices WHERE kind = $1 AND id = $2", func(r *sql.Rows) error { return r.Scan(&final) }, n.Kind, n.ID)
	switch {
	case err != nil:
		return err
	case final && !n.Dead:
		return fault.New(fault.Conflict, op, "stop_final", "the stop of this %s is final", n.Kind).WithFix("register or enrol anew")
	case final:
		return s.bump(op, epoch)
	}
	text, err := encode(op, n)
	if err != nil {
		return err
	}
	last := 0
	if n.Dead && n.Final {
		last = 1
	}
	if _, err := s.exec(op, `INSERT INTO notices (kind, id, final, until, position, body) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (kind, id) DO UPDATE SET final = excluded.final, until = excluded.until, position = excluded.position, body = excluded.body`,
		n.Kind, n.ID, last, micros(n.Until), n.Position, text); err != nil {
		return err
	}
	if n.Position == 0 {
		s.notices = append(s.notices, [2]string{n.Kind, n.ID})
	}
	return s.bump(op, epoch)
}

func (s notices) Epoch() (int64, error) { return s.counter("sqlstore.Revocations.Epoch", epoch) }

// Live implements revocation.Store, in order of position. Lifted stops are listed too, as not dead, so that a reader that
// applies the list to an older one arrives at the same.
func (s notices) Live(now time.Time) (out []revocation.Notice, err error) {
	err = s.query("sqlstore.Revocations.Live", "SELECT body, position FROM notices WHERE until = 0 OR until >= $1 ORDER BY position, kind, id", func(r *sql.Rows) error {
		var position int64
		n, err := body[revocation.Notice](nil, r, &position)
		n.Position = position
		out = append(out, n)
		return err
	}, micros(now))
	return out, err
}

type meta struct{ *transaction }

func (s meta) Get(name string) (value string, err error) {
	err = s.query("sqlstore.Meta.Get", "SELECT value FROM meta WHERE name = $1", func(r *sql.Rows) error { return r.Scan(&value) }, name)
	return value, err
}

func (s meta) Set(name, value string) error {
	_, err := s.exec("sqlstore.Meta.Set", "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
	return err
}
