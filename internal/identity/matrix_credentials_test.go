// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"testing"
	"time"

	"chaperone/internal/fault"
)

// Rows of the enforcement matrix that this room holds. testdata/mutants removes the guard of each and expects its line here.

func wantRefusal(t *testing.T, what string, err error, code string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s was accepted, want %s", what, code)
	} else if fault.CodeOf(err) != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// accept takes a proof the way the roads do.
func accept(t *testing.T, n *Nonces, raw string, now time.Time) error {
	t.Helper()
	p, err := VerifyProof(raw, "POST", testAudience, "credential", now)
	if err != nil {
		t.Fatal(err)
	}
	return n.Accept(p.Nonce, p.Once(), now)
}

func proofWith(t *testing.T, k *Key, nonce string, now time.Time) string {
	t.Helper()
	raw, err := MintProof(k, "POST", testAudience, nonce, "credential", now)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestMatrix_ReplayedProof(t *testing.T) {
	n, k := testNonces("a", 100), newTestKey(t)
	nonce := n.Mint(testNow)
	raw := proofWith(t, k, nonce, testNow)
	if err := accept(t, n, raw, testNow); err != nil {
		t.Fatalf("the first use: %v", err)
	}
	wantRefusal(t, "a replayed proof", accept(t, n, raw, testNow), "proof_replayed")
	wantRefusal(t, "a replayed proof, at the end of its nonce's life", accept(t, n, raw, testNow.Add(59*time.Second)), "proof_replayed")
	if err := accept(t, n, proofWith(t, k, nonce, testNow), testNow); err != nil {
		t.Errorf("a fresh proof with the same nonce: %v", err)
	}
}

func TestMatrix_OldNonce(t *testing.T) {
	n, k := testNonces("a", 100), newTestKey(t)
	nonce := n.Mint(testNow)
	if err := accept(t, n, proofWith(t, k, nonce, testNow.Add(59*time.Second)), testNow.Add(59*time.Second)); err != nil {
		t.Fatalf("within its life: %v", err)
	}
	later := testNow.Add(time.Minute)
	wantRefusal(t, "an old nonce", accept(t, n, proofWith(t, k, nonce, later), later), "use_dpop_nonce")
	if err := accept(t, n, proofWith(t, k, n.Mint(later), later), later); err != nil {
		t.Errorf("a new nonce: %v", err)
	}
}

func TestMatrix_WrongAudience(t *testing.T) {
	issuer := newTestKey(t)
	raw, err := MintAccess(issuer, testCredential(newTestKey(t).JKT()))
	if err != nil {
		t.Fatal(err)
	}
	keys, memory := []PublicKey{issuer.Public()}, NewVerified(10)
	if _, err := memory.Access(keys, raw, testIssuer, testAudience, testNow); err != nil {
		t.Fatalf("at its audience: %v", err)
	}
	for _, audience := range []string{testIssuer + "/mcp/bank", testIssuer + "/api", testAudience + "/", ""} {
		_, err := VerifyAccess(keys, raw, testIssuer, audience, testNow)
		wantRefusal(t, "a credential for another audience", err, "wrong_audience")
		_, err = memory.Access(keys, raw, testIssuer, audience, testNow)
		wantRefusal(t, "a remembered credential for another audience", err, "wrong_audience")
	}
}
