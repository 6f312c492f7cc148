// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func names(rs []Reason) string { return strings.Join(ruleIDs(rs), " ") }

func payment() Request {
	return Request{
		Principal: Principal{Kind: "Agent", Name: "payer", Type: "clerk", AgentKind: "agent", Owner: "ana"},
		Action:    Action{Name: "office/payment_send"}, Resource: Resource{Server: "office", Tool: "payment_send"},
		Run: RunFacts{ID: "run_x", Opener: "person", Clears: true, InTypeWrite: true}, Flow: FlowFacts{Sinks: 1},
		Arguments: []byte(`{"iban":"DE89370400440532013000","amount":900.5}`), Grant: "call", Credential: "dpop", Network: "10.0.0.7",
		Time: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC),
	}
}

// Rules lifted together ask the union: per group the most, the shortest life.
func TestMissingIsTheUnion(t *testing.T) {
	files := map[string]string{"a.cedar": `
@id("p") permit(principal is Chaperone::Agent, action in Chaperone::Action::"effects", resource);
@id("big") @require("finance:2,security:1") @expires("10m") @reason("much money")
forbid(principal, action == Chaperone::Action::"office/payment_send", resource) when { context.arguments.amount.greaterThan(decimal("500.0")) }
unless { context has approval && context.approval.satisfies.contains("big") };
@id("any") @require("finance:1,legal:1") @expires("2h")
forbid(principal, action in Chaperone::Action::"stakes:money", resource)
unless { context has approval && context.approval.satisfies.contains("any") };`}
	s := mustCompile(t, files, officeTools(t))
	req := payment()
	d := s.Decide(req)
	if d.Effect != Forbid || d.Missing == nil {
		t.Fatalf("%+v", d)
	}
	if diff := cmp.Diff([]Requirement{{"finance", 2}, {"legal", 1}, {"security", 1}}, d.Missing.Require); diff != "" {
		t.Error(diff)
	}
	if names(d.Missing.Rules) != "any big" || d.Missing.Tier != "confirm" || d.Missing.Expires != 10*time.Minute {
		t.Errorf("%+v", d.Missing)
	}
	if big, _ := s.Rule("big"); d.Missing.Rules[1].Digest != big.Digest || d.Missing.Rules[1].Text != "much money" {
		t.Errorf("%+v", d.Missing.Rules[1])
	}
	req.Approval = &ApprovalFacts{ID: "apr_1", Satisfies: []string{"big"}}
	if d := s.Decide(req); d.Effect != Forbid || d.Missing == nil || names(d.Missing.Rules) != "any big" {
		t.Errorf("half an approval: %+v", d)
	}
	req.Approval.Satisfies = []string{"any", "big", "something-else"}
	if d := s.Decide(req); d.Effect != Permit || names(d.Lifted) != "any big" || names(d.Reasons) != "p" || d.Missing != nil {
		t.Errorf("approved: %+v", d)
	}
	req.Arguments = []byte(`{"iban":"DE89370400440532013000","amount":500}`)
	req.Approval = nil
	if d := s.Decide(req); d.Missing == nil || names(d.Missing.Rules) != "any" || d.Missing.Expires != 2*time.Hour {
		t.Errorf("small: %+v", d)
	}
}

func TestErrorsDeny(t *testing.T) {
	tools := append(officeTools(t), Tool{Server: "office", Name: "sum", Groups: []string{"read"},
		InputSchema: []byte(`{"type":"object","properties":{"n":{"type":"integer"},"s":{"type":"array","items":{"type":"string"}}},"required":["n"]}`)})
	base := `@id("p") permit(principal is Chaperone::Agent, action in Chaperone::Action::"read", resource);`
	sum := func(args string) Request {
		r := payment()
		r.Action, r.Resource, r.Arguments = Action{Name: "office/sum"}, Resource{}, []byte(args)
		return r
	}
	for _, c := range []struct {
		name, rule string
		req        Request
	}{
		{"a permit overflows", `@id("x") permit(principal, action == Chaperone::Action::"office/sum", resource) when { context.arguments.n + 9223372036854775807 > 0 };`, sum(`{"n":1}`)},
		{"a forbid overflows", `@id("x") forbid(principal, action == Chaperone::Action::"office/sum", resource) when { context.arguments.n + 9223372036854775807 > 0 };`, sum(`{"n":1}`)},
		{"a forbid reads a required argument that is missing", `@id("x") forbid(principal, action == Chaperone::Action::"office/sum", resource) when { context.arguments.n > 5 };`, sum(`{}`)},
		{"a forbid reads a required argument that has no Cedar value", `@id("x") forbid(principal, action == Chaperone::Action::"office/sum", resource) when { context.arguments.n > 5 };`, sum(`{"n":99999999999999999999}`)},
		{"only behind an approval", `@id("x") @require("a:1") forbid(principal, action == Chaperone::Action::"office/sum", resource) unless { context has approval && context.approval.satisfies.contains("x") };
@id("y") @require("a:1") forbid(principal, action == Chaperone::Action::"office/sum", resource) when { context.arguments.n + 9223372036854775807 > 0 } unless { context has approval && context.approval.satisfies.contains("y") };`, sum(`{"n":1}`)},
	} {
		s := mustCompile(t, map[string]string{"a.cedar": base + c.rule}, tools)
		if d := s.Decide(c.req); d.Effect != Forbid || names(d.Reasons) != RuleError || len(d.Errors) == 0 || d.Missing != nil {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
	s := mustCompile(t, map[string]string{"a.cedar": base + `@id("q") permit(principal, action, resource);`}, tools)
	for name, change := range map[string]func(*Request){
		"no principal":           func(r *Request) { r.Principal = Principal{} },
		"a principal of no kind": func(r *Request) { r.Principal.Kind = "Robot" },
		"no name":                func(r *Request) { r.Principal.Name = "" },
		"arguments no JSON":      func(r *Request) { r.Arguments = []byte(`{`) },
		"repeated argument":      func(r *Request) { r.Arguments = []byte(`{"n":1,"n":2}`) },
		"bad address":            func(r *Request) { r.Network = "somewhere" },
		"another catalogue":      func(r *Request) { r.Action.Groups = []string{"read", "stakes:money"} },
		"another server":         func(r *Request) { r.Resource.Server = "other" },
		"another tool":           func(r *Request) { r.Resource.Tool = "payment_send" },
		"a thing as resource":    func(r *Request) { r.Resource.Kind = "run" },
	} {
		r := sum(`{"n":1}`)
		change(&r)
		if d := s.Decide(r); d.Effect != Forbid || names(d.Reasons) != RuleError || len(d.Errors) == 0 {
			t.Errorf("%s: %+v", name, d)
		}
		if name != "arguments no JSON" && name != "repeated argument" && s.CouldPermit(r) {
			t.Errorf("%s: listed", name)
		}
	}
	// A broken compiled set is an error too, not a crash.
	broken := &Set{world: &world{actions: map[string]*action{"office/sum": nil, "x": {agent: []*rule{nil}}}}}
	if d := broken.Decide(Request{Action: Action{Name: "x"}, Principal: Principal{Kind: "Agent", Name: "a"}}); d.Effect != Forbid || names(d.Reasons) != RuleError {
		t.Errorf("panic: %+v", d)
	}
	if broken.CouldPermit(Request{Action: Action{Name: "x"}, Principal: Principal{Kind: "Agent", Name: "a"}}) {
		t.Error("panic: listed")
	}
}

// An upstream that names a tool like a method, or two things alike, gets nothing by it.
func TestNamesOfToolsCannotDeceive(t *testing.T) {
	tools := []Tool{
		{Server: "office", Name: "method:ping"}, {Server: "office", Name: "prompt:p"}, {Server: "office", Name: ""},
		{Server: "office", Name: "twice", Groups: []string{"read"}}, {Server: "office", Name: "twice"},
		{Server: "office", Name: "u", Kind: KindResource, Groups: []string{"read"}}, {Server: "office", Name: "u", Kind: KindTemplate, Groups: []string{"read"}},
		{Server: "office", Name: "a#b", Groups: []string{"read"}}, {Server: "office", Name: "a", Groups: []string{"read"}},
	}
	s := mustCompile(t, map[string]string{"a.cedar": `@id("all") permit(principal, action, resource) unless { action in Chaperone::Action::"people" };
@id("one") forbid(principal, action, resource is Chaperone::Object) when { resource == Chaperone::Object::"office/a#b" };`}, tools)
	ask := func(name string, groups ...string) Decision {
		return s.Decide(Request{Principal: Principal{Kind: "Agent", Name: "a"}, Action: Action{Name: name, Groups: groups}})
	}
	for _, name := range []string{"office/prompt:p", "office/", "office/twice", "office/resource:u", "office/read", "read", "people", "effects", "office"} {
		if d := ask(name); d.Effect != Forbid || names(d.Reasons) != RuleUnknownTool {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if d := ask("office/a#b"); d.Effect != Permit {
		t.Errorf("a tool is taken for the object of another: %+v", d)
	}
	r := Request{Principal: Principal{Kind: "Agent", Name: "a"}, Action: Action{Name: "office/a"}, Resource: Resource{ObjectID: "b"}}
	if d := s.Decide(r); d.Effect != Forbid || names(d.Reasons) != "one" {
		t.Errorf("the object is not met: %+v", d)
	}
	if !s.CouldPermit(r) {
		t.Error("a tool of which one object is forbidden is hidden")
	}
	if ActionName("s", KindPrompt, "p") != "s/prompt:p" || ActionName("s", KindTemplate, "t") != "s/resource:t" || ActionName("s", KindMethod, "m") != "s/method:m" || ActionName("s", "", "t") != "s/t" {
		t.Error("names of actions")
	}
}

func TestGroupsOf(t *testing.T) {
	for _, c := range []struct {
		effect string
		stakes []string
		sinks  bool
		want   string
	}{
		{"read", nil, false, "read"}, {"read", nil, true, "read effects outward"}, {"write", []string{"money"}, false, "write effects stakes:money"},
		{"irreversible", nil, true, "irreversible effects outward"}, {"harmless", nil, false, "irreversible effects"}, {"", nil, false, "irreversible effects"},
	} {
		if got := strings.Join(GroupsOf(c.effect, c.stakes, c.sinks), " "); got != c.want {
			t.Errorf("%v: %s", c, got)
		}
	}
}

// Rules for the random bundles, on the office's tools. Each has its id in it once, as %[1]s.
func ruleTexts() []string {
	lift := ` unless { context has approval && context.approval.satisfies.contains("%[1]s") };`
	return []string{
		`@id("%[1]s") permit(principal is Chaperone::Agent, action in Chaperone::Action::"read", resource) when { context.run.in_type_reads };`,
		`@id("%[1]s") permit(principal, action in Chaperone::Action::"effects", resource);`,
		`@id("%[1]s") permit(principal in Chaperone::AgentType::"clerk", action, resource is Chaperone::Object);`,
		`@id("%[1]s") permit(principal, action == Chaperone::Action::"office/payment_send", resource) when { context.arguments.amount.lessThan(decimal("100.0")) };`,
		`@id("%[1]s") permit(principal == Chaperone::Agent::"payer", action, resource in Chaperone::Server::"office") unless { context.flow.untrusted };`,
		`@id("%[1]s") permit(principal, action, resource is Chaperone::Object) when { resource.object_id == "7" };`,
		`@id("%[1]s") permit(principal, action, resource is Chaperone::Object) when { resource == Chaperone::Object::"office/mail_read#7" };`,
		`@id("%[1]s") permit(principal, action in [Chaperone::Action::"write", Chaperone::Action::"protocol"], resource) when { context.grant == "plan" || context.run.steps < 3 };`,
		`@id("%[1]s") permit(principal is Chaperone::Person in Chaperone::Group::"operator", action in Chaperone::Action::"people", resource);`,
		`@id("%[1]s") permit(principal, action == Chaperone::Action::"run.open", resource) when { resource has owner && resource.owner == principal.name };`,
		`@id("%[1]s") forbid(principal is Chaperone::Agent, action in Chaperone::Action::"outward", resource) when { context.flow.untrusted && context.flow.has_uncleared };`,
		`@id("%[1]s") forbid(principal is Chaperone::Agent, action in Chaperone::Action::"effects", resource) unless { context.arguments_unmapped.isEmpty() };`,
		`@id("%[1]s") forbid(principal, action == Chaperone::Action::"office/note_write", resource) when { context.arguments has tags && context.arguments.tags.contains("secret") };`,
		`@id("%[1]s") forbid(principal, action in Chaperone::Action::"read", resource) when { resource == Chaperone::Object::"office/mail_read#9" };`,
		`@id("%[1]s") forbid(principal, action in Chaperone::Action::"effects", resource) when { !context.network.isInRange(ip("10.0.0.0/8")) };`,
		`@id("%[1]s") forbid(principal, action in Chaperone::Action::"effects", resource) when { context has risk && context.risk.score > 50 };`,
		`@id("%[1]s") forbid(principal, action == Chaperone::Action::"office/payment_send", resource) when { context.arguments.iban like "GB*" || context.arguments has count && context.arguments.count + 9223372036854775807 > 0 };`,
		`@id("%[1]s") forbid(principal, action == Chaperone::Action::"office/mail_read", resource) when { context.arguments.id == "13" };`,
		`@id("%[1]s") @require("approver:1") forbid(principal is Chaperone::Agent, action in Chaperone::Action::"irreversible", resource)` + lift,
		`@id("%[1]s") @require("finance:2,approver:1") @expires("5m") forbid(principal, action in Chaperone::Action::"stakes:money", resource) when { context.flow.sinks > 0 }` + lift,
		`@id("%[1]s") @require("security:1") @expires("30m") forbid(principal, action in Chaperone::Action::"effects", resource) when { context.flow.untrusted }` + lift,
		`@id("%[1]s") @require("security:1") forbid(principal, action == Chaperone::Action::"office/payment_send", resource) when { context.arguments.amount.greaterThan(decimal("50.0")) }` + lift,
	}
}

func drawBundle(t *rapid.T) map[string]string {
	texts := ruleTexts()
	files := map[string]string{"base.cedar": `@id("zz-base") permit(principal is Chaperone::Agent, action == Chaperone::Action::"office/table_read", resource);`}
	for i, n := range rapid.SliceOfN(rapid.IntRange(0, len(texts)-1), 0, 12).Draw(t, "rules") {
		files[fmt.Sprintf("f%d.cedar", rapid.IntRange(0, 3).Draw(t, "file"))] += fmt.Sprintf(texts[n], fmt.Sprintf("r%d-%d", n, i)) + "\n"
	}
	return files
}

func drawRequest(t *rapid.T) Request {
	b := rapid.Bool()
	pick := func(what string, of ...string) string { return rapid.SampledFrom(of).Draw(t, what) }
	r := Request{
		Principal: Principal{Kind: pick("kind", "Agent", "Agent", "Agent", "Agent", "Person"), Name: pick("name", "payer", "mailer", "ana"), Type: pick("type", "clerk", "other"), Owner: "ana"},
		Action: Action{Name: pick("action", "office/mail_read", "office/mail_read", "office/payment_send", "office/payment_send", "office/payment_send", "office/note_write", "office/note_write", "office/chat_post",
			"office/web_fetch", "office/table_read", "office/method:ping", "office/resource:file:///handbook.md", "office/none", "run.open", "policy.apply")},
		Run:     RunFacts{ID: "run_1", InPlan: b.Draw(t, "plan"), InTypeReads: b.Draw(t, "reads"), InTypeWrite: b.Draw(t, "writes"), Steps: rapid.Int64Range(0, 5).Draw(t, "steps")},
		Flow:    FlowFacts{Untrusted: b.Draw(t, "untrusted"), Sinks: rapid.Int64Range(0, 2).Draw(t, "sinks"), UnknownTool: rapid.IntRange(0, 9).Draw(t, "unknown") == 0},
		Grant:   pick("grant", "call", "plan"),
		Network: pick("network", "10.1.2.3", "192.0.2.1", "fe80::1%eth0", ""),
		Time:    time.Unix(1_800_000_000, 0),
	}
	r.Flow.HasUncleared = b.Draw(t, "uncleared") && r.Flow.Sinks > 0
	if !strings.Contains(r.Action.Name, "/") {
		r.Resource = Resource{Kind: "run", ID: "x", Owner: pick("owner", "ana", "bert", "")}
		r.Principal.Roles = rapid.SliceOf(rapid.SampledFrom([]string{"operator", "approver", "auditor"})).Draw(t, "roles")
		r.Principal.Groups = rapid.SliceOf(rapid.SampledFrom([]string{"operator", "finance"})).Draw(t, "groups")
	} else {
		r.Resource.ObjectID = pick("object", "", "7", "9")
		r.Arguments = []byte(pick("arguments", `{}`, `{"id":"7"}`, `{"id":"13"}`, `{"iban":"GB29NWBK60161331926819","amount":20}`, `{"iban":"DE89370400440532013000","amount":75.5}`,
			`{"iban":"DE89370400440532013000","amount":1,"count":5}`, `{"name":"n","text":"t","tags":["secret"]}`, `{"name":"n","text":"t","tags":["open"]}`,
			`{"name":"n","text":"t","note":null}`, `{"iban":7}`, `{"a":{"b":[1]}}`))
	}
	return r
}

// naive decides without the index, the prebuilt entities and the second evaluation: every rule goes to Cedar with a whole entity
// map, and what an approval would lift is found by trying every liftable rule's approval one by one.
func naive(s *Set, req Request) Decision {
	a := s.world.actions[req.Action.Name]
	if a == nil {
		return Decision{Effect: Forbid, Reasons: []Reason{{Rule: RuleUnknownTool}}}
	}
	f, err := s.world.facts(a, req)
	if err != nil {
		return Decision{Effect: Forbid, Reasons: []Reason{{Rule: RuleError}}}
	}
	applies := !a.people || a.agents || req.Principal.Kind == "Person"
	if !a.people && req.Principal.Kind == "Person" {
		applies = false
	}
	entities := types.EntityMap{}
	for uid, e := range s.world.entities {
		entities[uid] = e
	}
	entities[f.principal.UID], entities[f.resource.UID] = f.principal, f.resource
	run := func(satisfies []string, with bool) (permits, forbids []string, failed bool) {
		set := cedar.NewPolicySet()
		for _, r := range s.rules {
			set.Add(cedar.PolicyID(r.ID), r.policy)
		}
		var af *ApprovalFacts
		if with {
			af = &ApprovalFacts{Satisfies: satisfies}
		}
		_, diag := cedar.Authorize(set, entities, cedar.Request{Principal: f.principal.UID, Action: a.uid, Resource: f.resource.UID, Context: f.record(af)})
		for _, d := range diag.Reasons {
			if s.byID[string(d.PolicyID)].Effect == Permit {
				permits = append(permits, string(d.PolicyID))
			} else {
				forbids = append(forbids, string(d.PolicyID))
			}
		}
		return permits, forbids, len(diag.Errors) > 0
	}
	if !applies {
		return Decision{Effect: Forbid, Reasons: []Reason{{Rule: RuleDefaultDeny}}}
	}
	permits, forbids, bad := run(nil, false)
	switch {
	case bad:
		return Decision{Effect: Forbid, Reasons: []Reason{{Rule: RuleError}}}
	case len(forbids) == 0 && len(permits) == 0:
		return Decision{Effect: Forbid, Reasons: []Reason{{Rule: RuleDefaultDeny}}}
	case len(forbids) == 0:
		return Decision{Effect: Permit}
	}
	var lifted []string
	for _, id := range forbids {
		if _, still, bad := run([]string{id}, true); bad {
			return Decision{Effect: Forbid, Reasons: []Reason{{Rule: RuleError}}}
		} else if !slices.Contains(still, id) {
			lifted = append(lifted, id)
		}
	}
	d := Decision{Effect: Forbid}
	if permits, rest, bad := run(lifted, true); bad {
		return Decision{Effect: Forbid, Reasons: []Reason{{Rule: RuleError}}}
	} else if len(rest) > 0 || len(permits) == 0 {
		return d
	}
	if req.Approval != nil {
		if permits, forbids, bad := run(req.Approval.Satisfies, true); !bad && len(forbids) == 0 && len(permits) > 0 {
			return Decision{Effect: Permit}
		}
	}
	slices.Sort(lifted)
	d.Missing = &Missing{}
	for _, id := range lifted {
		d.Missing.Rules = append(d.Missing.Rules, Reason{Rule: id})
	}
	return d
}

func check(t *rapid.T, files map[string]string, tools []Tool) *Set {
	s, problems := Compile(files, tools)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return s
}

func TestDecideEqualsNaive(t *testing.T) {
	tools := officeTools(t)
	rapid.Check(t, func(t *rapid.T) {
		s := check(t, drawBundle(t), tools)
		for range 5 {
			req := drawRequest(t)
			if rapid.Bool().Draw(t, "approved") {
				var all []string
				for _, r := range s.rules {
					all = append(all, r.ID)
				}
				req.Approval = &ApprovalFacts{Satisfies: rapid.SliceOfDistinct(rapid.SampledFrom(all), rapid.ID[string]).Draw(t, "satisfies")}
			}
			got, want := s.Decide(req), naive(s, req)
			if got.Effect != want.Effect || (got.Missing == nil) != (want.Missing == nil) {
				t.Fatalf("%+v\ndecided %+v\nnaive   %+v", req, got, want)
			}
			if got.Missing != nil && names(got.Missing.Rules) != names(want.Missing.Rules) {
				t.Fatalf("missing %s, naive %s", names(got.Missing.Rules), names(want.Missing.Rules))
			}
			if len(want.Reasons) == 1 && got.Reasons[0].Rule != want.Reasons[0].Rule {
				t.Fatalf("because of %s, naive %s", names(got.Reasons), names(want.Reasons))
			}
		}
	})
}

// An approval never turns a no that a rule without @require says, never turns the default, and never forbids.
func TestApprovalOnlyLiftsWhatAsksForIt(t *testing.T) {
	tools := officeTools(t)
	rapid.Check(t, func(t *rapid.T) {
		s := check(t, drawBundle(t), tools)
		req := drawRequest(t)
		before := s.Decide(req)
		var all []string
		for _, r := range s.rules {
			all = append(all, r.ID)
		}
		req.Approval = &ApprovalFacts{ID: "apr_1", Satisfies: all}
		after := s.Decide(req)
		switch {
		case before.Effect == Permit:
			if d := cmp.Diff(before, after); d != "" {
				t.Fatalf("an approval changed a permit: %s", d)
			}
		case before.Missing != nil:
			if after.Effect != Permit || cmp.Diff(before.Missing.Rules, after.Lifted) != "" {
				t.Fatalf("the approval that was asked for does not help: %+v, then %+v", before, after)
			}
		case after.Effect == Permit:
			t.Fatalf("an approval permitted what only %s forbade", names(before.Reasons))
		}
		if before.Missing != nil {
			for _, r := range before.Missing.Rules {
				if i, _ := s.Rule(r.Rule); len(i.Require) == 0 {
					t.Fatalf("%s is to be lifted and has no @require", r.Rule)
				}
				req.Approval.Satisfies = slices.DeleteFunc(slices.Clone(all), func(id string) bool { return id == r.Rule })
				if d := s.Decide(req); d.Effect == Permit {
					t.Fatalf("permitted without the approval that lifts %s", r.Rule)
				}
			}
		}
	})
}

// Whatever the arguments, what flows, the object and the approval: what can be permitted is listed.
func TestCouldPermitNeverHides(t *testing.T) {
	tools := officeTools(t)
	rapid.Check(t, func(t *rapid.T) {
		s := check(t, drawBundle(t), tools)
		req := drawRequest(t)
		d := s.Decide(req)
		open := req
		open.Arguments, open.Resource.ObjectID, open.Approval, open.Grant, open.Run.Steps = nil, "", nil, "", 0
		open.Flow = FlowFacts{UnknownTool: req.Flow.UnknownTool}
		if (d.Effect == Permit || d.Missing != nil) && !s.CouldPermit(open) {
			t.Fatalf("%+v could be permitted but is not listed: %+v", req, d)
		}
	})
}

// What a list must not show.
func TestCouldPermitCuts(t *testing.T) {
	s := mustCompile(t, map[string]string{"a.cedar": `
@id("p") permit(principal is Chaperone::Agent, action in Chaperone::Action::"effects", resource) when { context.run.in_type_writes };
@id("f") forbid(principal is Chaperone::Agent, action == Chaperone::Action::"office/share", resource);
@id("g") forbid(principal is Chaperone::Agent, action == Chaperone::Action::"office/role_grant", resource) when { context.flow.untrusted || principal.environment == "test" };
@id("h") forbid(principal is Chaperone::Agent, action == Chaperone::Action::"office/script_run", resource) unless { context.run.depth > 3 && context.flow.untrusted };
@id("i") permit(principal is Chaperone::Agent, action == Chaperone::Action::"office/mail_read", resource) when { context.arguments.id == "7" && principal.environment == "live" };
@id("j") forbid(principal is Chaperone::Agent, action == Chaperone::Action::"office/table_update", resource) when { context.run.depth + 9223372036854775807 < 0 };`}, officeTools(t))
	ask := func(tool string, change ...func(*Request)) bool {
		r := payment()
		r.Action.Name, r.Resource, r.Arguments = "office/"+tool, Resource{}, nil
		for _, c := range change {
			c(&r)
		}
		return s.CouldPermit(r)
	}
	in := func(env string) func(*Request) { return func(r *Request) { r.Principal.Environment = env } }
	deep := func(r *Request) { r.Run.Depth = 4 }
	for _, c := range []struct {
		what      string
		got, want bool
	}{
		{"a permitted effect", ask("payment_send"), true},
		{"no permit", ask("payment_send", func(r *Request) { r.Run.InTypeWrite = false }), false},
		{"forbidden for certain", ask("share"), false},
		{"forbidden in some flows", ask("role_grant"), true},
		{"forbidden in this environment", ask("role_grant", in("test")), false},
		{"forbidden unless deep", ask("script_run"), false},
		{"perhaps when deep", ask("script_run", deep), true},
		{"permitted for some argument", ask("mail_read", in("live")), true},
		{"permitted for none", ask("mail_read", in("test")), false},
		{"fails for certain", ask("table_update", deep), false},
		{"fails not yet", ask("table_update"), true},
		{"people list no tools", ask("payment_send", func(r *Request) { r.Principal.Kind = "Person" }), false},
		{"unknown", ask("nothing"), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: listed %v, want %v", c.what, c.got, c.want)
		}
	}
}

// One Set serves many callers.
func TestSetIsSafeForConcurrentUse(t *testing.T) {
	s := mustCompile(t, DefaultFiles(), officeTools(t))
	want := s.Decide(payment())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if d := cmp.Diff(want, s.Decide(payment())); d != "" {
					t.Error(d)
				}
				s.CouldPermit(payment())
			}
		})
	}
	wg.Wait()
}

func BenchmarkDecideShipped(b *testing.B) {
	s := mustCompile(b, DefaultFiles(), officeTools(b))
	read := payment()
	read.Action, read.Resource, read.Arguments = Action{Name: "office/mail_read"}, Resource{}, []byte(`{"id":"7"}`)
	read.Run.InTypeReads = true
	approved := payment()
	approved.Approval = &ApprovalFacts{ID: "apr_1", Satisfies: []string{"irreversible-needs-approval", "stakes-need-approval"}}
	for name, req := range map[string]Request{"read": read, "asks": payment(), "approved": approved} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(req)
			}
		})
	}
	b.Run("listed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.CouldPermit(read)
		}
	})
}

// The time of a decision is that of the rules which can apply, not of the bundle.
func BenchmarkDecideThousandRules(b *testing.B) {
	tools := officeTools(b)
	files := DefaultFiles()
	var text strings.Builder
	for i := range 1000 {
		tools = append(tools, Tool{Server: "big", Name: fmt.Sprintf("t%d", i), Groups: []string{"read"}})
		fmt.Fprintf(&text, "@id(\"own-%d\") permit(principal is Chaperone::Agent, action == Chaperone::Action::\"big/t%d\", resource) when { context.run.in_plan };\n", i, i)
	}
	files["big.cedar"] = text.String()
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			mustCompile(b, files, tools)
		}
	})
	s := mustCompile(b, files, tools)
	req := payment()
	req.Action, req.Resource, req.Arguments, req.Run.InPlan = Action{Name: "big/t500"}, Resource{}, nil, true
	b.Run("decide", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Decide(req)
		}
	})
}
