// SPDX-License-Identifier: Apache-2.0

package run

import (
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/label"
)

// Bounds of what may be stated when a run opens.
const (
	MaxPurpose   = 4 << 10 // bytes
	MaxPlan      = 64      // steps
	MaxSinks     = 256     // stated sink values in one plan step
	MaxDepth     = 8       // of the tree; a run that nobody started from another has depth 0
	MaxSteps     = 100_000
	MaxSeconds   = 7 * 24 * 3600
	MaxBytes     = int64(64) << 30
	maxSinkValue = 1 << 10
)

// Order is what somebody asks for when they open a run.
type Order struct {
	Agent     id.Agent
	AgentName string
	AgentType string
	Instance  id.Instance // zero when somebody else opens the run for the agent
	Opener    Opener
	Purpose   string
	Plan      []PlanStep
	Budgets   Budgets
	// Start is what the run starts with: the instance's carried label when the agent's own key opens it, else nothing.
	Start label.Label
	// Parent is the run this one is started from, nil for none; Ancestors are the parent's own ancestors, nearest first.
	Parent    *Run
	Ancestors []Run
}

// Open forms a run that is not stored yet: budgets are filled and narrowed to what the parent has left, the life ends
// no later than the parent's, and the labels start as the join of Start and every ancestor's. An orchestrator that opens a
// run for itself is the agent's own key and is recorded so. Version is 1. Errors, all Invalid unless said otherwise:
// bad_purpose, bad_plan, bad_budget, bad_opener, too_deep, wider_than_parent (a stated budget exceeds what the parent has
// left), and Suspended, "run_<state>" of a parent that is not active.
func Open(o Order, now time.Time) (Run, error) {
	const op = "run.Open"
	if len(o.Purpose) > MaxPurpose || !utf8.ValidString(o.Purpose) {
		return Run{}, fault.New(fault.Invalid, op, "bad_purpose", "the purpose is longer than %d bytes or not UTF-8", MaxPurpose).
			WithFix("state the purpose in fewer words")
	}
	if err := checkPlan(o.Plan); err != nil {
		return Run{}, err
	}
	opener, err := checkOpener(o)
	if err != nil {
		return Run{}, err
	}
	r := Run{
		ID: id.NewRun(now), Agent: o.Agent, AgentName: o.AgentName, AgentType: o.AgentType, Instance: o.Instance,
		Opener: opener, Purpose: o.Purpose, Plan: o.Plan, State: Active, OpenedAt: now.UTC(), Version: 1,
		Label: o.Start.Join(label.Label{}),
	}
	left := Budgets{Steps: MaxSteps, Seconds: MaxSeconds, Bytes: MaxBytes}
	if o.Parent != nil {
		if err := o.Parent.Check(now); err != nil {
			return Run{}, err
		}
		r.Parent, r.Depth = o.Parent.ID, o.Parent.Depth+1
		if r.Depth > MaxDepth {
			return Run{}, fault.New(fault.Invalid, op, "too_deep", "runs may be nested %d deep", MaxDepth).
				WithFix("start the run from one nearer to the root")
		}
		left = o.Parent.left(now)
		r.Label = Effective(r, append([]Run{*o.Parent}, o.Ancestors...), label.Label{})
	}
	if r.Budgets, err = narrow(o.Budgets, left, o.Parent != nil); err != nil {
		return Run{}, err
	}
	r.ExpiresAt = now.Add(time.Duration(r.Budgets.Seconds) * time.Second).UTC()
	if o.Parent != nil && r.ExpiresAt.After(o.Parent.ExpiresAt) {
		r.ExpiresAt = o.Parent.ExpiresAt
	}
	return r, nil
}

func checkOpener(o Order) (Opener, error) {
	op := o.Opener
	switch op.Kind {
	case ByAgent, ByPerson:
	case ByOrchestrator:
		if op.Name == o.AgentName {
			op.Kind = ByAgent // nobody vouches for themselves
		}
	default:
		return op, fault.New(fault.Invalid, "run.Open", "bad_opener", "a run is opened by an agent, a person or an orchestrator")
	}
	if op.Name == "" || op.JKT == "" {
		return op, fault.New(fault.Invalid, "run.Open", "bad_opener", "the opener's name and key are missing")
	}
	return op, nil
}

func checkPlan(plan []PlanStep) error {
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "run.Open", "bad_plan", format, args...).
			WithFix(`write each step as {"tool": "server/tool", "sinks": {"argument": ["value"]}, "max": 1}`)
	}
	if len(plan) > MaxPlan {
		return bad("the plan has more than %d steps", MaxPlan)
	}
	seen := map[string]bool{}
	for _, s := range plan {
		server, tool, ok := strings.Cut(s.Tool, "/")
		if !ok || server == "" || tool == "" || len(s.Tool) > 512 || !utf8.ValidString(s.Tool) {
			return bad("the plan names a tool not written as server/tool")
		}
		if seen[s.Tool] {
			return bad("the plan names %s twice", s.Tool)
		}
		seen[s.Tool] = true
		if s.Max < 0 {
			return bad("the plan allows %s a negative number of times", s.Tool)
		}
		n := 0
		for _, values := range s.Sinks {
			n += len(values)
			for _, v := range values {
				if len(v) > maxSinkValue || !utf8.ValidString(v) {
					return bad("a stated value for %s is longer than %d bytes or not UTF-8", s.Tool, maxSinkValue)
				}
			}
		}
		if n > MaxSinks {
			return bad("the plan states more than %d values for %s", MaxSinks, s.Tool)
		}
	}
	return nil
}

// left is what a child may still take at now.
func (r Run) left(now time.Time) Budgets {
	b := Budgets{
		Steps: r.Budgets.Steps - r.Spent.Steps, Bytes: r.Budgets.Bytes - r.Spent.Bytes,
		Seconds: int64(r.ExpiresAt.Sub(now) / time.Second),
	}
	for stake, limit := range r.Budgets.Calls {
		if b.Calls == nil {
			b.Calls = map[string]int64{}
		}
		b.Calls[stake] = max(0, limit-r.Spent.Calls[stake])
	}
	return b
}

// narrow fills what is not stated with the default or, if that is less, with what is left; what is stated must fit.
func narrow(b, left Budgets, child bool) (Budgets, error) {
	out := b
	out.Calls = maps.Clone(b.Calls)
	for _, f := range []struct {
		name             string
		field            *int64
		left, byDefault_ int64
	}{
		{"steps", &out.Steps, left.Steps, Defaults.Steps},
		{"seconds", &out.Seconds, left.Seconds, Defaults.Seconds},
		{"bytes", &out.Bytes, left.Bytes, Defaults.Bytes},
	} {
		switch {
		case *f.field < 0:
			return b, badBudget("the budget of %s is negative", f.name)
		case *f.field == 0:
			*f.field = min(f.byDefault_, f.left)
		case *f.field > f.left && child:
			return b, wider(f.name, f.left)
		case *f.field > f.left:
			return b, badBudget("the budget of %s is more than %d", f.name, f.left)
		}
		if *f.field <= 0 {
			return b, wider(f.name, f.left)
		}
	}
	if len(out.Calls) > 64 {
		return b, badBudget("more than 64 stakes have a budget")
	}
	for stake, n := range out.Calls {
		if n < 0 || stake == "" || strings.ContainsRune(stake, ':') {
			return b, badBudget("the budget of %q calls is negative or names no stakes", stake)
		}
		if limit, ok := left.Calls[stake]; ok && n > limit {
			return b, wider("calls of "+stake, limit)
		}
	}
	for stake, limit := range left.Calls {
		if _, stated := out.Calls[stake]; !stated {
			if out.Calls == nil {
				out.Calls = map[string]int64{}
			}
			out.Calls[stake] = limit
		}
	}
	return out, nil
}

func badBudget(format string, args ...any) error {
	return fault.New(fault.Invalid, "run.Open", "bad_budget", format, args...).
		WithFix("leave the budget out for the default, or state a smaller one")
}

func wider(what string, left int64) error {
	return fault.New(fault.Invalid, "run.Open", "wider_than_parent", "the parent run has %d of its %s left", left, what).
		WithFix("ask for no more than that")
}
