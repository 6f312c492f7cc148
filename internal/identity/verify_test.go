// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"pgregory.net/rapid"
)

// The verifier and the JOSE library agree about every signature that is well formed: genuine, bent anywhere, by another key, mirrored,
// or with a part of zero or of the group's order.
func TestVerifyAgreesWithJOSE(t *testing.T) {
	mine, other := newTestKey(t), newTestKey(t)
	order, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	genuine, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		proof, err := MintProof(mine, "POST", "https://x.example/a", rapid.StringMatching("[a-z]{0,9}").Draw(t, "nonce"), "", time.Unix(1_800_000_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(proof, ".")
		sig, err := base64.RawURLEncoding.DecodeString(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		key := mine.Public()
		half := 32 * rapid.IntRange(0, 1).Draw(t, "half")
		switch rapid.IntRange(0, 6).Draw(t, "how") {
		case 0, 1: // as it is
		case 2:
			sig[rapid.IntRange(0, 63).Draw(t, "byte")] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
		case 3:
			key = other.Public()
		case 4:
			copy(sig[half:half+32], make([]byte, 32))
		case 5:
			order.FillBytes(sig[half : half+32])
		case 6: // the other of the two signatures that ECDSA has for every one
			new(big.Int).Sub(order, new(big.Int).SetBytes(sig[32:])).FillBytes(sig[32:])
		}
		raw := parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(sig)
		j, err := readEnvelope(raw)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		_, want := theirs.Verify(key.point)
		if got := j.verify(key); (got == nil) != (want == nil) {
			t.Fatalf("%v, the library says %v", got, want)
		}
		if want == nil {
			genuine++
		} else {
			refused++
		}
	})
	if genuine < 10 || refused < 10 {
		t.Errorf("%d genuine and %d refused", genuine, refused)
	}
}
