// SPDX-License-Identifier: Apache-2.0

package canon_test

import (
	"fmt"
	"strings"
	"testing"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// A row of the enforcement matrix that this room holds. testdata/mutants removes its guard and expects its line here.

func TestMatrix_DuplicateKeys(t *testing.T) {
	var many strings.Builder // long enough to be checked through the map
	for i := range 40 {
		fmt.Fprintf(&many, `"k%d":0,`, i)
	}
	for name, doc := range map[string]string{
		"side by side":          `{"name":"read","name":"pay"}`,
		"apart":                 `{"to":"a","text":"","to":"b"}`,
		"one of them escaped":   `{"to":"a","\u0074o":"b"}`,
		"nested":                `{"params":{"arguments":{"to":"a","to":"b"}}}`,
		"among many":            `{` + many.String() + `"k3":1}`,
		"of which one is null":  `{"to":null,"to":"b"}`,
		"with the same content": `{"to":"a","to":"a"}`,
	} {
		if _, err := canon.Parse([]byte(doc), canon.Limits{}); fault.CodeOf(err) != "json_duplicate_key" {
			t.Errorf("duplicate keys %s: %v, want json_duplicate_key", name, err)
		}
		if _, err := canon.JCS([]byte(doc)); fault.CodeOf(err) != "json_duplicate_key" {
			t.Errorf("duplicate keys %s have a canonical form: %v, want json_duplicate_key", name, err)
		}
	}
	if _, err := canon.Parse([]byte(`{"to":"a","To":"b","x":{"to":"c"}}`), canon.Limits{}); err != nil {
		t.Errorf("keys that differ: %v", err)
	}
}
