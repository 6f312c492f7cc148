// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"slices"
	"strings"

	"chaperone/internal/approval"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/policy"
	"chaperone/internal/run"
)

// Step 5, decide. Everything that is known is laid before policy, on the snapshot of step 3. A no that people can lift goes on to
// step 6; any other no ends here.
func (c *call) decide(ctx context.Context) *refusal {
	defer c.passed("decide")
	if c.decision.IsZero() {
		c.decision = id.NewDecision(c.now)
	}
	if no := c.ask(ctx); no != nil {
		return c.visible(no)
	}
	if no := c.checkState(); no != nil {
		return c.visible(no)
	}
	c.decided = c.snap.Policy.Decide(c.asked)
	if c.decided.Missing != nil && !c.isEffect() { // a read that people must allow is identified as an effect is
		if no := c.identify(ctx); no != nil {
			return no
		}
	}
	if c.decided.Effect != policy.Permit && c.decided.Missing == nil {
		return c.deniedByPolicy()
	}
	if err := c.run.Suffices(c.takes()); err != nil {
		return orStore(err)
	}
	return nil
}

// deniedByPolicy is the refusal of a decision. A caller that could never be permitted to use the thing is not told that it exists.
func (c *call) deniedByPolicy() *refusal {
	no := &refusal{verdict: Denied, code: "denied", listed: true}
	if len(c.decided.Reasons) > 0 {
		no.rule, no.reason = c.decided.Reasons[0].Rule, c.decided.Reasons[0].Text
	}
	if !c.snap.Policy.CouldPermit(c.asked) {
		no.public, no.listed = CodeNotListed, false
	}
	return no
}

// takes is what the call spends of the run's budgets when it goes ahead.
func (c *call) takes() run.Spend {
	s := run.Spend{Steps: c.stepCost(), Bytes: int64(len(c.req.Body))}
	for _, stake := range c.entry.Stakes {
		s.Stakes = append(s.Stakes, string(stake))
	}
	if _, planned := c.run.Planned(c.action()); planned {
		s.Stakes = append(s.Stakes, run.PlanKey(c.action()))
	}
	return s
}

// ask forms the policy request, and for effects the digest of the exact call and what consent there is for it.
func (c *call) ask(ctx context.Context) *refusal {
	c.consents, c.approval, c.lifts = consents{}, nil, id.Approval{}
	if c.isEffect() {
		if no := c.identify(ctx); no != nil {
			return no
		}
	}
	c.asked = c.policyRequest(c.req.Kind, c.tool, c.entry)
	if step, _ := c.run.Planned(c.action()); c.asked.Run.InPlan && step.Max > 0 {
		c.basis.usesPlan, c.basis.planUses = true, c.run.Spent.Calls[run.PlanKey(c.action())]
	}
	c.asked.Arguments = c.args
	c.asked.Grant = string(grant.ByCall)
	if c.origin != "" {
		c.asked.Grant = string(c.askOrigin())
	}
	if g := c.consents.active; g != nil {
		c.asked.Grant = string(g.Origin)
	}
	f := &c.asked.Flow
	for _, v := range c.values {
		f.Sinks++
		if !slices.Contains(f.SinkTypes, v.Type) {
			f.SinkTypes = append(f.SinkTypes, v.Type)
		}
		if !c.run.Clears() || !c.stated.Clears(v) {
			f.Uncleared = append(f.Uncleared, v.Argument)
		}
	}
	f.HasUncleared = len(f.Uncleared) > 0
	c.asked.Resource.ObjectID = objectOf(c.args, c.entry.Object.Argument)
	if c.entry.Kind == catalog.KindTemplate && c.asked.Resource.ObjectID == "" {
		c.asked.Resource.ObjectType, c.asked.Resource.ObjectID = "resource", c.req.Name
	}
	return nil
}

// policyRequest is what policy is asked about one thing of the server, with the arguments open.
func (c *call) policyRequest(kind catalog.ItemKind, tool string, entry catalog.Entry) policy.Request {
	action := c.req.Server + "/" + tool
	r := policy.Request{
		Principal: policy.Principal{
			Kind: "Agent", Name: c.agent.Name, Type: c.agent.Type, AgentKind: string(c.agent.Kind), Owner: c.agent.Owner,
			Environment: c.agent.Environment, Orchestrator: c.agent.Orchestrator,
		},
		Action:   policy.Action{Name: action, Groups: groupsOf(kind, entry)},
		Resource: policy.Resource{Server: c.req.Server, Tool: tool, ObjectType: entry.Object.Type},
		Run: policy.RunFacts{
			ID: c.run.ID.String(), Opener: string(c.run.Opener.Kind), Clears: c.run.Clears(), HasPurpose: c.run.Purpose != "",
			InPlan:      c.run.InPlan(action),
			InTypeReads: lists(c.agentType.Reads, kind, action), InTypeWrite: lists(c.agentType.Writes, kind, action),
			Steps: c.run.Spent.Steps, Depth: int64(c.run.Depth),
		},
		Flow: policy.FlowFacts{
			Untrusted: c.label.IsUntrusted(), Sources: c.label.Sources, Level: string(c.label.Level), LevelRank: int64(c.label.Level.Rank()),
			Categories: c.label.Categories, AnswerTaints: entry.Source.IsUntrusted(), UnknownTool: !entry.Known, Mode: c.server.Mode,
		},
		Credential: "dpop",
		Network:    c.req.Remote,
		Time:       c.now.UTC(),
	}
	for _, s := range entry.Stakes {
		r.Flow.Stakes = append(r.Flow.Stakes, string(s))
	}
	return r
}

// groupsOf are the action groups that a thing stands in.
func groupsOf(kind catalog.ItemKind, e catalog.Entry) []string {
	if kind == "" {
		return []string{policy.GroupProtocol}
	}
	stakes := make([]string, 0, len(e.Stakes))
	for _, s := range e.Stakes {
		stakes = append(stakes, string(s))
	}
	return policy.GroupsOf(string(e.Effect), stakes, len(e.Sinks) > 0)
}

// lists reports whether a type's list names the action, by name or as "server/*" (tools only).
func lists(list []string, kind catalog.ItemKind, action string) bool {
	server, _, _ := strings.Cut(action, "/")
	return slices.Contains(list, action) || kind == catalog.KindTool && slices.Contains(list, server+"/*")
}

// objectOf reads the argument that names the object, "" if it is absent or no scalar.
func objectOf(args []byte, path string) string {
	if path == "" {
		return ""
	}
	n, err := canon.Parse(args, canon.Limits{})
	if err != nil {
		return ""
	}
	for name := range strings.SplitSeq(path, ".") {
		n = n.Get(name)
	}
	if n == nil || n.Kind != canon.String && n.Kind != canon.Number {
		return ""
	}
	return n.Text
}

// identify digests the exact call. Arguments that have no exact canonical form cannot be shown to anybody and so cannot be an
// effect's.
func (c *call) identify(ctx context.Context) *refusal {
	args, err := canon.JCS(c.args)
	if err != nil {
		return deny(fault.CodeOf(err), messageOf(err), "send numbers that a double holds exactly, or send them as text")
	}
	if c.req.Kind == "" { // a protocol method has no arguments of its own: the exact bytes stand for them
		args = []byte(`{"body_sha256":"` + canon.Sum(c.req.Body) + `"}`)
	}
	chain, err := c.chainDigest()
	if err != nil {
		return fail(err)
	}
	stakes := make([]string, 0, len(c.entry.Stakes))
	for _, s := range c.entry.Stakes {
		stakes = append(stakes, string(s))
	}
	c.exact = approval.Call{
		Run: c.run.ID, Agent: c.agent.ID, KeyThumbprint: c.instance.JKT, ChainDigest: chain, Server: c.req.Server, Endpoint: c.server.URL,
		Kind: string(c.req.Kind), Tool: c.tool, ToolDigest: c.pin.Digest, Arguments: args, CredentialRef: c.credentialRef,
		Effect: string(c.entry.Effect), Stakes: stakes,
	}
	if c.exact.Kind == "" {
		c.exact.Kind = "method"
	}
	if c.callDigest, err = approval.CallDigest(c.exact); err != nil {
		return fail(err)
	}
	return c.readGrants(ctx)
}

// chainDigest digests the runs above this one, "" if there are none.
func (c *call) chainDigest() (string, error) {
	if len(c.ancestors) == 0 {
		return "", nil
	}
	type link struct {
		Run    string `json:"run"`
		Agent  string `json:"agent"`
		Opener string `json:"opener"`
		JKT    string `json:"jkt"`
	}
	var chain []link
	for _, a := range c.ancestors {
		chain = append(chain, link{a.ID.String(), a.Agent.String(), a.Opener.Name, a.Opener.JKT})
	}
	return canon.Digest(chain)
}
