// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"chaperone/internal/canon"
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

// The YAML of test cases, as docs/policy.md describes it.
type (
	caseFile struct {
		Agents map[string]caseAgent  `yaml:"agents"`
		People map[string]casePerson `yaml:"people"`
		Cases  []yaml.Node           `yaml:"cases"`
	}
	caseAgent struct {
		Type         string `yaml:"type"`
		Kind         string `yaml:"kind"`
		Owner        string `yaml:"owner"`
		Environment  string `yaml:"environment"`
		Orchestrator bool   `yaml:"orchestrator"`
	}
	casePerson struct {
		Roles  []string `yaml:"roles"`
		Groups []string `yaml:"groups"`
	}
	policyCase struct {
		Name       string     `yaml:"name"`
		Principal  string     `yaml:"principal"`
		Action     string     `yaml:"action"`
		Object     caseObject `yaml:"object"`
		Thing      caseThing  `yaml:"thing"`
		Run        caseRun    `yaml:"run"`
		Flow       caseFlow   `yaml:"flow"`
		Arguments  yaml.Node  `yaml:"arguments"`
		Approved   []string   `yaml:"approved"`
		Grant      string     `yaml:"grant"`
		Credential string     `yaml:"credential"`
		Network    string     `yaml:"network"`
		Time       time.Time  `yaml:"time"`
		Expect     caseExpect `yaml:"expect"`
	}
	caseObject struct {
		Type string `yaml:"type"`
		ID   string `yaml:"id"`
	}
	caseThing struct {
		Kind  string `yaml:"kind"`
		ID    string `yaml:"id"`
		Owner string `yaml:"owner"`
	}
	caseRun struct {
		ID          string `yaml:"id"`
		Opener      string `yaml:"opener"`
		Clears      bool   `yaml:"clears"`
		HasPurpose  bool   `yaml:"has_purpose"`
		InPlan      bool   `yaml:"in_plan"`
		InTypeReads bool   `yaml:"in_type_reads"`
		InTypeWrite bool   `yaml:"in_type_writes"`
		Steps       int64  `yaml:"steps"`
		Depth       int64  `yaml:"depth"`
	}
	caseFlow struct {
		Untrusted    bool     `yaml:"untrusted"`
		Sources      []string `yaml:"sources"`
		Level        string   `yaml:"level"`
		Categories   []string `yaml:"categories"`
		Sinks        int64    `yaml:"sinks"`
		Uncleared    []string `yaml:"uncleared"`
		AnswerTaints bool     `yaml:"answer_taints"`
		UnknownTool  bool     `yaml:"unknown_tool"`
		Mode         string   `yaml:"mode"`
		Findings     []string `yaml:"findings"`
		SinkTypes    []string `yaml:"sink_types"`
	}
	caseExpect struct {
		Effect  Effect   `yaml:"effect"`
		Rule    string   `yaml:"rule"`
		Missing []string `yaml:"missing"`
		Lifted  []string `yaml:"lifted"`
		Require []string `yaml:"require"`
		Listed  *bool    `yaml:"listed"`
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
		Action:     Action{Name: c.Action},
		Resource:   Resource{ObjectType: c.Object.Type, ObjectID: c.Object.ID, Kind: c.Thing.Kind, ID: c.Thing.ID, Owner: c.Thing.Owner},
		Run:        RunFacts(c.Run),
		Credential: c.Credential, Grant: c.Grant, Network: c.Network, Time: c.Time,
		Flow: FlowFacts{
			Untrusted: c.Flow.Untrusted, Sources: c.Flow.Sources, Level: c.Flow.Level, Categories: c.Flow.Categories, Sinks: c.Flow.Sinks,
			Uncleared: c.Flow.Uncleared, AnswerTaints: c.Flow.AnswerTaints, UnknownTool: c.Flow.UnknownTool, Mode: c.Flow.Mode,
			Findings: c.Flow.Findings, SinkTypes: c.Flow.SinkTypes,
		},
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
		req.Principal = Principal{Kind: "Agent", Name: c.Principal, Type: agent.Type, AgentKind: agent.Kind, Owner: agent.Owner,
			Environment: agent.Environment, Orchestrator: agent.Orchestrator}
	default:
		req.Principal = Principal{Kind: "Person", Name: c.Principal, Roles: person.Roles, Groups: person.Groups}
	}
	if len(req.Flow.Uncleared) > int(req.Flow.Sinks) {
		return req, badCases("line %d: flow has more uncleared arguments than sinks", line)
	}
	if req.Time.IsZero() {
		req.Time = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	}
	if req.Credential == "" {
		req.Credential = "dpop"
	}
	if req.Grant == "" {
		req.Grant = "call"
	}
	if req.Flow.Mode == "" {
		req.Flow.Mode = "enforce"
	}
	if len(c.Approved) > 0 {
		req.Approval = &ApprovalFacts{ID: "apr_test", Satisfies: c.Approved}
	}
	if a := set.world.actions[c.Action]; a != nil && !a.people {
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
			Server string    `yaml:"server"`
			Name   string    `yaml:"name"`
			Kind   string    `yaml:"kind"`
			Effect string    `yaml:"effect"`
			Stakes []string  `yaml:"stakes"`
			Sinks  bool      `yaml:"sinks"`
			Schema yaml.Node `yaml:"schema"`
		} `yaml:"tools"`
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

// yamlJSON writes a YAML value as JSON. Numbers keep their text where JSON can hold it.
func yamlJSON(n *yaml.Node) (json.RawMessage, error) {
	var b bytes.Buffer
	if err := writeJSON(&b, n, 0); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func writeJSON(b *bytes.Buffer, n *yaml.Node, depth int) error {
	if depth > canon.DefaultDepth {
		return badCases("line %d: nested too deep", n.Line)
	}
	item := func(v any) error {
		j, err := json.Marshal(v)
		if err != nil {
			return badCases("line %d: not a JSON value", n.Line)
		}
		b.Write(j)
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		b.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := item(n.Content[i].Value); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := writeJSON(b, n.Content[i+1], depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeJSON(b, c, depth+1); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!int", "!!float":
			if json.Valid([]byte(n.Value)) {
				b.WriteString(n.Value)
				return nil
			}
		case "!!str", "!!timestamp":
			return item(n.Value)
		}
		var v any
		if err := n.Decode(&v); err != nil {
			return badCases("line %d: %s", n.Line, err)
		}
		return item(v)
	}
	return badCases("line %d: anchors and aliases are not read here", n.Line)
}
