// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/url"
	"strings"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// Presented is what came on the wire to prove who is calling. URL is the external URL of the request without query and
// fragment; Scheme is that of the Authorization header. It is untrusted until verified.
type Presented struct {
	Scheme string
	Token  string
	Proof  string
	Method string
	URL    string
}

// Proof is what a verified DPoP proof says. The caller has the nonce and the jti accepted by Nonces.
type Proof struct {
	Key   PublicKey
	JTI   string
	Nonce string // empty if the proof carried none
}

// Once returns what is unique to the proof, for Nonces.Accept: another client's jti cannot collide with it.
func (p Proof) Once() string { return p.Key.jkt + "." + p.JTI }

type proofClaims struct {
	HTM   string `json:"htm"`
	HTU   string `json:"htu"`
	Iat   int64  `json:"iat"`
	JTI   string `json:"jti"`
	ATH   string `json:"ath,omitempty"`
	Nonce string `json:"nonce,omitempty"`
}

// MintProof signs a DPoP proof (RFC 9449 §4.2) for one request. rawURL may carry a query, which is cut off; nonce and
// accessToken may be empty.
func MintProof(k *Key, method, rawURL, nonce, accessToken string, now time.Time) (string, error) {
	const op = "identity.MintProof"
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fault.New(fault.Invalid, op, "bad_url", "not a URL")
	}
	u.RawQuery, u.Fragment, u.RawFragment, u.ForceQuery, u.User = "", "", "", false, nil
	raw, err := k.sign(typProof, true, "", proofClaims{
		HTM: method, HTU: u.String(), Iat: now.Unix(), JTI: rand.Text(), ATH: athOf(accessToken), Nonce: nonce,
	})
	return raw, fault.Wrap(op, err)
}

// VerifyProof checks a DPoP proof (RFC 9449 §4.3) for this method, URL and access token: form, typ, a public P-256 key in
// the header that signed it, htm exact, htu equal after normalisation, ath if an access token is presented, and iat within 60 s
// of now. Nonce and jti are for Nonces, the binding to a credential for the caller. Error kind: Unauthenticated, codes
// "no_proof", "bad_proof".
func VerifyProof(raw, method, rawURL, accessToken string, now time.Time) (Proof, error) {
	if raw == "" {
		return Proof{}, fault.New(fault.Unauthenticated, "identity.VerifyProof", "no_proof", "the request carries no DPoP proof").
			WithFix("send a DPoP header signed with the credential's key (RFC 9449), or use chaperone connect")
	}
	refused := func(err error) (Proof, error) { return Proof{}, badProof(words(err)) }
	j, err := readJWS(raw)
	if err != nil {
		return refused(err)
	}
	if j.typ != typProof {
		return refused(errJWS("typ is not dpop+jwt"))
	}
	if j.jwk == nil || j.jwk.Kind != canon.Object {
		return refused(errJWS("the header carries no jwk"))
	}
	m, err := readJWK("identity.VerifyProof", j.jwk)
	if err != nil || m.private() {
		return refused(errJWS("jwk is not a public P-256 key"))
	}
	key, err := m.point("identity.VerifyProof")
	if err != nil {
		return refused(errJWS("jwk is not a public P-256 key"))
	}
	if err := j.verify(key); err != nil {
		return refused(err)
	}
	if htm, _ := j.claims.Get("htm").String(); htm != method || method == "" {
		return refused(errJWS("htm is not the method of this request"))
	}
	htu, _ := j.claims.Get("htu").String()
	got, errGot := normalURL(htu)
	want, errWant := normalURL(rawURL)
	if errGot != nil || errWant != nil || got != want {
		return refused(errJWS("htu is not the URL of this request"))
	}
	if accessToken != "" {
		ath, _ := j.claims.Get("ath").String()
		if subtle.ConstantTimeCompare([]byte(ath), []byte(athOf(accessToken))) != 1 {
			return refused(errJWS("ath is not the digest of the presented credential"))
		}
	}
	iat, err := j.date("iat")
	if err != nil {
		return refused(err)
	}
	if d := now.Sub(iat); d > maxSkew || d < -maxSkew {
		return refused(errJWS("iat is over 60 s away from the server's clock"))
	}
	out := Proof{Key: key}
	if out.JTI, err = j.short("jti"); err != nil {
		return refused(err)
	}
	if j.claims.Get("nonce") != nil {
		if out.Nonce, err = j.short("nonce"); err != nil {
			return refused(err)
		}
	}
	return out, nil
}

// athOf returns base64url(SHA-256(token)), empty for no token (RFC 9449 §4.2).
func athOf(accessToken string) string {
	if accessToken == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(accessToken))
	return b64.EncodeToString(sum[:])
}

// normalURL brings an http(s) URL to the one form that is compared (RFC 9449 §4.3 item 9; RFC 3986 §6.2.2, §6.2.3): scheme
// and host in lower case, no default port, no query or fragment, "/" for an empty path, escapes of unreserved characters undone and
// the others in upper case. User information and dot segments are refused: no honest client sends them.
func normalURL(raw string) (string, error) {
	if len(raw) > 8<<10 {
		return "", errJWS("too long")
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.User != nil || u.Host == "" {
		return "", errJWS("not an absolute URL")
	}
	scheme := strings.ToLower(u.Scheme)
	host := strings.ToLower(u.Host)
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	default:
		return "", errJWS("not an http URL")
	}
	host = strings.TrimSuffix(host, ":") // an empty port is the default one
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	path = normalEscapes(path)
	for seg := range strings.SplitSeq(path, "/") {
		if seg == "." || seg == ".." {
			return "", errJWS("a dot segment")
		}
	}
	return scheme + "://" + host + path, nil
}

// normalEscapes undoes percent escapes of unreserved characters and writes the others in upper case (RFC 3986 §6.2.2).
func normalEscapes(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			out.WriteByte(path[i])
			continue
		}
		hex := strings.ToUpper(path[i+1 : i+3])
		c := unhex(hex[0])<<4 | unhex(hex[1])
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' {
			out.WriteByte(c)
		} else {
			out.WriteString("%" + hex)
		}
		i += 2
	}
	return out.String()
}

func unhex(c byte) byte {
	if c >= 'A' {
		return c - 'A' + 10
	}
	return c - '0'
}

func badProof(msg string) error {
	return fault.New(fault.Unauthenticated, "identity.VerifyProof", "bad_proof", "the DPoP proof is not usable: %s", msg).
		WithFix("sign a fresh proof for this method, URL and credential (RFC 9449)")
}
