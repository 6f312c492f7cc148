// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/id"
)

const (
	testIssuer   = "http://127.0.0.1:7400"
	testAudience = "http://127.0.0.1:7400/mcp/office"
)

var testNow = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

func newTestKey(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testCredential(jkt string) Credential {
	agent, instance, run := id.NewAgent(testNow), id.NewInstance(testNow), id.NewRun(testNow)
	return Credential{
		JTI: "jti-1", Issuer: testIssuer, Subject: AgentSPIFFE("chaperone.internal", "mailer"),
		ClientID: InstanceSPIFFE("chaperone.internal", "mailer", instance), Audience: testAudience, JKT: jkt,
		Agent: agent, AgentName: "mailer", Instance: instance, Run: run,
		IssuedAt: testNow, ExpiresAt: testNow.Add(MaxCredentialLife),
	}
}

// forge builds a compact JWS with any header and payload text, signed by k as ES256 whatever the header says.
func forge(t testing.TB, k *Key, header, payload string) string {
	t.Helper()
	in := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	sum := sha256.Sum256([]byte(in))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return in + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// with returns the JSON object with members replaced (or, by nil, removed).
func with(t testing.TB, doc string, change map[string]any) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(doc), &m); err != nil {
		t.Fatal(err)
	}
	for k, v := range change {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func parts(t testing.TB, raw string) (header, payload string) {
	t.Helper()
	p := strings.Split(raw, ".")
	h, err1 := base64.RawURLEncoding.DecodeString(p[0])
	b, err2 := base64.RawURLEncoding.DecodeString(p[1])
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return string(h), string(b)
}

func TestAccessRoundTrip(t *testing.T) {
	issuer, holder := newTestKey(t), newTestKey(t)
	want := testCredential(holder.JKT())
	raw, err := MintAccess(issuer, want)
	if err != nil {
		t.Fatal(err)
	}
	keys := []PublicKey{newTestKey(t).Public(), issuer.Public()}
	got, err := VerifyAccess(keys, raw, testIssuer, testAudience, testNow.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	header, _ := parts(t, raw)
	if header != with(t, `{}`, map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": issuer.JKT()}) {
		t.Errorf("header %s", header)
	}
}

// TestAccessAttacks is the JWT attack list. Every forged token is signed with the issuer's real key where that makes the attack
// stronger, so that only the named check can refuse it.
func TestAccessAttacks(t *testing.T) {
	issuer, other := newTestKey(t), newTestKey(t)
	good, err := MintAccess(issuer, testCredential(other.JKT()))
	if err != nil {
		t.Fatal(err)
	}
	header, payload := parts(t, good)
	keys := []PublicKey{issuer.Public()}
	h := func(change map[string]any) string { return forge(t, issuer, with(t, header, change), payload) }
	p := func(change map[string]any) string { return forge(t, issuer, header, with(t, payload, change)) }
	seg := strings.Split(good, ".")
	b64std := base64.RawURLEncoding
	sigOf := func(b []byte) string { return seg[0] + "." + seg[1] + "." + b64std.EncodeToString(b) }
	sig, _ := b64std.DecodeString(seg[2])
	spki, _ := issuer.private.PublicKey.Bytes()
	hs := func(key []byte) string {
		in := b64std.EncodeToString([]byte(with(t, header, map[string]any{"alg": "HS256"}))) + "." + seg[1]
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(in))
		return in + "." + b64std.EncodeToString(mac.Sum(nil))
	}
	der, _ := ecdsa.SignASN1(rand.Reader, issuer.private, []byte("x"))
	order := issuer.private.Params().N
	spare := seg[2][:len(seg[2])-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[1+strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", seg[2][len(seg[2])-1])])

	tests := map[string]struct{ raw, code, words string }{
		"empty":                         {"", "bad_credential", "three parts"},
		"not a jws":                     {"abc", "bad_credential", "three parts"},
		"four parts":                    {good + ".x", "bad_credential", "three parts"},
		"jwe form":                      {good + ".a.b", "bad_credential", "three parts"},
		"json serialisation":            {`{"payload":"` + seg[1] + `","protected":"` + seg[0] + `","signature":"` + seg[2] + `"}`, "bad_credential", "three parts"},
		"over the cap":                  {good + strings.Repeat("A", maxJWS), "bad_credential", "16 KiB"},
		"alg none":                      {h(map[string]any{"alg": "none"}), "bad_credential", "alg"},
		"alg none, no signature":        {b64std.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + seg[1] + ".", "bad_credential", "empty"},
		"alg None":                      {h(map[string]any{"alg": "None"}), "bad_credential", "alg"},
		"alg nOnE":                      {h(map[string]any{"alg": "nOnE"}), "bad_credential", "alg"},
		"alg es256":                     {h(map[string]any{"alg": "es256"}), "bad_credential", "alg"},
		"alg absent":                    {h(map[string]any{"alg": nil}), "bad_credential", "alg"},
		"alg a number":                  {h(map[string]any{"alg": 256}), "bad_credential", "alg"},
		"alg an array":                  {h(map[string]any{"alg": []string{"ES256"}}), "bad_credential", "alg"},
		"alg ES384":                     {h(map[string]any{"alg": "ES384"}), "bad_credential", "alg"},
		"HS256 with the public point":   {hs(spki), "bad_credential", "alg"},
		"HS256 with the public JWK":     {hs([]byte(issuer.PublicJWK())), "bad_credential", "alg"},
		"kid traversal":                 {h(map[string]any{"kid": "../../../../dev/null"}), "bad_credential", "kid"},
		"kid SQL":                       {h(map[string]any{"kid": "x' UNION SELECT 'k"}), "bad_credential", "kid"},
		"kid URL":                       {h(map[string]any{"kid": "https://attacker.example/k"}), "bad_credential", "kid"},
		"kid absent":                    {h(map[string]any{"kid": nil}), "bad_credential", "kid"},
		"kid empty":                     {h(map[string]any{"kid": ""}), "bad_credential", "kid"},
		"kid a number":                  {h(map[string]any{"kid": 1}), "bad_credential", "kid"},
		"jku":                           {h(map[string]any{"jku": "https://attacker.example/jwks"}), "bad_credential", "jku"},
		"x5u":                           {h(map[string]any{"x5u": "https://attacker.example/c"}), "bad_credential", "x5u"},
		"x5c":                           {h(map[string]any{"x5c": []string{"MII"}}), "bad_credential", "x5c"},
		"embedded jwk of the attacker":  {forge(t, other, with(t, header, map[string]any{"jwk": json.RawMessage(other.PublicJWK()), "kid": other.JKT()}), payload), "bad_credential", "jwk"},
		"embedded jwk of the issuer":    {h(map[string]any{"jwk": json.RawMessage(issuer.PublicJWK())}), "bad_credential", "jwk"},
		"crit unknown":                  {h(map[string]any{"crit": []string{"exp"}, "exp": 1}), "bad_credential", "crit"},
		"crit empty":                    {h(map[string]any{"crit": []string{}}), "bad_credential", "crit"},
		"b64 false":                     {h(map[string]any{"b64": false, "crit": []string{"b64"}}), "bad_credential", "crit"},
		"b64 alone":                     {h(map[string]any{"b64": false}), "bad_credential", "b64"},
		"nested JWT":                    {h(map[string]any{"cty": "JWT"}), "bad_credential", "cty"},
		"duplicate alg":                 {forge(t, issuer, `{"alg":"ES256","alg":"none","typ":"at+jwt","kid":"`+issuer.JKT()+`"}`, payload), "bad_credential", "header is not a strict"},
		"escaped duplicate":             {forge(t, issuer, `{"alg":"ES256","\u0061lg":"none","typ":"at+jwt","kid":"`+issuer.JKT()+`"}`, payload), "bad_credential", "header is not a strict"},
		"duplicate claim":               {forge(t, issuer, header, strings.Replace(payload, `{`, `{"sub":"spiffe://x/agent/root",`, 1)), "bad_credential", "payload is not a strict"},
		"payload an array":              {forge(t, issuer, header, "["+payload+"]"), "bad_credential", "payload is not a strict"},
		"payload with trailing data":    {forge(t, issuer, header, payload+"{}"), "bad_credential", "payload is not a strict"},
		"typ JWT":                       {h(map[string]any{"typ": "JWT"}), "bad_credential", "typ"},
		"typ dpop+jwt":                  {h(map[string]any{"typ": "dpop+jwt"}), "bad_credential", "typ"},
		"typ absent":                    {h(map[string]any{"typ": nil}), "bad_credential", "typ"},
		"typ in another case":           {h(map[string]any{"typ": "AT+JWT"}), "bad_credential", "typ"},
		"signed by another key":         {forge(t, other, header, payload), "bad_credential", "signature"},
		"changed payload":               {seg[0] + "." + b64std.EncodeToString([]byte(with(t, payload, map[string]any{"jti": "x"}))) + "." + seg[2], "bad_credential", "signature"},
		"r and s zero":                  {sigOf(make([]byte, 64)), "bad_credential", "signature"},
		"r zero":                        {sigOf(append(make([]byte, 32), sig[32:]...)), "bad_credential", "signature"},
		"s zero":                        {sigOf(append(append([]byte{}, sig[:32]...), make([]byte, 32)...)), "bad_credential", "signature"},
		"r the order":                   {sigOf(append(order.FillBytes(make([]byte, 32)), sig[32:]...)), "bad_credential", "signature"},
		"r plus one":                    {sigOf(append(new(big.Int).Add(new(big.Int).SetBytes(sig[:32]), big.NewInt(1)).FillBytes(make([]byte, 32)), sig[32:]...)), "bad_credential", "signature"},
		"DER instead of r||s":           {sigOf(der), "bad_credential", "64 bytes"},
		"leading zero":                  {sigOf(append([]byte{0}, sig...)), "bad_credential", "64 bytes"},
		"truncated signature":           {sigOf(sig[:63]), "bad_credential", "64 bytes"},
		"spare bits in the signature":   {seg[0] + "." + seg[1] + "." + spare, "bad_credential", "base64url"},
		"padding":                       {seg[0] + "." + seg[1] + "." + seg[2] + "==", "bad_credential", "base64url"},
		"line break in the signature":   {seg[0] + "." + seg[1] + "." + seg[2][:10] + "\n" + seg[2][10:], "bad_credential", "base64url"},
		"space in front":                {" " + good, "bad_credential", "base64url"},
		"standard alphabet":             {seg[0] + "." + seg[1] + "." + strings.Repeat("+/", 43), "bad_credential", "base64url"},
		"huge exp":                      {p(map[string]any{"exp": json.Number("99999999999999999999")}), "bad_credential", "wrong type"},
		"exp beyond reason":             {p(map[string]any{"exp": json.Number("9223372036854775807")}), "bad_credential", "exp"},
		"exp a float":                   {p(map[string]any{"exp": json.Number("1795600800.5")}), "bad_credential", "wrong type"},
		"exp with an exponent":          {p(map[string]any{"exp": json.Number("1e30")}), "bad_credential", "wrong type"},
		"exp a string":                  {p(map[string]any{"exp": "1795600800"}), "bad_credential", "wrong type"},
		"exp negative":                  {p(map[string]any{"exp": -1}), "bad_credential", "exp"},
		"exp absent":                    {p(map[string]any{"exp": nil}), "bad_credential", "exp"},
		"iat absent":                    {p(map[string]any{"iat": nil}), "bad_credential", "iat"},
		"iat negative":                  {p(map[string]any{"iat": -5}), "bad_credential", "iat"},
		"life of an hour":               {p(map[string]any{"exp": testNow.Add(time.Hour).Unix()}), "bad_credential", "five minutes"},
		"life of five minutes and one":  {p(map[string]any{"exp": testNow.Add(301 * time.Second).Unix()}), "bad_credential", "five minutes"},
		"iat in the future":             {p(map[string]any{"iat": testNow.Add(2 * time.Minute).Unix()}), "bad_credential", "future"},
		"expired":                       {p(map[string]any{"iat": testNow.Add(-5 * time.Minute).Unix(), "exp": testNow.Unix()}), "credential_expired", ""},
		"aud an array":                  {p(map[string]any{"aud": []string{testAudience}}), "bad_credential", "wrong type"},
		"aud of two":                    {p(map[string]any{"aud": []string{testAudience, "https://other"}}), "bad_credential", "wrong type"},
		"aud absent":                    {p(map[string]any{"aud": nil}), "bad_credential", "missing"},
		"aud of another server":         {p(map[string]any{"aud": testIssuer + "/mcp/bank"}), "wrong_audience", ""},
		"aud with a longer path":        {p(map[string]any{"aud": testAudience + "/x"}), "wrong_audience", ""},
		"aud in another case":           {p(map[string]any{"aud": strings.ToUpper(testAudience)}), "wrong_audience", ""},
		"aud the api":                   {p(map[string]any{"aud": testIssuer + "/api"}), "wrong_audience", ""},
		"iss of another issuer":         {p(map[string]any{"iss": "https://attacker.example"}), "wrong_issuer", ""},
		"iss with a slash":              {p(map[string]any{"iss": testIssuer + "/"}), "wrong_issuer", ""},
		"iss absent":                    {p(map[string]any{"iss": nil}), "bad_credential", "missing"},
		"sub absent":                    {p(map[string]any{"sub": nil}), "bad_credential", "missing"},
		"client_id absent":              {p(map[string]any{"client_id": nil}), "bad_credential", "missing"},
		"jti absent":                    {p(map[string]any{"jti": nil}), "bad_credential", "missing"},
		"cnf absent (a bearer token)":   {p(map[string]any{"cnf": nil}), "bad_credential", "missing"},
		"cnf without jkt":               {p(map[string]any{"cnf": map[string]any{}}), "bad_credential", "missing"},
		"cnf of mTLS":                   {p(map[string]any{"cnf": map[string]any{"x5t#S256": "x"}}), "bad_credential", "missing"},
		"no private claim":              {p(map[string]any{"chaperone": nil}), "bad_credential", "neither"},
		"private claim in another case": {p(map[string]any{"chaperone": nil, "Chaperone": map[string]any{"person": id.NewPerson(testNow).String()}}), "bad_credential", "neither"},
		"agent without a run":           {p(map[string]any{"chaperone": map[string]any{"agent": id.NewAgent(testNow), "agent_name": "mailer", "instance": id.NewInstance(testNow)}}), "bad_credential", "neither"},
		"agent and person":              {p(map[string]any{"chaperone": map[string]any{"agent": id.NewAgent(testNow), "agent_name": "mailer", "instance": id.NewInstance(testNow), "run": id.NewRun(testNow), "person": id.NewPerson(testNow)}}), "bad_credential", "neither"},
		"agent id of a run":             {p(map[string]any{"chaperone": map[string]any{"agent": id.NewRun(testNow)}}), "bad_credential", "wrong type"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			verified := NewVerified(8)
			for _, verify := range []func() (Credential, error){
				func() (Credential, error) { return VerifyAccess(keys, tc.raw, testIssuer, testAudience, testNow) },
				func() (Credential, error) { return verified.Access(keys, tc.raw, testIssuer, testAudience, testNow) },
				func() (Credential, error) { return verified.Access(keys, tc.raw, testIssuer, testAudience, testNow) },
			} {
				c, err := verify()
				if fault.CodeOf(err) != tc.code || !fault.Is(err, fault.Unauthenticated) {
					t.Fatalf("got %v, want %s", err, tc.code)
				}
				if !strings.Contains(err.Error(), tc.words) {
					t.Errorf("refused as %q, want the reason %q", err, tc.words)
				}
				if c != (Credential{}) {
					t.Errorf("a refused credential still says %+v", c)
				}
			}
		})
	}
}

// TestKindsAreNotConfused presents each kind of JWT where another is wanted.
func TestKindsAreNotConfused(t *testing.T) {
	k := newTestKey(t)
	c := testCredential(k.JKT())
	access, err1 := MintAccess(k, c)
	assertion, err2 := MintAssertion(k, c.ClientID, testIssuer, testNow)
	proof, err3 := MintProof(k, "POST", testIssuer+"/token", "n", "", testNow)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	keys := []PublicKey{k.Public()}
	for name, raw := range map[string]string{"assertion": assertion, "proof": proof} {
		if _, err := VerifyAccess(keys, raw, testIssuer, testAudience, testNow); fault.CodeOf(err) != "bad_credential" || !strings.Contains(err.Error(), "typ") {
			t.Errorf("%s as access token: %v", name, err)
		}
	}
	for name, raw := range map[string]string{"access token": access, "proof": proof} {
		if _, err := VerifyAssertion(k.Public(), raw, c.ClientID, testIssuer, testNow); fault.CodeOf(err) != "bad_assertion" || !strings.Contains(err.Error(), "typ") {
			t.Errorf("%s as assertion: %v", name, err)
		}
	}
	for name, raw := range map[string]string{"access token": access, "assertion": assertion} {
		if _, err := VerifyProof(raw, "POST", testIssuer+"/token", "", testNow); fault.CodeOf(err) != "bad_proof" || !strings.Contains(err.Error(), "typ") {
			t.Errorf("%s as proof: %v", name, err)
		}
	}
}
