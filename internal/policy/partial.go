// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// CouldPermit reports whether some call of the action could be permitted, now or with an approval: whether a permit may apply and no
// forbid applies for certain, with the arguments, what flows, the object, the grant and the approval left open. It never hides
// what Decide would permit; it may show what Decide forbids whatever the arguments. It is what lists are cut by.
func (s *Set) CouldPermit(req Request) (could bool) {
	defer func() {
		if recover() != nil {
			could = false
		}
	}()
	a := s.world.actions[req.Action.Name]
	if a == nil {
		return false
	}
	if a.people {
		return s.Decide(req).Effect == Permit
	}
	if req.Principal.Kind != "Agent" {
		return false
	}
	req.Arguments = nil
	f, err := s.world.facts(a, req)
	if err != nil {
		return false
	}
	env := f.open(req)
	unknownObject := env
	unknownObject.Resource = eval.Variable("resource")
	may := false
	for _, r := range a.agent {
		e := env
		if r.anyThing { // it names single objects, and which one it will be is open
			e = unknownObject
		}
		p, keep := eval.PartialPolicy(e, r.ast)
		if !keep {
			continue
		}
		switch applies := appliesTo(p); {
		case applies == fails:
			return false
		case applies == yes && r.Effect == Forbid:
			return false
		case applies != no && r.Effect == Permit:
			may = true
		}
	}
	return may
}

// open is the environment with what a call decides left open.
func (f *facts) open(req Request) eval.Env {
	v := func(name types.String) types.Value { return eval.Variable(name) }
	run, flow := types.RecordMap{}, types.RecordMap{}
	for k, x := range runRecord(req.Run).All() {
		run[k] = x
	}
	run["steps"] = v("steps")
	for k := range flowRecord(req.Flow).All() {
		flow[k] = v("flow." + k)
	}
	// These belong to the tool and the server, not to the call.
	flow["unknown_tool"], flow["mode"], flow["stakes"] = types.Boolean(req.Flow.UnknownTool), types.String(req.Flow.Mode), strSet(req.Flow.Stakes)
	flow["answer_taints"] = types.Boolean(req.Flow.AnswerTaints)
	c := types.RecordMap{
		"run": types.NewRecord(run), "flow": types.NewRecord(flow), "arguments": v("arguments"), "arguments_unmapped": v("arguments_unmapped"),
		"approval": v("approval"), "grant": v("grant"), "credential": f.context["credential"], "network": f.context["network"], "time": f.context["time"],
	}
	attrs := types.RecordMap{}
	for k, x := range f.resource.Attributes.All() {
		attrs[k] = x
	}
	attrs["object_id"] = v("object_id")
	f.resource.Attributes = types.NewRecord(attrs)
	return eval.Env{Principal: f.principal.UID, Action: f.action.uid, Resource: f.resource.UID, Context: types.NewRecord(c), Entities: f}
}

// tri is what is known of a condition or rule whose inputs are partly open.
type tri uint8

const (
	maybe tri = iota
	yes
	no
	fails // evaluation fails for certain
)

// appliesTo reads what is left of a rule after partial evaluation.
func appliesTo(p *ast.Policy) tri {
	all := yes
	if !scopesDone(p) {
		all = maybe
	}
	for _, c := range p.Conditions {
		t := truth(c.Body)
		if !bool(c.Condition) { // unless
			switch t {
			case yes:
				t = no
			case no:
				t = yes
			}
		}
		switch t {
		case no:
			return no
		case fails:
			if all == yes {
				return fails
			}
			if bool(p.Effect) { // a permit that fails or does not apply never permits
				return no
			}
			return maybe
		case maybe:
			all = maybe
		}
	}
	return all
}

func scopesDone(p *ast.Policy) bool {
	_, a := p.Principal.(ast.ScopeTypeAll)
	_, b := p.Action.(ast.ScopeTypeAll)
	_, c := p.Resource.(ast.ScopeTypeAll)
	return a && b && c
}

// truth reads what is left of an expression. Only the connectives are looked into; an open right side may fail, so "no" of a
// conjunction needs only that it cannot be true.
func truth(n ast.IsNode) tri {
	if _, ok := eval.ToPartialError(n); ok {
		return fails
	}
	switch n := n.(type) {
	case ast.NodeValue:
		if b, ok := n.Value.(types.Boolean); ok {
			if b {
				return yes
			}
			return no
		}
	case ast.NodeTypeNot:
		switch truth(n.Arg) {
		case yes:
			return no
		case no:
			return yes
		}
	case ast.NodeTypeAnd:
		if l, r := truth(n.Left), truth(n.Right); l == no || l != fails && r == no {
			return no
		} else if l == yes {
			return r
		}
	case ast.NodeTypeOr:
		if l, r := truth(n.Left), truth(n.Right); l == yes || l != fails && r == yes {
			return yes
		} else if l == no {
			return r
		}
	}
	return maybe
}
