// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"slices"
	"strings"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/label"
	"chaperone/internal/policy"
)

// What the road writes on the record. Events are formed and sealed here, before the transaction that appends them begins.

// event is an event of this call, without its data.
func (c *call) event(kind string, now time.Time) audit.Event {
	ev := audit.Event{
		ID: id.NewEvent(now), Stream: audit.Agents, Type: kind, At: now, Agent: c.cred.Agent, AgentName: c.cred.AgentName,
		AgentType: c.agent.Type, Instance: c.cred.Instance, Run: c.cred.Run, Step: c.step, Server: short(c.req.Server), Tool: short(c.tool),
		Decision: c.decision, Approval: c.lifts,
		Actor: audit.Actor{Kind: audit.ActorAgent, ID: c.cred.Agent.String(), Name: c.cred.AgentName, JKT: c.cred.JKT},
	}
	if c.cred.IsPerson() {
		ev.Actor = audit.Actor{Kind: audit.ActorPerson, ID: c.cred.Person.String(), Name: c.cred.Subject, JKT: c.cred.JKT}
		ev.Agent, ev.AgentName, ev.Instance, ev.Run = c.agent.ID, c.agent.Name, c.instance.ID, c.run.ID
	}
	if ev.Tool == "" {
		ev.Tool = short(toolName(c.req.Kind, c.req.Name))
		if c.req.Kind == "" {
			ev.Tool = short("method:" + c.req.Method)
		}
	}
	if c.waiting != nil && ev.Approval.IsZero() {
		ev.Approval = c.waiting.ID
	}
	if c.grant != nil {
		ev.Grant = c.grant.ID
	}
	return ev
}

// short bounds what a caller may make the leaf hold.
func short(s string) string {
	if len(s) > 256 {
		return strings.ToValidUTF8(s[:256], "")
	}
	return s
}

// shortLabel is the label as it stands in a leaf: at most 32 sources and 16 categories of it.
func shortLabel(l label.Label) label.Label {
	l.Sources = slices.Clone(l.Sources[:min(len(l.Sources), 32)])
	for i, s := range l.Sources {
		l.Sources[i] = short(s)
	}
	l.Categories = l.Categories[:min(len(l.Categories), 16)]
	l.Readers.Names = l.Readers.Names[:min(len(l.Readers.Names), 32)]
	return l
}

func labelWords(l label.Label) string {
	words := "trusted"
	if l.IsUntrusted() {
		words = "untrusted"
		if len(l.Sources) > 0 {
			words += " (read " + strings.Join(l.Sources[:min(len(l.Sources), 8)], ", ") + ")"
		}
	}
	level := l.Level
	if level == "" {
		level = label.Public
	}
	return words + ", " + string(level)
}

// data is the call as the record keeps it.
func (c *call) data(outcome, code string) audit.Call {
	d := audit.Call{
		Ordinal: c.run.Spent.Steps, TS: c.began, AgentType: c.agent.Type, AgentID: c.cred.Agent.String(), RunID: c.cred.Run.String(),
		Action: short(c.req.Server + "/" + c.tool), ArgKeys: slices.Sorted(slices.Values(c.argKeys)), ArgsDigest: c.argsDigest,
		BytesIn: int64(len(c.args)), BytesOut: c.bytesOut, Outcome: outcome, Code: code, Method: short(c.req.Method), Era: short(c.req.Era),
		CallDigest: c.callDigest, Class: string(c.entry.Effect), LabelBefore: shortLabel(c.label), LabelAfter: shortLabel(c.label),
		PolicyVersion: c.basis.policy, CatalogVersion: c.basis.catalog, RunVersion: c.basis.run,
		DurationUS: c.Now().Sub(c.began).Microseconds(), Rules: ruleIDs(c.decided),
	}
	if c.snap != nil {
		d.PolicyDigest = c.snap.PolicyDigest
	}
	if c.entry.Object.Type != "" && c.asked.Resource.ObjectID != "" {
		d.Resource = c.entry.Object.Type + "=" + c.asked.Resource.ObjectID
	}
	for _, s := range c.entry.Stakes {
		d.Stakes = append(d.Stakes, string(s))
	}
	if len(c.values) > 0 {
		stated := false
		for _, v := range c.values {
			name := v.Raw
			if v.OK {
				name = v.Norm
			}
			d.Dests = append(d.Dests, name)
			stated = stated || c.stated.Clears(v)
		}
		d.DestInPrompt = &stated
	}
	d.UpstreamStatus = int64(c.answered.Status)
	return d
}

func ruleIDs(d policy.Decision) []string {
	var out []string
	for _, r := range d.Reasons[:min(len(d.Reasons), 16)] {
		out = append(out, short(r.Rule))
	}
	return out
}

// decidedData is the decision, and the whole policy request beside it, so that it can be made again.
func (c *call) decidedData() (*audit.Decided, []byte) {
	if c.decided.Effect == "" {
		return nil, nil
	}
	return c.decidedOf(c.decided, c.asked)
}

func (c *call) decidedOf(made policy.Decision, asked policy.Request) (*audit.Decided, []byte) {
	request, err := canon.Marshal(asked)
	if err != nil { // arguments with a number that has no canonical form: they stand in a part of their own
		asked.Arguments = nil
		request, _ = canon.Marshal(asked)
	}
	d := &audit.Decided{
		Effect: string(made.Effect), Rules: rulesData(made.Reasons), Action: short(asked.Action.Name), Class: string(c.entry.Effect),
		CallDigest: c.callDigest, ToolDigest: c.pin.Digest, RequestDigest: canon.Sum(request), PolicyVersion: c.basis.policy,
		PolicyDigest: c.snap.PolicyDigest, CatalogVersion: c.basis.catalog, RunVersion: c.basis.run, RevocationPosition: c.basis.epoch,
		Tries: int64(c.tries),
	}
	for _, e := range made.Errors[:min(len(made.Errors), 8)] {
		d.Errors = append(d.Errors, short(e))
	}
	if m := made.Missing; m != nil {
		d.Missing = &audit.Missing{Rules: rulesData(m.Rules), Tier: m.Tier, ExpiresSeconds: int64(m.Expires / time.Second)}
		for _, r := range m.Require {
			d.Missing.Require = append(d.Missing.Require, audit.Requirement{Group: r.Group, Number: int64(r.Number)})
		}
	}
	return d, request
}

func rulesData(reasons []policy.Reason) []audit.Rule {
	var out []audit.Rule
	for _, r := range reasons[:min(len(reasons), 16)] {
		out = append(out, audit.Rule{ID: short(r.Rule), Reason: short(r.Text), Effect: string(r.Effect), Digest: r.Digest})
	}
	return out
}

// sealer collects events and the first error.
type sealer struct {
	c   *call
	out []audit.Sealed
	err error
}

func (s *sealer) add(ev audit.Event) {
	if s.err != nil {
		return
	}
	sealed, err := audit.Seal(ev, s.c.Salts)
	s.out, s.err = append(s.out, sealed), err
}

// decidedEvent is call.decided on its own, with what the decision looked at.
func (c *call) decidedEvent() audit.Event {
	ev := c.event(audit.CallDecided, c.now)
	d, request := c.decidedData()
	ev.Data = *d
	ev.Parts = map[string][]byte{"request": request}
	return ev
}

// callEvent is an event with the whole call in it.
func (c *call) callEvent(kind string, d audit.Call) audit.Event {
	ev := c.event(kind, c.now)
	ev.Data = d
	ev.Parts = map[string][]byte{"arguments": c.args}
	return ev
}

// intentEvents are those of commit 1.
func (c *call) intentEvents(p *passage) ([]audit.Sealed, error) {
	s := sealer{c: c}
	add := func(ev audit.Event) {
		ev.Grant = p.grant.ID
		s.add(ev)
	}
	add(c.decidedEvent())
	if p.consumed != nil {
		ev := c.event(audit.ApprovalConsumed, c.now)
		ev.Data = approvalData(*p.consumed)
		add(ev)
	}
	if p.asked != nil && p.asked.State == grant.Requested {
		ev := c.event(audit.GrantActivated, c.now)
		ev.Data = grantData(*p.grant)
		add(ev)
	}
	ev := c.event(audit.GrantUsed, c.now)
	ev.Data = grantData(*p.grant)
	add(ev)
	for _, ev := range c.joined(c.sourceLabel()) {
		add(ev)
	}
	d := c.data(audit.OutcomeUnknown, "")
	d.LabelAfter = shortLabel(c.label.Join(c.sourceLabel()))
	add(c.callEvent(audit.CallIntent, d))
	return s.out, s.err
}

// wholeEvents are those of a read that needs one commit: the decision with the outcome in it.
func (c *call) wholeEvents(f found) ([]audit.Sealed, error) {
	s := sealer{c: c}
	d := c.data(c.outcome_, "")
	d.LabelAfter = shortLabel(c.label.Join(c.sourceLabel()))
	ev := c.callEvent(audit.CallDecided, d)
	decided, request := c.decidedData()
	d.Decided = decided
	ev.Data = d
	ev.Parts["request"] = request
	if kept := c.kept(f.raw); kept != nil {
		ev.Parts["result"] = kept
	}
	s.add(ev)
	for _, ev := range c.joined(c.sourceLabel()) {
		s.add(ev)
	}
	c.addAsides(&s)
	return s.out, s.err
}

// noteEvents are those of a read that streams, before its first message.
func (c *call) noteEvents() ([]audit.Sealed, error) {
	s := sealer{c: c}
	s.add(c.decidedEvent())
	for _, ev := range c.joined(c.sourceLabel()) {
		s.add(ev)
	}
	return s.out, s.err
}

// outcomeEvents are those of commit 2 of a call that had a commit before.
func (c *call) outcomeEvents(f found) ([]audit.Sealed, error) {
	s := sealer{c: c}
	ev := c.callEvent(audit.CallOutcome, c.data(c.outcome_, ""))
	delete(ev.Parts, "arguments")
	if !c.intended {
		ev.Parts["arguments"] = c.args
	}
	if kept := c.kept(f.raw); kept != nil {
		ev.Parts["result"] = kept
	}
	s.add(ev)
	if c.grant != nil {
		ev := c.event(audit.GrantReleased, c.now)
		ev.Data = grantData(*c.grant)
		s.add(ev)
	}
	c.addAsides(&s)
	return s.out, s.err
}

// addAsides adds what happened on the way: a session that began or ended, a credential that came back.
func (c *call) addAsides(s *sealer) {
	if c.exchange == nil {
		return
	}
	type session struct {
		Digest string `json:"session_digest"`
	}
	switch {
	case c.req.Method == "initialize" && c.answered.Session != "":
		ev := c.event(audit.SessionOpened, c.now)
		ev.Data = session{canon.Sum([]byte(c.answered.Session))}
		s.add(ev)
	case c.req.Method == MethodEnd && c.req.Session != "":
		ev := c.event(audit.SessionEnded, c.now)
		ev.Data = session{canon.Sum([]byte(c.req.Session))}
		s.add(ev)
	}
	if c.echoes > 0 {
		ev := c.event(audit.SecretEchoed, c.now)
		ev.Data = struct {
			Count int64 `json:"count"`
		}{int64(c.echoes)}
		s.add(ev)
		c.echoes = 0
	}
}

// refusalEvents say why a call did not go on, or what became of one that had gone on.
func (c *call) refusalEvents(no *refusal, held int64) ([]audit.Sealed, error) {
	s := sealer{c: c}
	kind, outcome := audit.CallRefused, audit.OutcomeRefused
	switch {
	case c.noted:
		kind, outcome = audit.CallOutcome, c.outcome_
		if outcome == "" {
			outcome = audit.OutcomeUnknown
		}
	case no.verdict == Pending:
		kind, outcome = audit.CallDecided, audit.OutcomePending
	case no.code == "denied":
		outcome = audit.OutcomeDenied
	case c.outcome_ != "":
		outcome = c.outcome_
	}
	d := c.data(outcome, no.code)
	d.BytesOut = 0 // nothing of this was released
	if held > 0 {
		d.Code += "+" + itoa(held) // refusals of strangers that were not written one by one
	}
	ev := c.callEvent(kind, d)
	if !c.noted {
		decided, request := c.decidedData()
		if decided != nil {
			decided.Code = no.code
			if c.earlier != "" {
				decided.Code = c.earlier
			}
			ev.Parts["request"] = request
		}
		d.Decided = decided
		ev.Data = d
	}
	s.add(ev)
	if c.noted && c.grant != nil {
		ev := c.event(audit.GrantReleased, c.now)
		ev.Data = grantData(*c.grant)
		s.add(ev)
	}
	c.addAsides(&s)
	return s.out, s.err
}

// askEvent say what was decided about a request of the server.
func (c *call) askEvent(a askDecision, method string, ok bool) (audit.Sealed, error) {
	kind, outcome, code := audit.CallDecided, audit.OutcomeOK, ""
	if !ok {
		kind, outcome, code = audit.CallRefused, audit.OutcomeDenied, "server_request_denied"
	}
	ev := c.event(kind, c.now)
	decided, request := c.decidedOf(a.decided, a.asked)
	d := c.data(outcome, code)
	d.Action, d.Method, d.Rules, d.Decided = short(a.asked.Action.Name), short(method), ruleIDs(a.decided), decided
	d.BytesOut, d.Class, d.Dests, d.DestInPrompt = 0, "", nil, nil
	ev.Decision, ev.Tool, ev.Data = a.id, short("method:"+method), d
	ev.Parts = map[string][]byte{"request": request}
	return audit.Seal(ev, c.Salts)
}

// joined says that the run's label grows by this one; nothing if it does not.
func (c *call) joined(l label.Label) []audit.Event {
	if c.run.Label.Covers(l) {
		return nil
	}
	ev := c.event(audit.LabelJoined, c.now)
	ev.Data = struct {
		Before label.Label `json:"before"`
		Joined label.Label `json:"joined"`
	}{shortLabel(c.run.Label), shortLabel(l)}
	return []audit.Event{ev}
}

func (c *call) joinedEvents(l label.Label) ([]audit.Sealed, error) {
	s := sealer{c: c}
	for _, ev := range c.joined(l) {
		s.add(ev)
	}
	return s.out, s.err
}

type approvalFacts struct {
	State         string              `json:"state"`
	CallDigest    string              `json:"call_digest"`
	BindingDigest string              `json:"binding_digest"`
	PolicyDigest  string              `json:"policy_digest"`
	Rules         []audit.Rule        `json:"rules"`
	Require       []audit.Requirement `json:"require"`
	Tier          string              `json:"tier"`
	NotAfter      time.Time           `json:"not_after"`
	Excluded      []string            `json:"excluded,omitempty"` // "name: why"
	By            []string            `json:"by,omitempty"`       // who said yes
}

func approvalData(a approval.Approval) approvalFacts {
	d := approvalFacts{
		State: string(a.State), CallDigest: a.CallDigest, BindingDigest: a.BindingDigest, PolicyDigest: a.Binding.PolicyDigest,
		Tier: string(a.Tier), NotAfter: a.Binding.NotAfter,
	}
	for _, r := range a.Binding.Rules[:min(len(a.Binding.Rules), 16)] {
		d.Rules = append(d.Rules, audit.Rule{ID: short(r.ID), Digest: r.TextDigest})
	}
	for _, r := range a.Require {
		d.Require = append(d.Require, audit.Requirement{Group: short(r.Group), Number: int64(r.Number)})
	}
	for _, x := range a.Excluded[:min(len(a.Excluded), 32)] {
		d.Excluded = append(d.Excluded, short(x.Person+": "+x.Why))
	}
	for _, x := range a.Decisions {
		if x.Verdict == approval.Yes {
			d.By = append(d.By, short(x.Person))
		}
	}
	return d
}

// sealApproval is an event about an approval; the part holds all that the people who decide are shown.
func (c *call) sealApproval(kind string, a approval.Approval) (audit.Sealed, error) {
	ev := c.event(kind, c.now)
	ev.Approval, ev.Data = a.ID, approvalData(a)
	shown, err := canon.Marshal(a)
	if err != nil {
		return audit.Sealed{}, err
	}
	ev.Parts = map[string][]byte{"binding": shown}
	return audit.Seal(ev, c.Salts)
}

type grantFacts struct {
	State      string    `json:"state"`
	Origin     string    `json:"origin"`
	Ahead      bool      `json:"ahead"`
	CallDigest string    `json:"call_digest"`
	NotAfter   time.Time `json:"not_after"`
}

func grantData(g grant.Grant) grantFacts {
	return grantFacts{string(g.State), string(g.Origin), g.Ahead, g.CallDigest, g.NotAfter}
}
