// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/rand"
	"time"

	"chaperone/internal/fault"
)

// MaxAssertionLife is how far in the future an assertion may expire; MintAssertion uses half of it.
const MaxAssertionLife = 120 * time.Second

// Assertion is what a verified client assertion says. The caller spends JTI once, until ExpiresAt.
type Assertion struct {
	ClientID  string
	JTI       string
	ExpiresAt time.Time
}

type assertionClaims struct {
	Iss string `json:"iss"`
	Sub string `json:"sub"`
	Aud string `json:"aud"`
	Iat int64  `json:"iat"`
	Exp int64  `json:"exp"`
	JTI string `json:"jti"`
}

// MintAssertion signs a client assertion (RFC 7523 §3) for the issuer's token endpoint: iss and sub are the client, aud is
// the issuer alone, and it lives one minute.
func MintAssertion(k *Key, clientID, issuer string, now time.Time) (string, error) {
	raw, err := k.sign("JWT", false, k.JKT(), assertionClaims{
		Iss: clientID, Sub: clientID, Aud: issuer, Iat: now.Unix(), Exp: now.Add(MaxAssertionLife / 2).Unix(), JTI: rand.Text(),
	})
	return raw, fault.Wrap("identity.MintAssertion", err)
}

// AssertedClient returns the client that an assertion claims to be of, before anything is verified, so that its key can be
// looked up. Error kind: Unauthenticated, code "bad_assertion".
func AssertedClient(raw string) (string, error) {
	j, err := readJWS(raw)
	if err != nil {
		return "", badAssertion(words(err))
	}
	sub, err := j.text("sub")
	if err != nil {
		return "", badAssertion(words(err))
	}
	return sub, nil
}

// VerifyAssertion checks a client assertion: form, signature by the client's own key, iss = sub = clientID, aud exactly the
// issuer as a single string (an array, an endpoint URL or a second audience is refused: audience injection, CVE-2025-27370),
// and a life that ends within MaxAssertionLife. The jti is for the caller to spend. Error kind: Unauthenticated, codes
// "bad_assertion", "assertion_audience", "assertion_expired".
func VerifyAssertion(key PublicKey, raw, clientID, issuer string, now time.Time) (Assertion, error) {
	const op = "identity.VerifyAssertion"
	refused := func(err error) (Assertion, error) { return Assertion{}, badAssertion(words(err)) }
	j, err := readJWS(raw)
	if err != nil {
		return refused(err)
	}
	if j.hasTyp && j.typ != "JWT" && j.typ != "client-authentication+jwt" {
		return refused(errJWS("typ is that of another kind of JWT"))
	}
	if j.jwk != nil {
		return refused(errJWS("the header carries jwk"))
	}
	if err := j.verify(key); err != nil {
		return refused(err)
	}
	iss, _ := j.claims.Get("iss").String()
	sub, _ := j.claims.Get("sub").String()
	if iss != clientID || sub != clientID {
		return refused(errJWS("iss and sub are not both the client"))
	}
	if aud, ok := j.claims.Get("aud").String(); !ok || aud != issuer {
		return Assertion{}, fault.New(fault.Unauthenticated, op, "assertion_audience", "the assertion's audience is not this issuer alone").
			WithFix("set aud to the single string %s", issuer)
	}
	jti, err := j.short("jti")
	if err != nil {
		return refused(err)
	}
	exp, err := j.date("exp")
	if err != nil {
		return refused(err)
	}
	for _, name := range []string{"iat", "nbf"} {
		if j.claims.Get(name) == nil {
			continue
		}
		at, err := j.date(name)
		if err != nil {
			return refused(err)
		}
		if at.Sub(now) > maxSkew {
			return refused(errJWS(name + " is in the future"))
		}
	}
	switch {
	case !now.Before(exp):
		return Assertion{}, fault.New(fault.Unauthenticated, op, "assertion_expired", "the assertion has expired").
			WithFix("sign a fresh assertion for every request")
	case exp.Sub(now) > MaxAssertionLife:
		return refused(errJWS("it lives longer than two minutes"))
	}
	return Assertion{ClientID: clientID, JTI: jti, ExpiresAt: exp}, nil
}

func badAssertion(msg string) error {
	return fault.New(fault.Unauthenticated, "identity.VerifyAssertion", "bad_assertion", "the client assertion is not usable: %s", msg).
		WithFix("sign an ES256 JWT with the enrolled key: iss = sub = client_id, aud = issuer, a fresh jti, exp within 60 s")
}
