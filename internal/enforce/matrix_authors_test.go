// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"testing"

	"chaperone/internal/approval"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/store"
)

// Prompts, resources and what a template stands for have names of their own in the catalogue; who changed them is excluded like who
// changed a tool.
func TestMatrix_AuthorOfAPromptOrResource(t *testing.T) {
	for _, c := range []struct {
		method     string
		kind       catalog.ItemKind
		name, tool string
		by         catalog.Authorship
	}{
		{"prompts/get", catalog.KindPrompt, "greet", "prompt:greet", catalog.Authorship{Kind: catalog.KindPrompt, Name: "greet"}},
		{"prompts/get", catalog.KindPrompt, "greet", "prompt:greet", catalog.Authorship{Kind: catalog.KindTool, Name: "prompt:greet"}}, // an agent type
		{"resources/read", catalog.KindResource, "file:///a.txt", "resource:file:///a.txt", catalog.Authorship{Kind: catalog.KindResource, Name: "file:///a.txt"}},
		{"resources/read", catalog.KindResource, "file:///dir/b", "resource:file:///dir/{name}", catalog.Authorship{Kind: catalog.KindTemplate, Name: "file:///dir/{name}"}},
	} {
		h := newHouse(t)
		h.apply(`@id("ask-first") @reason("x") @require("approver:1") forbid (principal is Chaperone::Agent, action == Chaperone::Action::"office/` + c.tool + `", resource)
			unless { context has approval && context.approval.satisfies.contains("ask-first") };`)
		h.must(h.lib.Refresh(t.Context()))
		c.by.Server, c.by.Person, c.by.What, c.by.At = "office", "pia", "entry", start
		h.update(func(tx store.Tx) error { return tx.Pins().AddAuthor(c.by) })
		a := h.do(h.method(c.method, func(r *enforce.Request) { r.Kind, r.Name = c.kind, c.name }))
		h.want(a, enforce.Pending, "approval_pending")
		if err := h.decide(a.Approval.ID, "pia", approval.Yes); fault.CodeOf(err) != "approval_excluded_author_of_change" {
			t.Errorf("who changed %s may approve: %v, want approval_excluded_author_of_change", c.by.Name, err)
		}
	}
}
