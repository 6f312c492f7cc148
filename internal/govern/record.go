// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/policy"
	"chaperone/internal/store"
)

// Events queries the record, oldest first unless f.Newest. What agents did and what people did are two rights: a query of one
// stream needs one, a query of both needs both. agent is a name or identifier, or "".
func (r *Road) Events(ctx context.Context, c Caller, f audit.Filter, agent string) (out []audit.Record, err error) {
	if f.Stream != "" && f.Stream != audit.Agents && f.Stream != audit.People {
		return nil, fault.New(fault.Invalid, "govern.Events", "bad_stream", "the stream %.40q is not agent or people", f.Stream).WithFix("name one of the two, or none for both")
	}
	if s, ok := audit.StreamOf(f.Type); ok && f.Stream == "" {
		f.Stream = s
	}
	if err := r.mayRead(ctx, c, f.Stream); err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) error {
		if agent != "" {
			g, err := tx.Registry().Agent(agent)
			if err != nil {
				return err
			}
			f.Agent = g.ID
		}
		out, err = collect(tx.Events().Records(f), f.Limit)
		return err
	})
	return out, err
}

func (r *Road) mayRead(ctx context.Context, c Caller, stream audit.Stream) error {
	if stream != audit.People {
		if _, err := r.allow(ctx, c, ActAuditRead, policy.Resource{Kind: "audit", ID: string(audit.Agents)}); err != nil {
			return err
		}
	}
	if stream != audit.Agents {
		if _, err := r.allow(ctx, c, ActAuditRead, policy.Resource{Kind: "audit", ID: string(audit.People)}); err != nil {
			return err
		}
	}
	return nil
}

type exportData struct {
	Events  int64        `json:"events"`
	LogSize int64        `json:"log_size"`
	Rules   []audit.Rule `json:"rules,omitempty"`
}

// Export writes the whole record with its log to w as a tar. The export is on the record before its first byte goes out. begin is
// called once, when nothing can be refused any more.
func (r *Road) Export(ctx context.Context, c Caller, w io.Writer, begin func()) error {
	a, err := r.allow(ctx, c, ActAuditExport, policy.Resource{Kind: "audit"})
	if err != nil {
		return err
	}
	if r.Record == nil {
		return unavailable("the log")
	}
	data := exportData{LogSize: int64(r.Record.Size()), Rules: a.rules}
	if err := r.view(ctx, func(tx store.Tx) (err error) { data.Events, err = tx.Events().Next(); return err }); err != nil {
		return err
	}
	if err := r.change(ctx, a, r.event(a, audit.AuditExported, "audit", data), func(store.Tx) error { return nil }); err != nil {
		return err
	}
	begin()
	return r.Record.Export(ctx, w)
}

// Explanation tells why a decision fell as it did, from what was stored with it.
type Explanation struct {
	Decision id.Decision
	Position int64
	Event    audit.View
	Decided  audit.Decided
	Request  *policy.Request // nil when erased
	Reasons  []ExplainedRule
	Lift     []string
	Events   []ExplainedEvent
}

// ExplainedRule is a determining rule. Info is there when the active bundle still has a rule of that id; Changed when its text
// is another now, or the rule is gone.
type ExplainedRule struct {
	audit.Rule
	Info    *policy.RuleInfo
	Changed bool
}

// ExplainedEvent is one event recorded under the decision.
type ExplainedEvent struct {
	Position int64
	Type     string
	At       time.Time
}

// Explain tells why a decision fell, what the rules say, and what would turn it. It is a right of its own; what people asked
// themselves they may have explained by the right to know who they are.
func (r *Road) Explain(ctx context.Context, c Caller, which id.Decision) (Explanation, error) {
	const op = "govern.Explain"
	var records []audit.Record
	err := r.view(ctx, func(tx store.Tx) (err error) {
		records, err = collect(tx.Events().Records(audit.Filter{After: -1, Decision: which}), 0)
		return err
	})
	if err != nil {
		return Explanation{}, err
	}
	out := Explanation{Decision: which}
	var found *audit.Record
	for i, rec := range records {
		v, err := audit.ParseLeaf(rec.Leaf)
		if err != nil {
			return Explanation{}, err
		}
		out.Events = append(out.Events, ExplainedEvent{rec.Position, v.Type, v.Time()})
		if found == nil || !hasRequest(*found) && hasRequest(rec) {
			found, out.Event, out.Position = &records[i], v, rec.Position
		}
	}
	action := ActDecisionExplain
	if found != nil && own(c, out.Event.Actor) {
		action = ActSelf
	}
	if _, err := r.allow(ctx, c, action, policy.Resource{Kind: "decision", ID: which.String(), Owner: out.Event.Actor.Name}); err != nil {
		return Explanation{}, err
	}
	if found == nil {
		return Explanation{}, fault.New(fault.NotFound, op, "decision_unknown", "no decision %s is on the record", which).WithFix("copy the identifier as it was printed")
	}
	out.Decided = decidedOf(out.Event)
	if p := part(*found, "request"); p != nil {
		var req policy.Request
		if err := canon.DecodeLoose(p, canon.Limits{}, &req); err == nil {
			out.Request = &req
		}
	}
	if err := r.explainRules(&out); err != nil {
		return Explanation{}, err
	}
	return out, nil
}

// own reports whether the person who asks is the one whom the decision was about. An agent is told why by the gateway.
func own(c Caller, actor audit.Actor) bool {
	return c.Credential.IsPerson() && actor.Kind == audit.ActorPerson && actor.ID == c.Credential.Person.String()
}

func hasRequest(rec audit.Record) bool { return part(rec, "request") != nil }

func part(rec audit.Record, name string) []byte {
	i := slices.IndexFunc(rec.Parts, func(p audit.Part) bool { return p.Name == name && p.Erased == "" })
	if i < 0 {
		return nil
	}
	return rec.Parts[i].Bytes
}

// decidedOf reads the decision out of an event's data, whichever event it lies in.
func decidedOf(v audit.View) audit.Decided {
	var d audit.Decided
	var c audit.Call
	var p struct {
		Rules []audit.Rule `json:"rules"`
	}
	switch {
	case v.Stream == audit.Agents && canon.Decode(v.Data, canon.Limits{}, &c) == nil:
		if c.Decided != nil {
			return *c.Decided
		}
		d = audit.Decided{Effect: string(policy.Permit), Code: c.Code, PolicyDigest: c.PolicyDigest, PolicyVersion: c.PolicyVersion, Action: c.Action, Class: c.Class}
		if c.Outcome == audit.OutcomeDenied || c.Outcome == audit.OutcomeRefused || c.Outcome == audit.OutcomePending {
			d.Effect = string(policy.Forbid)
		}
		for _, id := range c.Rules {
			d.Rules = append(d.Rules, audit.Rule{ID: id})
		}
	case canon.Decode(v.Data, canon.Limits{}, &d) == nil:
	case canon.DecodeLoose(v.Data, canon.Limits{}, &p) == nil: // a change that a person was permitted
		d = audit.Decided{Effect: string(policy.Permit), Rules: p.Rules}
	}
	return d
}

// explainRules sets the rules of the active bundle beside those that decided, and says what would turn the decision.
func (r *Road) explainRules(e *Explanation) error {
	infos := map[string]policy.RuleInfo{}
	if set, _, err := r.Rules.Current(); err == nil {
		for _, info := range set.Rules() {
			infos[info.ID] = info
		}
	}
	for _, rule := range e.Decided.Rules {
		x := ExplainedRule{Rule: rule}
		if info, ok := infos[rule.ID]; ok {
			x.Info, x.Changed = &info, rule.Digest != "" && info.Digest != rule.Digest
			if x.Reason == "" {
				x.Reason = info.Reason
			}
		} else {
			x.Changed = rule.ID != policy.RuleDefaultDeny && rule.ID != policy.RuleError
		}
		e.Reasons = append(e.Reasons, x)
	}
	e.Lift = lift(e)
	return nil
}

// lift says in words what would turn a refusal.
func lift(e *Explanation) []string {
	d := e.Decided
	if d.Effect == string(policy.Permit) {
		return nil
	}
	var out []string
	if d.Missing != nil {
		var who []string
		for _, q := range d.Missing.Require {
			who = append(who, plural(q.Number, q.Group))
		}
		line := "an approval of this exact call by " + strings.Join(who, " and ") + ", by distinct people"
		if !e.Event.Approval.IsZero() {
			line += ": chaperone approval show " + e.Event.Approval.String()
		}
		out = append(out, line)
	}
	for _, rule := range d.Rules {
		switch {
		case rule.ID == policy.RuleDefaultDeny && e.Event.Stream == audit.People:
			out = append(out, "a role that has the right (an operator gives roles when adding a person), or a rule that permits the action")
		case rule.ID == policy.RuleDefaultDeny:
			out = append(out, "the tool in the agent type's list (chaperone type put), in the plan of a run that a person opens, or a rule that permits it")
		case rule.ID == policy.RuleError:
			out = append(out, "a mended rule: evaluation failed ("+strings.Join(d.Errors, "; ")+")")
		case rule.ID == "untrusted-sink":
			out = append(out, "a run whose purpose or plan, stated by a person or orchestrator, names the value ("+strings.Join(uncleared(e.Request), ", ")+"); no approval lifts it")
		case rule.ID == "unknown-tool":
			out = append(out, "a catalogue entry that says what the tool does (chaperone catalog apply)")
		case d.Missing == nil || !slices.ContainsFunc(d.Missing.Rules, func(m audit.Rule) bool { return m.ID == rule.ID }):
			if rule.Effect == string(policy.Forbid) {
				out = append(out, "a change of the rule "+rule.ID+" or of the facts it looks at; no approval lifts it")
			}
		}
	}
	return out
}

func plural(n int64, group string) string {
	if n == 1 {
		return "one of " + group
	}
	return strconv.FormatInt(n, 10) + " of " + group
}

func uncleared(req *policy.Request) []string {
	if req == nil || len(req.Flow.Uncleared) == 0 {
		return []string{"the request is erased"}
	}
	return req.Flow.Uncleared
}
