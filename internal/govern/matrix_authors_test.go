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
	for _, c := range []struct {
		what, kind, tool string // of the call that is asked for
		by               catalog.Authorship
	}{
		{"server", "tool", "payment_send", catalog.Authorship{Kind: catalog.KindServer}},
		{"entry", "tool", "payment_send", catalog.Authorship{Kind: catalog.KindTool, Name: "payment_send"}},
		{"pin", "tool", "payment_send", catalog.Authorship{Kind: catalog.KindTool, Name: "payment_send"}},
		{"prompt", "prompt", "prompt:greet", catalog.Authorship{Kind: catalog.KindPrompt, Name: "greet"}},
		{"type's prompts", "prompt", "prompt:greet", catalog.Authorship{Kind: catalog.KindTool, Name: "prompt:greet"}},
		{"resource", "resource", "resource:file:///a", catalog.Authorship{Kind: catalog.KindResource, Name: "file:///a"}},
		{"template", "resource", "resource:file:///{name}", catalog.Authorship{Kind: catalog.KindTemplate, Name: "file:///{name}"}},
	} {
		h := withApprovers(t)
		a := h.ask(func(q *approval.Question) { q.Call.Kind, q.Call.Tool = c.kind, c.tool })
		c.by.Server, c.by.Person, c.by.What, c.by.At = "office", "ben", "entry", h.now()
		if err := h.store.Update(t.Context(), func(tx store.Tx) error { return tx.Pins().AddAuthor(c.by) }); err != nil {
			t.Fatal(err)
		}
		if _, err := h.road.DecideApproval(t.Context(), h.as("ben"), a.ID, decide(approval.Yes, a)); fault.CodeOf(err) != code {
			t.Errorf("who changed the %s may approve: %v, want %s", c.what, err, code)
			continue
		}
		if v, err := h.road.DecideApproval(t.Context(), h.as("cyd"), a.ID, decide(approval.Yes, a)); err != nil || v.State != approval.Approved {
			t.Errorf("another approver: %+v %v", v, err)
		}
	}
}
