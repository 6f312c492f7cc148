// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"slices"
	"strings"
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
	if len(b) > maxJWK {
		return jwk{}, badKey(op, "over 4 KiB")
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return jwk{}, badKey(op, "not one strict JSON object")
	}
	text := func(name string) *string {
		var s string
		if v, ok := members[name]; !ok || json.Unmarshal(v, &s) != nil {
			return nil
		}
		return &s
	}
	is := func(name, want string) bool { s := text(name); return s != nil && *s == want }
	has := func(name string) bool { _, ok := members[name]; return ok }
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
	}
	if has("key_ops") {
		var ops []string
		if json.Unmarshal(members["key_ops"], &ops) != nil || !slices.Contains(ops, "verify") && !slices.Contains(ops, "sign") {
			return jwk{}, badKey(op, "key_ops holds neither sign nor verify")
		}
	}
	return m, nil
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
