// SPDX-License-Identifier: Apache-2.0

package approval

import (
	"slices"
	"strings"
	"time"

	"chaperone/internal/fault"
)

// Reasons why a person may not decide, as they stand in Exclusion.Why.
const (
	ExcludedRequester  = "requester"
	ExcludedOnBehalfOf = "on_behalf_of"
	ExcludedOwner      = "owner"
	ExcludedChain      = "chain"
	ExcludedAuthor     = "author_of_change"
)

var whyWords = map[string]string{
	ExcludedRequester:  "they asked for it",
	ExcludedOnBehalfOf: "it is done on their behalf",
	ExcludedOwner:      "they own the agent",
	ExcludedChain:      "they stand in the delegation chain",
	ExcludedAuthor:     "they changed what enables the call in the last 24 hours",
}

// excluded finds why the person may not decide. The requester, the owner and the user it is done for are excluded even if
// the list that was stored with the question forgot them.
func excluded(a Approval, who Decider) (string, bool) {
	rows := append([]Exclusion{
		{Person: a.Requester, Why: ExcludedRequester},
		{Person: a.Call.OnBehalfOf, Why: ExcludedOnBehalfOf},
		{Person: a.AgentOwner, Why: ExcludedOwner},
	}, a.Excluded...)
	mine := append([]string{who.Name, who.ID.String()}, who.Aliases...)
	for _, x := range rows {
		if SamePerson(mine, []string{x.Person, x.Email}) {
			if _, known := whyWords[x.Why]; !known {
				return ExcludedChain, true // an unknown reason still excludes
			}
			return x.Why, true
		}
	}
	return "", false
}

// SamePerson reports whether two lists of names (login name, e-mail address, identifier, SPIFFE ID) have one in common.
// Case and the tag of an address (ada+work@example.org) do not make another person; empty names match nothing.
func SamePerson(a, b []string) bool {
	for _, x := range a {
		x = Alias(x)
		if x != "" && slices.ContainsFunc(b, func(y string) bool { return Alias(y) == x }) {
			return true
		}
	}
	return false
}

// Alias is the form in which names of people are compared.
func Alias(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if local, domain, ok := strings.Cut(name, "@"); ok {
		if base, _, tagged := strings.Cut(local, "+"); tagged && base != "" {
			return base + "@" + domain
		}
	}
	return name
}

func sameDecider(d Decision, who Decider) bool {
	return SamePerson([]string{d.Person, d.PersonID.String()}, append([]string{who.Name, who.ID.String()}, who.Aliases...))
}

// Satisfied reports whether the people who said yes fill every row, each person counting for one row only, and nobody said no.
// An approval without rows is never satisfied.
func Satisfied(a Approval) bool {
	return satisfiedBy(a, func(d Decision) []string { return d.Groups })
}

// satisfiedBy fills the seats of all rows with distinct people by augmenting paths (Kuhn's matching); groups gives what a
// decision counts for.
func satisfiedBy(a Approval, groups func(Decision) []string) bool {
	var seats []string
	for _, r := range a.Require {
		if r.Number < 1 {
			return false
		}
		for range r.Number {
			seats = append(seats, r.Group)
		}
	}
	if len(seats) == 0 {
		return false
	}
	var yes []Decision
	for _, d := range a.Decisions {
		if d.Verdict != Yes {
			return false
		}
		if !slices.ContainsFunc(yes, func(e Decision) bool {
			return SamePerson([]string{e.Person, e.PersonID.String()}, []string{d.Person, d.PersonID.String()})
		}) {
			yes = append(yes, d)
		}
	}
	holder := make([]int, len(yes)) // which seat a person holds, -1 none
	for i := range holder {
		holder[i] = -1
	}
	for s := range seats {
		if !seat(s, seats, yes, groups, holder, make([]bool, len(yes))) {
			return false
		}
	}
	return true
}

func seat(s int, seats []string, yes []Decision, groups func(Decision) []string, holder []int, tried []bool) bool {
	for p, d := range yes {
		if tried[p] || !slices.Contains(groups(d), seats[s]) {
			continue
		}
		tried[p] = true
		if holder[p] < 0 || seat(holder[p], seats, yes, groups, holder, tried) {
			holder[p] = s
			return true
		}
	}
	return false
}

// VerifyForUse checks everything again at the moment of use: approved, not expired, both digests recomputed from the stored
// inputs, every decision taken on this binding, nobody excluded among those who said yes, and the quorum still filled by
// people who are still in the groups they decided for. still gives a person's groups (roles included) at this moment; ok is
// false for people who are gone or suspended.
//
// Errors, all Conflict: approval_<state>, approval_expired, approval_binding_mismatch, approval_excluded_<why>, approval_quorum_lost.
func VerifyForUse(a Approval, still func(person string) (groups []string, ok bool), now time.Time) error {
	const op = "approval.VerifyForUse"
	if a.State != Approved {
		return notUsable(op, a)
	}
	if !now.Before(a.Binding.NotAfter) {
		return expired(op, a)
	}
	if err := intact(op, a); err != nil {
		return err
	}
	for _, d := range a.Decisions {
		if !equalDigest(d.BindingDigest, a.BindingDigest) {
			return fault.New(fault.Conflict, op, "approval_binding_mismatch", "%s decided on another digest than that of approval %s", d.Person, a.ID).
				WithFix("make the call again: a new approval is asked")
		}
		if why, ok := excluded(a, Decider{ID: d.PersonID, Name: d.Person}); ok {
			return fault.New(fault.Conflict, op, "approval_excluded_"+why, "%s may not decide on %s: %s", d.Person, a.ID, whyWords[why]).
				WithFix("make the call again: a new approval is asked")
		}
	}
	standing := func(d Decision) []string {
		now, ok := still(d.Person)
		if !ok {
			return nil
		}
		var both []string
		for _, g := range d.Groups {
			if slices.Contains(now, g) {
				both = append(both, g)
			}
		}
		return both
	}
	if !satisfiedBy(a, standing) {
		return fault.New(fault.Conflict, op, "approval_quorum_lost", "those who approved %s are no longer enough: somebody left a group or is suspended", a.ID).
			WithFix("make the call again: a new approval is asked")
	}
	return nil
}
