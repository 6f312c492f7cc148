// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/revocation"
	"chaperone/internal/store"
)

// RevokeRequest gives a credential back (RFC 7009). The client proves itself by its assertion alone.
type RevokeRequest struct {
	ClientID  string
	Assertion string
	Token     string
}

// Revoke kills a credential that was issued to the client who asks. A token that is unknown, malformed or over is no error (RFC 7009
// §2.2), so that nothing is learnt of it. Errors: those of the assertion as in Token; Denied "not_your_credential"; Unavailable "clock_stepped_back".
func (r *Road) Revoke(ctx context.Context, req RevokeRequest) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	c, err := r.find(ctx, req.ClientID, req.Assertion)
	if err != nil {
		return err
	}
	if c, err = r.assert(c, req.Assertion, now); err != nil {
		return r.refused(ctx, c, "", id.Run{}, err)
	}
	_, keys := r.deps.TokenKeys()
	cred, err := identity.ReadAccess(keys, req.Token)
	if err != nil || cred.Issuer != r.cfg.Issuer || !now.Before(cred.ExpiresAt) {
		return r.refused(ctx, c, "", id.Run{}, r.deps.Store.Update(ctx, c.spend))
	}
	if cred.ClientID != c.name {
		return r.refused(ctx, c, "", id.Run{}, fault.New(fault.Denied, "admit.Revoke", "not_your_credential", "the credential was issued to another client").
			WithFix("only its own client gives a credential back; an operator can revoke the instance"))
	}
	return r.refused(ctx, c, "", id.Run{}, r.revoke(ctx, c.actor(), cred, "given back", c.spend))
}

// RevokeCredential kills one credential before its time. It may be repeated. Error: Unavailable when it cannot be stored.
func (r *Road) RevokeCredential(ctx context.Context, by audit.Actor, cred identity.Credential, reason string) error {
	return r.revoke(ctx, by, cred, reason, nil)
}

type revokedData struct {
	JTI      string `json:"jti"`
	ClientID string `json:"client_id"`
	Reason   string `json:"reason,omitempty"`
}

func (r *Road) revoke(ctx context.Context, by audit.Actor, cred identity.Credential, reason string, with func(store.Tx) error) error {
	at := r.moment()
	kind := audit.CredentialRevoked
	if cred.IsPerson() {
		kind = audit.PersonCredentialRevoked
	}
	ev := r.event(kind, by, at, revokedData{JTI: cred.JTI, ClientID: cred.ClientID, Reason: reason})
	ev.Agent, ev.AgentName, ev.Instance, ev.Run = cred.Agent, cred.AgentName, cred.Instance, cred.Run
	if cred.IsPerson() {
		ev.Subject = "person:" + cred.Person.String()
	}
	sealed, err := r.seal(ev)
	if err != nil {
		return err
	}
	notices := []revocation.Notice{{
		Kind: revocation.Credential, ID: cred.JTI, Dead: true, Final: true, Reason: reason, At: at, Until: cred.ExpiresAt.Add(rememberFor),
	}}
	err = r.deps.Store.Update(ctx, func(tx store.Tx) error {
		if with != nil {
			if err := with(tx); err != nil {
				return err
			}
		}
		if err := put(tx, notices); err != nil {
			return err
		}
		return appendAll(tx, sealed)
	})
	if err == nil {
		r.apply(notices)
	}
	return err
}
