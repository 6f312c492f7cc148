// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"chaperone/internal/api/client"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/id"
	"chaperone/internal/policy"
)

func wordsOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind != fault.Internal {
		return e.Msg
	}
	return "internal error"
}

func (d *Door) events(r *request) (any, error) {
	q, err := r.params("stream", "type", "agent", "run", "decision", "approval", "id", "newest", "after", "limit")
	if err != nil {
		return nil, err
	}
	f := audit.Filter{After: -1, Stream: audit.Stream(q["stream"]), Type: q["type"]}
	if f.Limit, err = limitOf(q); err != nil {
		return nil, err
	}
	switch q["newest"] {
	case "", "false":
	case "true":
		f.Newest = true
	default:
		return nil, fault.New(fault.Invalid, "api", "bad_query", "newest is true or false").WithFix("leave it out for the oldest first")
	}
	if q["after"] != "" {
		if f.After, err = strconv.ParseInt(q["after"], 10, 64); err != nil || f.After < -1 {
			return nil, fault.New(fault.Invalid, "api", "bad_query", "after is not a position").WithFix("give the position of the last event that you have")
		}
	}
	for _, want := range []struct {
		name string
		into interface{ UnmarshalText([]byte) error }
	}{{"run", &f.Run}, {"decision", &f.Decision}, {"approval", &f.Approval}, {"id", &f.ID}} {
		if err := want.into.UnmarshalText([]byte(q[want.name])); err != nil {
			return nil, err
		}
	}
	f.Limit++ // one more tells whether there is a next page
	records, err := d.Govern.Events(r.Context(), r.caller, f, q["agent"])
	if err != nil {
		return nil, err
	}
	out := client.List[client.Event]{Items: []client.Event{}}
	for i, rec := range records {
		if i == f.Limit-1 {
			if !f.Newest {
				out.Next = strconv.FormatInt(records[i-1].Position, 10)
			}
			break
		}
		out.Items = append(out.Items, event(rec))
	}
	return out, nil
}

func event(rec audit.Record) client.Event {
	out := client.Event{Position: rec.Position, ID: rec.ID, Leaf: rec.Leaf}
	for _, p := range rec.Parts {
		view := client.Part{Name: p.Name, Erased: p.Erased}
		switch {
		case p.Erased != "":
		case utf8.Valid(p.Bytes):
			view.Text = string(p.Bytes)
		default:
			view.Base64 = p.Bytes
		}
		out.Parts = append(out.Parts, view)
	}
	return out
}

// export streams the record as a tar. What breaks off after its first byte breaks the connection, so that no half export looks whole.
func (d *Door) export(w http.ResponseWriter, r *http.Request) {
	quiet(w.Header())
	caller, err := d.admit(w, r)
	if err != nil {
		d.problem(w, r, err)
		return
	}
	begun := false
	err = d.Govern.Export(r.Context(), caller, w, func() {
		begun = true
		w.Header().Set("Content-Type", "application/x-tar")
		w.Header().Set("Content-Disposition", `attachment; filename="chaperone-record.tar"`)
	})
	switch {
	case err == nil:
	case !begun:
		d.problem(w, r, err)
	default:
		d.Logger.ErrorContext(r.Context(), "export broke off", "error", err)
		panic(http.ErrAbortHandler)
	}
}

func (d *Door) explain(r *request) (any, error) {
	which, err := id.ParseDecision(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	e, err := d.Govern.Explain(r.Context(), r.caller, which)
	if err != nil {
		return nil, err
	}
	return explanation(e), nil
}

func explanation(e govern.Explanation) client.Explanation {
	out := client.Explanation{
		Decision: e.Decision, Position: e.Position, At: e.Event.Time(), Type: e.Event.Type, Actor: e.Event.Actor.Kind + " " + e.Event.Actor.Name,
		Effect: e.Decided.Effect, Code: e.Decided.Code, Request: e.Request, Reasons: []client.ExplainedRule{}, Policy: e.Decided.PolicyDigest,
		Lift: append([]string{}, e.Lift...), Approval: e.Event.Approval, Grant: e.Event.Grant,
	}
	for _, rule := range e.Reasons {
		x := client.ExplainedRule{Reason: reasonOf(rule.Rule), Changed: rule.Changed}
		if rule.Info != nil {
			x.File, x.Line, x.Source = rule.Info.File, rule.Info.Line, rule.Info.Text
		}
		out.Reasons = append(out.Reasons, x)
	}
	if m := e.Decided.Missing; m != nil {
		out.Missing = &policy.Missing{Tier: m.Tier, Expires: time.Duration(m.ExpiresSeconds) * time.Second}
		for _, rule := range m.Rules {
			out.Missing.Rules = append(out.Missing.Rules, reasonOf(rule))
		}
		for _, q := range m.Require {
			out.Missing.Require = append(out.Missing.Require, policy.Requirement{Group: q.Group, Number: int(q.Number)})
		}
	}
	for _, ev := range e.Events {
		out.Events = append(out.Events, client.ExplainedEvent{Position: ev.Position, Type: ev.Type, At: ev.At})
	}
	return out
}

func reasonOf(r audit.Rule) policy.Reason {
	return policy.Reason{Rule: r.ID, Text: r.Reason, Effect: policy.Effect(r.Effect), Digest: r.Digest}
}
