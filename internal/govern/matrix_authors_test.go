// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"testing"

	"chaperone/internal/approval"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/store"
)

// A row of the enforcement matrix that this road holds. testdata/mutants removes its guard and expects its line here. The approval
// was filed before the change, so that nothing but the look at the moment of the decision can know of it.

func TestMatrix_AuthorOfTheEnablingChange(t *testing.T) {
	const code = "approval_excluded_author_of_change"
	for what, w := range map[string]catalog.Authorship{
		"server": {Kind: catalog.KindServer},
		"entry":  {Kind: catalog.KindTool, Name: "payment_send"},
		"pin":    {Kind: catalog.KindTool, Name: "payment_send"},
	} {
		h := withApprovers(t)
		a := h.ask()
		w.Server, w.Person, w.What, w.At = "office", "ben", what, h.now()
		if err := h.store.Update(t.Context(), func(tx store.Tx) error { return tx.Pins().AddAuthor(w) }); err != nil {
			t.Fatal(err)
		}
		if _, err := h.road.DecideApproval(t.Context(), h.as("ben"), a.ID, decide(approval.Yes, a)); fault.CodeOf(err) != code {
			t.Errorf("who changed the %s may approve: %v, want %s", what, err, code)
			continue
		}
		if v, err := h.road.DecideApproval(t.Context(), h.as("cyd"), a.ID, decide(approval.Yes, a)); err != nil || v.State != approval.Approved {
			t.Errorf("another approver: %+v %v", v, err)
		}
	}
}
