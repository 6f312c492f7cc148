// SPDX-License-Identifier: Apache-2.0

package approval

import (
	"testing"
	"time"

	"chaperone/internal/fault"
)

// A row of the enforcement matrix that this room holds. testdata/mutants removes its guard and expects its line here. The list of
// the excluded that was stored with the question does not name the requester: the machine itself must know.

func TestMatrix_RequesterApproving(t *testing.T) {
	const code = "approval_excluded_requester"
	a := asked(t, func(q *Question) { q.Facts.Excluded = nil })
	now := t0.Add(time.Minute)
	for _, name := range []string{"rita", "Rita", " RITA "} {
		if _, err := Decide(a, yes(a), who(name, "approver"), now); fault.CodeOf(err) != code {
			t.Errorf("the requester may approve as %q: %v, want %s", name, err, code)
		}
		if _, err := Decide(a, no(a), who(name, "approver"), now); fault.CodeOf(err) != code {
			t.Errorf("the requester may decide as %q: %v, want %s", name, err, code)
		}
	}
	if err := MayDecide(a, Decider{Name: "r", Aliases: []string{"rita"}, Groups: []string{"approver"}}, now); fault.CodeOf(err) != code {
		t.Errorf("the requester may approve under an alias: %v, want %s", err, code)
	}
	ok, err := Decide(a, yes(a), who("ann", "approver"), now)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody wrote the decision into the database by hand: at the moment of use it counts for nothing.
	ok.Decisions[0].Person = "rita"
	if err := VerifyForUse(ok, func(string) ([]string, bool) { return []string{"approver"}, true }, now); fault.CodeOf(err) != code {
		t.Errorf("the requester's word is used: %v, want %s", err, code)
	}
}
