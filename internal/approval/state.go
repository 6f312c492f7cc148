// SPDX-License-Identifier: Apache-2.0

package approval

import (
	"slices"
	"strings"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// Bounds of a question and of an answer.
const (
	MaxLife   = 24 * time.Hour // the longest an approval may stand, from asking to use
	MaxReason = 1 << 10        // bytes of a decision's reason
	maxRows   = 16
	maxPerRow = 16
)

// Question is everything that New needs: the exact call, what lifts it, and what the decider is shown beside it.
type Question struct {
	ID           id.Approval
	Call         Call
	Rules        []Rule        // the rules a yes lifts; at least one
	Require      []Requirement // who must agree; at least one row
	Tier         Tier
	PolicyDigest string
	Nonce        string        // random, made by the caller (rand.Text)
	Expires      time.Duration // from now; above 0, at most MaxLife
	Facts        Facts
}

// Facts are shown to the decider and exclude people; they are not part of what is bound.
type Facts struct {
	AgentName  string
	AgentOwner string
	Requester  string // the person or orchestrator who opened the run
	Purpose    string
	Label      string
	Excluded   []Exclusion
}

// Decider is what is known of the person who decides, at that moment. Aliases are the other names of the same human: e-mail
// address, identifier, SPIFFE ID. Groups include the roles (role approver = group "approver").
type Decider struct {
	ID        id.Person
	Name      string
	Aliases   []string
	Groups    []string
	Suspended bool
}

// New makes the pending approval of a question. Errors: Invalid "approval_bad_question" when a rule, a row or the life is
// missing or out of bounds; the codes of canon when the arguments have no canonical form.
func New(q Question, now time.Time) (Approval, error) {
	const op = "approval.New"
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, op, "approval_bad_question", format, args...).
			WithFix("mend the @require, @tier and @expires of the rules that the approval lifts")
	}
	switch {
	case q.ID.IsZero() || q.Nonce == "" || q.PolicyDigest == "":
		return Approval{}, bad("an approval needs an identifier, a nonce and the digest of the policy")
	case len(q.Rules) == 0:
		return Approval{}, bad("an approval lifts at least one rule")
	case len(q.Require) == 0 || len(q.Require) > maxRows:
		return Approval{}, bad("an approval has 1 to %d rows of who must agree", maxRows)
	case q.Expires <= 0 || q.Expires > MaxLife:
		return Approval{}, bad("an approval lives longer than nothing and at most %s", MaxLife)
	}
	for _, r := range q.Require {
		if r.Group == "" || r.Number < 1 || r.Number > maxPerRow {
			return Approval{}, bad("a row names a group and a number of 1 to %d people", maxPerRow)
		}
	}
	now = milli(now)
	a := Approval{
		ID: q.ID, State: Pending, Call: canonicalCall(q.Call), Require: slices.Clone(q.Require), Tier: q.Tier,
		AgentName: q.Facts.AgentName, AgentOwner: q.Facts.AgentOwner, Requester: q.Facts.Requester,
		Purpose: q.Facts.Purpose, Label: q.Facts.Label, Excluded: slices.Clone(q.Facts.Excluded), CreatedAt: now,
	}
	if a.Tier == "" {
		a.Tier = Confirm
	}
	var err error
	if a.CallDigest, err = CallDigest(a.Call); err != nil {
		return Approval{}, err
	}
	a.Binding = canonicalBinding(Binding{
		CallDigest: a.CallDigest, Approval: q.ID, Rules: q.Rules, PolicyDigest: q.PolicyDigest, Nonce: q.Nonce,
		NotAfter: now.Add(q.Expires),
	})
	if a.BindingDigest, err = BindingDigest(a.Binding); err != nil {
		return Approval{}, err
	}
	return a, nil
}

// Decide joins one person's word. d carries Verdict, BindingDigest (what the person saw), Channel and Reason; who fills the
// rest. A denial closes the question at once; the approval that completes the quorum turns it to approved. a is not changed.
//
// Errors: Conflict approval_closed, approval_expired, approval_duplicate, approval_binding_mismatch; Denied
// approval_excluded_<requester|on_behalf_of|owner|chain|author_of_change>, approval_not_eligible, approval_tier_unavailable;
// Suspended person_suspended; Invalid approval_bad_verdict.
func Decide(a Approval, d Decision, who Decider, now time.Time) (Approval, error) {
	const op = "approval.Decide"
	if d.Verdict != Yes && d.Verdict != No {
		return a, fault.New(fault.Invalid, op, "approval_bad_verdict", "the verdict is %s or %s", Yes, No)
	}
	if len(d.Reason) > MaxReason {
		return a, fault.New(fault.Invalid, op, "approval_bad_verdict", "the reason is longer than %d bytes", MaxReason)
	}
	if a.State != Pending {
		return a, closed(op, a)
	}
	if !now.Before(a.Binding.NotAfter) {
		return a, expired(op, a)
	}
	if err := MayDecide(a, who, now); err != nil {
		return a, err
	}
	if !equalDigest(d.BindingDigest, a.BindingDigest) {
		return a, fault.New(fault.Conflict, op, "approval_binding_mismatch", "the digest that was decided on is not that of approval %s", a.ID).
			WithFix("show the approval again and decide on what it shows now")
	}
	if err := intact(op, a); err != nil {
		return a, err
	}
	d.Person, d.PersonID, d.At = who.Name, who.ID, milli(now)
	d.Groups = slices.Clone(who.Groups)
	slices.Sort(d.Groups)
	a.Decisions = append(slices.Clone(a.Decisions), d)
	switch {
	case d.Verdict == No:
		a.State, a.ClosedAt, a.Reason = Denied, d.At, d.Reason
	case Satisfied(a):
		a.State, a.ClosedAt = Approved, d.At
	}
	return a, nil
}

// MayDecide says whether the person could decide now, whatever they would say: nil, or the error that Decide would return.
func MayDecide(a Approval, who Decider, now time.Time) error {
	const op = "approval.Decide"
	if a.State != Pending {
		return closed(op, a)
	}
	if !now.Before(a.Binding.NotAfter) {
		return expired(op, a)
	}
	if who.Suspended {
		return fault.New(fault.Suspended, op, "person_suspended", "%s is suspended", who.Name)
	}
	if a.Tier != Confirm {
		return fault.New(fault.Denied, op, "approval_tier_unavailable", "the tier %s cannot be decided over this channel", a.Tier).
			WithFix("ask an operator to lower the rule's @tier to confirm, or wait for a channel that offers the tier")
	}
	if why, ok := excluded(a, who); ok {
		return fault.New(fault.Denied, op, "approval_excluded_"+why, "%s may not decide on %s: %s", who.Name, a.ID, whyWords[why]).
			WithFix("ask another member of %s", groupNames(a.Require))
	}
	if !slices.ContainsFunc(a.Require, func(r Requirement) bool { return slices.Contains(who.Groups, r.Group) }) {
		return fault.New(fault.Denied, op, "approval_not_eligible", "%s is not in a group that this approval asks: %s", who.Name, groupNames(a.Require)).
			WithFix("ask a member of %s", groupNames(a.Require))
	}
	if slices.ContainsFunc(a.Decisions, func(d Decision) bool { return sameDecider(d, who) }) {
		return fault.New(fault.Conflict, op, "approval_duplicate", "%s has already decided on %s", who.Name, a.ID)
	}
	return nil
}

// Expire closes an approval whose time has passed. Errors: Conflict approval_closed (final already), approval_not_expired.
func Expire(a Approval, now time.Time) (Approval, error) {
	const op = "approval.Expire"
	if a.State != Pending && a.State != Approved {
		return a, closed(op, a)
	}
	if now.Before(a.Binding.NotAfter) {
		return a, fault.New(fault.Conflict, op, "approval_not_expired", "approval %s stands until %s", a.ID, a.Binding.NotAfter.Format(time.RFC3339))
	}
	a.State, a.ClosedAt = Expired, milli(now)
	return a, nil
}

// Cancel closes an approval that is no longer wanted (the run ended, the agent was suspended). Error: Conflict approval_closed.
func Cancel(a Approval, reason string, now time.Time) (Approval, error) {
	if a.State != Pending && a.State != Approved {
		return a, closed("approval.Cancel", a)
	}
	a.State, a.ClosedAt, a.Reason = Cancelled, milli(now), reason
	return a, nil
}

// Consume uses an approval up. Call VerifyForUse first and store the result in the transaction that mints the grant; the
// store's version makes one of two parallel consumers lose. Errors: Conflict approval_<state>, approval_expired.
func Consume(a Approval, now time.Time) (Approval, error) {
	const op = "approval.Consume"
	if a.State != Approved {
		return a, notUsable(op, a)
	}
	if !now.Before(a.Binding.NotAfter) {
		return a, expired(op, a)
	}
	a.State, a.ClosedAt = Consumed, milli(now)
	return a, nil
}

func closed(op string, a Approval) error {
	return fault.New(fault.Conflict, op, "approval_closed", "approval %s is %s", a.ID, a.State).
		WithFix("make the call again: a new approval is asked")
}

func expired(op string, a Approval) error {
	return fault.New(fault.Conflict, op, "approval_expired", "approval %s expired at %s", a.ID, a.Binding.NotAfter.Format(time.RFC3339)).
		WithFix("make the call again: a new approval is asked")
}

func notUsable(op string, a Approval) error {
	return fault.New(fault.Conflict, op, "approval_"+string(a.State), "approval %s is %s, not approved", a.ID, a.State).
		WithFix("make the call again: a new approval is asked")
}

func groupNames(rows []Requirement) string {
	var names []string
	for _, r := range rows {
		if !slices.Contains(names, r.Group) {
			names = append(names, r.Group)
		}
	}
	return strings.Join(names, ", ")
}
