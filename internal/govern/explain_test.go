// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"strings"
	"testing"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/policy"
)

// TestExplainCalls: the decision of a call is found in whichever event it lies, and what would turn it is told in words.
func TestExplainCalls(t *testing.T) {
	h := open(t)
	set, _, err := h.rules.Current()
	if err != nil {
		t.Fatal(err)
	}
	rule := func(name string) audit.Rule {
		info, ok := set.Rule(name)
		if !ok {
			return audit.Rule{ID: name, Effect: "forbid"}
		}
		return audit.Rule{ID: name, Reason: info.Reason, Effect: string(info.Effect), Digest: info.Digest}
	}
	missing := &audit.Missing{Rules: []audit.Rule{rule("irreversible-needs-approval")}, Require: []audit.Requirement{{Group: "finance", Number: 2}}, Tier: "confirm"}
	req := policy.Request{Principal: policy.Principal{Kind: "Agent", Name: "clerk-1"}, Flow: policy.FlowFacts{Uncleared: []string{"iban"}}}
	rows := []struct {
		name string
		typ  string
		data any
		lift string
		gone bool // the active bundle has no such rule
	}{
		{name: "forbidden, in an event of its own", typ: audit.CallDecided, data: audit.Decided{Effect: "forbid", Rules: []audit.Rule{rule("untrusted-sink")}}, lift: "(iban); no approval lifts it"},
		{name: "forbidden, in the call's event", typ: audit.CallRefused, data: audit.Call{Outcome: audit.OutcomeDenied, Decided: &audit.Decided{Effect: "forbid", Rules: []audit.Rule{rule("default-deny")}}},
			lift: "chaperone type put"},
		{name: "waits for people", typ: audit.CallDecided, data: audit.Decided{Effect: "forbid", Rules: []audit.Rule{rule("irreversible-needs-approval")}, Missing: missing}, lift: "2 of finance"},
		{name: "evaluation failed", typ: audit.CallDecided, data: audit.Decided{Effect: "forbid", Rules: []audit.Rule{rule(policy.RuleError)}, Errors: []string{"overflow"}}, lift: "overflow"},
		{name: "unknown tool", typ: audit.CallDecided, data: audit.Decided{Effect: "forbid", Rules: []audit.Rule{rule("unknown-tool")}}, lift: "chaperone catalog apply"},
		{name: "a rule that is gone", typ: audit.CallDecided, data: audit.Decided{Effect: "forbid", Rules: []audit.Rule{rule("house-rule")}}, lift: "house-rule", gone: true},
		{name: "permitted", typ: audit.CallDecided, data: audit.Decided{Effect: "permit", Rules: []audit.Rule{rule("read-by-type")}}},
		{name: "without a decision of its own", typ: audit.CallRefused, data: audit.Call{Outcome: audit.OutcomeRefused, Code: "arguments_schema", Rules: []string{"read-by-type"}}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			which := id.NewDecision(h.now())
			stream, _ := audit.StreamOf(r.typ)
			body, err := canon.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			ev := audit.Event{ID: id.NewEvent(h.now()), Stream: stream, Type: r.typ, At: h.now(), Actor: audit.Actor{Kind: audit.ActorAgent, Name: "clerk-1"},
				Decision: which, Data: r.data, Parts: map[string][]byte{"request": body}}
			if err := h.road.append(t.Context(), ev, nil); err != nil {
				t.Fatal(err)
			}
			e, err := h.road.Explain(t.Context(), h.as("olga"), which)
			if err != nil {
				t.Fatal(err)
			}
			if len(e.Reasons) != 1 || e.Request == nil || e.Reasons[0].Changed != r.gone {
				t.Fatalf("%+v", e)
			}
			if words := strings.Join(e.Lift, "\n"); !strings.Contains(words, r.lift) || r.lift == "" && words != "" && e.Decided.Effect == "permit" {
				t.Fatalf("%q does not say %q", words, r.lift)
			}
		})
	}
	_, err = h.road.Explain(t.Context(), h.as("olga"), id.NewDecision(h.now()))
	wantCode(t, err, fault.NotFound, "decision_unknown")
}
