// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chaperone/internal/fault"
)

func testNonces(secret string, max int) *Nonces {
	return NewNonces([]byte(secret+"-32-bytes-of-boot-secret-xxxxxxx"), time.Minute, max)
}

func TestNonces(t *testing.T) {
	n := testNonces("a", 100)
	nonce := n.Mint(testNow)
	check := func(nonce, jti string, at time.Duration, want string) {
		t.Helper()
		err := n.Accept(nonce, jti, testNow.Add(at))
		if got := fault.CodeOf(err); err == nil && want != "" || err != nil && got != want {
			t.Errorf("%s at %v: %v, want %q", jti, at, err, want)
		}
	}
	check(nonce, "a", 0, "")
	check(nonce, "a", 0, "proof_replayed")
	check(nonce, "a", 59*time.Second, "proof_replayed")
	check(nonce, "b", 59*time.Second, "")
	check(n.Mint(testNow.Add(30*time.Second)), "a", 31*time.Second, "proof_replayed")
	check(nonce, "c", 60*time.Second, "use_dpop_nonce")
	check("", "d", 0, "use_dpop_nonce")
	check("AAAA", "d", 0, "use_dpop_nonce")
	check(nonce+"A", "d", 0, "use_dpop_nonce")
	check("!"+nonce[1:], "d", 0, "use_dpop_nonce")
	check(testNonces("another boot", 100).Mint(testNow), "d", 0, "use_dpop_nonce")
	check(n.Mint(testNow.Add(10*time.Second)), "d", 0, "use_dpop_nonce") // minted in the future: the clock went back
}

func TestNoncesFull(t *testing.T) {
	n := testNonces("a", 3)
	nonce := n.Mint(testNow)
	for i := range 3 {
		if err := n.Accept(nonce, fmt.Sprint(i), testNow); err != nil {
			t.Fatal(err)
		}
	}
	err := n.Accept(nonce, "one more", testNow)
	if fault.CodeOf(err) != "proof_memory_full" || !fault.Is(err, fault.Limited) {
		t.Errorf("full: %v", err)
	}
	if err := n.Accept(nonce, "0", testNow); fault.CodeOf(err) != "proof_replayed" {
		t.Errorf("a replay while full: %v", err)
	}
	later := testNow.Add(3 * time.Minute)
	if err := n.Accept(n.Mint(later), "one more", later); err != nil {
		t.Errorf("after the nonces died: %v", err)
	}
}

func TestNoncesParallel(t *testing.T) {
	n := testNonces("a", 1000)
	nonce := n.Mint(testNow)
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if n.Accept(nonce, "same", testNow) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of fifty uses of one proof won", won.Load())
	}
}

// TestNoncesNeverTwice: whatever the order of mints, uses and clock movements, one proof is never accepted twice with one nonce.
func TestNoncesNeverTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := testNonces("a", 1000)
		now := testNow
		type use struct{ nonce, jti string }
		used := map[use]bool{}
		var nonces []string
		t.Repeat(map[string]func(*rapid.T){
			"mint": func(t *rapid.T) { nonces = append(nonces, n.Mint(now)) },
			"move": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(-90, 90).Draw(t, "seconds")) * time.Second)
			},
			"use": func(t *rapid.T) {
				if len(nonces) == 0 {
					t.Skip()
				}
				u := use{rapid.SampledFrom(nonces).Draw(t, "nonce"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "jti")}
				if n.Accept(u.nonce, u.jti, now) == nil {
					if used[u] {
						t.Fatalf("%v accepted twice", u)
					}
					used[u] = true
				}
			},
		})
	})
}

// TestStrangersCannotFillTheMemory: keys that nobody knows, which anybody can make, leave room for those that are bound.
func TestStrangersCannotFillTheMemory(t *testing.T) {
	n := testNonces("a", 16)
	nonce := n.Mint(testNow)
	for i := range 2 {
		if err := n.AcceptStranger(nonce, fmt.Sprint("stranger ", i), testNow); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.AcceptStranger(nonce, "one more", testNow); fault.CodeOf(err) != "proof_memory_full" {
		t.Errorf("the strangers' part is full: %v", err)
	}
	if err := n.AcceptStranger(nonce, "stranger 0", testNow); fault.CodeOf(err) != "proof_replayed" {
		t.Errorf("a replay while full: %v", err)
	}
	if err := n.Accept(nonce, "known", testNow); err != nil {
		t.Errorf("one who is known is locked out: %v", err)
	}
	later := testNow.Add(3 * time.Minute)
	if err := n.AcceptStranger(n.Mint(later), "one more", later); err != nil {
		t.Errorf("after the nonces died: %v", err)
	}
}
