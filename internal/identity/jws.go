// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"math/big"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"chaperone/internal/canon"
)

// The limits of what is accepted as a JWT, before anything else is looked at.
const (
	maxJWS   = 16 << 10 // bytes, the whole compact form
	maxSkew  = 60 * time.Second
	maxClaim = 512     // bytes of one claim that is kept (jti, nonce)
	maxTime  = 1 << 34 // seconds; the year 2514. Larger NumericDates are a mistake or an attack.
)

// The media types that tell the three kinds of JWT apart, so that none passes for another (RFC 8725 §3.11).
const (
	typAccess = "at+jwt"   // RFC 9068 §2.1
	typProof  = "dpop+jwt" // RFC 9449 §4.2
)

// errJWS says what is wrong with a JWS, in words that may be shown: it never quotes the input.
type errJWS string

func (e errJWS) Error() string { return string(e) }

// jws is a compact JWS that was read strictly but whose signature was not yet checked.
type jws struct {
	raw    string
	typ    string
	hasTyp bool
	kid    string
	jwk    *canon.Node

	payload   []byte
	claims    *canon.Node
	signature [64]byte // r || s (RFC 7518 §3.4)
}

// foreign are header members that would make a verifier fetch, trust or reinterpret something the sender chose. A JWS that
// carries one is refused (RFC 8725 §3.10; RFC 7515 §4.1; RFC 7797; RFC 7516).
var foreign = [...]string{"crit", "b64", "jku", "x5u", "x5c", "x5t", "x5t#S256", "zip", "enc", "cty", "epk", "url"}

// readJWS takes a compact JWS apart and reads its payload as a strict JSON object.
func readJWS(raw string) (jws, error) {
	j, err := readEnvelope(raw)
	if err != nil {
		return jws{}, err
	}
	j.claims, err = canon.Parse(j.payload, canon.Limits{Bytes: maxJWS, Depth: 16})
	if err != nil || j.claims.Kind != canon.Object {
		return jws{}, errJWS("the payload is not a strict JSON object")
	}
	return j, nil
}

// readEnvelope takes a compact JWS apart: three canonical base64url segments, a strict JSON header with alg ES256 and nothing
// foreign, 64 bytes of signature. The JSON serialisation and JWE are refused by form.
func readEnvelope(raw string) (jws, error) {
	if len(raw) > maxJWS {
		return jws{}, errJWS("it is over 16 KiB")
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return jws{}, errJWS("it is not a compact JWS of three parts")
	}
	var decoded [3][]byte
	for i, part := range parts {
		b, err := unb64(part)
		if err != nil || len(b) == 0 {
			return jws{}, errJWS("a part is empty or not canonical base64url")
		}
		decoded[i] = b
	}
	header, err := canon.Parse(decoded[0], canon.Limits{Bytes: maxJWS, Depth: 4})
	if err != nil || header.Kind != canon.Object {
		return jws{}, errJWS("the header is not a strict JSON object")
	}
	// The whole allow list: alg is compared with it, never followed.
	if alg, _ := header.Get("alg").String(); alg != string(jose.ES256) {
		return jws{}, errJWS("alg is not ES256")
	}
	for _, name := range foreign {
		if header.Get(name) != nil {
			return jws{}, errJWS("the header carries " + name)
		}
	}
	out := jws{raw: raw, jwk: header.Get("jwk"), payload: decoded[1]}
	if n := header.Get("typ"); n != nil {
		if out.typ, out.hasTyp = n.String(); !out.hasTyp {
			return jws{}, errJWS("typ is not a string")
		}
	}
	if n := header.Get("kid"); n != nil {
		kid, ok := n.String()
		if !ok {
			return jws{}, errJWS("kid is not a string")
		}
		out.kid = kid
	}
	if len(decoded[2]) != 64 {
		return jws{}, errJWS("the signature is not 64 bytes")
	}
	out.signature = [64]byte(decoded[2])
	return out, nil
}

// verify checks the signature against the key, and only that key. The form and the header were checked by readEnvelope, so this is the
// arithmetic of RFC 7518 §3.4 and nothing else: SHA-256 over the first two parts as they were sent, r and s of 32 bytes each.
func (j jws) verify(key PublicKey) error {
	if key.IsZero() {
		return errJWS("there is no key to check the signature with")
	}
	signed := j.raw[:strings.LastIndexByte(j.raw, '.')]
	sum := sha256.Sum256([]byte(signed))
	r, s := new(big.Int).SetBytes(j.signature[:32]), new(big.Int).SetBytes(j.signature[32:])
	if !ecdsa.Verify(key.point, sum[:], r, s) {
		return errJWS("the signature is not by the expected key")
	}
	return nil
}

// sign makes a compact JWS over the canonical bytes of the claims.
func (k *Key) sign(typ string, embed bool, kid string, claims any) (string, error) {
	payload, err := canon.Marshal(claims)
	if err != nil {
		return "", err
	}
	opts := &jose.SignerOptions{EmbedJWK: embed}
	if typ != "" {
		opts = opts.WithType(jose.ContentType(typ))
	}
	if kid != "" {
		opts = opts.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k.private}, opts)
	if err != nil {
		return "", err
	}
	sig, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return sig.CompactSerialize()
}

// text reads a claim that is a non-empty string of bounded length.
func (j jws) text(name string) (string, error) {
	s, ok := j.claims.Get(name).String()
	if !ok || s == "" {
		return "", errJWS(name + " is missing or not a string")
	}
	if len(s) > maxSPIFFE {
		return "", errJWS(name + " is too long")
	}
	return s, nil
}

// short reads a claim that is remembered (jti, nonce), so its length is bounded harder.
func (j jws) short(name string) (string, error) {
	s, err := j.text(name)
	if err == nil && len(s) > maxClaim {
		return "", errJWS(name + " is too long")
	}
	return s, err
}

// date reads a NumericDate that is a non-negative integer of seconds. Fractions, exponents and strings are refused.
func (j jws) date(name string) (time.Time, error) {
	v, ok := j.claims.Get(name).Int()
	if !ok || v < 0 || v > maxTime {
		return time.Time{}, errJWS(name + " is missing or not a whole number of seconds")
	}
	return time.Unix(v, 0).UTC(), nil
}

// words returns what may be said of the error.
func words(err error) string {
	if e, ok := errors.AsType[errJWS](err); ok {
		return string(e)
	}
	return "it cannot be read"
}
