// SPDX-License-Identifier: Apache-2.0

package run_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/label"
	"chaperone/internal/run"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func order() run.Order {
	return run.Order{
		Agent: id.NewAgent(t0), AgentName: "mailer", AgentType: "assistant",
		Opener: run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "k1"}, Purpose: "pay the invoice",
	}
}

func open(t *testing.T, o run.Order) run.Run {
	t.Helper()
	r, err := run.Open(o, t0)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOpenFillsDefaults(t *testing.T) {
	r := open(t, order())
	if r.Budgets.Steps != 200 || r.Budgets.Seconds != 3600 || r.Budgets.Bytes != 64<<20 {
		t.Errorf("budgets = %+v", r.Budgets)
	}
	if !r.ExpiresAt.Equal(t0.Add(time.Hour)) || r.State != run.Active || r.Version != 1 || !r.Clears() {
		t.Errorf("run = %+v", r)
	}
}

func TestOpenRefuses(t *testing.T) {
	parent := open(t, order())
	parent.Spent.Steps = 190
	ended := parent
	ended.State = run.Ended
	deep := parent
	deep.Depth = run.MaxDepth
	for name, c := range map[string]struct {
		change func(*run.Order)
		code   string
	}{
		"long purpose":    {func(o *run.Order) { o.Purpose = strings.Repeat("x", run.MaxPurpose+1) }, "bad_purpose"},
		"broken purpose":  {func(o *run.Order) { o.Purpose = "\xff" }, "bad_purpose"},
		"no opener":       {func(o *run.Order) { o.Opener = run.Opener{} }, "bad_opener"},
		"keyless opener":  {func(o *run.Order) { o.Opener.JKT = "" }, "bad_opener"},
		"bare tool":       {func(o *run.Order) { o.Plan = []run.PlanStep{{Tool: "send"}} }, "bad_plan"},
		"tool twice":      {func(o *run.Order) { o.Plan = []run.PlanStep{{Tool: "a/b"}, {Tool: "a/b"}} }, "bad_plan"},
		"negative max":    {func(o *run.Order) { o.Plan = []run.PlanStep{{Tool: "a/b", Max: -1}} }, "bad_plan"},
		"negative budget": {func(o *run.Order) { o.Budgets.Steps = -1 }, "bad_budget"},
		"huge budget":     {func(o *run.Order) { o.Budgets.Seconds = run.MaxSeconds + 1 }, "bad_budget"},
		"pseudo stake":    {func(o *run.Order) { o.Budgets.Calls = map[string]int64{"plan:a/b": 9} }, "bad_budget"},
		"wider child":     {func(o *run.Order) { o.Parent = &parent; o.Budgets.Steps = 11 }, "wider_than_parent"},
		"ended parent":    {func(o *run.Order) { o.Parent = &ended }, "run_ended"},
		"too deep":        {func(o *run.Order) { o.Parent = &deep }, "too_deep"},
	} {
		t.Run(name, func(t *testing.T) {
			o := order()
			c.change(&o)
			if _, err := run.Open(o, t0); fault.CodeOf(err) != c.code {
				t.Errorf("err = %v, want %s", err, c.code)
			}
		})
	}
}

func TestOrchestratorForItselfIsTheAgent(t *testing.T) {
	o := order()
	o.Opener = run.Opener{Kind: run.ByOrchestrator, Name: "mailer", JKT: "k"}
	if r := open(t, o); r.Opener.Kind != run.ByAgent || r.Clears() {
		t.Errorf("opener = %+v", r.Opener)
	}
}

func TestOwnKeyStartsWithCarried(t *testing.T) {
	o := order()
	o.Opener.Kind = run.ByAgent
	o.Start = label.Label{Integrity: label.Untrusted, Sources: []string{"office/read_mail"}}
	r := open(t, o)
	if !r.Label.IsUntrusted() || r.Clears() {
		t.Errorf("run = %+v", r)
	}
}

func TestEffective(t *testing.T) {
	bad := label.Label{Integrity: label.Untrusted, Sources: []string{"x/y"}}
	own := open(t, order())
	if run.Effective(own, nil, bad).IsUntrusted() {
		t.Error("a run opened by a person must not take what the instance carries")
	}
	if !run.Effective(own, []run.Run{{}, {Label: bad}}, label.Label{}).IsUntrusted() {
		t.Error("an ancestor's label is lost")
	}
	own.Opener.Kind = run.ByAgent
	if !run.Effective(own, nil, bad).IsUntrusted() {
		t.Error("a run opened by the agent's key must take what the instance carries")
	}
}

func TestCheck(t *testing.T) {
	r := open(t, order())
	for state, want := range map[run.State]string{run.Ended: "run_ended", run.Suspended: "run_suspended", run.Expired: "run_expired", "": "run_ended"} {
		r.State = state
		if got := fault.CodeOf(r.Check(t0)); got != want {
			t.Errorf("%q: %s, want %s", state, got, want)
		}
	}
	r.State = run.Active
	if err := r.Check(t0); err != nil {
		t.Error(err)
	}
	if got := fault.CodeOf(r.Check(r.ExpiresAt)); got != "run_expired" {
		t.Errorf("at the end: %s", got)
	}
}

func TestContinue(t *testing.T) {
	r := open(t, order())
	one, two := id.NewInstance(t0), id.NewInstance(t0)
	if _, err := r.Continue(id.NewAgent(t0), one); fault.CodeOf(err) != "run_of_another_agent" {
		t.Error(err)
	}
	r, err := r.Continue(r.Agent, one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Continue(r.Agent, two); fault.CodeOf(err) != "run_of_another_instance" {
		t.Error(err)
	}
}

func TestPlan(t *testing.T) {
	o := order()
	o.Plan = []run.PlanStep{{Tool: "office/send", Max: 1}, {Tool: "office/list"}}
	r := open(t, o)
	if !r.InPlan("office/send") || !r.InPlan("office/list") || r.InPlan("office/pay") {
		t.Error("the plan is misread")
	}
	spent, err := r.Spend(run.Spend{Steps: 1, Stakes: []string{run.PlanKey("office/send")}})
	if err != nil {
		t.Fatal(err)
	}
	r.Spent = spent
	if r.InPlan("office/send") {
		t.Error("a used-up step is still in the plan")
	}
	r.Spent, r.Opener.Kind = run.Spent{}, run.ByAgent
	if r.InPlan("office/send") {
		t.Error("a plan that the agent stated clears")
	}
}

func TestSpend(t *testing.T) {
	o := order()
	o.Budgets = run.Budgets{Steps: 2, Bytes: 100, Calls: map[string]int64{"money": 1}}
	r := open(t, o)
	for name, c := range map[string]struct {
		s    run.Spend
		code string
	}{
		"steps": {run.Spend{Steps: 3}, "budget_steps"},
		"bytes": {run.Spend{Bytes: 101}, "budget_bytes"},
		"calls": {run.Spend{Stakes: []string{"money", "money"}}, "budget_calls"},
	} {
		if _, err := r.Spend(c.s); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s, err := r.Spend(run.Spend{Steps: 2, Bytes: 100, Stakes: []string{"money", "access"}}); err != nil || s.Calls["access"] != 1 {
		t.Errorf("%+v %v", s, err)
	}
}

func TestMove(t *testing.T) {
	r := open(t, order())
	for _, path := range [][]run.State{{run.Ended, run.Active}, {run.Expired, run.Ended}, {run.Suspended, run.Suspended}, {run.Active}} {
		x, err := r, error(nil)
		for _, s := range path {
			x, err = x.Move(s, "", t0)
		}
		if fault.CodeOf(err) != "illegal_transition" {
			t.Errorf("%v: %v", path, err)
		}
	}
	r, err := r.Move(run.Ended, "done", t0)
	if err != nil || r.EndReason != "done" || r.EndedAt.IsZero() {
		t.Errorf("%+v %v", r, err)
	}
}

// Authority only narrows: whatever a child asks, it never has more than its parent had left.
func TestChildIsNeverWider(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 300)
		parent, err := run.Open(run.Order{
			Agent: id.NewAgent(t0), AgentName: "a", Opener: run.Opener{Kind: run.ByPerson, Name: "p", JKT: "k"},
			Budgets: run.Budgets{Steps: n.Draw(t, "steps"), Seconds: n.Draw(t, "seconds"), Bytes: n.Draw(t, "bytes"), Calls: map[string]int64{"money": n.Draw(t, "calls")}},
		}, t0)
		if err != nil {
			t.Fatal(err)
		}
		if parent.Spent, err = parent.Spend(run.Spend{Steps: n.Draw(t, "spent"), Bytes: n.Draw(t, "spentBytes"), Stakes: []string{"money"}}); err != nil {
			t.Skip()
		}
		parent.Label = label.Label{Level: rapid.SampledFrom([]label.Level{"", label.Internal, label.Secret}).Draw(t, "level")}
		now := t0.Add(time.Duration(n.Draw(t, "later")) * time.Second)
		child, err := run.Open(run.Order{
			Agent: id.NewAgent(t0), AgentName: "b", Opener: run.Opener{Kind: run.ByAgent, Name: "b", JKT: "k"}, Parent: &parent,
			Budgets: run.Budgets{Steps: n.Draw(t, "cs"), Seconds: n.Draw(t, "csec"), Bytes: n.Draw(t, "cb"), Calls: map[string]int64{"money": n.Draw(t, "cc")}},
		}, now)
		if err != nil {
			return
		}
		if child.ExpiresAt.After(parent.ExpiresAt) || child.Budgets.Steps > parent.Budgets.Steps-parent.Spent.Steps ||
			child.Budgets.Bytes > parent.Budgets.Bytes-parent.Spent.Bytes ||
			child.Budgets.Calls["money"] > parent.Budgets.Calls["money"]-parent.Spent.Calls["money"] {
			t.Errorf("child %+v is wider than parent %+v spent %+v", child.Budgets, parent.Budgets, parent.Spent)
		}
		if !child.Label.Covers(parent.Label) {
			t.Error("the child lost the parent's label")
		}
	})
}
