// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/secret"
	"chaperone/internal/store"
)

// transaction is one caller's part of a group (g set), or a view (g nil).
type transaction struct {
	d     dialect
	c     *conn
	ctx   context.Context
	g     *group
	saved bool // the savepoint stands; it is set before the first write
	over  bool

	staged  []staged    // by Append and Skip, in order
	notices [][2]string // kind and id of notices that wait for a position
}

func (t *transaction) Registry() identity.Registry   { return registry{t} }
func (t *transaction) Instances() identity.Instances { return instances{t} }
func (t *transaction) Once() identity.Once           { return once{t} }
func (t *transaction) People() people.Store          { return persons{t} }
func (t *transaction) Runs() run.Store               { return runs{t} }
func (t *transaction) Handles() run.Handles          { return handles{t} }
func (t *transaction) Grants() grant.Store           { return grants{t} }
func (t *transaction) Approvals() approval.Store     { return approvals{t} }
func (t *transaction) Policies() policy.Store        { return bundles{t} }
func (t *transaction) Catalog() catalog.Store        { return catalogue{t} }
func (t *transaction) Pins() catalog.Pins            { return pins{t} }
func (t *transaction) Secrets() secret.Store         { return secrets{t} }
func (t *transaction) Revocations() revocation.Store { return notices{t} }
func (t *transaction) Events() audit.Log             { return events{t} }
func (t *transaction) Meta() store.Meta              { return meta{t} }

// end makes every later use fail: a transaction is not to be kept.
func (t *transaction) end() { t.over = true }

// fail turns a driver's error into a fault and notes a lost transaction.
func (t *transaction) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if t.g != nil && t.g.broken == nil {
		if _, lost := t.d.classify(err); lost {
			t.g.broken = err
		}
	}
	return t.d.fail(op, err)
}

func (t *transaction) usable(op string) error {
	if t.over {
		return fault.New(fault.Internal, op, "tx_over", "the transaction is over")
	}
	if t.g != nil && t.g.broken != nil {
		return t.d.fail(op, t.g.broken)
	}
	return nil
}

// writable opens the caller's savepoint before its first write.
func (t *transaction) writable(op string) error {
	if err := t.usable(op); err != nil {
		return err
	}
	if t.g == nil {
		return fault.New(fault.Invalid, op, "read_only", "a view cannot write").WithFix("use Update")
	}
	if t.saved {
		return nil
	}
	if _, err := t.c.exec(t.ctx, "SAVEPOINT caller"); err != nil {
		return t.fail(op, err)
	}
	t.saved = true
	return nil
}

// exec writes and returns how many rows changed.
func (t *transaction) exec(op, text string, args ...any) (int64, error) {
	if err := t.writable(op); err != nil {
		return 0, err
	}
	n, err := t.c.exec(t.ctx, text, args...)
	return n, t.fail(op, err)
}

// query reads; each is called for every row and its errors pass unchanged.
func (t *transaction) query(op, text string, each func(*sql.Rows) error, args ...any) error {
	if err := t.usable(op); err != nil {
		return err
	}
	return t.scan(op, text, each, args...)
}

// returning writes and reads what was written.
func (t *transaction) returning(op, text string, each func(*sql.Rows) error, args ...any) error {
	if err := t.writable(op); err != nil {
		return err
	}
	return t.scan(op, text, each, args...)
}

func (t *transaction) scan(op, text string, each func(*sql.Rows) error, args ...any) error {
	var mine error
	err := t.c.query(t.ctx, text, func(r *sql.Rows) error {
		mine = each(r)
		return mine
	}, args...)
	if mine != nil {
		return fault.Wrap(op, mine)
	}
	return t.fail(op, err)
}

// table reads the rows of one noun. Rows hold the noun as JSON in the first column; more names the columns that follow, and
// read takes them.
type table[T any] struct {
	noun string // for words and for the code "no_<noun>"
	name string
	more string
	read func(memo, *sql.Rows) (T, error) // nil: the body alone
}

func (tb table[T]) selecting(tail string) string {
	return "SELECT body" + tb.more + " FROM " + tb.name + " " + tail
}

func (tb table[T]) row(m memo, r *sql.Rows) (T, error) {
	if tb.read != nil {
		return tb.read(m, r)
	}
	return body[T](m, r)
}

// get returns the one row that matches: NotFound, "no_<noun>", if there is none.
func (tb table[T]) get(t *transaction, tail string, args ...any) (out T, err error) {
	found := false
	err = t.query("sqlstore."+tb.noun, tb.selecting(tail), func(r *sql.Rows) (err error) {
		found = true
		out, err = tb.row(t.c.memo, r)
		return err
	}, args...)
	if err == nil && !found {
		err = tb.missing()
	}
	return out, err
}

// list reads the matching rows at once, so that the caller may use the transaction while it ranges.
func (tb table[T]) list(t *transaction, tail string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var rows []T
		err := t.query("sqlstore."+tb.noun+".list", tb.selecting(tail), func(r *sql.Rows) error {
			v, err := tb.row(nil, r) // a list does not push out what every call reads
			rows = append(rows, v)
			return err
		}, args...)
		if err != nil {
			var none T
			yield(none, err)
			return
		}
		for _, v := range rows {
			if !yield(v, nil) {
				return
			}
		}
	}
}

func (tb table[T]) missing() error {
	return fault.New(fault.NotFound, "sqlstore."+tb.noun, "no_"+tb.noun, "there is no such %s", tb.noun).
		WithFix("look at the list for what there is")
}

// insert adds a row whose key must be new: Exists with the code otherwise. The text ends in ON CONFLICT DO NOTHING.
func (t *transaction) insert(op, noun, text string, args ...any) error {
	n, err := t.exec(op, text, args...)
	if err == nil && n == 0 {
		err = fault.New(fault.Exists, op, noun+"_exists", "there is such a %s already", noun).WithFix("make it with a new identifier")
	}
	return err
}

// body reads the first column as JSON into a T and the others into more. Times come back in UTC.
func body[T any](m memo, r *sql.Rows, more ...any) (T, error) {
	var out T
	var raw sql.RawBytes
	if err := r.Scan(append([]any{&raw}, more...)...); err != nil {
		return out, err
	}
	return recall[T](m, raw)
}

// memo keeps the nouns that every call reads again, decoded, under the text they were decoded from, so that the same text is not
// decoded twice. It belongs to one connection. What a row says is always read from the database; nil remembers nothing.
type memo map[string]any

// memorable bounds a memo; a full one is emptied.
const memorable = 512

// recall is decode for a text that may be remembered. Whoever gets a value owns it: what it points to is copied.
func recall[T any](m memo, raw []byte) (T, error) {
	if m == nil {
		return decode[T](raw)
	}
	if v, ok := m[string(raw)].(*T); ok {
		out := *v
		own(&out)
		return out, nil
	}
	out, err := decode[T](raw)
	if kept := out; err == nil && own(&kept) {
		if len(m) >= memorable {
			clear(m)
		}
		m[string(raw)] = &kept
	}
	return out, err
}

// own copies what the value points to. It reports false for nouns that are not worth remembering.
func own(v any) bool {
	switch v := v.(type) {
	case *run.Run:
		v.Plan = slices.Clone(v.Plan)
		for i, step := range v.Plan {
			v.Plan[i].Sinks = maps.Clone(step.Sinks)
			for argument, values := range step.Sinks {
				v.Plan[i].Sinks[argument] = slices.Clone(values)
			}
		}
		v.Budgets.Calls = maps.Clone(v.Budgets.Calls)
		ownLabel(&v.Label)
		v.Spent.Calls = maps.Clone(v.Spent.Calls)
	case *identity.Type:
		v.Reads, v.Writes = slices.Clone(v.Reads), slices.Clone(v.Writes)
	case *identity.Instance:
		ownLabel(&v.Carried)
	case *label.Label:
		ownLabel(v)
	case *identity.Agent: // points to nothing
	default:
		return false
	}
	return true
}

func ownLabel(l *label.Label) {
	l.Sources, l.Categories, l.Readers.Names = slices.Clone(l.Sources), slices.Clone(l.Categories), slices.Clone(l.Readers.Names)
}

func decode[T any](raw []byte) (T, error) {
	var out T
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, fmt.Errorf("a stored %T is not what it should be: %w", out, err)
	}
	toUTC(reflect.ValueOf(&out).Elem())
	return out, nil
}

// encode is the JSON of a noun. It does not escape HTML, so that raw JSON inside a noun comes back byte for byte if it was
// compact.
func encode(op string, v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", fault.Wrap(op, err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// toUTC sets the location of every time inside v.
func toUTC(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if at, ok := v.Addr().Interface().(*time.Time); ok {
			*at = at.UTC()
			return
		}
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				toUTC(f)
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			toUTC(v.Elem())
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Struct {
			return
		}
		for i := range v.Len() {
			toUTC(v.Index(i))
		}
	}
}

// micros is a time as a column holds it.
func micros(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// where collects conditions; empty values add none.
type where struct {
	conds []string
	args  []any
}

func (w *where) eq(column, value string) {
	if value != "" {
		w.add(column+" = ", value)
	}
}

// add appends a condition that ends where its one argument belongs.
func (w *where) add(cond string, arg any) {
	w.args = append(w.args, arg)
	w.conds = append(w.conds, cond+"$"+strconv.Itoa(len(w.args)))
}

func (w *where) String() string {
	if len(w.conds) == 0 {
		return ""
	}
	return "WHERE " + strings.Join(w.conds, " AND ")
}

// newest ends a list: newest first, at most limit rows (0 = 1000).
func (w *where) newest(limit int) (tail string, args []any) {
	if limit <= 0 {
		limit = 1000
	}
	w.args = append(w.args, limit)
	return w.String() + " ORDER BY seq DESC LIMIT $" + strconv.Itoa(len(w.args)), w.args
}

// bump moves a counter.
func (t *transaction) bump(op, counter string) error {
	_, err := t.exec(op, "INSERT INTO counters (name, value) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET value = counters.value + 1", counter)
	return err
}

func (t *transaction) counter(op, counter string) (n int64, err error) {
	err = t.query(op, "SELECT value FROM counters WHERE name = $1", func(r *sql.Rows) error { return r.Scan(&n) }, counter)
	return n, err
}
