// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"testing"

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
