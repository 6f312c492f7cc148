// SPDX-License-Identifier: Apache-2.0

package run

import (
	"strings"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/label"
)

// Check returns nil if the run may act at now, else Suspended with the code run_ended, run_expired or run_suspended. A run
// past its end counts as expired before anybody has written so.
func (r Run) Check(now time.Time) error {
	switch {
	case r.State == Active && now.Before(r.ExpiresAt):
		return nil
	case r.State == Active, r.State == Expired:
		return fault.New(fault.Suspended, "run.Check", "run_expired", "the run has expired").WithFix("open a new run")
	case r.State == Suspended:
		return fault.New(fault.Suspended, "run.Check", "run_suspended", "the run is suspended").
			WithFix("ask an operator to look at it")
	}
	return fault.New(fault.Suspended, "run.Check", "run_ended", "the run has ended").WithFix("open a new run")
}

// Move returns the run in another state. Legal: active <-> suspended, and either -> ended | expired, which are final.
// Error: Conflict, "illegal_transition".
func (r Run) Move(to State, reason string, now time.Time) (Run, error) {
	legal := (r.State == Active && (to == Suspended || to == Ended || to == Expired)) ||
		(r.State == Suspended && (to == Active || to == Ended || to == Expired))
	if !legal {
		return r, fault.New(fault.Conflict, "run.Move", "illegal_transition", "a run that is %s cannot become %s", r.State, to)
	}
	r.State = to
	if to == Ended || to == Expired {
		r.EndReason, r.EndedAt = reason, now.UTC()
	}
	return r, nil
}

// Continue binds a run that somebody opened for an agent to the instance that takes it up; a run that has an instance is
// continued by that one alone. Errors: Denied, "run_of_another_agent" or "run_of_another_instance".
func (r Run) Continue(agent id.Agent, instance id.Instance) (Run, error) {
	if r.Agent != agent {
		return r, fault.New(fault.Denied, "run.Continue", "run_of_another_agent", "the run belongs to another agent")
	}
	if !r.Instance.IsZero() && r.Instance != instance {
		return r, fault.New(fault.Denied, "run.Continue", "run_of_another_instance", "the run was taken up by another instance").
			WithFix("open a run of its own for this instance")
	}
	r.Instance = instance
	return r, nil
}

// Effective is the label a step is judged by: the run's own joined with every ancestor's, and with what the instance
// carries when the agent's own key opened the run (invariant 5).
func Effective(r Run, ancestors []Run, carried label.Label) label.Label {
	out := r.Label.Join(label.Label{})
	for _, a := range ancestors {
		out = out.Join(a.Label)
	}
	if r.Opener.Kind == ByAgent {
		out = out.Join(carried)
	}
	return out
}

// PlanKey is the name under which the uses of a plan step are counted in Spent.Calls. It holds a colon, which no stake's
// name does, and no budget is set for it: PlanAllows reads it.
func PlanKey(tool string) string { return "plan:" + tool }

// Planned returns the plan's step for a tool ("server/tool").
func (r Run) Planned(tool string) (PlanStep, bool) {
	for _, s := range r.Plan {
		if s.Tool == tool {
			return s, true
		}
	}
	return PlanStep{}, false
}

// InPlan reports whether a plan that clears names the tool and has a use of it left.
func (r Run) InPlan(tool string) bool {
	s, ok := r.Planned(tool)
	return ok && r.Clears() && (s.Max == 0 || r.Spent.Calls[PlanKey(tool)] < s.Max)
}

// Suffices reports what a spend would overdraw: nil, or Limited with the code budget_steps, budget_bytes or budget_calls.
func (r Run) Suffices(s Spend) error {
	short := func(code, what string) error {
		return fault.New(fault.Limited, "run.Spend", code, "the run's budget of %s is used up", what).
			WithFix("open a run with a larger budget")
	}
	if s.Steps > r.Budgets.Steps-r.Spent.Steps { // in this order a huge spend cannot wrap around
		return short("budget_steps", "steps")
	}
	if s.Bytes > r.Budgets.Bytes-r.Spent.Bytes {
		return short("budget_bytes", "bytes")
	}
	n := map[string]int64{}
	for _, stake := range s.Stakes {
		n[stake]++
		if limit, ok := r.Budgets.Calls[stake]; ok && r.Spent.Calls[stake]+n[stake] > limit {
			return short("budget_calls", "calls with the stakes "+strings.ReplaceAll(stake, "_", " "))
		}
	}
	return nil
}

// Spend returns the counters after a spend. It does not move the version.
func (r Run) Spend(s Spend) (Spent, error) {
	if err := r.Suffices(s); err != nil {
		return r.Spent, err
	}
	out := Spent{Steps: r.Spent.Steps + s.Steps, Bytes: r.Spent.Bytes + s.Bytes}
	if len(r.Spent.Calls)+len(s.Stakes) > 0 {
		out.Calls = make(map[string]int64, len(r.Spent.Calls)+len(s.Stakes))
		for k, v := range r.Spent.Calls {
			out.Calls[k] = v
		}
		for _, k := range s.Stakes {
			out.Calls[k]++
		}
	}
	return out, nil
}
