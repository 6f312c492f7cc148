// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"testing"

	"chaperone/internal/enforce"
	"chaperone/internal/store"
)

// TestHiddenAndAbsentGiveOneAnswer: what is wrong with a request does not tell whether there is something it could be wrong for.
func TestHiddenAndAbsentGiveOneAnswer(t *testing.T) {
	h := newHouse(t)
	h.update(func(tx store.Tx) error { // nothing is among the type's writes any more, so that the effects are hidden too
		of, err := tx.Registry().Type("assistant")
		if err != nil {
			return err
		}
		of.Writes, of.UpdatedAt = nil, of.UpdatedAt.Add(1)
		return tx.Registry().PutType(of)
	})
	const inexact = `{"n":12345678901234567890123}`
	state := func(r *enforce.Request) { r.RequestState = "garbage" }
	for _, c := range []struct {
		what, name, args, code string
		change                 func(*enforce.Request)
	}{
		{"a foreign requestState", "hidden", `{}`, "request_state_foreign", state},
		{"a foreign requestState for an effect", "pay", `{}`, "request_state_foreign", state},
		{"a number without a canonical form", "pay", inexact, "json_inexact_number", func(*enforce.Request) {}},
		{"arguments outside the schema", "hidden", `{"amount":"x"}`, "arguments_schema", func(*enforce.Request) {}},
		{"arguments outside the schema, inexact", "pay", `{"amount":"x","n":12345678901234567890123}`, "arguments_schema", func(*enforce.Request) {}},
	} {
		t.Run(c.what, func(t *testing.T) {
			h.t = t
			h.wantHidden(h.call("absent", c.args, c.change), "tool_unknown")
			h.wantHidden(h.call(c.name, c.args, c.change), c.code)
		})
	}
	h.t = t
	for _, name := range []string{"absent", "hidden", "pay"} {
		if a := h.call(name, `{}`); !a.Decision.IsZero() || a.Listed {
			t.Errorf("%s: the answer has the decision %s", name, a.Decision)
		}
		got, err := h.engine.AskGrant(t.Context(), enforce.Ask{Credential: h.credential(h.run.ID), Run: h.run.ID, Server: "office", Tool: name})
		if err != nil || got.Outcome.Code != enforce.CodeNotListed || !got.Outcome.Decision.IsZero() {
			t.Errorf("a grant for %s: %+v %v", name, got.Outcome, err)
		}
	}
	// Who may see the tool is told what is wrong.
	h.want(h.call("list_files", `{}`, state), enforce.Failed, "request_state_foreign")
}
