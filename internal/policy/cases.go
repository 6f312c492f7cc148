// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"chaperone/internal/fault"
)

// CaseResult is how one case ended. Faults say what differs from what the case expects; a case without any is OK.
type CaseResult struct {
	Name     string   `json:"name"`
	Line     int      `json:"line"`
	OK       bool     `json:"ok"`
	Faults   []string `json:"faults,omitempty"`
	Decision Decision `json:"decision"`
}

// The YAML of test cases, as docs/policy.md describes it. Keys are the names in lower case where no tag says otherwise.
type (
	caseFile struct {
		Agents map[string]struct {
			Type, Kind, Owner, Environment string
			Orchestrator                   bool
		}
		People map[string]struct{ Roles, Groups []string }
		Cases  []yaml.Node
	}
	policyCase struct {
		Name, Principal, Action    string
		Object                     struct{ Type, ID string }
		Thing                      struct{ Kind, ID, Owner string }
		Run                        RunFacts
		Flow                       FlowFacts
		Arguments                  yaml.Node
		Approved                   []string
		Grant, Credential, Network string
		Time                       time.Time
		Expect                     caseExpect
	}
	caseExpect struct {
		Effect                   Effect
		Rule                     string
		Missing, Lifted, Require []string
		Listed                   *bool
	}
)

// RunCases decides every case of a YAML file on the set. Error: Invalid, "bad_cases", naming the line, for a file that is not as
// docs/policy.md describes; unknown keys are refused, because a misspelt fact would test something else.
func RunCases(set *Set, file []byte) ([]CaseResult, error) {
	var f caseFile
	if err := strictYAML(file, &f); err != nil {
		return nil, err
	}
	if len(f.Cases) == 0 {
		return nil, badCases("the file has no cases")
	}
	var out []CaseResult
	for i := range f.Cases {
		var c policyCase
		if err := strictNode(&f.Cases[i], &c); err != nil {
			return nil, err
		}
		req, err := f.request(set, c, f.Cases[i].Line)
		if err != nil {
			return nil, err
		}
		r := CaseResult{Name: c.Name, Line: f.Cases[i].Line, Decision: set.Decide(req)}
		r.Faults = c.Expect.compare(r.Decision)
		if l := c.Expect.Listed; l != nil {
			if got := set.CouldPermit(req); got != *l {
				r.Faults = append(r.Faults, fmt.Sprintf("listed is %v, expected %v", got, *l))
			}
		}
		r.OK = len(r.Faults) == 0
		out = append(out, r)
	}
	return out, nil
}

func (f caseFile) request(set *Set, c policyCase, line int) (Request, error) {
	req := Request{
		Action:   Action{Name: c.Action},
		Resource: Resource{ObjectType: c.Object.Type, ObjectID: c.Object.ID, Kind: c.Thing.Kind, ID: c.Thing.ID, Owner: c.Thing.Owner},
		Run:      c.Run, Flow: c.Flow, Credential: c.Credential, Grant: c.Grant, Network: c.Network, Time: c.Time,
	}
	agent, isAgent := f.Agents[c.Principal]
	person, isPerson := f.People[c.Principal]
	switch {
	case c.Name == "":
		return req, badCases("line %d: the case has no name", line)
	case c.Expect.Effect != Permit && c.Expect.Effect != Forbid:
		return req, badCases("line %d: the case expects %q, not permit or forbid", line, c.Expect.Effect)
	case isAgent == isPerson:
		return req, badCases("line %d: the principal %q is not one of agents or people", line, c.Principal)
	case isAgent:
		req.Principal = Principal{Kind: "Agent", Name: c.Principal, Type: agent.Type, AgentKind: agent.Kind, Owner: agent.Owner, Environment: agent.Environment, Orchestrator: agent.Orchestrator}
	default:
		req.Principal = Principal{Kind: "Person", Name: c.Principal, Roles: person.Roles, Groups: person.Groups}
	}
	if len(req.Flow.Uncleared) > int(req.Flow.Sinks) {
		return req, badCases("line %d: flow has more uncleared arguments than sinks", line)
	}
	if req.Time.IsZero() {
		req.Time = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	}
	req.Credential, req.Grant, req.Flow.Mode = cmp.Or(req.Credential, "dpop"), cmp.Or(req.Grant, "call"), cmp.Or(req.Flow.Mode, "enforce")
	if len(c.Approved) > 0 {
		req.Approval = &ApprovalFacts{ID: "apr_test", Satisfies: c.Approved}
	}
	if a := set.world.actions[c.Action]; a != nil && !a.people && req.Flow.Stakes == nil {
		for _, g := range a.groups {
			if s, ok := strings.CutPrefix(g, "stakes:"); ok {
				req.Flow.Stakes = append(req.Flow.Stakes, s)
			}
		}
	}
	if !c.Arguments.IsZero() {
		b, err := yamlJSON(&c.Arguments)
		if err != nil {
			return req, err
		}
		req.Arguments = b
	}
	return req, nil
}

// compare lists what differs. The rule is that of the first reason, or of any reason with the expected effect.
func (e caseExpect) compare(d Decision) []string {
	var out []string
	differ := func(what string, got, want any) {
		out = append(out, fmt.Sprintf("%s is %v, expected %v", what, got, want))
	}
	if d.Effect != e.Effect {
		differ("effect", d.Effect, e.Effect)
	}
	if e.Rule != "" && !slices.ContainsFunc(d.Reasons, func(r Reason) bool { return r.Rule == e.Rule }) {
		differ("rule", ruleIDs(d.Reasons), e.Rule)
	}
	var missing, require []string
	if d.Missing != nil {
		missing = ruleIDs(d.Missing.Rules)
		for _, q := range d.Missing.Require {
			require = append(require, fmt.Sprintf("%s:%d", q.Group, q.Number))
		}
	}
	if !sameSet(missing, e.Missing) {
		differ("missing", missing, e.Missing)
	}
	if e.Require != nil && !sameSet(require, e.Require) {
		differ("require", require, e.Require)
	}
	if e.Lifted != nil && !sameSet(ruleIDs(d.Lifted), e.Lifted) {
		differ("lifted", ruleIDs(d.Lifted), e.Lifted)
	}
	if len(d.Errors) > 0 && e.Rule != RuleError {
		out = append(out, "evaluation failed: "+strings.Join(d.Errors, "; "))
	}
	return out
}

func ruleIDs(rs []Reason) []string {
	var out []string
	for _, r := range rs {
		out = append(out, r.Rule)
	}
	return out
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// ParseTools reads the tools that a bundle can be checked against without a catalogue:
//
//	tools:
//	  - {server: office, name: pay, effect: irreversible, stakes: [money], sinks: true, schema: {type: object, ...}}
//
// Error: Invalid, "bad_cases".
func ParseTools(file []byte) ([]Tool, error) {
	var f struct {
		Tools []struct {
			Server, Name, Kind, Effect string
			Stakes                     []string
			Sinks                      bool
			Schema                     yaml.Node
		}
	}
	if err := strictYAML(file, &f); err != nil {
		return nil, err
	}
	var out []Tool
	for _, t := range f.Tools {
		tool := Tool{Server: t.Server, Name: t.Name, Kind: t.Kind, Groups: GroupsOf(t.Effect, t.Stakes, t.Sinks)}
		if !t.Schema.IsZero() {
			b, err := yamlJSON(&t.Schema)
			if err != nil {
				return nil, err
			}
			tool.InputSchema = b
		}
		out = append(out, tool)
	}
	return out, nil
}

const maxYAML = 1 << 20 // bytes

func badCases(format string, args ...any) error {
	return fault.New(fault.Invalid, "policy.RunCases", "bad_cases", format, args...).WithFix("docs/policy.md describes the file")
}

func strictYAML(b []byte, dst any) error {
	if len(b) > maxYAML {
		return badCases("the file has %d bytes, %d are allowed", len(b), maxYAML)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(dst); err != nil {
		return badCases("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return badCases("the file holds more than one document")
	}
	return nil
}

// strictNode decodes a node again with unknown keys refused, which Node.Decode does not do.
func strictNode(n *yaml.Node, dst any) error {
	b, err := yaml.Marshal(n)
	if err != nil {
		return badCases("line %d: %s", n.Line, err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(dst); err != nil {
		return badCases("the case at line %d: %s", n.Line, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return nil
}

// yamlJSON writes a YAML value as JSON.
func yamlJSON(n *yaml.Node) (json.RawMessage, error) {
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, badCases("line %d: %s", n.Line, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, badCases("line %d: JSON has no such value", n.Line)
	}
	return b, nil
}
