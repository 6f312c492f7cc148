// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/store"
)

// A bundle that does not validate is not put in force, and nothing is done on the old one either while it stands.
func TestBadBundleStopsRatherThanOpens(t *testing.T) {
	h := newHouse(t)
	h.want(h.call("note", `{}`), enforce.Released, "")
	before := h.snapshot()
	h.apply(`@id("typo") @reason("x") forbid (principal, action, resource) when { context.flow has untrustd };`)
	if err := h.lib.Refresh(t.Context()); fault.CodeOf(err) != "policy_invalid" {
		t.Fatalf("err = %v, want policy_invalid", err)
	}
	if h.snapshot() != before || h.lib.Refused() == nil || len(h.lib.Refused().Problems) == 0 {
		t.Error("the old one does not stand, or nobody says why the new one does not")
	}
	h.want(h.call("note", `{}`), enforce.Failed, "snapshot_moved")
	h.apply("")
	h.want(h.call("note", `{}`), enforce.Released, "") // the commit notices, and the library reads again by itself
	if h.lib.Refused() != nil || h.snapshot().PolicyVersion != 3 {
		t.Error("the mended one is not in force")
	}
}

func TestNoPolicies(t *testing.T) {
	h := newHouse(t)
	lib := enforce.NewLibrary(h.store, nil)
	if _, err := lib.Current(); fault.CodeOf(err) != "policy_unavailable" {
		t.Errorf("err = %v", err)
	}
}

// One server's drift cannot make the policies invalid: what is quarantined stays in their schema.
func TestQuarantineKeepsTheSchema(t *testing.T) {
	h := newHouse(t)
	h.apply(`@id("small") @reason("x") forbid (principal, action == Chaperone::Action::"office/pay", resource) when { context.arguments has amount && context.arguments.amount > 1000 };`)
	h.must(h.lib.Refresh(t.Context()))
	h.office.set(func() { h.office.tools[6] = strings.ReplaceAll(h.office.tools[6], "amount", "sum") })
	h.want(h.call("pay", pays), enforce.Denied, enforce.CodeNotListed)
	h.want(h.call("note", `{}`), enforce.Released, "")
	if err := h.lib.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWholeServerRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*house, store.Tx) error
		code   string
	}{
		"not pinned": {func(h *house, tx store.Tx) error { return tx.Pins().Delete("office", catalog.KindServer, "") }, "server_not_pinned"},
		"disabled": {func(h *house, tx store.Tx) error {
			s, _ := h.snapshot().Server("office")
			s.Disabled = true
			return tx.Catalog().PutServer(s)
		}, "server_disabled"},
		"tool not pinned": {func(h *house, tx store.Tx) error { return tx.Pins().Delete("office", catalog.KindTool, "note") }, "not_pinned"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.update(func(tx store.Tx) error { return c.change(h, tx) })
			h.must(h.lib.Refresh(t.Context()))
			h.wantHidden(h.call("note", `{}`), c.code)
		})
	}
	h := newHouse(t)
	h.office.set(func() { h.office.tools = h.office.tools[:4] })
	h.wantHidden(h.call("note", `{}`), "definition_gone")
}

func TestTheRecordNamesAStolenCredential(t *testing.T) {
	h := newHouse(t)
	a := h.call("note", `{}`, func(r *enforce.Request) { r.Presented.Token = "stolen " + h.run.ID.String() })
	h.want(a, enforce.Failed, "key_mismatch")
	if got := h.recorded(h.run.ID, audit.CallRefused, "key_mismatch"); got.Agent != h.agent.ID {
		t.Errorf("%+v", got)
	}
	if h.stored(h.run.ID).Spent.Steps != 0 {
		t.Error("a thief can spend the run's budget")
	}
}

// Askings that race with each other and with a change of policy never end in a grant that nobody allowed.
func TestAskingsRace(t *testing.T) {
	h := newHouse(t)
	asking := enforce.Ask{Credential: h.credential(h.run.ID), Run: h.run.ID, Server: "office", Tool: "pay", Arguments: json.RawMessage(pays)}
	ends := make(chan enforce.Granted, 20)
	for range 20 {
		go func() {
			g, _ := h.engine.AskGrant(t.Context(), asking)
			ends <- g
		}()
	}
	ids := map[id.Approval]bool{}
	for range 20 {
		g := <-ends
		if g.Outcome.Verdict == enforce.Released {
			t.Fatalf("a grant nobody allowed: %+v", g)
		}
		if g.Outcome.Approval != nil {
			ids[g.Outcome.Approval.ID] = true
		}
	}
	if len(ids) != 1 || len(h.grants(h.run.ID)) != 1 {
		t.Errorf("%d questions and %d grants", len(ids), len(h.grants(h.run.ID)))
	}
	for a := range ids {
		h.must(h.decide(a, "pia", approval.Yes))
	}
	for range 20 {
		go func() {
			g, _ := h.engine.AskGrant(t.Context(), asking)
			ends <- g
		}()
	}
	active := map[id.Grant]bool{}
	for range 20 {
		if g := <-ends; g.Outcome.Verdict == enforce.Released {
			active[g.Grant.ID] = true
		}
	}
	if len(active) != 1 {
		t.Errorf("%d grants from one approval", len(active))
	}
}

func FuzzCheckState(f *testing.F) {
	// The engine starts several processes, and each must mint the same state: the identifiers are fixed.
	var s enforce.State
	if err := s.Agent.UnmarshalText([]byte("agt_2al2klry23vyz6io3ceoclnuww")); err != nil {
		f.Fatal(err)
	}
	if err := s.Run.UnmarshalText([]byte("run_2al2klry23xutb6guecdm4xoc2")); err != nil {
		f.Fatal(err)
	}
	s.Server, s.Call, s.Expires, s.Upstream = "office", "c", start.Add(time.Hour), "inner"
	good, err := enforce.MintState(stateKey, s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("chaperone1.e30.AAAA")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := enforce.CheckState(stateKey, raw, start)
		if (err == nil) != (raw == good) {
			t.Fatalf("%q: %+v %v", raw, got, err)
		}
	})
}

func TestStateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := enforce.State{
			Agent: id.NewAgent(start), Run: id.NewRun(start), Server: rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "server"),
			Call: rapid.StringMatching(`[0-9a-f]{64}`).Draw(t, "call"), Expires: start.Add(time.Minute), Upstream: rapid.String().Draw(t, "upstream"),
		}
		raw, err := enforce.MintState(stateKey, s)
		if err != nil {
			return // text that is not UTF-8 has no canonical form
		}
		got, err := enforce.CheckState(stateKey, raw, start)
		if err != nil || got != s {
			t.Fatalf("%+v became %+v, %v", s, got, err)
		}
		at := rapid.IntRange(0, len(raw)-1).Draw(t, "at")
		b := []byte(raw)
		b[at] ^= 1
		if _, err := enforce.CheckState(stateKey, string(b), start); fault.CodeOf(err) != "request_state_foreign" {
			t.Fatalf("a changed state was taken: %v", err)
		}
	})
}
