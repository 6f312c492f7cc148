// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"chaperone/internal/fault"
)

func TestKeyRoundTrip(t *testing.T) {
	k := newTestKey(t)
	again, err := ParseKey(k.MarshalPrivate())
	if err != nil {
		t.Fatal(err)
	}
	if again.JKT() != k.JKT() || !bytes.Equal(again.MarshalPrivate(), k.MarshalPrivate()) {
		t.Error("the key changed on its way through JSON")
	}
	public, err := ParsePublicKey([]byte(k.PublicJWK()))
	if err != nil || public.JKT() != k.JKT() || public.JWK() != k.PublicJWK() {
		t.Errorf("public half: %v %v", public, err)
	}
}

// TestThumbprint checks the P-256 thumbprint against a value made outside this package: RFC 7638 defines it as the SHA-256 of
// the canonical required members; the key is that of RFC 7515 A.3.
func TestThumbprint(t *testing.T) {
	p, err := ParsePublicKey([]byte(`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
		"y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"ignored","ext":true}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.JKT(), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"; got != want {
		t.Errorf("thumbprint %s, want %s", got, want)
	}
}

func TestKeysRefused(t *testing.T) {
	k := newTestKey(t)
	change := func(m map[string]any) string { return with(t, k.PublicJWK(), m) }
	for name, raw := range map[string]string{
		"not json":            `{`,
		"an array":            `[]`,
		"duplicate member":    strings.Replace(k.PublicJWK(), `{`, `{"crv":"P-256",`, 1),
		"RSA":                 change(map[string]any{"kty": "RSA"}),
		"kty in another case": change(map[string]any{"kty": "ec"}),
		"no kty":              change(map[string]any{"kty": nil}),
		"P-384":               change(map[string]any{"crv": "P-384"}),
		"alg none":            change(map[string]any{"alg": "none"}),
		"use enc":             change(map[string]any{"use": "enc"}),
		"key_ops encrypt":     change(map[string]any{"key_ops": []string{"encrypt"}}),
		"key_ops not a list":  change(map[string]any{"key_ops": "verify"}),
		"x padded":            change(map[string]any{"x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}),
		"x of 33 bytes":       change(map[string]any{"x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}),
		"point off the curve": change(map[string]any{"x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}),
		"the origin":          change(map[string]any{"x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "y": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}),
		"no y":                change(map[string]any{"y": nil}),
		"a private key":       string(k.MarshalPrivate()),
		"too big":             change(map[string]any{"x5c": strings.Repeat("A", maxJWK)}),
	} {
		if _, err := ParsePublicKey([]byte(raw)); fault.CodeOf(err) != "bad_key" {
			t.Errorf("%s: %v, want bad_key", name, err)
		}
	}
	other := newTestKey(t)
	var theirs struct{ D string }
	if err := json.Unmarshal(other.MarshalPrivate(), &theirs); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"no d":             k.PublicJWK(),
		"d of another key": change(map[string]any{"d": theirs.D}),
		"d zero":           change(map[string]any{"d": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}),
		"d short":          change(map[string]any{"d": "AAAA"}),
	} {
		if _, err := ParseKey([]byte(raw)); fault.CodeOf(err) != "bad_key" {
			t.Errorf("private, %s: %v, want bad_key", name, err)
		}
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	k := newTestKey(t)
	var private struct{ D string }
	if err := json.Unmarshal(k.MarshalPrivate(), &private); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k)
	fmt.Fprintf(&out, "%v %+v %#v %s", k, k, k, k)
	if strings.Contains(out.String(), private.D) || !strings.Contains(out.String(), k.JKT()) {
		t.Errorf("printed as %s", out.String())
	}
	if b, err := json.Marshal(k); err != nil || strings.Contains(string(b), private.D) {
		t.Errorf("marshalled as %s, %v", b, err)
	}
}

func TestSet(t *testing.T) {
	k := newTestKey(t)
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(Set([]PublicKey{k.Public(), {}}), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 || set.Keys[0]["kid"] != k.JKT() || set.Keys[0]["alg"] != "ES256" || set.Keys[0]["use"] != "sig" || set.Keys[0]["d"] != "" {
		t.Errorf("set %v", set)
	}
}
