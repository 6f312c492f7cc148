// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"fmt"
	"testing"

	"chaperone/internal/audit"
	"chaperone/internal/enforce"
	"chaperone/internal/run"
)

// TestSiblingsShareTheBudget opens two children side by side, each with all that the parent has left: together they get no more.
func TestSiblingsShareTheBudget(t *testing.T) {
	h := newHouse(t)
	root := h.open(ownKey, "", func(o *run.Order) { o.Budgets = run.Budgets{Steps: 3} })
	under := func(o *run.Order) { o.Parent, o.Budgets = &root, run.Budgets{Steps: 3} }
	one, two := h.open(ownKey, "", under), h.open(ownKey, "", under)
	h.want(h.call("list_files", `{}`, in(one)), enforce.Released, "")
	h.want(h.call("list_files", `{}`, in(two)), enforce.Released, "")
	h.want(h.call("list_files", `{}`, in(one)), enforce.Released, "")
	a := h.call("list_files", `{}`, in(two))
	h.want(a, enforce.Denied, "budget_steps")
	if got := h.stored(root.ID).Spent.Steps; got != 3 {
		t.Errorf("the parent has used %d steps, want 3", got)
	}
	if got := h.stored(two.ID).Spent.Steps; got > 1 {
		t.Errorf("the refused child has used %d steps", got)
	}
}

// TestOneMindReadsForAllItsRuns reads poison in the agent's own run: a person's run in the same hands is not clean either, and
// neither is anything that is not cleared by name let out of it; a run that a person opens afterwards starts clean.
func TestOneMindReadsForAllItsRuns(t *testing.T) {
	h := newHouse(t)
	person := run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "k"}
	trusted := h.open(person, "tidy up")
	own := h.open(ownKey, "")
	h.want(h.call("read_mail", `{}`, in(own)), enforce.Released, "")
	if !h.stored(trusted.ID).Label.IsUntrusted() {
		t.Error("the person's run stayed clean while the same instance read a stranger's mail in another")
	}
	h.wantRule(h.call("send_mail", mailBob, in(trusted)), "untrusted-sink")
	if later := h.open(person, "tidy up"); h.stored(later.ID).Label.IsUntrusted() {
		t.Error("a run that a person opens afterwards does not start clean")
	}
}

// TestOverdrawnRunsDoNotFillTheRecord goes on asking after the last step: each is refused, few are written.
func TestOverdrawnRunsDoNotFillTheRecord(t *testing.T) {
	h := newHouse(t)
	r := h.open(ownKey, "", func(o *run.Order) { o.Budgets = run.Budgets{Steps: 1} })
	h.want(h.call("list_files", `{}`, in(r)), enforce.Released, "")
	for range 200 {
		h.want(h.call("list_files", `{}`, in(r)), enforce.Denied, "budget_steps")
	}
	if n := len(h.events(r.ID, audit.CallRefused)); n == 0 || n > 120 {
		t.Errorf("%d refusals are on the record, want some and at most 120", n)
	}
}

// TestOpenQuestionsAreBounded asks people more than anybody can read.
func TestOpenQuestionsAreBounded(t *testing.T) {
	h := newHouse(t)
	for i := range 100 {
		h.want(h.call("pay", fmt.Sprintf(`{"iban":"DE89370400440532013000","amount":%d}`, i+1)), enforce.Pending, "approval_pending")
	}
	h.want(h.call("pay", `{"iban":"DE89370400440532013000","amount":1000}`), enforce.Denied, "approvals_full")
	h.want(h.call("pay", `{"iban":"DE89370400440532013000","amount":1}`), enforce.Pending, "approval_pending") // asking again is no new question
}
