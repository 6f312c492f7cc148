// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"log/slog"

	"chaperone/internal/fault"
)

// maxJWK bounds a key in JSON, in bytes. An EC key needs under 300.
const maxJWK = 4 << 10

// b64 is base64url without padding that refuses spare bits, so that one value has one spelling. It still skips CR and LF;
// unb64 refuses those.
var b64 = base64.RawURLEncoding.Strict()

// Key is an ES256 private key: P-256 with SHA-256 (RFC 7518 §3.4). It is immutable and safe for concurrent use. Its text
// forms are redacted; only MarshalPrivate gives the private part away.
type Key struct {
	private *ecdsa.PrivateKey
	public  PublicKey
}

// PublicKey is the public half, a point that was checked to lie on P-256. The zero value verifies nothing.
type PublicKey struct {
	point *ecdsa.PublicKey
	jwk   string
	jkt   string
}

// NewKey makes a key from the system's random source.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.Wrap("identity.NewKey", err)
	}
	return keyOf(private)
}

// ParseKey reads the private JWK that MarshalPrivate wrote. Error kind: Invalid, code "bad_key"; the message never quotes
// the input.
func ParseKey(jwk []byte) (*Key, error) {
	const op = "identity.ParseKey"
	m, err := parseJWK(op, jwk)
	if err != nil {
		return nil, err
	}
	if m.D == nil {
		return nil, badKey(op, "the private member d is missing")
	}
	d, err := unb64(*m.D)
	if err != nil || len(d) != 32 {
		return nil, badKey(op, "d is not 32 bytes of base64url")
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
	if err != nil {
		return nil, badKey(op, "d is not a P-256 scalar")
	}
	public, err := m.point(op)
	if err != nil {
		return nil, err
	}
	if !private.PublicKey.Equal(public.point) {
		return nil, badKey(op, "d does not belong to x and y")
	}
	return &Key{private: private, public: public}, nil
}

func keyOf(private *ecdsa.PrivateKey) (*Key, error) {
	public, err := publicOf(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	return &Key{private: private, public: public}, nil
}

// MarshalPrivate returns the private JWK (RFC 7518 §6.2.2) in canonical form. The caller keeps it sealed or in a file that
// only its owner can read.
func (k *Key) MarshalPrivate() []byte {
	x, y := split(k.public.point)
	d, err := k.private.Bytes()
	if err != nil { // a Key is only made from a checked P-256 scalar
		return nil
	}
	return []byte(`{"crv":"P-256","d":"` + b64.EncodeToString(d) + `","kty":"EC","x":"` + x + `","y":"` + y + `"}`)
}

// Public returns the public half.
func (k *Key) Public() PublicKey { return k.public }

// JKT returns the RFC 7638 SHA-256 thumbprint of the public half, base64url.
func (k *Key) JKT() string { return k.public.jkt }

// PublicJWK returns the public JWK with exactly the members crv, kty, x and y, in the order RFC 7638 hashes.
func (k *Key) PublicJWK() string { return k.public.jwk }

// String hides the key: it names it by its thumbprint.
func (k *Key) String() string {
	if k == nil {
		return "key(none)"
	}
	return "key(" + k.public.jkt + ")"
}

// GoString hides the key from %#v.
func (k *Key) GoString() string { return k.String() }

// LogValue hides the key from logs.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// ParsePublicKey reads a public EC P-256 JWK. Private members, other curves, points off the curve and alg or use that do
// not fit ES256 signatures are refused; other members are ignored (RFC 7517 §4). Error kind: Invalid, code "bad_key".
func ParsePublicKey(jwk []byte) (PublicKey, error) {
	const op = "identity.ParsePublicKey"
	m, err := parseJWK(op, jwk)
	if err != nil {
		return PublicKey{}, err
	}
	if m.private() {
		return PublicKey{}, badKey(op, "a private key was given where a public one is wanted").
			WithFix("send only the members kty, crv, x and y; treat the key as exposed and make a new one")
	}
	return m.point(op)
}

// JKT returns the RFC 7638 SHA-256 thumbprint, base64url; empty for the zero value.
func (p PublicKey) JKT() string { return p.jkt }

// JWK returns the canonical public JWK; empty for the zero value.
func (p PublicKey) JWK() string { return p.jwk }

// IsZero reports whether there is no key.
func (p PublicKey) IsZero() bool { return p.point == nil }

// String names the key by its thumbprint.
func (p PublicKey) String() string { return "key(" + p.jkt + ")" }

// Set returns the JWK Set of the keys as the JWKS endpoint publishes it, each with kid, alg and use (RFC 7517 §5).
func Set(keys []PublicKey) []byte {
	type published struct {
		Kty string `json:"kty"`
		Crv string `json:"crv"`
		X   string `json:"x"`
		Y   string `json:"y"`
		Kid string `json:"kid"`
		Alg string `json:"alg"`
		Use string `json:"use"`
	}
	out := struct {
		Keys []published `json:"keys"`
	}{Keys: []published{}}
	for _, k := range keys {
		if k.IsZero() {
			continue
		}
		x, y := split(k.point)
		out.Keys = append(out.Keys, published{Kty: "EC", Crv: "P-256", X: x, Y: y, Kid: k.jkt, Alg: "ES256", Use: "sig"})
	}
	b, err := json.Marshal(out)
	if err != nil { // strings only
		return []byte(`{"keys":[]}`)
	}
	return b
}

// SameThumbprint compares two thumbprints in constant time.
func SameThumbprint(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// split returns the coordinates in base64url, 32 bytes each.
func split(p *ecdsa.PublicKey) (x, y string) {
	raw, err := p.Bytes() // 0x04 || X || Y
	if err != nil || len(raw) != 65 {
		return "", ""
	}
	return b64.EncodeToString(raw[1:33]), b64.EncodeToString(raw[33:])
}

func publicOf(p *ecdsa.PublicKey) (PublicKey, error) {
	x, y := split(p)
	if x == "" {
		return PublicKey{}, badKey("identity.publicOf", "not a P-256 point")
	}
	jwk := `{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`
	sum := sha256.Sum256([]byte(jwk))
	return PublicKey{point: p, jwk: jwk, jkt: b64.EncodeToString(sum[:])}, nil
}

func badKey(op, msg string) *fault.Error {
	return fault.New(fault.Invalid, op, "bad_key", "not a usable P-256 key: %s", msg).
		WithFix("make an EC key on curve P-256 and send it as a JWK")
}
