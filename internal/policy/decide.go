// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"chaperone/internal/label"
)

// Decide answers a request. It evaluates the rules without an approval first; if only rules that an approval lifts forbid, it
// evaluates them again as if every such approval were given, and what falls away then is what an approval would lift. A real
// approval in the request counts if it satisfies all of those. The answer depends on the request alone, and an error anywhere - a rule
// that fails, a malformed request, a panic - is Forbid by "policy-error". Decide is safe for concurrent use and looks nothing up.
func (s *Set) Decide(req Request) (d Decision) {
	defer func() {
		if p := recover(); p != nil {
			d = failed([]string{fmt.Sprintf("panic: %v", p)})
		}
	}()
	a := s.world.actions[req.Action.Name]
	if a == nil {
		return Decision{Effect: Forbid, Reasons: []Reason{{Rule: RuleUnknownTool, Effect: Forbid, Text: "No pinned definition says what this is, so no rule can permit it."}}}
	}
	f, err := s.world.facts(a, req)
	if err != nil {
		return failed([]string{err.Error()})
	}
	rules := a.agent
	if req.Principal.Kind == "Person" {
		rules = a.person
	}
	base := evaluate(rules, f, nil)
	if d, done := base.decide(); done {
		return d
	}
	// Only liftable rules forbid. Would an approval of all of them be enough?
	all := make([]string, 0, len(s.rules))
	for _, r := range s.rules {
		if r.liftable() {
			all = append(all, r.ID)
		}
	}
	best := evaluate(rules, f, &ApprovalFacts{Satisfies: all})
	if len(best.errors) > 0 {
		return failed(best.errors)
	}
	if len(best.forbids) > 0 {
		return base.forbidden()
	}
	if len(best.permits) == 0 { // nothing would permit it either
		d, _ := best.decide()
		d.Reasons = append(d.Reasons, reasons(base.forbids)...)
		return d
	}
	lifted := base.forbids
	if req.Approval != nil && !slices.ContainsFunc(lifted, func(r *rule) bool { return !slices.Contains(req.Approval.Satisfies, r.ID) }) {
		real := evaluate(rules, f, req.Approval)
		if d, _ := real.decide(); d.Effect == Permit || d.Reasons[0].Rule == RuleError {
			if d.Effect == Permit {
				d.Lifted = reasons(lifted)
			}
			return d
		}
	}
	d = base.forbidden()
	d.Missing = missing(lifted)
	return d
}

// outcome is one evaluation: the rules that apply, by id.
type outcome struct {
	permits, forbids []*rule
	errors           []string
}

// evaluate runs the rules through Cedar. It evaluates every rule, as cedar.Authorize does: a forbid that was not looked at is no
// permission.
func evaluate(rules []*rule, f *facts, approval *ApprovalFacts) outcome {
	_, diag := cedar.Authorize(ruleSet(rules), f, cedar.Request{Principal: f.principal.UID, Action: f.action.uid, Resource: f.resource.UID, Context: f.record(approval)})
	var out outcome
	for _, e := range diag.Errors {
		out.errors = append(out.errors, "rule "+string(e.PolicyID)+": "+e.Message)
	}
	// Authorize reports the forbids or else the permits; the others are of no use.
	for _, d := range diag.Reasons {
		i, _ := slices.BinarySearchFunc(rules, string(d.PolicyID), func(r *rule, id string) int { return strings.Compare(r.ID, id) })
		if r := rules[i]; r.Effect == Forbid {
			out.forbids = append(out.forbids, r)
		} else {
			out.permits = append(out.permits, r)
		}
	}
	return out
}

// ruleSet lets cedar.Authorize run over the rules in their order.
type ruleSet []*rule

// All implements cedar.PolicyIterator.
func (rs ruleSet) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, r := range rs {
			if !yield(cedar.PolicyID(r.ID), r.policy) {
				return
			}
		}
	}
}

// decide is the decision of an evaluation, and whether it stands whatever anybody approves.
func (o outcome) decide() (Decision, bool) {
	switch {
	case len(o.errors) > 0:
		return failed(o.errors), true
	case len(o.forbids) > 0:
		return o.forbidden(), slices.ContainsFunc(o.forbids, func(r *rule) bool { return !r.liftable() })
	case len(o.permits) > 0:
		return Decision{Effect: Permit, Reasons: reasons(o.permits)}, true
	}
	return Decision{Effect: Forbid, Reasons: []Reason{{Rule: RuleDefaultDeny, Effect: Forbid, Text: "No rule permits this."}}}, true
}

// forbidden is the decision of an evaluation in which rules forbid: those that nobody can lift first.
func (o outcome) forbidden() Decision {
	rs := slices.Clone(o.forbids)
	slices.SortStableFunc(rs, func(a, b *rule) int {
		if a.liftable() == b.liftable() {
			return 0
		}
		if b.liftable() {
			return -1
		}
		return 1
	})
	return Decision{Effect: Forbid, Reasons: reasons(rs)}
}

func failed(errs []string) Decision {
	return Decision{Effect: Forbid, Errors: errs, Reasons: []Reason{{Rule: RuleError, Effect: Forbid, Text: "The policies could not be evaluated, so the answer is no."}}}
}

func reasons(rs []*rule) []Reason {
	out := make([]Reason, 0, len(rs))
	for _, r := range rs {
		out = append(out, r.reason())
	}
	return out
}

// missing is what an approval that lifts the rules must be: the union of their requirements, per group the largest number; the
// highest tier; the shortest life.
func missing(lifted []*rule) *Missing {
	m := &Missing{Rules: reasons(lifted), Tier: tierConfirm, Expires: maxExpires}
	most := map[string]int{}
	for _, r := range lifted {
		for _, q := range r.Require {
			most[q.Group] = max(most[q.Group], q.Number)
		}
		m.Expires = min(m.Expires, r.Expires)
	}
	for _, g := range slices.Sorted(maps.Keys(most)) {
		m.Require = append(m.Require, Requirement{Group: g, Number: most[g]})
	}
	return m
}

// facts is a request in Cedar's terms, on the entities of the world.
type facts struct {
	world               *world
	action              *action
	principal, resource types.Entity
	context             types.RecordMap
}

// Get implements types.EntityGetter.
func (f *facts) Get(uid types.EntityUID) (types.Entity, bool) {
	switch uid {
	case f.principal.UID:
		return f.principal, true
	case f.resource.UID:
		return f.resource, true
	}
	e, ok := f.world.entities[uid]
	return e, ok
}

// record is the context with or without an approval.
func (f *facts) record(a *ApprovalFacts) types.Record {
	if a == nil || f.action.people {
		return types.NewRecord(f.context)
	}
	c := maps.Clone(f.context)
	c["approval"] = types.NewRecord(types.RecordMap{"id": types.String(a.ID), "satisfies": strSet(a.Satisfies)})
	return types.NewRecord(c)
}

// malformed is about a request that the road should never have formed.
func malformed(format string, args ...any) error {
	return fmt.Errorf("malformed request: "+format, args...)
}

// facts puts a request into Cedar's terms. A request that contradicts the catalogue it is decided on is an error.
func (w *world) facts(a *action, req Request) (*facts, error) {
	f := &facts{world: w, action: a}
	if err := f.setPrincipal(req.Principal); err != nil {
		return nil, err
	}
	if err := f.checkGroups(req.Action.Groups); err != nil {
		return nil, err
	}
	ip, err := network(req.Network)
	if err != nil {
		return nil, err
	}
	f.context = types.RecordMap{"credential": types.String(req.Credential), "network": ip, "time": types.NewDatetime(req.Time)}
	if a.people {
		f.resource = thing(req.Resource)
		if req.Run.ID != "" {
			f.context["run"] = runRecord(req.Run)
		}
		return f, nil
	}
	r := req.Resource
	if r.Server != "" && r.Server != a.server || r.Tool != "" && r.Tool != a.tool || r.Kind != "" {
		return nil, malformed("the resource is not in the tool that the action names")
	}
	f.resource = w.objects[a.name]
	if r.ObjectID != "" || r.ObjectType != "" {
		f.resource = objectEntity(a, r.ObjectType, r.ObjectID)
	}
	args, unmapped, err := a.args.mapArguments(req.Arguments)
	if err != nil {
		return nil, malformed("the arguments are no strict JSON: %v", err)
	}
	maps.Copy(f.context, types.RecordMap{
		"run": runRecord(req.Run), "flow": flowRecord(req.Flow), "arguments": args, "arguments_unmapped": strSet(unmapped), "grant": types.String(req.Grant),
	})
	return f, nil
}

func (f *facts) setPrincipal(p Principal) error {
	if p.Name == "" {
		return malformed("the principal has no name")
	}
	switch p.Kind {
	case "Agent":
		f.principal = types.Entity{
			UID: types.NewEntityUID(typeAgent, types.String(p.Name)), Parents: types.NewEntityUIDSet(types.NewEntityUID(typeAgentType, types.String(p.Type))),
			Attributes: types.NewRecord(types.RecordMap{"name": types.String(p.Name), "kind": types.String(p.AgentKind), "owner": types.String(p.Owner),
				"environment": types.String(p.Environment), "orchestrator": types.Boolean(p.Orchestrator)}),
		}
	case "Person":
		// A role is a group; a group that is named like a role is not the role.
		var groups []types.EntityUID
		for _, g := range p.Roles {
			groups = append(groups, types.NewEntityUID(typeGroup, types.String(g)))
		}
		for _, g := range p.Groups {
			if !slices.Contains([]string{"operator", "approver", "auditor"}, g) {
				groups = append(groups, types.NewEntityUID(typeGroup, types.String(g)))
			}
		}
		f.principal = types.Entity{
			UID: types.NewEntityUID(typePerson, types.String(p.Name)), Parents: types.NewEntityUIDSet(groups...),
			Attributes: types.NewRecord(types.RecordMap{"name": types.String(p.Name)}),
		}
	default:
		return malformed("the principal is neither Agent nor Person")
	}
	return nil
}

// checkGroups compares the groups that the caller believes in with those that the schema was built with. Rules see the
// schema's; a caller that believes something else works on another catalogue. The groups of a method are fixed.
func (f *facts) checkGroups(groups []string) error {
	if len(groups) == 0 || f.action.method {
		return nil
	}
	g := slices.Clone(groups)
	slices.Sort(g)
	if !slices.Equal(slices.Compact(g), f.action.groups) {
		return malformed("the request puts %s in %v, the catalogue in %v", f.action.name, g, f.action.groups)
	}
	return nil
}

// network is the caller's address; 0.0.0.0 stands for none.
func network(s string) (types.IPAddr, error) {
	if s == "" {
		s = "0.0.0.0"
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return types.IPAddr{}, malformed("the network address does not parse")
	}
	ip, err := types.ParseIPAddr(addr.WithZone("").Unmap().String())
	if err != nil {
		return types.IPAddr{}, malformed("the network address does not parse")
	}
	return ip, nil
}

func thing(r Resource) types.Entity {
	kind, id := types.String(r.Kind), types.String(r.ID)
	attrs := types.RecordMap{"kind": kind, "id": id}
	if r.Owner != "" {
		attrs["owner"] = types.String(r.Owner)
	}
	return types.Entity{UID: types.NewEntityUID(typeThing, kind+":"+id), Attributes: types.NewRecord(attrs)}
}

func strSet(ss []string) types.Set {
	vs := make([]types.Value, 0, len(ss))
	for _, s := range ss {
		vs = append(vs, types.String(s))
	}
	return types.NewSet(vs...)
}

func runRecord(r RunFacts) types.Record {
	return types.NewRecord(types.RecordMap{
		"id": types.String(r.ID), "opener": types.String(r.Opener), "clears": types.Boolean(r.Clears), "has_purpose": types.Boolean(r.HasPurpose),
		"in_plan": types.Boolean(r.InPlan), "in_type_reads": types.Boolean(r.InTypeReads), "in_type_writes": types.Boolean(r.InTypeWrite),
		"steps": types.Long(r.Steps), "depth": types.Long(r.Depth),
	})
}

// flowRecord puts context.flow together. Where two facts say one thing, the stricter counts.
func flowRecord(f FlowFacts) types.Record {
	rank := max(f.LevelRank, int64(label.Level(f.Level).Rank()))
	level := f.Level
	if level == "" {
		level = string(label.Public)
	}
	return types.NewRecord(types.RecordMap{
		"untrusted": types.Boolean(f.Untrusted || len(f.Sources) > 0), "sources": strSet(f.Sources), "level": types.String(level), "level_rank": types.Long(rank),
		"categories": strSet(f.Categories), "sinks": types.Long(f.Sinks), "uncleared": strSet(f.Uncleared),
		"has_uncleared": types.Boolean(f.HasUncleared || len(f.Uncleared) > 0), "answer_taints": types.Boolean(f.AnswerTaints),
		"unknown_tool": types.Boolean(f.UnknownTool), "mode": types.String(f.Mode), "findings": strSet(f.Findings), "stakes": strSet(f.Stakes),
		"sink_types": strSet(f.SinkTypes),
	})
}
