// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// MaxCredentialLife is the longest life of an access token.
const MaxCredentialLife = 5 * time.Minute

// accessClaims is the payload of an access token: RFC 9068 §2.2, cnf of RFC 9449 §6.1, and one private claim.
type accessClaims struct {
	Iss       string        `json:"iss"`
	Sub       string        `json:"sub"`
	Aud       string        `json:"aud"`
	ClientID  string        `json:"client_id"`
	Iat       int64         `json:"iat"`
	Exp       int64         `json:"exp"`
	JTI       string        `json:"jti"`
	Cnf       confirmation  `json:"cnf"`
	Chaperone privateClaims `json:"chaperone"`
}

type confirmation struct {
	JKT string `json:"jkt"`
}

// privateClaims names what SPIFFE IDs cannot: the agent behind its name, and the run, or the person.
type privateClaims struct {
	Agent     id.Agent    `json:"agent,omitzero"`
	AgentName string      `json:"agent_name,omitempty"`
	Instance  id.Instance `json:"instance,omitzero"`
	Run       id.Run      `json:"run,omitzero"`
	Person    id.Person   `json:"person,omitzero"`
}

// MintAccess signs the credential as an at+jwt (RFC 9068) of at most MaxCredentialLife, with kid = the thumbprint of k. A
// credential that VerifyAccess would refuse is not minted: Internal.
func MintAccess(k *Key, c Credential) (string, error) {
	const op = "identity.MintAccess"
	if err := c.whole(); err != nil {
		return "", fault.New(fault.Internal, op, "internal", "internal error").WithCause(err)
	}
	raw, err := k.sign(typAccess, false, k.JKT(), accessClaims{
		Iss: c.Issuer, Sub: c.Subject, Aud: c.Audience, ClientID: c.ClientID,
		Iat: c.IssuedAt.Unix(), Exp: c.ExpiresAt.Unix(), JTI: c.JTI, Cnf: confirmation{JKT: c.JKT},
		Chaperone: privateClaims{Agent: c.Agent, AgentName: c.AgentName, Instance: c.Instance, Run: c.Run, Person: c.Person},
	})
	return raw, fault.Wrap(op, err)
}

// VerifyAccess checks an access token: form, typ, signature by the one of keys that kid names, issuer, life, and audience,
// in this order, and returns what it says. It does not check who presents it (VerifyProof) nor whether it still stands
// (revocation). Error kind: Unauthenticated, codes "bad_credential", "wrong_issuer", "credential_expired", "wrong_audience".
func VerifyAccess(keys []PublicKey, raw, issuer, audience string, now time.Time) (Credential, error) {
	c, _, err := openAccess(keys, raw)
	if err != nil {
		return Credential{}, err
	}
	if err := c.accept(issuer, audience, now); err != nil {
		return Credential{}, err
	}
	return c, nil
}

// openAccess checks everything about an access token that never changes while its key is trusted.
func openAccess(keys []PublicKey, raw string) (Credential, PublicKey, error) {
	refused := func(err error) (Credential, PublicKey, error) {
		return Credential{}, PublicKey{}, badCredential(words(err))
	}
	j, err := readJWS(raw)
	if err != nil {
		return refused(err)
	}
	if j.typ != typAccess {
		return refused(errJWS("typ is not at+jwt"))
	}
	if j.jwk != nil {
		return refused(errJWS("the header carries jwk"))
	}
	var key PublicKey
	for _, k := range keys {
		if SameThumbprint(k.jkt, j.kid) {
			key = k
		}
	}
	if key.IsZero() {
		return refused(errJWS("kid names no key of this issuer"))
	}
	if err := j.verify(key); err != nil {
		return refused(err)
	}
	var claims accessClaims
	if err := canon.Fill(j.claims, &claims, false); err != nil {
		return refused(errJWS("a claim is missing or of the wrong type"))
	}
	if _, err := j.date("iat"); err != nil {
		return refused(err)
	}
	if _, err := j.date("exp"); err != nil {
		return refused(err)
	}
	c := Credential{
		JTI: claims.JTI, Issuer: claims.Iss, Subject: claims.Sub, ClientID: claims.ClientID, Audience: claims.Aud,
		JKT: claims.Cnf.JKT, Agent: claims.Chaperone.Agent, AgentName: claims.Chaperone.AgentName,
		Instance: claims.Chaperone.Instance, Run: claims.Chaperone.Run, Person: claims.Chaperone.Person,
		IssuedAt: time.Unix(claims.Iat, 0).UTC(), ExpiresAt: time.Unix(claims.Exp, 0).UTC(),
	}
	if err := c.whole(); err != nil {
		return refused(err)
	}
	return c, key, nil
}

// whole reports what a credential lacks: every claim is there, the life is at most MaxCredentialLife, and it names either an
// agent with its instance and run, or a person, never both.
func (c Credential) whole() error {
	life := c.ExpiresAt.Sub(c.IssuedAt)
	switch {
	case c.Issuer == "" || c.Subject == "" || c.ClientID == "" || c.Audience == "" || c.JTI == "" || c.JKT == "":
		return errJWS("a claim is missing")
	case len(c.JTI) > maxClaim:
		return errJWS("jti is too long")
	case life <= 0 || life > MaxCredentialLife:
		return errJWS("it lives longer than five minutes, or not at all")
	}
	agent := !c.Agent.IsZero() && c.AgentName != "" && !c.Instance.IsZero() && !c.Run.IsZero() && c.Person.IsZero()
	person := !c.Person.IsZero() && c.Agent.IsZero() && c.AgentName == "" && c.Instance.IsZero() && c.Run.IsZero()
	if !agent && !person {
		return errJWS("it names neither an agent in a run nor a person")
	}
	return nil
}

// accept checks what depends on the moment and the place of use.
func (c Credential) accept(issuer, audience string, now time.Time) error {
	const op = "identity.VerifyAccess"
	switch {
	case c.Issuer != issuer:
		return fault.New(fault.Unauthenticated, op, "wrong_issuer", "the credential is of another issuer").
			WithFix("get a credential from %s", issuer)
	case !now.Before(c.ExpiresAt):
		return fault.New(fault.Unauthenticated, op, "credential_expired", "the credential has expired").
			WithFix("get a new credential from the token endpoint")
	case c.IssuedAt.Sub(now) > maxSkew:
		return badCredential("it was issued in the future")
	case c.Audience != audience:
		return fault.New(fault.Unauthenticated, op, "wrong_audience", "the credential is for another audience").
			WithFix("ask the token endpoint for resource=%s", audience)
	}
	return nil
}

func badCredential(msg string) error {
	return fault.New(fault.Unauthenticated, "identity.VerifyAccess", "bad_credential", "the credential is not usable: %s", msg).
		WithFix("get a new credential from the token endpoint")
}

// ReadAccess checks the form and signature of an access token, and neither issuer, life nor audience: for its revocation, which
// asks only what it names. Error kind: Unauthenticated, code "bad_credential".
func ReadAccess(keys []PublicKey, raw string) (Credential, error) {
	c, _, err := openAccess(keys, raw)
	return c, err
}
