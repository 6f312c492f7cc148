// SPDX-License-Identifier: Apache-2.0

package canon_test

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// TestPublishedVectors reads the file that other implementations are pointed to.
func TestPublishedVectors(t *testing.T) {
	b, err := os.ReadFile("../../docs/vectors/canon.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		About     string
		Canonical []struct{ Name, Source, Input, Canonical, SHA256 string }
		Refused   []struct {
			Name, Input, Code string
			Hex               string `json:"input_hex"`
		}
		Doubles []struct{ IEEE754, Text string }
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Canonical) < 10 || len(v.Refused) < 10 || len(v.Doubles) < 20 {
		t.Fatalf("the vectors are not all there: %d, %d, %d", len(v.Canonical), len(v.Refused), len(v.Doubles))
	}
	for _, c := range v.Canonical {
		t.Run(c.Name, func(t *testing.T) {
			got, err := canon.JCS([]byte(c.Input))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.Canonical, string(got)); diff != "" {
				t.Errorf("canonical text (-want +got):\n%s", diff)
			}
			if sum := canon.Sum(got); sum != c.SHA256 {
				t.Errorf("sha256 = %s, want %s", sum, c.SHA256)
			}
			if again, err := canon.Digest(json.RawMessage(c.Input)); err != nil || again != c.SHA256 {
				t.Errorf("Digest = %s, %v", again, err)
			}
		})
	}
	for _, r := range v.Refused {
		t.Run(r.Name, func(t *testing.T) {
			in := []byte(r.Input)
			if r.Hex != "" {
				if in, err = hex.DecodeString(r.Hex); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := canon.JCS(in); fault.CodeOf(err) != r.Code {
				t.Errorf("JCS = %q, %v; want code %s", got, err, r.Code)
			}
		})
	}
	for _, d := range v.Doubles {
		bits, err := strconv.ParseUint(d.IEEE754, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := canon.Marshal(math.Float64frombits(bits)); err != nil || string(got) != d.Text {
			t.Errorf("%s = %s, %v; want %s", d.IEEE754, got, err, d.Text)
		}
	}
}

// TestNoTwoNumbersShareACanon: whatever two integers JCS accepts, equal canonical text means equal integers.
func TestNoTwoNumbersShareACanon(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Int64().Draw(t, "a")
		b := a + rapid.Int64Range(1, 2000).Draw(t, "step")
		ca, errA := canon.JCS([]byte(strconv.FormatInt(a, 10)))
		cb, errB := canon.JCS([]byte(strconv.FormatInt(b, 10)))
		if errA == nil && errB == nil && string(ca) == string(cb) {
			t.Fatalf("%d and %d are both %s", a, b, ca)
		}
		for _, err := range []error{errA, errB} {
			if err != nil && fault.CodeOf(err) != "json_inexact_number" {
				t.Fatal(err)
			}
		}
	})
}

func TestMarshal(t *testing.T) {
	type inner struct {
		Z string    `json:"z"`
		A int       `json:"a,omitempty"`
		T time.Time `json:"t,omitzero"`
	}
	tests := []struct {
		name string
		in   any
		want string
		code string
	}{
		{name: "struct fields are sorted", in: inner{Z: "<&>", A: 2}, want: `{"a":2,"z":"<&>"}`},
		{name: "map", in: map[string]any{"b": 1, "a": []int{}}, want: `{"a":[],"b":1}`},
		{name: "raw message is canonicalised", in: json.RawMessage(`{ "b":1.0, "a":"\u0041" }`), want: `{"a":"A","b":1}`},
		{name: "nil", in: nil, want: `null`},
		{name: "replacement character of its own right", in: "\ufffd", want: "\"\ufffd\""},
		{name: "replacement character as an escape", in: json.RawMessage(`"\ufffd"`), want: "\"\ufffd\""},
		{name: "raw message with a name twice", in: json.RawMessage(`{"a":1,"a":1}`), code: "json_duplicate_key"},
		{name: "string that is not UTF-8", in: inner{Z: "\xff"}, code: "json_invalid_utf8"},
		{name: "name that is not UTF-8", in: map[string]int{"\xff": 1}, code: "json_invalid_utf8"},
		{name: "deep string that is not UTF-8", in: []any{&inner{Z: "ok"}, map[string]any{"x": []string{"\xc0"}}}, code: "json_invalid_utf8"},
		{name: "integer beyond doubles", in: int64(1<<53 + 1), code: "json_inexact_number"},
		{name: "NaN", in: math.NaN(), code: "json_unsupported"},
		{name: "function", in: func() {}, code: "json_unsupported"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := canon.Marshal(tt.in)
			if tt.code != "" {
				if fault.CodeOf(err) != tt.code {
					t.Fatalf("Marshal = %s, %v; want code %s", got, err, tt.code)
				}
				return
			}
			if err != nil || string(got) != tt.want {
				t.Fatalf("Marshal = %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

// TestInvalidTextNeverCollides: two different strings never have one digest, even where encoding/json would make them equal.
func TestInvalidTextNeverCollides(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := string(rapid.SliceOf(rapid.Byte()).Draw(t, "a"))
		b := string(rapid.SliceOf(rapid.Byte()).Draw(t, "b"))
		da, errA := canon.Digest(map[string]string{"x": a})
		db, errB := canon.Digest(map[string]string{"x": b})
		if a != b && errA == nil && errB == nil && da == db {
			t.Fatalf("%q and %q share a digest", a, b)
		}
	})
}
