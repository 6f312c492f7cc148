// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"slices"
	"strings"

	"chaperone/internal/canon"
)

// jwk is what a JSON Web Key says that matters here (RFC 7517 §4, RFC 7518 §6.2).
type jwk struct {
	X, Y, D *string
	secret  bool // carries a private or symmetric member
}

// privateMembers are the members that a public key never has, over all key types (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
var privateMembers = [...]string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

func (m jwk) private() bool { return m.secret }

// parseJWK reads the members and refuses what cannot be an ES256 signing key.
func parseJWK(op string, b []byte) (jwk, error) {
	n, err := canon.Parse(b, canon.Limits{Bytes: maxJWK, Depth: 4})
	if err != nil {
		return jwk{}, badKey(op, "not one strict JSON object of at most 4 KiB")
	}
	return readJWK(op, n)
}

func readJWK(op string, n *canon.Node) (jwk, error) {
	text := func(name string) *string {
		if s, ok := n.Get(name).String(); ok {
			return &s
		}
		return nil
	}
	is := func(name, want string) bool { s := text(name); return s != nil && *s == want }
	has := func(name string) bool { return n.Get(name) != nil }
	m := jwk{X: text("x"), Y: text("y"), D: text("d")}
	for _, name := range privateMembers {
		m.secret = m.secret || has(name)
	}
	switch {
	case !is("kty", "EC"):
		return jwk{}, badKey(op, "kty is not EC")
	case !is("crv", "P-256"):
		return jwk{}, badKey(op, "crv is not P-256")
	case has("alg") && !is("alg", "ES256"):
		return jwk{}, badKey(op, "alg is not ES256")
	case has("use") && !is("use", "sig"):
		return jwk{}, badKey(op, "use is not sig")
	case has("key_ops") && !slices.ContainsFunc(items(n.Get("key_ops")), func(s string) bool { return s == "verify" || s == "sign" }):
		return jwk{}, badKey(op, "key_ops holds neither sign nor verify")
	}
	return m, nil
}

// items returns the strings of an array.
func items(n *canon.Node) []string {
	var out []string
	if n != nil {
		for _, item := range n.Items {
			if s, ok := item.String(); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// point checks the coordinates: 32 bytes each (RFC 7518 §6.2.1.2) and on the curve.
func (m jwk) point(op string) (PublicKey, error) {
	if m.X == nil || m.Y == nil {
		return PublicKey{}, badKey(op, "x or y is missing")
	}
	x, errX := unb64(*m.X)
	y, errY := unb64(*m.Y)
	if errX != nil || errY != nil || len(x) != 32 || len(y) != 32 {
		return PublicKey{}, badKey(op, "x and y are not 32 bytes of base64url each")
	}
	p, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return PublicKey{}, badKey(op, "the point is not on P-256")
	}
	return publicOf(p)
}

var errNotBase64 = errors.New("not canonical base64url")

// unb64 decodes canonical base64url without padding (RFC 7515 §2): no line breaks, no spare bits.
func unb64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errNotBase64
	}
	b, err := b64.DecodeString(s)
	if err != nil {
		return nil, errNotBase64
	}
	return b, nil
}
