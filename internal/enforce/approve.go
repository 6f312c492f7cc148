// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// consents is what people and earlier askings have left for this exact call.
type consents struct {
	active    *grant.Grant // asked ahead and not used yet
	requested *grant.Grant // asked ahead, its approval still open
	approvals []approval.Approval
	deciders  map[string]people.Person
	spent     bool // a grant asked ahead for this call was used before
}

// fewGrants bounds how many grants of one exact call are looked at, newest first.
const fewGrants = 16

// readGrants finds the grants of this exact call that can still become anything. Policy sees the origin of the one that would be used.
func (c *call) readGrants(ctx context.Context) *refusal {
	var k consents
	err := c.Store.View(ctx, func(tx store.Tx) error {
		k = consents{}
		for _, state := range []grant.State{grant.Active, grant.Requested} {
			for g, err := range tx.Grants().Grants(grant.Filter{Run: c.run.ID, CallDigest: c.callDigest, State: state, Limit: fewGrants}) {
				if err != nil {
					return err
				}
				switch {
				case state == grant.Requested:
					k.requested = &g
				case g.Opens(c.scope(), c.now) == nil:
					k.active = &g
				}
			}
		}
		return nil
	})
	if err != nil {
		return orStore(err)
	}
	c.consents = k
	return nil
}

// readApprovals finds what people were asked and said about this exact call, and what those people are now.
func (c *call) readApprovals(ctx context.Context) error {
	k := &c.consents
	return c.Store.View(ctx, func(tx store.Tx) error {
		k.approvals, k.deciders, k.spent = nil, map[string]people.Person{}, false
		for _, state := range []grant.State{grant.Used, grant.Released} {
			for g, err := range tx.Grants().Grants(grant.Filter{Run: c.run.ID, CallDigest: c.callDigest, State: state, Limit: fewGrants}) {
				if err != nil {
					return err
				}
				k.spent = k.spent || g.Ahead
			}
		}
		for a, err := range tx.Approvals().Approvals(approval.Filter{CallDigest: c.callDigest}) {
			if err != nil {
				return err
			}
			k.approvals = append(k.approvals, a)
			for _, d := range a.Decisions {
				p, err := tx.People().Person(d.PersonID.String())
				if err != nil && !fault.Is(err, fault.NotFound) {
					return err
				}
				if err == nil {
					k.deciders[p.Name] = p
				}
			}
		}
		return nil
	})
}

// Step 6, approve. Only a call that policy forbids but people could allow does anything here. What was approved is verified again from
// its stored inputs and must lift the same rules, by id and text, as policy names now; then policy is asked once more, with it.
// Otherwise the one pending approval of this exact call is found or made, and waited for as long as the caller can.
func (c *call) approve(ctx context.Context) (again bool, no *refusal) {
	defer c.passed("approve")
	c.waiting = nil
	if c.decided.Effect == policy.Permit {
		return false, nil
	}
	if c.decided.Missing == nil {
		return false, c.deniedByPolicy()
	}
	if no := c.unshown(); no != nil {
		return false, no
	}
	if err := c.readApprovals(ctx); err != nil {
		return false, orStore(err)
	}
	rules := rulesOf(c.decided.Missing)
	c.earlier = ""
	if g := c.consents.active; g != nil {
		if a := c.consents.approval(g.Approval); a != nil {
			held := *a
			held.State = approval.Approved // it was consumed for this grant, which is not used yet
			if err := c.usable(held, rules); err == nil {
				return false, c.lift(a)
			} else {
				c.because(fault.CodeOf(err))
			}
		}
	}
	if c.consents.spent {
		c.because("grant_used")
	}
	for i := range c.consents.approvals { // newest first
		a := &c.consents.approvals[i]
		switch a.State {
		case approval.Denied:
			return false, deny("approval_denied", "people denied this call: "+a.Reason, "change the call, or open a new run and say why it is needed")
		case approval.Approved:
			err := c.usable(*a, rules)
			if err == nil {
				c.approval = a
				return false, c.lift(a)
			}
			c.because(fault.CodeOf(err))
		case approval.Pending:
			switch {
			case !c.now.Before(a.Binding.NotAfter):
				c.because("approval_expired")
			case !approval.SameRules(a.Binding.Rules, rules):
				c.because("approval_rules_changed")
			default:
				return c.await(ctx, a, false)
			}
		case approval.Consumed, approval.Expired, approval.Cancelled:
			c.because("approval_" + string(a.State))
		}
	}
	a, made, err := c.fileApproval(ctx, rules)
	switch {
	case errors.Is(err, errMoved):
		return true, c.retry(ctx)
	case err != nil:
		return false, orStore(err)
	}
	return c.await(ctx, a, made)
}

// because keeps the first reason why consent given earlier does not serve.
func (c *call) because(code string) {
	if c.earlier == "" {
		c.earlier = code
	}
}

func (k consents) approval(key id.Approval) *approval.Approval {
	i := slices.IndexFunc(k.approvals, func(a approval.Approval) bool { return a.ID == key })
	if i < 0 || key.IsZero() {
		return nil
	}
	return &k.approvals[i]
}

// usable verifies an approval at the moment of use.
func (c *call) usable(a approval.Approval, rules []approval.Rule) error {
	if a.CallDigest != c.callDigest {
		return fault.New(fault.Conflict, "enforce.approve", "approval_other_call", "the approval is for another call")
	}
	if err := approval.VerifyForUse(a, c.consents.standing, c.now); err != nil {
		return err
	}
	if !approval.SameRules(a.Binding.Rules, rules) {
		return fault.New(fault.Conflict, "enforce.approve", "approval_rules_changed", "the rules that were lifted have changed since")
	}
	return nil
}

// standing is what a person who decided counts for now; roles count as groups.
func (k consents) standing(name string) ([]string, bool) {
	p, ok := k.deciders[name]
	if !ok || p.Suspended {
		return nil, false
	}
	groups := slices.Clone(p.Groups)
	for _, r := range p.Roles {
		groups = append(groups, string(r))
	}
	return groups, true
}

// lift asks policy again, with the approval. It must permit now.
func (c *call) lift(a *approval.Approval) *refusal {
	facts := &policy.ApprovalFacts{ID: a.ID.String()}
	for _, r := range a.Binding.Rules {
		facts.Satisfies = append(facts.Satisfies, r.ID)
	}
	c.asked.Approval = facts
	c.decided = c.snap.Policy.Decide(c.asked)
	c.lifts = a.ID
	if c.decided.Effect != policy.Permit {
		return c.deniedByPolicy()
	}
	return nil
}

func rulesOf(m *policy.Missing) []approval.Rule {
	out := make([]approval.Rule, 0, len(m.Rules))
	for _, r := range m.Rules {
		out = append(out, approval.Rule{ID: r.Rule, TextDigest: r.Digest, Reason: r.Text})
	}
	return out
}

// fileApproval makes the pending approval of this call, unless somebody has made it meanwhile: one call, one question. Questions that
// are still open and ask for something else are closed with it.
func (c *call) fileApproval(ctx context.Context, rules []approval.Rule) (_ *approval.Approval, made bool, err error) {
	m := c.decided.Missing
	rows := make([]approval.Requirement, 0, len(m.Require))
	for _, r := range m.Require {
		rows = append(rows, approval.Requirement{Group: r.Group, Number: r.Number})
	}
	excluded, err := c.exclusions(ctx)
	if err != nil {
		return nil, false, err
	}
	requester := ""
	if c.run.Opener.Kind != run.ByAgent {
		requester = c.run.Opener.Name
	}
	a, err := approval.New(approval.Question{
		ID: id.NewApproval(c.now), Call: c.exact, Rules: rules, Require: rows, Tier: approval.Tier(m.Tier), PolicyDigest: c.snap.PolicyDigest,
		Nonce: rand.Text(), Expires: min(m.Expires, c.run.ExpiresAt.Sub(c.now)),
		Facts: approval.Facts{
			AgentName: c.agent.Name, AgentOwner: c.agent.Owner, Requester: requester, Purpose: c.run.Purpose, Label: labelWords(c.label),
			Excluded: excluded,
		},
	}, c.now)
	if err != nil {
		return nil, false, err
	}
	events := make([]audit.Sealed, 1)
	if events[0], err = c.sealApproval(audit.ApprovalRequested, a); err != nil {
		return nil, false, err
	}
	var closing []approval.Approval
	for _, old := range c.consents.approvals {
		if old.State != approval.Pending {
			continue
		}
		kind := audit.ApprovalCancelled
		done, err := approval.Cancel(old, "asked anew as "+a.ID.String(), c.now)
		if !c.now.Before(old.Binding.NotAfter) {
			kind = audit.ApprovalExpired
			done, err = approval.Expire(old, c.now)
		}
		if err != nil {
			return nil, false, err
		}
		e, err := c.sealApproval(kind, done)
		if err != nil {
			return nil, false, err
		}
		closing, events = append(closing, done), append(events, e)
	}
	standing := &a
	err = c.Store.Update(ctx, func(tx store.Tx) error {
		standing, made = &a, false
		for b, err := range tx.Approvals().Approvals(approval.Filter{State: approval.Pending, CallDigest: c.callDigest}) {
			if err != nil {
				return err
			}
			if c.now.Before(b.Binding.NotAfter) && approval.SameRules(b.Binding.Rules, rules) {
				standing = &b
				return nil
			}
			if !slices.ContainsFunc(closing, func(o approval.Approval) bool { return o.ID == b.ID && o.Version == b.Version }) {
				return errMoved
			}
		}
		if err := c.room(tx, len(closing)); err != nil {
			return err
		}
		made = true
		for _, old := range closing {
			if err := tx.Approvals().Update(old); fault.Is(err, fault.Conflict) {
				return errMoved
			} else if err != nil {
				return err
			}
		}
		if err := tx.Approvals().Insert(a); err != nil {
			return err
		}
		return c.finish(tx, found{}, events)
	})
	return standing, made, err
}

// openQuestions is how many questions of one agent people may have before them. Asking more than anybody can read is how consent
// is worn down.
const openQuestions = 100

// room refuses a new question of an agent that has too many open. Error: Limited, "approvals_full".
func (c *call) room(tx store.Tx, closing int) error {
	n := 0
	for a, err := range tx.Approvals().Approvals(approval.Filter{State: approval.Pending, Limit: 1 << 20}) {
		if err != nil {
			return err
		}
		if a.Call.Agent == c.agent.ID && c.now.Before(a.Binding.NotAfter) {
			n++
		}
	}
	if n-closing >= openQuestions {
		return fault.New(fault.Limited, "enforce.approve", "approvals_full", "%d calls of this agent wait for people already", n).
			WithFix("wait until some are decided, or end the runs they belong to")
	}
	return nil
}

// authorship is how long somebody who changed what enables a call may not approve it.
const authorship = 24 * time.Hour

// exclusions are the people who may not decide: who opened this run or one above it, the owners of the agents in the chain, and
// whoever changed in the last 24 hours the policies, the server's entry, or the tool's entry or pin.
func (c *call) exclusions(ctx context.Context) ([]approval.Exclusion, error) {
	var out []approval.Exclusion
	err := c.Store.View(ctx, func(tx store.Tx) error {
		out = nil
		add := func(name, why string) {
			if name == "" || slices.ContainsFunc(out, func(x approval.Exclusion) bool { return x.Person == name }) {
				return
			}
			x := approval.Exclusion{Person: name, Why: why}
			if p, err := tx.People().Person(name); err == nil {
				x.Email = p.Email
			}
			out = append(out, x)
		}
		if c.run.Opener.Kind != run.ByAgent {
			add(c.run.Opener.Name, approval.ExcludedRequester)
		}
		add(c.agent.Owner, approval.ExcludedOwner)
		for _, r := range append([]run.Run{c.run}, c.ancestors...) {
			switch r.Opener.Kind {
			case run.ByPerson:
				if r.ID != c.run.ID {
					add(r.Opener.Name, approval.ExcludedChain)
				}
			case run.ByOrchestrator, run.ByAgent:
				a, err := tx.Registry().Agent(r.Opener.Name)
				if err == nil {
					add(a.Owner, approval.ExcludedChain)
				} else if !fault.Is(err, fault.NotFound) {
					return err
				}
			}
		}
		since := c.now.Add(-authorship)
		for v := c.snap.PolicyVersion; v > 0; v-- {
			b, err := tx.Policies().Version(v)
			if fault.Is(err, fault.NotFound) || err == nil && !b.At.After(since) {
				break
			}
			if err != nil {
				return err
			}
			add(b.Author, approval.ExcludedAuthor)
		}
		for _, name := range []string{c.entry.Name, c.tool} { // entries and pins say "greet", types "prompt:greet"
			for a, err := range tx.Pins().Authors(c.req.Server, name, since) {
				if err != nil {
					return err
				}
				add(a.Person, approval.ExcludedAuthor)
			}
		}
		return nil
	})
	return out, err
}

// await lets the caller wait on the socket for the people's word, and answers that it is pending when it has not come.
func (c *call) await(ctx context.Context, a *approval.Approval, made bool) (again bool, no *refusal) {
	c.waiting = &Waiting{ID: a.ID, Link: c.Link(a.ID), NotAfter: a.Binding.NotAfter, State: string(approval.Pending)}
	c.unlock() // nobody else of the run waits while people think
	if c.patience.IsZero() {
		c.patience = c.Now().Add(min(c.req.Wait, c.cfg.MaxWait))
	}
	c.filed = c.filed || made
	pending := &refusal{
		verdict: Pending, code: "approval_pending", reason: "This call waits for people to approve it.", listed: true,
		fix:  "repeat the same call after " + c.waiting.Link + " was decided",
		free: !c.filed, // asking took a step; asking after it takes none
	}
	var why []string
	for _, r := range a.Binding.Rules {
		if r.Reason != "" {
			why = append(why, r.Reason)
		}
	}
	if len(a.Binding.Rules) > 0 {
		pending.rule = a.Binding.Rules[0].ID
	}
	if len(why) > 0 {
		pending.reason = strings.Join(why, " ")
	}
	left := c.patience.Sub(c.Now())
	if left <= 0 {
		return false, pending
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	c.held.n.Add(1)
	defer c.held.n.Add(-1)
	for {
		committed := c.Store.Committed()
		var state approval.State
		err := c.Store.View(ctx, func(tx store.Tx) error {
			b, err := tx.Approvals().Approval(a.ID)
			state = b.State
			return err
		})
		if err != nil && ctx.Err() == nil {
			return false, orStore(err)
		}
		if err == nil && state != approval.Pending {
			return true, nil
		}
		select {
		case <-committed:
		case <-timer.C:
			return false, pending
		case <-ctx.Done():
			return false, pending
		}
		select { // commits come in swarms, and every one wakes all who wait
		case <-time.After(c.held.pause()):
		case <-timer.C:
			return false, pending
		case <-ctx.Done():
			return false, pending
		}
	}
}
