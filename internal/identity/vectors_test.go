// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// vectors reads a Wycheproof file from the folder beside the repository, or from $CHAPERONE_SHARED.
func vectors(t *testing.T, name string) []byte {
	t.Helper()
	shared := os.Getenv("CHAPERONE_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "..", "shared")
	}
	path := filepath.Join(shared, "data", "wycheproof", name)
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		t.Skipf("the Wycheproof vectors are not at %s; set CHAPERONE_SHARED to the folder that holds data/wycheproof", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type wycheproofTest struct {
	ID      int    `json:"tcId"`
	Comment string `json:"comment"`
	JWS     string `json:"jws"`
	Result  string `json:"result"`
}

// TestWycheproofJWS runs every signature vector through the envelope reader and the verifier with the group's key. What is
// not ES256 must be refused even where the vector is valid for another algorithm: that is the allow list.
func TestWycheproofJWS(t *testing.T) {
	var file struct {
		Groups []struct {
			Comment string           `json:"comment"`
			Public  json.RawMessage  `json:"public"`
			Private json.RawMessage  `json:"private"`
			Tests   []wycheproofTest `json:"tests"`
		} `json:"testGroups"`
	}
	if err := json.Unmarshal(vectors(t, "wycheproof_json_web_signature_test.json"), &file); err != nil {
		t.Fatal(err)
	}
	ran, accepted := 0, 0
	for _, g := range file.Groups {
		jwk := g.Public
		if jwk == nil {
			jwk = g.Private
		}
		var alg struct {
			Alg string `json:"alg"`
			Crv string `json:"crv"`
		}
		if err := json.Unmarshal(jwk, &alg); err != nil {
			t.Fatal(err)
		}
		key, keyErr := ParsePublicKey(jwk)
		if alg.Alg == "ES256" && keyErr != nil {
			t.Fatalf("group %s: the ES256 key is refused: %v", g.Comment, keyErr)
		}
		for _, tc := range g.Tests {
			ran++
			j, err := readEnvelope(tc.JWS)
			if err == nil && keyErr == nil {
				err = j.verify(key)
			} else if err == nil {
				err = keyErr
			}
			want := tc.Result == "valid" && alg.Alg == "ES256"
			if got := err == nil; got != want {
				t.Errorf("tcId %d %s/%s: accepted %v, want %v (%v)", tc.ID, g.Comment, tc.Comment, got, want, err)
			}
			if err == nil {
				accepted++
			}
		}
	}
	if ran != 401 || accepted != 2 {
		t.Errorf("ran %d vectors and accepted %d, want 401 and the 2 valid ES256 ones", ran, accepted)
	}
}

// TestWycheproofJWK runs every key vector: none of them is a P-256 key that may verify ES256, so each must be refused by the
// key reader or by the verifier.
func TestWycheproofJWK(t *testing.T) {
	type set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	var file struct {
		Groups []struct {
			Comment string           `json:"comment"`
			Public  *set             `json:"public"`
			Private *set             `json:"private"`
			Tests   []wycheproofTest `json:"tests"`
		} `json:"testGroups"`
	}
	if err := json.Unmarshal(vectors(t, "wycheproof_json_web_key_test.json"), &file); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, g := range file.Groups {
		keys := g.Public
		if keys == nil {
			keys = g.Private
		}
		for _, tc := range g.Tests {
			ran++
			for _, raw := range keys.Keys {
				key, err := ParsePublicKey(raw)
				if err != nil {
					continue
				}
				if j, err := readEnvelope(tc.JWS); err == nil && j.verify(key) == nil {
					t.Errorf("tcId %d %s/%s: accepted", tc.ID, g.Comment, tc.Comment)
				}
			}
		}
	}
	if ran != 26 {
		t.Errorf("ran %d vectors, want 26", ran)
	}
}
