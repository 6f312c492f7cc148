// SPDX-License-Identifier: Apache-2.0

package policy

import "testing"

// Rows of the enforcement matrix that this room holds. testdata/mutants removes the guard of each and expects its line here.

// A forbid that fails must not be a forbid that is silent: without it, the read below is permitted.
func TestMatrix_PolicyEvaluationError(t *testing.T) {
	tools := append(officeTools(t), Tool{Server: "office", Name: "sum", Groups: []string{"read"}, InputSchema: []byte(`{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}`)})
	s := mustCompile(t, map[string]string{"a.cedar": `@id("reads") permit(principal is Chaperone::Agent, action in Chaperone::Action::"read", resource);
@id("overflows") forbid(principal, action == Chaperone::Action::"office/sum", resource) when { context.arguments.n + 9223372036854775807 < 0 };`}, tools)
	r := payment()
	r.Action, r.Resource, r.Arguments = Action{Name: "office/sum"}, Resource{}, []byte(`{"n":0}`)
	if d := s.Decide(r); d.Effect != Permit || names(d.Reasons) != "reads" {
		t.Fatalf("the rules work: %+v", d)
	}
	r.Arguments = []byte(`{"n":1}`)
	if d := s.Decide(r); d.Effect != Forbid || names(d.Reasons) != RuleError || len(d.Errors) == 0 {
		t.Errorf("a rule failed and the answer is %s by %q, want %s by %q", d.Effect, names(d.Reasons), Forbid, RuleError)
	}
}

// A forbid whose has is misspelt never fires, so a bundle with it must not come into force.
func TestMatrix_MisspeltHas(t *testing.T) {
	wantProblem(t, `@id("no-large-payments") forbid(principal is Chaperone::Agent, action == Chaperone::Action::"office/payment_send", resource)
		when { context.arguments has amout && context.arguments.amout.greaterThan(decimal("100.0")) };`, "has_never_true")
}

// A rule without a name cannot be named on the record, nor be lifted. To leave it out in silence would be worse still.
func TestMatrix_RuleWithoutID(t *testing.T) {
	const named = `@id("effects") permit(principal is Chaperone::Agent, action in Chaperone::Action::"effects", resource); `
	wantProblem(t, named+`forbid(principal is Chaperone::Agent, action in Chaperone::Action::"effects", resource);`, "rule_without_id")
	wantProblem(t, named+`@id("") forbid(principal is Chaperone::Agent, action in Chaperone::Action::"effects", resource);`, "rule_without_id")
}

func wantProblem(t *testing.T, rules, code string) {
	t.Helper()
	s, problems := Compile(map[string]string{"a.cedar": rules}, officeTools(t))
	if s != nil || len(problems) != 1 || problems[0].Code != code {
		t.Errorf("in force: %v, problems: %+v, want the one problem %s", s != nil, problems, code)
	}
}
