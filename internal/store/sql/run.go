// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"database/sql"
	"iter"

	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/label"
	"chaperone/internal/run"
)

var runTable = table[run.Run]{noun: "run", name: "runs", more: ", version, label, steps, bytes, calls", read: readRun}

func readRun(m memo, r *sql.Rows) (run.Run, error) {
	var version int64
	var marks sql.RawBytes
	var spent run.Spent
	var calls string
	v, err := body[run.Run](m, r, &version, &marks, &spent.Steps, &spent.Bytes, &calls)
	if err != nil {
		return v, err
	}
	if v.Label, err = recall[label.Label](m, marks); err != nil {
		return v, err
	}
	spent.Calls, err = decodeCalls(calls)
	v.Version, v.Spent = version, spent
	return v, err
}

func decodeCalls(text string) (map[string]int64, error) {
	if text == "" {
		return nil, nil
	}
	return decode[map[string]int64]([]byte(text))
}

func encodeCalls(op string, calls map[string]int64) (string, error) {
	if len(calls) == 0 {
		return "", nil
	}
	return encode(op, calls) // keys come out sorted, so equal maps are equal texts
}

type runs struct{ *transaction }

func (s runs) Run(key id.Run) (run.Run, error) {
	return runTable.get(s.transaction, "WHERE id = $1", key.String())
}

func (s runs) Insert(v run.Run) error {
	const op = "sqlstore.Runs.Insert"
	text, marks, err := encodeRun(op, v)
	if err != nil {
		return err
	}
	calls, err := encodeCalls(op, v.Spent.Calls)
	if err != nil {
		return err
	}
	return s.insert(op, "run", `INSERT INTO runs (id, agent, instance, parent, state, version, label, steps, max_steps, bytes, max_bytes, calls, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING`,
		v.ID.String(), v.Agent.String(), v.Instance.String(), v.Parent.String(), string(v.State), v.Version, marks,
		v.Spent.Steps, v.Budgets.Steps, v.Spent.Bytes, v.Budgets.Bytes, calls, text)
}

func encodeRun(op string, v run.Run) (text, marks string, err error) {
	if marks, err = encode(op, v.Label); err != nil {
		return "", "", err
	}
	v.Label, v.Spent = label.Label{}, run.Spent{} // in columns
	text, err = encode(op, v)
	return text, marks, err
}

// Update implements run.Store. The counters are left as they are stored, and the label can only grow, whatever v says.
func (s runs) Update(v run.Run) error {
	const op = "sqlstore.Runs.Update"
	stored, err := s.Run(v.ID)
	if err != nil {
		return err
	}
	if !v.Label.Covers(stored.Label) {
		v.Label = stored.Label.Join(v.Label)
	}
	text, marks, err := encodeRun(op, v)
	if err != nil {
		return err
	}
	n, err := s.exec(op, `UPDATE runs SET agent = $3, instance = $4, parent = $5, state = $6, version = version + 1, label = $7,
		max_steps = $8, max_bytes = $9, body = $10 WHERE id = $1 AND version = $2`,
		v.ID.String(), v.Version, v.Agent.String(), v.Instance.String(), v.Parent.String(), string(v.State), marks,
		v.Budgets.Steps, v.Budgets.Bytes, text)
	if err == nil && n == 0 {
		err = moved(op, "run")
	}
	return err
}

// Spend implements run.Store. A stake that is named twice counts twice.
func (s runs) Spend(key id.Run, sp run.Spend) error {
	const op = "sqlstore.Runs.Spend"
	if sp.Steps < 0 || sp.Bytes < 0 {
		return fault.New(fault.Invalid, op, "bad_spend", "a run cannot be given back what it spent")
	}
	// One conditional statement takes everything or nothing. The calls are compared with what was read, because their
	// bounds are in the body; run.Spend decides on those and names what does not suffice.
	const take = `UPDATE runs SET steps = steps + $2, bytes = bytes + $3, calls = $4
		WHERE id = $1 AND state = 'active' AND steps <= max_steps - $2 AND bytes <= max_bytes - $3 AND calls = $5`
	if len(sp.Stakes) == 0 {
		n, err := s.exec(op, `UPDATE runs SET steps = steps + $2, bytes = bytes + $3
			WHERE id = $1 AND state = 'active' AND steps <= max_steps - $2 AND bytes <= max_bytes - $3`, key.String(), sp.Steps, sp.Bytes)
		if err != nil || n > 0 {
			return err
		}
	}
	v, err := s.Run(key)
	if err != nil {
		return err
	}
	if v.State != run.Active {
		return fault.New(fault.Suspended, op, "run_"+string(v.State), "the run is %s", v.State).WithFix("open a new run")
	}
	spent, err := v.Spend(sp)
	if err != nil {
		return err
	}
	before, err := encodeCalls(op, v.Spent.Calls)
	if err != nil {
		return err
	}
	text, err := encodeCalls(op, spent.Calls)
	if err != nil {
		return err
	}
	n, err := s.exec(op, take, key.String(), sp.Steps, sp.Bytes, text, before)
	if err == nil && n == 0 {
		err = moved(op, "run") // only another process could have come between
	}
	return err
}

func (s runs) Join(key id.Run, l label.Label) error {
	const op = "sqlstore.Runs.Join"
	v, err := s.Run(key)
	if err != nil || v.Label.Covers(l) {
		return err
	}
	marks, err := encode(op, v.Label.Join(l))
	if err != nil {
		return err
	}
	n, err := s.exec(op, "UPDATE runs SET label = $3, version = version + 1 WHERE id = $1 AND version = $2", key.String(), v.Version, marks)
	if err == nil && n == 0 {
		err = moved(op, "run")
	}
	return err
}

func (s runs) Runs(f run.Filter) iter.Seq2[run.Run, error] {
	var w where
	w.eq("agent", f.Agent.String())
	w.eq("instance", f.Instance.String())
	w.eq("parent", f.Parent.String())
	w.eq("state", string(f.State))
	tail, args := w.newest(f.Limit)
	return runTable.list(s.transaction, tail, args...)
}

type handles struct{ *transaction }

func (s handles) Bind(server, kind, value string, owner id.Run) error {
	_, err := s.exec("sqlstore.Bind", "INSERT INTO handles (server, kind, value, run) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
		server, kind, value, owner.String())
	return err
}

func (s handles) Owner(server, kind, value string) (owner id.Run, err error) {
	const op = "sqlstore.Owner"
	found := false
	err = s.query(op, "SELECT run FROM handles WHERE server = $1 AND kind = $2 AND value = $3", func(r *sql.Rows) error {
		var text string
		if err := r.Scan(&text); err != nil {
			return err
		}
		found = true
		return owner.UnmarshalText([]byte(text))
	}, server, kind, value)
	if err == nil && !found {
		err = fault.New(fault.NotFound, op, "no_handle", "no run has met this %s", kind).WithFix("start it anew in this run")
	}
	return owner, err
}
