// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"chaperone/internal/fault"
)

// Nonces mints the DPoP nonces of one process and boot, and remembers the proofs that carried them (RFC 9449 §8, §11.1). A
// nonce is a time and a MAC under the boot secret, so minting stores nothing and a nonce of another gateway or of an earlier
// boot is refused. Proofs are remembered for the life of their nonce. Safe for concurrent use.
type Nonces struct {
	secret []byte
	life   time.Duration
	max    int

	mu   sync.Mutex
	seen map[int64]map[[16]byte]struct{} // by the period the nonce was minted in
	low  int64                           // periods before this are forgotten, and their nonces with them
	held int
	odd  map[int64]int // of the held ones, those of strangers, by the same period
}

const (
	nonceMAC   = 16
	nonceBytes = 8 + nonceMAC
)

// NewNonces returns an empty memory. bootSecret is at least 32 random bytes, made anew at every boot. A nonce lives for life
// (a second or more) and at most max proofs are remembered at once; beyond that proofs are refused, never forgotten early.
func NewNonces(bootSecret []byte, life time.Duration, max int) *Nonces {
	return &Nonces{secret: append([]byte(nil), bootSecret...), life: life, max: max, seen: map[int64]map[[16]byte]struct{}{}, odd: map[int64]int{}}
}

// Mint returns a nonce that is good from now for the life.
func (n *Nonces) Mint(now time.Time) string {
	var b [nonceBytes]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli()))
	copy(b[8:], n.mac(b[:8]))
	return b64.EncodeToString(b[:])
}

func (n *Nonces) mac(at []byte) []byte {
	h := hmac.New(sha256.New, n.secret)
	h.Write([]byte("chaperone dpop nonce 1"))
	h.Write(at)
	return h.Sum(nil)[:nonceMAC]
}

// Accept checks that the nonce was minted here and is not older than its life, and spends the proof, named by a string that
// is unique to it (thumbprint and jti). It is the last check of a proof, so that nobody spends another's. Error kinds and codes:
// Unauthenticated "use_dpop_nonce" (missing, foreign, old), Unauthenticated "proof_replayed", Limited "proof_memory_full".
func (n *Nonces) Accept(nonce, proof string, now time.Time) error {
	return n.accept(nonce, proof, now, false)
}

// AcceptStranger is Accept for the proof of a key that is bound to nobody yet. Anybody can make such keys, so together they get no
// more than an eighth of the memory: a flood of them cannot lock out those who are known.
func (n *Nonces) AcceptStranger(nonce, proof string, now time.Time) error {
	return n.accept(nonce, proof, now, true)
}

func (n *Nonces) accept(nonce, proof string, now time.Time, stranger bool) error {
	const op = "identity.Nonces.Accept"
	b, err := unb64(nonce)
	if err != nil || len(b) != nonceBytes || !hmac.Equal(b[8:], n.mac(b[:8])) {
		return useNonce(op, "the proof carries no nonce of this gateway")
	}
	minted := time.UnixMilli(int64(binary.BigEndian.Uint64(b[:8])))
	if now.Sub(minted) >= n.life || minted.Sub(now) > time.Second {
		return useNonce(op, "the proof's nonce is no longer good")
	}
	sum := sha256.Sum256([]byte(proof))
	key := [16]byte(sum[:16])

	n.mu.Lock()
	defer n.mu.Unlock()
	n.forget(n.period(now) - 1)
	period := n.period(minted)
	if period < n.low { // the clock went back behind what was forgotten
		return useNonce(op, "the proof's nonce is no longer good")
	}
	for _, memory := range n.seen {
		if _, replayed := memory[key]; replayed {
			return fault.New(fault.Unauthenticated, op, "proof_replayed", "this proof was used before").
				WithFix("sign a fresh proof, with a new jti, for every request")
		}
	}
	strangers := 0
	for _, some := range n.odd {
		strangers += some
	}
	if n.held >= n.max || stranger && strangers >= max(1, n.max/8) {
		return fault.New(fault.Limited, op, "proof_memory_full", "too many proofs in a short time").WithFix("try again in a few seconds")
	}
	if n.seen[period] == nil {
		n.seen[period] = map[[16]byte]struct{}{}
	}
	n.seen[period][key] = struct{}{}
	n.held++
	if stranger {
		n.odd[period]++
	}
	return nil
}

// period numbers the stretches of one life each. A nonce minted in period p dies before p+2 begins.
func (n *Nonces) period(t time.Time) int64 { return t.UnixMilli() / max(1, n.life.Milliseconds()) }

func (n *Nonces) forget(before int64) {
	if before <= n.low {
		return
	}
	n.low = before
	for p, memory := range n.seen {
		if p < before {
			n.held -= len(memory)
			delete(n.seen, p)
			delete(n.odd, p)
		}
	}
}

func useNonce(op, msg string) error {
	return fault.New(fault.Unauthenticated, op, "use_dpop_nonce", "%s", msg).
		WithFix("take the nonce from the DPoP-Nonce header of this answer and sign the proof again")
}
