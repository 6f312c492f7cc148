// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"crypto/rand"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// TokenRequest asks for a credential. Audience is the one resource; Run is nil where none was stated.
type TokenRequest struct {
	ClientID  string // as the form says; may be empty
	Assertion string
	Presented identity.Presented // Proof, Method and URL
	Audience  string
	Run       *RunOrder
}

// RunOrder opens a run, or continues one when Continue is set; the other fields are zero then.
type RunOrder struct {
	Continue id.Run
	Purpose  string
	Plan     []run.PlanStep
	Budgets  run.Budgets
	Parent   id.Run
}

// TokenAnswer is an issued credential, signed. Run is zero for people.
type TokenAnswer struct {
	Token      string
	Credential identity.Credential
	Run        run.Run
}

type issuedData struct {
	JTI       string    `json:"jti"`
	ClientID  string    `json:"client_id"`
	Audience  string    `json:"audience"`
	JKT       string    `json:"jkt"` // of the key it is bound to
	Kid       string    `json:"kid"` // of the key that signed it
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Token issues a credential to whoever proves a bound key, for one audience, of at most five minutes. An agent's credential is
// bound to the one run that the request opens or continues, and ends with it; a person's has no run and only the API as
// audience. Spending the assertion, the run and the record are one transaction, durable before the credential is returned.
//
// Errors by kind. Unauthenticated: the codes of identity's verifiers, "no_assertion", "unknown_client", "key_mismatch",
// "assertion_replayed", "use_dpop_nonce", "proof_replayed". Suspended: "agent_...", "instance_revoked", "person_suspended", "run_ended",
// "run_expired", "run_suspended". Invalid: "unknown_audience", "run_required", "run_not_for_people", "bad_run_order", and run.Open's. Denied:
// "run_of_another_agent", "run_of_another_instance". NotFound: "run_unknown". Limited: "too_many_runs" (256 open ones). Unavailable: "clock_stepped_back". Conflict: "snapshot_moved".
func (r *Road) Token(ctx context.Context, req TokenRequest) (TokenAnswer, error) {
	var named id.Run
	if req.Run != nil {
		named = req.Run.Continue
	}
	now, err := r.now(ctx)
	if err != nil {
		return TokenAnswer{}, err
	}
	c, err := r.find(ctx, req.ClientID, req.Assertion)
	if err != nil {
		return TokenAnswer{}, err
	}
	c, err = r.prove(c, req.Assertion, req.Presented, now)
	if err != nil {
		return TokenAnswer{}, r.refused(ctx, c, req.Audience, named, err)
	}
	var out TokenAnswer
	err = again(func() error {
		if c.isPerson() {
			out, err = r.forPerson(ctx, c, req, now)
		} else {
			out, err = r.forAgent(ctx, c, req, now)
		}
		return err
	})
	if err != nil {
		return TokenAnswer{}, r.refused(ctx, c, req.Audience, named, err)
	}
	return out, nil
}

func (r *Road) forPerson(ctx context.Context, c client, req TokenRequest, now time.Time) (TokenAnswer, error) {
	switch {
	case req.Audience != r.APIAudience():
		return TokenAnswer{}, fault.New(fault.Invalid, "admit.Token", "unknown_audience", "a person's credential is for the API alone").
			WithFix("ask for resource=%s", r.APIAudience())
	case req.Run != nil:
		return TokenAnswer{}, fault.New(fault.Invalid, "admit.Token", "run_not_for_people", "a person's credential has no run").
			WithFix("leave authorization_details out; open a run for an agent with chaperone run open")
	}
	var err error
	if c.person, err = r.personNow(ctx, c.person.ID); err != nil {
		return TokenAnswer{}, err
	}
	if err := c.mayAct(now); err != nil {
		return TokenAnswer{}, err
	}
	cred := identity.Credential{
		JTI: rand.Text(), Issuer: r.cfg.Issuer, Subject: c.name, ClientID: c.name, Audience: req.Audience, JKT: c.jkt,
		Person: c.person.ID, IssuedAt: now.Truncate(time.Second), ExpiresAt: now.Add(r.cfg.CredentialLife).Truncate(time.Second),
	}
	token, data, err := r.mint(cred)
	if err != nil {
		return TokenAnswer{}, err
	}
	ev := r.event(audit.PersonCredentialIssued, c.actor(), now, data)
	ev.Subject = "person:" + c.person.Name
	sealed, err := r.seal(ev)
	if err != nil {
		return TokenAnswer{}, err
	}
	err = r.deps.Store.Update(ctx, func(tx store.Tx) error {
		if err := checkClock(tx, now); err != nil {
			return err
		}
		stored, err := tx.People().Person(c.person.ID.String())
		if err != nil {
			return err
		}
		if _, bound := stored.KeyBy(c.jkt); stored.Version != c.person.Version || !bound {
			return errMoved
		}
		if err := c.spend(tx); err != nil {
			return err
		}
		return appendAll(tx, sealed)
	})
	if err != nil {
		return TokenAnswer{}, err
	}
	return TokenAnswer{Token: token, Credential: cred}, nil
}

// forAgent reads who asks and what the run rests on, forms everything that leaves, and commits if nothing moved meanwhile.
func (r *Road) forAgent(ctx context.Context, c client, req TokenRequest, now time.Time) (TokenAnswer, error) {
	if err := r.audience(req.Audience); err != nil {
		return TokenAnswer{}, err
	}
	b, err := r.basis(ctx, c, req.Run, now)
	if err != nil {
		return TokenAnswer{}, err
	}
	c.agent, c.instance = b.agent, b.instance
	expires := now.Add(r.cfg.CredentialLife)
	for _, in := range append([]run.Run{b.run}, b.ancestors...) {
		if in.ExpiresAt.Before(expires) {
			expires = in.ExpiresAt
		}
	}
	if b.agent.ExpiresAt.Before(expires) {
		expires = b.agent.ExpiresAt
	}
	cred := identity.Credential{
		JTI: rand.Text(), Issuer: r.cfg.Issuer, Subject: identity.AgentSPIFFE(r.cfg.TrustDomain, b.agent.Name), ClientID: c.name,
		Audience: req.Audience, JKT: c.jkt, Agent: b.agent.ID, AgentName: b.agent.Name, Instance: b.instance.ID, Run: b.run.ID,
		IssuedAt: now.Truncate(time.Second), ExpiresAt: expires.Truncate(time.Second),
	}
	if !cred.ExpiresAt.After(cred.IssuedAt) {
		return TokenAnswer{}, fault.New(fault.Suspended, "admit.Token", "run_expired", "the run ends within the second").WithFix("open a new run")
	}
	token, data, err := r.mint(cred)
	if err != nil {
		return TokenAnswer{}, err
	}
	var events []audit.Event
	switch {
	case b.opened:
		ev, err := r.opened(audit.RunOpened, c.actor(), b.run, now)
		if err != nil {
			return TokenAnswer{}, err
		}
		events = append(events, about(ev, b.agent, b.instance.ID, b.run.ID))
	case b.bound:
		ev := r.event(audit.RunContinued, c.actor(), now, continuedData{Opener: b.run.Opener})
		events = append(events, about(ev, b.agent, b.instance.ID, b.run.ID))
	}
	events = append(events, about(r.event(audit.CredentialIssued, c.actor(), now, data), b.agent, b.instance.ID, b.run.ID))
	sealed, err := r.seal(events...)
	if err != nil {
		return TokenAnswer{}, err
	}
	if err := r.store(ctx, b, now, c.spend, sealed); err != nil {
		return TokenAnswer{}, err
	}
	return TokenAnswer{Token: token, Credential: cred, Run: b.run}, nil
}

func (r *Road) mint(c identity.Credential) (string, issuedData, error) {
	active, _ := r.deps.TokenKeys()
	token, err := identity.MintAccess(active, c)
	return token, issuedData{
		JTI: c.JTI, ClientID: c.ClientID, Audience: c.Audience, JKT: c.JKT, Kid: active.JKT(), IssuedAt: c.IssuedAt, ExpiresAt: c.ExpiresAt,
	}, err
}
