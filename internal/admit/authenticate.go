// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"strings"

	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
)

// Authenticate proves who is calling: an access token of this issuer for this audience, presented under the DPoP scheme with a
// fresh proof by the key it is bound to (RFC 9449 §7), and nobody in it stopped. The checks run in this order, so that a refusal names
// the first thing wrong: token, audience, proof, key, revocations, nonce and replay. Only a caller who passed all the others spends a
// proof. Once the credential's own signature, issuer and audience stand, a refusal is an *identity.Refused around the fault, which
// tells the record whose credential it was. Safe for concurrent use.
//
// Errors. Unauthenticated: "no_credential", "bad_credential", "wrong_issuer", "credential_expired", "wrong_audience", "no_proof",
// "bad_proof", "key_mismatch", "credential_revoked", "use_dpop_nonce", "proof_replayed". Suspended: "agent_suspended", "agent_retired",
// "instance_revoked", "run_ended", "run_expired", "run_suspended", "person_suspended". Limited: "proof_memory_full". Unavailable: "revocation_stale".
func (r *Road) Authenticate(ctx context.Context, p identity.Presented, audience string) (identity.Credential, error) {
	const op = "admit.Authenticate"
	if p.Token == "" {
		return identity.Credential{}, fault.New(fault.Unauthenticated, op, "no_credential", "the request carries no credential").
			WithFix("send Authorization: DPoP <credential> and a DPoP proof, or use chaperone connect")
	}
	if !strings.EqualFold(p.Scheme, "DPoP") {
		return identity.Credential{}, fault.New(fault.Unauthenticated, op, "bad_credential", "credentials are accepted under the scheme DPoP alone").
			WithFix("send Authorization: DPoP <credential>; a bearer credential is never accepted")
	}
	now := r.moment()
	_, keys := r.deps.TokenKeys()
	c, err := r.verified.Access(keys, p.Token, r.cfg.Issuer, audience, now)
	if err != nil {
		return identity.Credential{}, err
	}
	proof, err := identity.VerifyProof(p.Proof, p.Method, p.URL, p.Token, now)
	if err != nil {
		return refused(c, err)
	}
	if !identity.SameThumbprint(proof.Key.JKT(), c.JKT) {
		return refused(c, fault.New(fault.Unauthenticated, op, "key_mismatch", "the proof is not by the key that the credential is bound to").
			WithFix("a credential works only with the key it was issued to; get one of your own"))
	}
	if err := r.fresh(ctx); err != nil {
		return refused(c, err)
	}
	if err := r.standing(c); err != nil {
		return refused(c, err)
	}
	if err := r.deps.Nonces.Accept(proof.Nonce, proof.Once(), now); err != nil {
		return refused(c, err)
	}
	return c, nil
}

// refused keeps whose credential it was in the error, so that the record can name it.
func refused(c identity.Credential, err error) (identity.Credential, error) {
	return identity.Credential{}, &identity.Refused{Credential: c, Err: err}
}

// standing asks the index about everybody a credential names.
func (r *Road) standing(c identity.Credential) error {
	const op = "admit.Authenticate"
	stops := func(kind, id string) (revocation.Notice, bool) { return r.deps.Index.Stops(kind, id, c.IssuedAt) }
	revoked := fault.New(fault.Unauthenticated, op, "credential_revoked", "the credential is revoked").
		WithFix("get a new credential from the token endpoint")
	if _, stopped := stops(revocation.Credential, c.JTI); stopped {
		return revoked
	}
	if c.IsPerson() {
		if n, stopped := stops(revocation.Person, c.Person.String()); stopped && n.Dead {
			return fault.New(fault.Suspended, op, "person_suspended", "the person is suspended").WithFix("an operator can resume them")
		} else if stopped {
			return revoked
		}
		return nil
	}
	if n, stopped := stops(revocation.Agent, c.Agent.String()); stopped {
		switch {
		case !n.Dead: // it was stopped after the issue, and stands again
			return revoked
		case n.Final:
			return fault.New(fault.Suspended, op, "agent_retired", "the agent is retired").WithFix("retirement is final: register a new agent")
		}
		return fault.New(fault.Suspended, op, "agent_suspended", "the agent is suspended").
			WithFix("an operator can look at the reason and resume it: chaperone agent resume %s", c.AgentName)
	}
	if _, stopped := stops(revocation.Instance, c.Instance.String()); stopped {
		return fault.New(fault.Suspended, op, "instance_revoked", "the instance is revoked").WithFix("enrol a new instance with a fresh join code")
	}
	if n, stopped := stops(revocation.Run, c.Run.String()); stopped {
		switch {
		case !n.Dead:
			return revoked
		case !n.Final:
			return fault.New(fault.Suspended, op, "run_suspended", "the run is suspended").WithFix("ask an operator to look at it")
		case n.Reason == string(run.Expired):
			return fault.New(fault.Suspended, op, "run_expired", "the run has expired").WithFix("open a new run")
		}
		return fault.New(fault.Suspended, op, "run_ended", "the run has ended").WithFix("open a new run")
	}
	return nil
}
