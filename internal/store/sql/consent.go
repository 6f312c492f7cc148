// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"database/sql"
	"iter"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
)

var (
	grantTable = table[grant.Grant]{noun: "grant", name: "grants", more: ", state, changed_at, reason", read: func(m memo, r *sql.Rows) (grant.Grant, error) {
		var state, reason string
		var changed int64
		v, err := body[grant.Grant](m, r, &state, &changed, &reason)
		v.State, v.ChangedAt, v.Reason = grant.State(state), fromMicros(changed), reason
		return v, err
	}}
	approvalTable = table[approval.Approval]{noun: "approval", name: "approvals", more: ", version", read: func(m memo, r *sql.Rows) (approval.Approval, error) {
		var version int64
		v, err := body[approval.Approval](m, r, &version)
		v.Version = version
		return v, err
	}}
)

type grants struct{ *transaction }

func (s grants) Grant(key id.Grant) (grant.Grant, error) {
	return grantTable.get(s.transaction, "WHERE id = $1", key.String())
}

func (s grants) Insert(v grant.Grant) error {
	const op = "sqlstore.Grants.Insert"
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	return s.insert(op, "grant", `INSERT INTO grants (id, run, agent, call_digest, state, changed_at, reason, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
		v.ID.String(), v.Run.String(), v.Agent.String(), v.CallDigest, string(v.State), micros(v.ChangedAt), v.Reason, text)
}

// Move implements grant.Store. An empty reason leaves the stored one.
func (s grants) Move(key id.Grant, from, to grant.State, at time.Time, reason string) error {
	const op = "sqlstore.Grants.Move"
	if grant.Legal(from, to) {
		n, err := s.exec(op, `UPDATE grants SET state = $3, changed_at = $4, reason = coalesce(nullif($5, ''), reason) WHERE id = $1 AND state = $2`,
			key.String(), string(from), string(to), micros(at), reason)
		if err != nil || n > 0 {
			return err
		}
	}
	v, err := s.Grant(key)
	if err != nil {
		return err
	}
	return fault.New(fault.Conflict, op, "grant_"+string(v.State), "the grant is %s and cannot go from %s to %s", v.State, from, to).
		WithFix("ask for a new grant")
}

func (s grants) Grants(f grant.Filter) iter.Seq2[grant.Grant, error] {
	var w where
	w.eq("run", f.Run.String())
	w.eq("agent", f.Agent.String())
	w.eq("state", string(f.State))
	w.eq("call_digest", f.CallDigest)
	tail, args := w.newest(f.Limit)
	return grantTable.list(s.transaction, tail, args...)
}

func (s grants) EndRun(r id.Run, at time.Time, reason string) (int, error) {
	n, err := s.exec("sqlstore.Grants.EndRun", `UPDATE grants SET state = 'revoked', changed_at = $2, reason = $3
		WHERE run = $1 AND state IN ('requested', 'active', 'used')`, r.String(), micros(at), reason)
	return int(n), err
}

type approvals struct{ *transaction }

func (s approvals) Approval(key id.Approval) (approval.Approval, error) {
	return approvalTable.get(s.transaction, "WHERE id = $1", key.String())
}

func (s approvals) Insert(v approval.Approval) error {
	const op = "sqlstore.Approvals.Insert"
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	return s.insert(op, "approval", `INSERT INTO approvals (id, state, run, call_digest, version, body) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
		v.ID.String(), string(v.State), v.Call.Run.String(), v.CallDigest, v.Version, text)
}

func (s approvals) Update(v approval.Approval) error {
	const op = "sqlstore.Approvals.Update"
	text, err := encode(op, v)
	if err != nil {
		return err
	}
	n, err := s.exec(op, "UPDATE approvals SET state = $3, version = version + 1, body = $4 WHERE id = $1 AND version = $2",
		v.ID.String(), v.Version, string(v.State), text)
	if err != nil || n > 0 {
		return err
	}
	if _, err := s.Approval(v.ID); err != nil {
		return err
	}
	return moved(op, "approval")
}

func (s approvals) Approvals(f approval.Filter) iter.Seq2[approval.Approval, error] {
	var w where
	w.eq("state", string(f.State))
	w.eq("run", f.Run.String())
	w.eq("call_digest", f.CallDigest)
	tail, args := w.newest(f.Limit)
	return approvalTable.list(s.transaction, tail, args...)
}
