// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"chaperone/internal/fault"
)

const testURL = testIssuer + "/mcp/office"

func TestProofRoundTrip(t *testing.T) {
	k := newTestKey(t)
	raw, err := MintProof(k, "POST", testURL+"?x=1#f", "nonce-1", "the-credential", testNow)
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyProof(raw, "POST", testURL, "the-credential", testNow.Add(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if got.Key.JKT() != k.JKT() || got.Nonce != "nonce-1" || got.JTI == "" {
		t.Errorf("got %+v", got)
	}
	again, err := MintProof(k, "POST", testURL, "nonce-1", "the-credential", testNow)
	if err != nil {
		t.Fatal(err)
	}
	other, err := VerifyProof(again, "POST", testURL, "the-credential", testNow)
	if err != nil || other.Once() == got.Once() {
		t.Errorf("two proofs share %q (%v)", other.Once(), err)
	}
	header, _ := parts(t, raw)
	if strings.Contains(header, `"d"`) {
		t.Errorf("the proof carries the private key: %s", header)
	}
}

func TestProofAttacks(t *testing.T) {
	k, other := newTestKey(t), newTestKey(t)
	good, err := MintProof(k, "POST", testURL, "n", "cred", testNow)
	if err != nil {
		t.Fatal(err)
	}
	header, payload := parts(t, good)
	h := func(change map[string]any) string { return forge(t, k, with(t, header, change), payload) }
	p := func(change map[string]any) string { return forge(t, k, header, with(t, payload, change)) }
	private := map[string]any{}
	if err := json.Unmarshal(k.MarshalPrivate(), &private); err != nil {
		t.Fatal(err)
	}
	jwk := func(change map[string]any) string {
		return h(map[string]any{"jwk": json.RawMessage(with(t, k.PublicJWK(), change))})
	}
	tests := map[string]struct{ raw, code, words string }{
		"none":                     {"", "no_proof", ""},
		"two proofs in one header": {good + "," + good, "bad_proof", "three parts"},
		"typ jwt":                  {h(map[string]any{"typ": "jwt"}), "bad_proof", "typ"},
		"typ absent":               {h(map[string]any{"typ": nil}), "bad_proof", "typ"},
		"alg none":                 {h(map[string]any{"alg": "none"}), "bad_proof", "alg"},
		"alg HS256":                {h(map[string]any{"alg": "HS256"}), "bad_proof", "alg"},
		"no jwk":                   {h(map[string]any{"jwk": nil}), "bad_proof", "no jwk"},
		"jwk a string":             {h(map[string]any{"jwk": k.PublicJWK()}), "bad_proof", "no jwk"},
		"private jwk":              {h(map[string]any{"jwk": private}), "bad_proof", "public P-256"},
		"symmetric jwk":            {h(map[string]any{"jwk": map[string]any{"kty": "oct", "k": "AAAA"}}), "bad_proof", "public P-256"},
		"jwk with k":               {jwk(map[string]any{"k": "AAAA"}), "bad_proof", "public P-256"},
		"jwk of another curve":     {jwk(map[string]any{"crv": "P-384"}), "bad_proof", "public P-256"},
		"jwk off the curve":        {jwk(map[string]any{"y": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}), "bad_proof", "public P-256"},
		"jwk with a short x":       {jwk(map[string]any{"x": "AAAA"}), "bad_proof", "public P-256"},
		"jwk for encryption":       {jwk(map[string]any{"use": "enc"}), "bad_proof", "public P-256"},
		"jwk with another alg":     {jwk(map[string]any{"alg": "ES384"}), "bad_proof", "public P-256"},
		"jku":                      {h(map[string]any{"jku": "https://attacker.example"}), "bad_proof", "jku"},
		"crit":                     {h(map[string]any{"crit": []string{"x"}, "x": 1}), "bad_proof", "crit"},
		"jwk of somebody else":     {h(map[string]any{"jwk": json.RawMessage(other.PublicJWK())}), "bad_proof", "signature"},
		"another method":           {p(map[string]any{"htm": "GET"}), "bad_proof", "htm"},
		"method in another case":   {p(map[string]any{"htm": "post"}), "bad_proof", "htm"},
		"no method":                {p(map[string]any{"htm": nil}), "bad_proof", "htm"},
		"another path":             {p(map[string]any{"htu": testIssuer + "/mcp/bank"}), "bad_proof", "htu"},
		"longer path":              {p(map[string]any{"htu": testURL + "/"}), "bad_proof", "htu"},
		"path in another case":     {p(map[string]any{"htu": testIssuer + "/mcp/Office"}), "bad_proof", "htu"},
		"another host":             {p(map[string]any{"htu": "http://attacker.example/mcp/office"}), "bad_proof", "htu"},
		"another port":             {p(map[string]any{"htu": "http://127.0.0.1:7401/mcp/office"}), "bad_proof", "htu"},
		"another scheme":           {p(map[string]any{"htu": "https://127.0.0.1:7400/mcp/office"}), "bad_proof", "htu"},
		"host as user":             {p(map[string]any{"htu": "http://127.0.0.1:7400@attacker.example/mcp/office"}), "bad_proof", "htu"},
		"user before the host":     {p(map[string]any{"htu": "http://x@127.0.0.1:7400/mcp/office"}), "bad_proof", "htu"},
		"dot segments":             {p(map[string]any{"htu": testIssuer + "/mcp/bank/../office"}), "bad_proof", "htu"},
		"escaped dot segments":     {p(map[string]any{"htu": testIssuer + "/mcp/bank/%2e%2e/office"}), "bad_proof", "htu"},
		"escaped slash":            {p(map[string]any{"htu": testIssuer + "/mcp%2Foffice"}), "bad_proof", "htu"},
		"relative URL":             {p(map[string]any{"htu": "/mcp/office"}), "bad_proof", "htu"},
		"no URL":                   {p(map[string]any{"htu": nil}), "bad_proof", "htu"},
		"old":                      {p(map[string]any{"iat": testNow.Add(-61 * time.Second).Unix()}), "bad_proof", "iat"},
		"from the future":          {p(map[string]any{"iat": testNow.Add(61 * time.Second).Unix()}), "bad_proof", "iat"},
		"iat a float":              {p(map[string]any{"iat": 1.5}), "bad_proof", "iat"},
		"iat negative":             {p(map[string]any{"iat": -1}), "bad_proof", "iat"},
		"iat absent":               {p(map[string]any{"iat": nil}), "bad_proof", "iat"},
		"no jti":                   {p(map[string]any{"jti": nil}), "bad_proof", "jti"},
		"jti empty":                {p(map[string]any{"jti": ""}), "bad_proof", "jti"},
		"jti too long":             {p(map[string]any{"jti": strings.Repeat("a", 513)}), "bad_proof", "jti"},
		"nonce a number":           {p(map[string]any{"nonce": 1}), "bad_proof", "nonce"},
		"no ath":                   {p(map[string]any{"ath": nil}), "bad_proof", "ath"},
		"ath of another token":     {p(map[string]any{"ath": athOf("other")}), "bad_proof", "ath"},
		"ath padded":               {p(map[string]any{"ath": athOf("cred") + "="}), "bad_proof", "ath"},
		"duplicate htu":            {forge(t, k, header, strings.Replace(payload, `{`, `{"htu":"http://x/",`, 1)), "bad_proof", "payload is not a strict"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := VerifyProof(tc.raw, "POST", testURL, "cred", testNow)
			if fault.CodeOf(err) != tc.code || !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("got %v, want %s about %q", err, tc.code, tc.words)
			}
		})
	}
}

func TestProofURLNormalisation(t *testing.T) {
	k := newTestKey(t)
	for _, tc := range []struct {
		htu, url string
		same     bool
	}{
		{"HTTPS://Gate.Example/mcp/office", "https://gate.example/mcp/office", true},
		{"https://gate.example:443/mcp/office", "https://gate.example/mcp/office", true},
		{"http://gate.example:80", "http://gate.example/", true},
		{"https://gate.example/mcp/office?q=1#f", "https://gate.example/mcp/office", true},
		{"https://gate.example/%6dcp/%7eoffice", "https://gate.example/mcp/~office", true},
		{"https://gate.example/a%2fb", "https://gate.example/a%2Fb", true},
		{"https://gate.example/a%2Fb", "https://gate.example/a/b", false},
		{"https://gate.example:8443/mcp", "https://gate.example/mcp", false},
		{"https://gate.example//mcp", "https://gate.example/mcp", false},
		{"http://gate.example:443/mcp", "http://gate.example/mcp", false},
	} {
		raw := forge(t, k, `{"alg":"ES256","typ":"dpop+jwt","jwk":`+k.PublicJWK()+`}`,
			with(t, `{"htm":"GET","jti":"j"}`, map[string]any{"htu": tc.htu, "iat": testNow.Unix()}))
		if _, err := VerifyProof(raw, "GET", tc.url, "", testNow); (err == nil) != tc.same {
			t.Errorf("htu %s for %s: %v, want accepted %v", tc.htu, tc.url, err, tc.same)
		}
	}
}

func TestAssertions(t *testing.T) {
	k, other := newTestKey(t), newTestKey(t)
	client := testCredential(k.JKT()).ClientID
	good, err := MintAssertion(k, client, testIssuer, testNow)
	if err != nil {
		t.Fatal(err)
	}
	a, err := VerifyAssertion(k.Public(), good, client, testIssuer, testNow)
	if err != nil || a.ClientID != client || a.JTI == "" || a.ExpiresAt.Sub(testNow) != time.Minute {
		t.Fatalf("%+v, %v", a, err)
	}
	if got, err := AssertedClient(good); err != nil || got != client {
		t.Errorf("asserted client %q, %v", got, err)
	}
	header, payload := parts(t, good)
	h := func(change map[string]any) string { return forge(t, k, with(t, header, change), payload) }
	p := func(change map[string]any) string { return forge(t, k, header, with(t, payload, change)) }
	tests := map[string]struct{ raw, code, words string }{
		"another key":              {forge(t, other, header, payload), "bad_assertion", "signature"},
		"embedded key":             {forge(t, other, with(t, header, map[string]any{"jwk": json.RawMessage(other.PublicJWK())}), payload), "bad_assertion", "jwk"},
		"alg none":                 {h(map[string]any{"alg": "none"}), "bad_assertion", "alg"},
		"typ at+jwt":               {h(map[string]any{"typ": "at+jwt"}), "bad_assertion", "typ"},
		"aud the token endpoint":   {p(map[string]any{"aud": testIssuer + "/token"}), "assertion_audience", ""},
		"aud an array":             {p(map[string]any{"aud": []string{testIssuer}}), "assertion_audience", ""},
		"aud injected":             {p(map[string]any{"aud": []string{testIssuer, "https://attacker.example"}}), "assertion_audience", ""},
		"aud with a slash":         {p(map[string]any{"aud": testIssuer + "/"}), "assertion_audience", ""},
		"aud absent":               {p(map[string]any{"aud": nil}), "assertion_audience", ""},
		"iss of another":           {p(map[string]any{"iss": client + "x"}), "bad_assertion", "iss and sub"},
		"sub of another":           {p(map[string]any{"sub": client + "x"}), "bad_assertion", "iss and sub"},
		"iss absent":               {p(map[string]any{"iss": nil}), "bad_assertion", "iss and sub"},
		"no jti":                   {p(map[string]any{"jti": nil}), "bad_assertion", "jti"},
		"long jti":                 {p(map[string]any{"jti": strings.Repeat("x", 600)}), "bad_assertion", "jti"},
		"no exp":                   {p(map[string]any{"exp": nil}), "bad_assertion", "exp"},
		"exp a float":              {p(map[string]any{"exp": 1.5}), "bad_assertion", "exp"},
		"expired":                  {p(map[string]any{"exp": testNow.Unix()}), "assertion_expired", ""},
		"lives an hour":            {p(map[string]any{"exp": testNow.Add(time.Hour).Unix()}), "bad_assertion", "two minutes"},
		"lives two minutes and 1s": {p(map[string]any{"exp": testNow.Add(121 * time.Second).Unix()}), "bad_assertion", "two minutes"},
		"iat in the future":        {p(map[string]any{"iat": testNow.Add(2 * time.Minute).Unix()}), "bad_assertion", "iat"},
		"nbf in the future":        {p(map[string]any{"nbf": testNow.Add(2 * time.Minute).Unix()}), "bad_assertion", "nbf"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := VerifyAssertion(k.Public(), tc.raw, client, testIssuer, testNow)
			if fault.CodeOf(err) != tc.code || !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), tc.words) {
				t.Errorf("got %v, want %s about %q", err, tc.code, tc.words)
			}
		})
	}
}
