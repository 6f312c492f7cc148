// SPDX-License-Identifier: Apache-2.0

package admit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/admit"
	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

var operator = audit.Actor{Kind: audit.ActorPerson, ID: "per_x", Name: "ada"}

// give puts an active grant and a pending approval into a run.
func (w *world) give(r run.Run) (id.Grant, id.Approval) {
	w.t.Helper()
	now := w.clock.now()
	g, err := grant.New(grant.Scope{Run: r.ID, Agent: r.Agent, Server: "office", Tool: "pay", CallDigest: "d", RunEnds: r.ExpiresAt}, grant.ByCall, grant.Active, 0, now)
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := approval.New(approval.Question{
		ID: id.NewApproval(now), Call: approval.Call{Schema: "chaperone/call/1", Run: r.ID, Agent: r.Agent, Server: "office", Tool: "pay", Kind: "tool", Arguments: []byte(`{}`)},
		Rules: []approval.Rule{{ID: "irreversible-needs-approval"}}, Require: []approval.Requirement{{Group: "approver", Number: 1}},
		PolicyDigest: "p", Nonce: "n", Expires: time.Minute,
	}, now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.update(func(tx store.Tx) error { return errors.Join(tx.Grants().Insert(g), tx.Approvals().Insert(a)) })
	return g.ID, a.ID
}

func (w *world) states(g id.Grant, a id.Approval) (grant.State, approval.State) {
	w.t.Helper()
	var gr grant.Grant
	var ap approval.Approval
	w.view(func(tx store.Tx) (err error) {
		if gr, err = tx.Grants().Grant(g); err != nil {
			return err
		}
		ap, err = tx.Approvals().Approval(a)
		return err
	})
	return gr.State, ap.State
}

func TestEndRun(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	root := h.open("p")
	child := h.must(office, &admit.RunOrder{Parent: root.Run.ID})
	beside := h.open("another")
	g, a := w.give(root.Run)
	cg, ca := w.give(child.Run)
	before := len(w.types())
	if err := w.road.EndRun(t.Context(), operator, root.Run.ID, "done"); err != nil {
		t.Fatal(err)
	}
	for _, one := range []admit.TokenAnswer{root, child} {
		if got := w.run(one.Run.ID); got.State != run.Ended || got.EndReason != "done" || got.EndedAt.IsZero() {
			t.Errorf("run %+v", got)
		}
		wantCode(t, h.use(one.Token, office), "run_ended")
		_, err := h.token(office, &admit.RunOrder{Continue: one.Run.ID})
		wantCode(t, err, "run_ended")
	}
	for _, pair := range []struct {
		g id.Grant
		a id.Approval
	}{{g, a}, {cg, ca}} {
		if gs, as := w.states(pair.g, pair.a); gs != grant.Revoked || as != approval.Cancelled {
			t.Errorf("grant %s, approval %s", gs, as)
		}
	}
	_, err := h.token(office, &admit.RunOrder{Parent: root.Run.ID})
	wantCode(t, err, "run_ended")
	wantCode(t, h.use(beside.Token, office), "")
	got := w.types()[before:]
	slices.Sort(got)
	want := []string{audit.ApprovalCancelled, audit.ApprovalCancelled, audit.CredentialRefused, audit.CredentialRefused, audit.CredentialRefused,
		audit.GrantRevoked, audit.GrantRevoked, audit.RunEndedByPerson, audit.RunEndedByPerson}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the record:\n%s", diff)
	}
	wantCode(t, w.road.EndRun(t.Context(), operator, root.Run.ID, "again"), "illegal_transition")
	wantCode(t, w.road.EndRun(t.Context(), operator, id.NewRun(w.clock.now()), "x"), "run_unknown")
	// Another process learns of it from the table.
	w.restart()
	wantCode(t, h.use(root.Token, office), "run_ended")
	wantCode(t, h.use(beside.Token, office), "")
}

func TestSuspendAndResume(t *testing.T) {
	w := newWorld(t)
	a := w.register("mailer")
	h := w.enrol(a)
	boss := w.enrol(w.register("boss", func(a *identity.Agent) { a.Kind, a.Orchestrator = identity.KindService, true }))
	own := boss.must(api, &admit.RunOrder{Purpose: "o"})
	made, err := w.road.OpenRun(t.Context(), own.Credential, admit.Opening{Agent: "mailer", Purpose: "p"})
	if err != nil {
		t.Fatal(err)
	}
	delegated := h.must(office, &admit.RunOrder{Continue: made.ID})
	mine := h.open("p")
	g, ap := w.give(mine.Run)
	_, dg := w.give(delegated.Run)

	if err := w.road.SuspendAgent(t.Context(), operator, boss.agent.ID, "odd"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, boss.use(own.Token, api), "agent_suspended")
	_, err = boss.token(api, &admit.RunOrder{Purpose: "o"})
	wantCode(t, err, "agent_suspended")
	wantCode(t, h.use(delegated.Token, office), "run_suspended") // what hangs on it waits too
	wantCode(t, h.use(mine.Token, office), "")
	if _, as := w.states(g, dg); as != approval.Cancelled {
		t.Errorf("approval in a run below: %s", as)
	}
	if err := w.road.SuspendAgent(t.Context(), operator, h.agent.ID, "odd"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, h.use(mine.Token, office), "agent_suspended")
	if gs, as := w.states(g, ap); gs != grant.Revoked || as != approval.Cancelled {
		t.Errorf("grant %s, approval %s", gs, as)
	}
	wantCode(t, w.road.SuspendAgent(t.Context(), operator, h.agent.ID, "again"), "illegal_transition")

	w.clock.move(5 * time.Second)
	if err := w.road.ResumeAgent(t.Context(), operator, h.agent.ID, "fine"); err != nil {
		t.Fatal(err)
	}
	if got := w.run(mine.Run.ID).State; got != run.Active {
		t.Errorf("own run is %s", got)
	}
	if got := w.run(made.ID).State; got != run.Suspended {
		t.Errorf("the run below somebody suspended is %s", got)
	}
	wantCode(t, h.use(mine.Token, office), "credential_revoked") // from before the stop
	if gs, _ := w.states(g, ap); gs != grant.Revoked {
		t.Errorf("the grant came back as %s", gs)
	}
	again := h.must(office, &admit.RunOrder{Continue: mine.Run.ID})
	wantCode(t, h.use(again.Token, office), "")
	w.restart()
	wantCode(t, h.use(mine.Token, office), "credential_revoked")
	wantCode(t, h.use(again.Token, office), "")
	if err := w.road.ResumeAgent(t.Context(), operator, boss.agent.ID, "fine"); err != nil {
		t.Fatal(err)
	}
	if got := w.run(made.ID).State; got != run.Active {
		t.Errorf("the delegated run is %s", got)
	}
	wantCode(t, h.use(delegated.Token, office), "credential_revoked")
	wantCode(t, w.road.ResumeAgent(t.Context(), operator, boss.agent.ID, "again"), "illegal_transition")
	if n := count(w, audit.AgentSuspended); n != 2 {
		t.Errorf("%d suspensions on record", n)
	}
}

func TestRetireAndRevokeInstance(t *testing.T) {
	w := newWorld(t)
	a := w.register("mailer")
	h, twin := w.enrol(a), w.enrol(a)
	mine, theirs := h.open("p"), twin.open("p")
	if err := w.road.RevokeInstance(t.Context(), operator, h.instance.ID, "lost"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, h.use(mine.Token, office), "instance_revoked")
	_, err := h.token(office, &admit.RunOrder{Purpose: "p"})
	wantCode(t, err, "instance_revoked")
	if got := w.run(mine.Run.ID).State; got != run.Ended {
		t.Errorf("its run is %s", got)
	}
	wantCode(t, twin.use(theirs.Token, office), "")
	wantCode(t, w.road.RevokeInstance(t.Context(), operator, h.instance.ID, "again"), "illegal_transition")
	wantCode(t, w.road.RevokeInstance(t.Context(), operator, id.NewInstance(w.clock.now()), "x"), "instance_unknown")

	if err := w.road.RetireAgent(t.Context(), operator, a.ID, "done"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, twin.use(theirs.Token, office), "agent_retired")
	_, err = twin.token(office, &admit.RunOrder{Purpose: "p"})
	wantCode(t, err, "agent_retired")
	wantCode(t, w.road.ResumeAgent(t.Context(), operator, a.ID, "x"), "illegal_transition")
	wantCode(t, w.road.SuspendAgent(t.Context(), operator, a.ID, "x"), "illegal_transition")
	wantCode(t, w.road.RetireAgent(t.Context(), operator, id.NewAgent(w.clock.now()), "x"), "agent_unknown")
	_, _, err = w.road.Enrol(t.Context(), w.joinCode(a.ID), identity.Presented{Proof: w.proof(w.newKey(), issuer+"/enroll", w.road.Nonce(), ""), Method: "POST", URL: issuer + "/enroll"})
	wantCode(t, err, "agent_retired")
}

// TestABusyAgentCannotPutItsEndOff: an agent that opens children and is granted things as fast as it can is stopped whole.
func TestABusyAgentCannotPutItsEndOff(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	root := h.open("p")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				out, err := h.token(office, &admit.RunOrder{Parent: root.Run.ID})
				if err != nil {
					continue
				}
				// What enforce does: a grant enters only a run that is active in the same transaction.
				g, err := grant.New(grant.Scope{Run: out.Run.ID, Agent: h.agent.ID, Server: "office", Tool: "pay", CallDigest: fmt.Sprint(i), RunEnds: out.Run.ExpiresAt}, grant.ByCall, grant.Active, 0, w.clock.now())
				if err != nil {
					continue
				}
				_ = w.store.Update(w.ctx, func(tx store.Tx) error {
					r, err := tx.Runs().Run(out.Run.ID)
					if err != nil || r.State != run.Active {
						return errors.New("not active")
					}
					return tx.Grants().Insert(g)
				})
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	err := w.road.SuspendAgent(t.Context(), operator, h.agent.ID, "odd")
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	w.view(func(tx store.Tx) error {
		for r, err := range tx.Runs().Runs(run.Filter{Limit: 100_000}) {
			if err != nil || r.State == run.Active {
				t.Errorf("run %s is %s (%v)", r.ID, r.State, err)
			}
		}
		for g, err := range tx.Grants().Grants(grant.Filter{Limit: 100_000}) {
			if err != nil || grant.Live(g.State) {
				t.Errorf("grant %s is %s (%v)", g.ID, g.State, err)
			}
		}
		return nil
	})
	if grants, events := len(w.grants()), count(w, audit.GrantRevoked); grants != events {
		t.Errorf("%d grants, %d on record as revoked", grants, events)
	}
}

func (w *world) grants() (out []grant.Grant) {
	w.view(func(tx store.Tx) error {
		out = nil
		for g, err := range tx.Grants().Grants(grant.Filter{Limit: 100_000}) {
			if err != nil {
				return err
			}
			out = append(out, g)
		}
		return nil
	})
	return out
}

func count(w *world, kind string) (n int) {
	for _, one := range w.types() {
		if one == kind {
			n++
		}
	}
	return n
}

func TestRevokeCredential(t *testing.T) {
	w := newWorld(t)
	h, other := w.enrol(w.register("mailer")), w.enrol(w.register("sorter"))
	one := h.open("p")
	two := h.must(office, &admit.RunOrder{Continue: one.Run.ID})
	give := func(h *holder, raw string) error {
		assertion, err := identity.MintAssertion(h.key, h.client, issuer, w.clock.now())
		if err != nil {
			t.Fatal(err)
		}
		return w.road.Revoke(t.Context(), admit.RevokeRequest{ClientID: h.client, Assertion: assertion, Token: raw})
	}
	wantCode(t, give(other, one.Token), "not_your_credential")
	wantCode(t, h.use(one.Token, office), "")
	wantCode(t, give(h, "unknown"), "")
	wantCode(t, give(&holder{w: w, key: other.key, client: h.client}, one.Token), "bad_assertion")
	wantCode(t, give(h, one.Token), "")
	wantCode(t, h.use(one.Token, office), "credential_revoked")
	wantCode(t, h.use(two.Token, office), "")
	wantCode(t, give(h, one.Token), "")
	ada := w.login("ada")
	wantCode(t, give(ada, ada.must(api, nil).Token), "")
	if err := w.road.RevokeCredential(t.Context(), operator, two.Credential, "odd"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, h.use(two.Token, office), "credential_revoked")
	w.restart()
	wantCode(t, h.use(one.Token, office), "credential_revoked")
}

func TestSweepEndsExpiredRuns(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	short := h.must(office, &admit.RunOrder{Purpose: "p", Budgets: run.Budgets{Seconds: 60}})
	long := h.open("q")
	g, a := w.give(short.Run)
	w.clock.move(61 * time.Second)
	if err := w.road.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.run(short.Run.ID); got.State != run.Expired {
		t.Errorf("run %+v", got)
	}
	if gs, as := w.states(g, a); gs != grant.Revoked || as != approval.Cancelled {
		t.Errorf("grant %s, approval %s", gs, as)
	}
	if got := w.run(long.Run.ID).State; got != run.Active {
		t.Errorf("the other is %s", got)
	}
	if count(w, audit.RunEnded) != 1 {
		t.Errorf("the record: %v", w.types())
	}
}

func TestFollow(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	one := h.open("p")
	wantCode(t, h.use(one.Token, office), "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.road.Follow(ctx) }()
	// Another process suspends: only the table tells of it.
	w.update(func(tx store.Tx) error {
		return tx.Revocations().Put(revocation.Notice{Kind: revocation.Agent, ID: h.agent.ID.String(), Dead: true, At: w.clock.now(), Position: 1000})
	})
	_ = w.road.EndRun(ctx, operator, h.open("wake").Run.ID, "x") // events wake the follower
	begun := time.Now()
	for time.Since(begun) < 2*time.Second {
		if _, dead := w.index.Dead(revocation.Agent, h.agent.ID.String()); dead {
			break
		}
		time.Sleep(time.Millisecond)
	}
	wantCode(t, h.use(one.Token, office), "agent_suspended")
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %v", took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Follow returned %v", err)
	}
}

func TestStaleView(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	one := h.open("p")
	wantCode(t, h.use(one.Token, office), "")
	wantCode(t, w.road.Healthy(), "")
	broken := &brokenStore{Store: w.store}
	index := revocation.NewIndex()
	road := admit.New(admit.Deps{
		Store: broken, Index: index, Nonces: identity.NewNonces(w.boot, 5*time.Minute, 100),
		TokenKeys: func() (*identity.Key, []identity.PublicKey) { return w.key, []identity.PublicKey{w.key.Public()} }, Now: w.clock.now,
	}, admit.Config{Issuer: issuer, TrustDomain: domain})
	_, err := road.Authenticate(t.Context(), h.present(one.Token, office), office)
	wantCode(t, err, "revocation_stale")
	wantCode(t, road.Healthy(), "revocation_stale")
	broken.works = true
	_, err = road.Authenticate(t.Context(), h.present(one.Token, office), office)
	wantCode(t, err, "")
}

type brokenStore struct {
	store.Store
	works bool
}

func (b *brokenStore) View(ctx context.Context, fn func(store.Tx) error) error {
	if !b.works {
		return errors.New("the disk is gone")
	}
	return b.Store.View(ctx, fn)
}

func TestPersonSuspendedByNotice(t *testing.T) {
	w := newWorld(t)
	ada := w.login("ada")
	one := ada.must(api, nil)
	w.index.Apply(revocation.Notice{Kind: revocation.Person, ID: ada.person.ID.String(), Dead: true, Position: 5, At: w.clock.now()})
	wantCode(t, ada.use(one.Token, api), "person_suspended")
	w.index.Apply(revocation.Notice{Kind: revocation.Person, ID: ada.person.ID.String(), Position: 6, At: w.clock.now().Add(time.Second)})
	wantCode(t, ada.use(one.Token, api), "credential_revoked")
	_ = people.Operator
}
