// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"testing"

	"chaperone/internal/fault"
)

// fuzzKey is a fixed key, so that a corpus stays meaningful between runs.
func fuzzKey(t testing.TB) *Key {
	t.Helper()
	k, err := ParseKey([]byte(`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}`))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// fuzzed offers the payload both as raw bytes from outside and signed with the real key, so that what lies behind the
// signature check is reached as well.
func fuzzed(t testing.TB, k *Key, raw, header, payload string) []string {
	t.Helper()
	return []string{raw, forge(t, k, header, payload)}
}

func FuzzVerifyAccess(f *testing.F) {
	k := fuzzKey(f)
	raw, err := MintAccess(k, testCredential(k.JKT()))
	if err != nil {
		f.Fatal(err)
	}
	h, p := parts(f, raw)
	f.Add(raw, h, p)
	f.Add("a.b.c", `{"alg":"none"}`, `{}`)
	f.Fuzz(func(t *testing.T, raw, header, payload string) {
		for _, in := range fuzzed(t, k, raw, header, payload) {
			c, err := VerifyAccess([]PublicKey{k.Public()}, in, testIssuer, testAudience, testNow)
			if err != nil {
				if !fault.Is(err, fault.Unauthenticated) || c != (Credential{}) {
					t.Fatalf("%+v %v", c, err)
				}
				continue
			}
			if err := c.whole(); err != nil || c.Audience != testAudience || c.Issuer != testIssuer || !testNow.Before(c.ExpiresAt) {
				t.Fatalf("accepted %+v (%v)", c, err)
			}
		}
	})
}

func FuzzVerifyProof(f *testing.F) {
	k := fuzzKey(f)
	raw, err := MintProof(k, "POST", testURL, "n", "cred", testNow)
	if err != nil {
		f.Fatal(err)
	}
	h, p := parts(f, raw)
	f.Add(raw, h, p, testURL)
	f.Add(raw, h, p, "http://[::1]:80/%zz")
	f.Fuzz(func(t *testing.T, raw, header, payload, url string) {
		for _, in := range fuzzed(t, k, raw, header, payload) {
			got, err := VerifyProof(in, "POST", url, "cred", testNow)
			if err == nil && (got.Key.IsZero() || got.JTI == "" || len(got.JTI) > maxClaim) {
				t.Fatalf("accepted %+v", got)
			}
			if err != nil && !fault.Is(err, fault.Unauthenticated) {
				t.Fatal(err)
			}
		}
		if n, err := normalURL(url); err == nil {
			if again, err := normalURL(n); err != nil || again != n {
				t.Fatalf("%q normalises to %q and then to %q (%v)", url, n, again, err)
			}
		}
	})
}

func FuzzVerifyAssertion(f *testing.F) {
	k := fuzzKey(f)
	const client = "spiffe://chaperone.internal/agent/mailer/ins_x"
	raw, err := MintAssertion(k, client, testIssuer, testNow)
	if err != nil {
		f.Fatal(err)
	}
	h, p := parts(f, raw)
	f.Add(raw, h, p)
	f.Fuzz(func(t *testing.T, raw, header, payload string) {
		for _, in := range fuzzed(t, k, raw, header, payload) {
			a, err := VerifyAssertion(k.Public(), in, client, testIssuer, testNow)
			if err == nil && (a.JTI == "" || a.ExpiresAt.Sub(testNow) > MaxAssertionLife || !testNow.Before(a.ExpiresAt)) {
				t.Fatalf("accepted %+v", a)
			}
			if err != nil && !fault.Is(err, fault.Unauthenticated) {
				t.Fatal(err)
			}
			_, _ = AssertedClient(in)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(fuzzKey(f).PublicJWK())
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := ParsePublicKey([]byte(raw))
		if err != nil {
			return
		}
		again, err := ParsePublicKey([]byte(p.JWK()))
		if err != nil || again.JKT() != p.JKT() {
			t.Fatalf("%q is not stable: %v", raw, err)
		}
	})
}
