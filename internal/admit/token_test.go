// SPDX-License-Identifier: Apache-2.0

package admit_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/admit"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

func TestTokenOpensARun(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	got := h.must(office, &admit.RunOrder{Purpose: "answer the mail", Budgets: run.Budgets{Steps: 7}})
	c := got.Credential
	if c.Audience != office || c.Agent != h.agent.ID || c.Instance != h.instance.ID || c.Run != got.Run.ID || c.ClientID != h.client ||
		c.Subject != identity.AgentSPIFFE(domain, "mailer") || c.JKT != h.key.JKT() || c.ExpiresAt.Sub(c.IssuedAt) != 5*time.Minute {
		t.Errorf("credential %+v", c)
	}
	r := w.run(c.Run)
	if r.Opener != (run.Opener{Kind: run.ByAgent, Name: "mailer", JKT: h.key.JKT()}) || r.Clears() || r.Purpose != "answer the mail" || r.Budgets.Steps != 7 || r.Instance != h.instance.ID {
		t.Errorf("run %+v", r)
	}
	if err := h.use(got.Token, office); err != nil {
		t.Errorf("the credential does not work: %v", err)
	}
	again := h.must(office, &admit.RunOrder{Continue: c.Run})
	if again.Credential.Run != c.Run || again.Credential.JTI == c.JTI {
		t.Errorf("continued as %+v", again.Credential)
	}
	h.must(api, &admit.RunOrder{Continue: c.Run})
	want := []string{audit.AgentEnrolled, audit.RunOpened, audit.CredentialIssued, audit.CredentialIssued, audit.CredentialIssued}
	if diff := cmp.Diff(want, w.types()); diff != "" {
		t.Errorf("the record:\n%s", diff)
	}
	for _, e := range w.events() {
		if e.Agent != h.agent.ID || e.Instance != h.instance.ID || e.Actor.JKT != h.key.JKT() || e.Type != audit.AgentEnrolled && e.Run != c.Run {
			t.Errorf("%s names %+v", e.Type, e)
		}
		if strings.Contains(string(e.Data), got.Token) {
			t.Errorf("%s holds the credential", e.Type)
		}
	}
}

// TestTokenRefusals: every refusal has its name, is on record where the client is known, and leaves no credential, run or spent
// assertion behind.
func TestTokenRefusals(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	other := w.enrol(w.register("sorter"))
	twin := w.enrol(h.agent)
	person := w.login("ada")
	open := &admit.RunOrder{Purpose: "p"}
	theirs, twins := other.open("p").Run.ID, twin.open("p").Run.ID
	tests := map[string]struct {
		h        *holder
		audience string
		order    *admit.RunOrder
		change   func(*admit.TokenRequest)
		code     string
		recorded bool
	}{
		"no assertion":          {h, office, open, func(r *admit.TokenRequest) { r.Assertion = "" }, "no_assertion", false},
		"garbage assertion":     {h, office, open, func(r *admit.TokenRequest) { r.Assertion = "a.b.c" }, "bad_assertion", false},
		"another client_id":     {h, office, open, func(r *admit.TokenRequest) { r.ClientID = other.client }, "bad_assertion", false},
		"unknown client":        {&holder{w: w, key: h.key, client: identity.InstanceSPIFFE(domain, "mailer", id.NewInstance(w.clock.now()))}, office, open, nil, "unknown_client", false},
		"another agent's name":  {&holder{w: w, key: h.key, client: identity.InstanceSPIFFE(domain, "sorter", h.instance.ID)}, office, open, nil, "unknown_client", false},
		"another trust domain":  {&holder{w: w, key: h.key, client: identity.InstanceSPIFFE("evil.internal", "mailer", h.instance.ID)}, office, open, nil, "unknown_client", false},
		"unknown person":        {&holder{w: w, key: h.key, client: identity.PersonSPIFFE(domain, "eve")}, api, nil, nil, "unknown_client", false},
		"agent's SPIFFE ID":     {&holder{w: w, key: h.key, client: identity.AgentSPIFFE(domain, "mailer")}, office, open, nil, "unknown_client", false},
		"stranger's key":        {&holder{w: w, key: w.newKey(), client: h.client}, office, open, nil, "key_mismatch", true},
		"stranger's assertion":  {&holder{w: w, key: w.newKey(), client: h.client}, office, open, func(r *admit.TokenRequest) { r.Presented = h.request(office, open).Presented }, "bad_assertion", true},
		"stranger's proof":      {h, office, open, func(r *admit.TokenRequest) { r.Presented = other.request(office, open).Presented }, "key_mismatch", true},
		"no proof":              {h, office, open, func(r *admit.TokenRequest) { r.Presented.Proof = "" }, "no_proof", true},
		"proof for another URL": {h, office, open, func(r *admit.TokenRequest) { r.Presented.URL = issuer + "/revoke" }, "bad_proof", true},
		"proof without a nonce": {h, office, open, func(r *admit.TokenRequest) { r.Presented.Proof = w.proof(h.key, token, "", "") }, "use_dpop_nonce", false},
		"nonce of another boot": {h, office, open, func(r *admit.TokenRequest) {
			r.Presented.Proof = w.proof(h.key, token, identity.NewNonces([]byte("another boot's secret, 32 bytes.."), time.Minute, 9).Mint(w.clock.now()), "")
		}, "use_dpop_nonce", false},
		"audience is a URL":      {h, "https://attacker.example/mcp/office", open, nil, "unknown_audience", true},
		"audience is the issuer": {h, issuer, open, nil, "unknown_audience", true},
		"audience with a slash":  {h, office + "/", open, nil, "unknown_audience", true},
		"audience in upper case": {h, issuer + "/mcp/Office", open, nil, "unknown_audience", true},
		"audience traversal":     {h, issuer + "/mcp/..", open, nil, "unknown_audience", true},
		"audience empty":         {h, "", open, nil, "unknown_audience", true},
		"no run":                 {h, office, nil, nil, "run_required", true},
		"run unknown":            {h, office, &admit.RunOrder{Continue: id.NewRun(w.clock.now())}, nil, "run_unknown", true},
		"run of another agent":   {h, office, &admit.RunOrder{Continue: theirs}, nil, "run_of_another_agent", true},
		"run of a twin":          {h, office, &admit.RunOrder{Continue: twins}, nil, "run_of_another_instance", true},
		"continue and purpose":   {twin, office, &admit.RunOrder{Continue: twins, Purpose: "wider"}, nil, "bad_run_order", true},
		"continue and budgets":   {twin, office, &admit.RunOrder{Continue: twins, Budgets: run.Budgets{Steps: 9}}, nil, "bad_run_order", true},
		"purpose too long":       {h, office, &admit.RunOrder{Purpose: strings.Repeat("x", 4097)}, nil, "bad_purpose", true},
		"negative budget":        {h, office, &admit.RunOrder{Budgets: run.Budgets{Steps: -1}}, nil, "bad_budget", true},
		"child of a stranger":    {h, office, &admit.RunOrder{Parent: theirs}, nil, "run_of_another_agent", true},
		"child of a twin":        {h, office, &admit.RunOrder{Parent: twins}, nil, "run_of_another_instance", true},
		"child of nobody":        {h, office, &admit.RunOrder{Parent: id.NewRun(w.clock.now())}, nil, "run_unknown", true},
		"person with a run":      {person, api, open, nil, "run_not_for_people", true},
		"person at a server":     {person, office, nil, nil, "unknown_audience", true},
		"person, stranger's key": {&holder{w: w, key: w.newKey(), client: person.client}, api, nil, nil, "key_mismatch", true},
		"person, agent's key":    {&holder{w: w, key: h.key, client: person.client}, api, nil, nil, "key_mismatch", true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := w.types()
			req := tc.h.request(tc.audience, tc.order)
			if tc.change != nil {
				tc.change(&req)
			}
			out, err := w.road.Token(t.Context(), req)
			wantCode(t, err, tc.code)
			if diff := cmp.Diff(admit.TokenAnswer{}, out, cmp.AllowUnexported(id.Run{}, id.Agent{}, id.Instance{}, id.Person{})); diff != "" {
				t.Errorf("something was given away: %s", diff)
			}
			after := w.types()[len(before):]
			want := []string{}
			if tc.recorded {
				want = []string{audit.CredentialRefused}
				if !tc.h.person.ID.IsZero() || strings.Contains(tc.h.client, "/person/") {
					want = []string{audit.PersonCredentialRefused}
				}
			}
			if diff := cmp.Diff(want, after); diff != "" {
				t.Errorf("the record:\n%s", diff)
			}
		})
	}
}

func TestPersonCredential(t *testing.T) {
	w := newWorld(t)
	p := w.login("ada")
	got := p.must(api, nil)
	if !got.Credential.IsPerson() || got.Credential.Person != p.person.ID || got.Credential.Subject != p.client || !got.Credential.Run.IsZero() {
		t.Errorf("credential %+v", got.Credential)
	}
	wantCode(t, p.use(got.Token, api), "")
	wantCode(t, p.use(got.Token, office), "wrong_audience")
	w.update(func(tx store.Tx) error {
		stored, err := tx.People().Person("ada")
		stored.Suspended = true
		if err == nil {
			err = tx.People().PutPerson(stored)
		}
		return err
	})
	_, err := p.token(api, nil)
	wantCode(t, err, "person_suspended")
}

func TestAssertionIsSpentOnce(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	req := h.request(office, &admit.RunOrder{Purpose: "p"})
	var won, replayed atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		one := req
		one.Presented = h.request(office, nil).Presented // fresh proofs, one assertion
		wg.Go(func() {
			switch _, err := w.road.Token(w.ctx, one); fault.CodeOf(err) {
			case "assertion_replayed":
				replayed.Add(1)
			default:
				if err == nil {
					won.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || replayed.Load() != 19 {
		t.Errorf("%d won, %d were replays", won.Load(), replayed.Load())
	}
	w.restart() // the spent assertion outlives the process
	req.Presented = h.request(office, nil).Presented
	_, err := w.road.Token(w.ctx, req)
	wantCode(t, err, "assertion_replayed")
	n := 0
	w.view(func(tx store.Tx) error {
		for _, err := range tx.Runs().Runs(run.Filter{}) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if n != 1 {
		t.Errorf("%d runs were opened by one assertion", n)
	}
}

func TestProofIsSpentOnceAtTheTokenEndpoint(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	req := h.request(office, &admit.RunOrder{Purpose: "p"})
	if _, err := w.road.Token(w.ctx, req); err != nil {
		t.Fatal(err)
	}
	next := h.request(office, &admit.RunOrder{Purpose: "p"})
	next.Presented = req.Presented
	_, err := w.road.Token(w.ctx, next)
	wantCode(t, err, "proof_replayed")
}

func TestCredentialEndsWithItsRun(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	got := h.must(office, &admit.RunOrder{Purpose: "p", Budgets: run.Budgets{Seconds: 90}})
	if life := got.Credential.ExpiresAt.Sub(got.Credential.IssuedAt); life != 90*time.Second {
		t.Errorf("a run of 90 s got a credential of %v", life)
	}
	w.clock.move(91 * time.Second)
	_, err := h.token(office, &admit.RunOrder{Continue: got.Run.ID})
	wantCode(t, err, "run_expired")
	wantCode(t, h.use(got.Token, office), "credential_expired")
}

func TestChildrenNarrow(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	root := h.must(office, &admit.RunOrder{Purpose: "p", Budgets: run.Budgets{Steps: 10, Seconds: 600}})
	w.update(func(tx store.Tx) error { return tx.Runs().Spend(root.Run.ID, run.Spend{Steps: 4}) })
	_, err := h.token(office, &admit.RunOrder{Parent: root.Run.ID, Budgets: run.Budgets{Steps: 7}})
	wantCode(t, err, "wider_than_parent")
	child := h.must(office, &admit.RunOrder{Parent: root.Run.ID, Budgets: run.Budgets{Steps: 6}})
	if child.Run.Depth != 1 || child.Run.ExpiresAt.After(root.Run.ExpiresAt) {
		t.Errorf("child %+v", child.Run)
	}
	// What one child used is not there for the next: the road of calls takes every spend from the whole line.
	w.update(func(tx store.Tx) error {
		if err := tx.Runs().Spend(child.Run.ID, run.Spend{Steps: 5}); err != nil {
			return err
		}
		return tx.Runs().Spend(root.Run.ID, run.Spend{Steps: 5})
	})
	_, err = h.token(office, &admit.RunOrder{Parent: root.Run.ID, Budgets: run.Budgets{Steps: 2}})
	wantCode(t, err, "wider_than_parent")
	h.must(office, &admit.RunOrder{Parent: root.Run.ID, Budgets: run.Budgets{Steps: 1}})

	deep := h.open("deep").Run.ID
	for range 4 {
		deep = h.must(office, &admit.RunOrder{Parent: deep}).Run.ID
	}
	_, err = h.token(office, &admit.RunOrder{Parent: deep})
	wantCode(t, err, "too_deep")
}

func TestOpenRunByAPerson(t *testing.T) {
	w := newWorld(t)
	a := w.register("mailer")
	h, twin := w.enrol(a), w.enrol(a)
	other := w.enrol(w.register("sorter"))
	ada := w.login("ada")
	cred := ada.must(api, nil).Credential
	poisoned := h.open("read").Run.ID
	w.poison(poisoned, h.instance.ID)

	r, err := w.road.OpenRun(t.Context(), cred, admit.Opening{Agent: "mailer", Purpose: "pay invoice 7"})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Clears() || r.Opener != (run.Opener{Kind: run.ByPerson, Name: "ada", JKT: ada.key.JKT()}) || !r.Instance.IsZero() || r.Label.IsUntrusted() {
		t.Errorf("run %+v", r)
	}
	_, err = other.token(office, &admit.RunOrder{Continue: r.ID})
	wantCode(t, err, "run_of_another_agent")
	before := len(w.types())
	h.must(office, &admit.RunOrder{Continue: r.ID})
	if got := w.types()[before:]; !cmp.Equal(got, []string{audit.RunContinued, audit.CredentialIssued}) {
		t.Errorf("the record %v", got)
	}
	if got := w.run(r.ID); got.Instance != h.instance.ID || !got.Clears() {
		t.Errorf("taken up as %+v", got)
	}
	_, err = twin.token(office, &admit.RunOrder{Continue: r.ID})
	wantCode(t, err, "run_of_another_instance")
	// The agent's own child of it states nothing that clears.
	if child := h.must(office, &admit.RunOrder{Parent: r.ID, Purpose: "pay invoice 8"}); w.run(child.Run.ID).Clears() {
		t.Error("the agent's own word clears")
	}
	// A person's child of a poisoned run keeps the ancestors' labels.
	under, err := w.road.OpenRun(t.Context(), cred, admit.Opening{Agent: "mailer", Purpose: "go on", Parent: poisoned})
	if err != nil || !under.Label.IsUntrusted() || !under.Clears() {
		t.Errorf("%+v, %v", under, err)
	}
	_, err = w.road.OpenRun(t.Context(), cred, admit.Opening{Agent: "nobody"})
	wantCode(t, err, "agent_unknown")
	stranger := cred
	stranger.JKT = w.newKey().JKT()
	_, err = w.road.OpenRun(t.Context(), stranger, admit.Opening{Agent: "mailer"})
	wantCode(t, err, "key_mismatch")
	_, err = w.road.OpenRun(t.Context(), h.open("p").Credential, admit.Opening{Agent: "sorter"})
	wantCode(t, err, "not_orchestrator")
}

func TestOpenRunByAnOrchestrator(t *testing.T) {
	w := newWorld(t)
	w.enrol(w.register("mailer"))
	boss := w.enrol(w.register("boss", func(a *identity.Agent) { a.Kind, a.Orchestrator = identity.KindService, true }))
	own := boss.must(api, &admit.RunOrder{Purpose: "orchestrate"})
	r, err := w.road.OpenRun(t.Context(), own.Credential, admit.Opening{Agent: "mailer", Purpose: "send the report to bob@example.org"})
	if err != nil || !r.Clears() || r.Parent != own.Run.ID || r.Opener.Kind != run.ByOrchestrator {
		t.Fatalf("%+v, %v", r, err)
	}
	_, err = w.road.OpenRun(t.Context(), own.Credential, admit.Opening{Agent: "boss"})
	wantCode(t, err, "orchestrator_self")
	_, err = w.road.OpenRun(t.Context(), own.Credential, admit.Opening{Agent: "mailer", Parent: boss.open("x").Run.ID})
	wantCode(t, err, "not_own_run")
	// Once it has read a stranger's words, its own are not worth more than an agent's.
	w.poison(own.Run.ID, boss.instance.ID)
	r, err = w.road.OpenRun(t.Context(), own.Credential, admit.Opening{Agent: "mailer", Purpose: "send the report to eve@example.org"})
	if err != nil || r.Clears() || !r.Label.IsUntrusted() {
		t.Errorf("a poisoned orchestrator's word: %+v, %v", r, err)
	}
	// Nor in another run of the same instance: its memory goes along.
	fresh := boss.must(api, &admit.RunOrder{Purpose: "orchestrate anew"})
	r, err = w.road.OpenRun(t.Context(), fresh.Credential, admit.Opening{Agent: "mailer", Purpose: "send the report to eve@example.org"})
	if err != nil || r.Clears() || !r.Label.IsUntrusted() {
		t.Errorf("a poisoned orchestrator in a new run: %+v, %v", r, err)
	}
}

// TestPoisonedOrchestratorInAPersonsRun: a person opens a run for the orchestrator, which then reads a stranger's words in a run of its
// own. From the person's run it cannot dictate what clears in a third.
func TestPoisonedOrchestratorInAPersonsRun(t *testing.T) {
	w := newWorld(t)
	w.enrol(w.register("mailer"))
	boss := w.enrol(w.register("boss", func(a *identity.Agent) { a.Kind, a.Orchestrator = identity.KindService, true }))
	given, err := w.road.OpenRun(t.Context(), w.login("ada").must(api, nil).Credential, admit.Opening{Agent: "boss", Purpose: "see to the reports"})
	if err != nil {
		t.Fatal(err)
	}
	speaks := boss.must(api, &admit.RunOrder{Continue: given.ID})
	r, err := w.road.OpenRun(t.Context(), speaks.Credential, admit.Opening{Agent: "mailer", Purpose: "send the report to bob@example.org"})
	if err != nil || !r.Clears() || r.Label.IsUntrusted() {
		t.Fatalf("before: %+v, %v", r, err)
	}
	aside := boss.must(api, &admit.RunOrder{Purpose: "read the mail"})
	w.poison(aside.Run.ID, boss.instance.ID)
	r, err = w.road.OpenRun(t.Context(), speaks.Credential, admit.Opening{Agent: "mailer", Purpose: "send the report to eve@example.org"})
	if err != nil || r.Clears() || !r.Label.IsUntrusted() {
		t.Errorf("a poisoned orchestrator in a person's run: clears %v, label %+v, %v", r.Clears(), r.Label, err)
	}
}

func TestOpenRunsAreBounded(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	w.update(func(tx store.Tx) error {
		for range 255 {
			r, err := run.Open(run.Order{Agent: h.agent.ID, AgentName: "mailer", AgentType: "office", Instance: h.instance.ID,
				Opener: run.Opener{Kind: run.ByAgent, Name: "mailer", JKT: h.key.JKT()}}, w.clock.now())
			if err != nil {
				return err
			}
			if err := tx.Runs().Insert(r); err != nil {
				return err
			}
		}
		return nil
	})
	last := h.open("the 256th")
	_, err := h.token(office, &admit.RunOrder{Purpose: "one more"})
	wantCode(t, err, "too_many_runs")
	h.must(office, &admit.RunOrder{Continue: last.Run.ID})
	wantCode(t, w.road.EndRun(t.Context(), operator, last.Run.ID, "done"), "")
	h.open("again")
	w.clock.move(2 * time.Hour) // those past their end do not count
	h.open("later")
}
