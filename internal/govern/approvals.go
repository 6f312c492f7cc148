// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"slices"
	"strings"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/store"
)

// AuthorshipWindow is how long somebody who changed what enables a call may not approve it.
const AuthorshipWindow = 24 * time.Hour

// ApprovalView is an approval as one caller sees it. Not is nil when they may decide it, else the fault they would get.
type ApprovalView struct {
	approval.Approval
	Link string
	Not  error
}

// Approvals lists approvals in a state ("" = any), newest first. One that is past its end shows as expired, whether or not that
// is written yet.
func (r *Road) Approvals(ctx context.Context, c Caller, state approval.State, limit int) ([]ApprovalView, error) {
	a, err := r.allow(ctx, c, ActApprovalList, policy.Resource{Kind: "approval"})
	if err != nil {
		return nil, err
	}
	f := approval.Filter{State: state, Limit: limit}
	if state == approval.Expired {
		f.State = "" // those past their end may still stand as pending or approved
	}
	var out []ApprovalView
	err = r.view(ctx, func(tx store.Tx) error {
		all, err := collect(tx.Approvals().Approvals(f), limit)
		if err != nil {
			return err
		}
		writers, err := r.policyAuthors(tx)
		if err != nil {
			return err
		}
		out = make([]ApprovalView, 0, len(all))
		for _, p := range all {
			v, err := r.look(tx, p, a, writers)
			if err != nil {
				return err
			}
			if state == "" || v.State == state {
				out = append(out, v)
			}
		}
		return nil
	})
	return out, err
}

// Approval returns one approval with the exact payload and both digests.
func (r *Road) Approval(ctx context.Context, c Caller, which id.Approval) (ApprovalView, error) {
	a, p, err := r.allowApproval(ctx, c, ActApprovalRead, which)
	if err != nil {
		return ApprovalView{}, err
	}
	return r.lookAgain(ctx, p.ID, a)
}

// lookAgain reads an approval as it is now.
func (r *Road) lookAgain(ctx context.Context, which id.Approval, a allowed) (v ApprovalView, err error) {
	err = r.view(ctx, func(tx store.Tx) error {
		p, err := tx.Approvals().Approval(which)
		if err != nil {
			return err
		}
		writers, err := r.policyAuthors(tx)
		if err != nil {
			return err
		}
		v, err = r.look(tx, p, a, writers)
		return err
	})
	return v, err
}

func (r *Road) allowApproval(ctx context.Context, c Caller, action string, which id.Approval) (allowed, approval.Approval, error) {
	var p approval.Approval
	absent := r.view(ctx, func(tx store.Tx) (err error) { p, err = tx.Approvals().Approval(which); return err })
	a, err := r.allow(ctx, c, action, policy.Resource{Kind: "approval", ID: which.String(), Owner: p.AgentOwner})
	if err == nil {
		err = absent
	}
	return a, p, err
}

// look adds what the caller may do, and shows the end that has passed.
func (r *Road) look(tx store.Tx, p approval.Approval, a allowed, writers []string) (ApprovalView, error) {
	if done, err := approval.Expire(p, r.Now()); err == nil {
		p = done
	}
	v := ApprovalView{Approval: p, Link: r.cfg.APIURL + "/approvals/" + p.ID.String()}
	if a.person.ID.IsZero() {
		v.Not = fault.New(fault.Denied, "govern.look", "approval_not_eligible", "only people decide approvals")
		return v, nil
	}
	with, err := r.withAuthors(tx, p, writers)
	if err != nil {
		return v, err
	}
	v.Excluded = with.Excluded
	v.Not = approval.MayDecide(with, r.decider(a.person), r.Now())
	return v, nil
}

// decider is everything by which a person is known.
func (r *Road) decider(p people.Person) approval.Decider {
	return approval.Decider{
		ID: p.ID, Name: p.Name, Aliases: []string{p.Email, identity.PersonSPIFFE(r.cfg.TrustDomain, p.Name)},
		Groups: p.Standing(), Suspended: p.Suspended,
	}
}

// withAuthors adds those who changed what enables the call since it was asked: the list in the approval is of that moment,
// and nobody may mend the way and then approve. writers are those of the policies (policyAuthors).
func (r *Road) withAuthors(tx store.Tx, p approval.Approval, writers []string) (approval.Approval, error) {
	out := p
	out.Excluded = slices.Clone(p.Excluded)
	add := func(name string) {
		x := approval.Exclusion{Person: name, Why: approval.ExcludedAuthor}
		if !slices.Contains(out.Excluded, x) {
			out.Excluded = append(out.Excluded, x)
		}
	}
	for _, name := range writers {
		add(name)
	}
	for _, name := range catalogueNames(p.Call) {
		for w, err := range tx.Pins().Authors(p.Call.Server, name, r.Now().Add(-AuthorshipWindow)) {
			if err != nil {
				return p, err
			}
			add(w.Person)
		}
	}
	return out, nil
}

// catalogueNames are the names under which changes of what is called are kept: types name a prompt "prompt:greet", as the call does,
// entries and pins "greet".
func catalogueNames(c approval.Call) []string {
	if bare, ok := strings.CutPrefix(c.Tool, c.Kind+":"); ok {
		return []string{c.Tool, bare}
	}
	return []string{c.Tool}
}

// policyAuthors are the people who changed the policies within the window.
func (r *Road) policyAuthors(tx store.Tx) ([]string, error) {
	since := r.Now().Add(-AuthorshipWindow)
	b, err := tx.Policies().Active()
	var out []string
	for ; err == nil && b.At.After(since); b, err = tx.Policies().Version(b.Version - 1) {
		if b.Author != systemName {
			out = append(out, b.Author)
		}
	}
	if fault.Is(err, fault.NotFound) {
		err = nil
	}
	return out, err
}

type decisionData struct {
	Approval      id.Approval      `json:"approval"`
	Verdict       approval.Verdict `json:"verdict"`
	State         approval.State   `json:"state"` // after this decision
	CallDigest    string           `json:"call_digest"`
	BindingDigest string           `json:"binding_digest"`
	Channel       string           `json:"channel"`
	Reason        string           `json:"reason,omitempty"`
	Groups        []string         `json:"groups"`
	WaitedMS      int64            `json:"waited_ms"` // since it was asked
	Lifted        []string         `json:"lifted,omitempty"`
	Rules         []audit.Rule     `json:"rules,omitempty"`
}

// DecideApproval gives the caller's word. digest is the binding digest that the caller was shown. Errors: those of
// approval.Decide, and Denied "access_denied".
func (r *Road) DecideApproval(ctx context.Context, c Caller, which id.Approval, d approval.Decision) (ApprovalView, error) {
	const op = "govern.DecideApproval"
	a, p, err := r.allowApproval(ctx, c, ActApprovalDecide, which)
	if err != nil {
		return ApprovalView{}, err
	}
	if a.person.ID.IsZero() {
		return ApprovalView{}, fault.New(fault.Denied, op, "approval_not_eligible", "only people decide approvals").
			WithFix("ask a person of the required groups")
	}
	if d.Channel != "cli" {
		d.Channel = "api"
	}
	for try := 0; ; try++ {
		var after approval.Approval
		err := r.view(ctx, func(tx store.Tx) error {
			if p, err = tx.Approvals().Approval(which); err != nil {
				return err
			}
			writers, err := r.policyAuthors(tx)
			if err != nil {
				return err
			}
			with, err := r.withAuthors(tx, p, writers)
			if err != nil {
				return err
			}
			after, err = approval.Decide(with, d, r.decider(a.person), r.Now())
			return err
		})
		if err != nil {
			return ApprovalView{}, err
		}
		mine := after.Decisions[len(after.Decisions)-1]
		data := decisionData{
			Approval: which, Verdict: d.Verdict, State: after.State, CallDigest: p.CallDigest, BindingDigest: d.BindingDigest,
			Channel: d.Channel, Reason: d.Reason, Groups: mine.Groups, WaitedMS: mine.At.Sub(p.CreatedAt).Milliseconds(), Rules: a.rules,
		}
		for _, rule := range p.Binding.Rules {
			data.Lifted = append(data.Lifted, rule.ID)
		}
		ev := r.event(a, audit.ApprovalDecided, "approval:"+which.String(), data)
		ev.Approval, ev.Agent, ev.AgentName, ev.Run, ev.Server, ev.Tool = which, p.Call.Agent, p.AgentName, p.Call.Run, p.Call.Server, p.Call.Tool
		err = r.change(ctx, a, ev, func(tx store.Tx) error { return tx.Approvals().Update(after) })
		if fault.CodeOf(err) == "approval_moved" && try < 3 {
			continue // somebody else decided meanwhile; look at it again
		}
		if err != nil {
			return ApprovalView{}, err
		}
		return r.lookAgain(ctx, which, a)
	}
}

type expiryData struct {
	Approval   id.Approval    `json:"approval"`
	From       approval.State `json:"from"`
	CallDigest string         `json:"call_digest"`
}

// ExpireApprovals writes down the end of every approval that is past it and returns how many. Nothing is ever approved by
// time; this only tidies what reads as expired already.
func (r *Road) ExpireApprovals(ctx context.Context) (int, error) {
	var due []approval.Approval
	err := r.view(ctx, func(tx store.Tx) error {
		for _, s := range []approval.State{approval.Pending, approval.Approved} {
			some, err := collect(tx.Approvals().Approvals(approval.Filter{State: s}), 0)
			if err != nil {
				return err
			}
			due = append(due, some...)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	n := 0
	for _, p := range due {
		done, err := approval.Expire(p, r.Now())
		if err != nil {
			continue // it still stands
		}
		ev := r.event(r.system(), audit.ApprovalExpired, "approval:"+p.ID.String(), expiryData{p.ID, p.State, p.CallDigest})
		ev.Approval, ev.Agent, ev.AgentName, ev.Run, ev.Server, ev.Tool = p.ID, p.Call.Agent, p.AgentName, p.Call.Run, p.Call.Server, p.Call.Tool
		err = r.append(ctx, ev, func(tx store.Tx) error { return tx.Approvals().Update(done) })
		if fault.CodeOf(err) == "approval_moved" {
			continue // decided or used meanwhile
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
