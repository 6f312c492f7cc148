// SPDX-License-Identifier: Apache-2.0

package canon_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

type base struct {
	ID id.Run `json:"id"`
}

type sample struct {
	base
	Name    string            `json:"name"`
	On      bool              `json:"on,omitempty"`
	Small   int8              `json:"small"`
	Count   uint16            `json:"count"`
	Ratio   float64           `json:"ratio"`
	Maybe   *int              `json:"maybe"`
	List    []string          `json:"list"`
	Pair    [2]int            `json:"pair"`
	Bytes   []byte            `json:"bytes"`
	Free    any               `json:"free"`
	Raw     json.RawMessage   `json:"raw"`
	Digits  json.Number       `json:"digits"`
	At      time.Time         `json:"at"`
	Labels  map[string]string `json:"labels"`
	Inner   []struct{ X int } `json:"inner"`
	Hidden  string            `json:"-"`
	private string            // no member reaches it
}

func TestDecode(t *testing.T) {
	three := 3
	run := id.NewRun(time.UnixMilli(1_700_000_000_000))
	in := `{"id":"` + run.String() + `","name":"n","on":true,"small":-128,"count":65535,"ratio":1e-3,"maybe":3,"list":["a"],"pair":[1,2],
	"bytes":"AAE=","free":{"a":[1.50,null]},"raw":{ "x" : 1 },"digits":12345678901234567890,"at":"2026-01-02T03:04:05Z","labels":{"k":"v"},"inner":[{"X":1}]}`
	want := sample{base: base{run}, Name: "n", On: true, Small: -128, Count: 65535, Ratio: 1e-3, Maybe: &three, List: []string{"a"}, Pair: [2]int{1, 2},
		Bytes: []byte{0, 1}, Free: map[string]any{"a": []any{json.Number("1.50"), nil}}, Raw: json.RawMessage(`{ "x" : 1 }`), Digits: "12345678901234567890",
		At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Labels: map[string]string{"k": "v"}, Inner: []struct{ X int }{{1}}}
	got := sample{private: "kept"}
	want.private = "kept"
	if err := canon.Decode([]byte(in), canon.Limits{}, &got); err != nil {
		t.Fatal(err)
	}
	opts := cmp.Options{cmp.AllowUnexported(sample{}), cmp.Comparer(func(a, b id.Run) bool { return a == b })}
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Error(diff)
	}
	// Absent members leave their fields; null empties what can be empty.
	if err := canon.Decode([]byte(`{"maybe":null,"list":null,"free":null,"raw":null,"labels":null}`), canon.Limits{}, &got); err != nil {
		t.Fatal(err)
	}
	want.Maybe, want.List, want.Free, want.Raw, want.Labels = nil, nil, nil, json.RawMessage("null"), nil
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := []struct{ in, code, says string }{
		{`{"name":1}`, "json_type", "name must be a string, it is a number"},
		{`{"name":null}`, "json_type", "name must be a string"},
		{`{"on":"true"}`, "json_type", "on must be true or false, it is a string"},
		{`{"small":128}`, "json_type", "small must be an integer of 8 bits"},
		{`{"small":1.0}`, "json_type", "small must be"},
		{`{"count":-1}`, "json_type", "count must be a non-negative integer"},
		{`{"count":"1"}`, "json_type", "count must be"},
		{`{"ratio":"1"}`, "json_type", "ratio must be a number"},
		{`{"ratio":1e999}`, "json_type", "ratio must be a number"},
		{`{"list":{}}`, "json_type", "list must be an array, it is an object"},
		{`{"list":["a",2]}`, "json_type", "list[1] must be a string"},
		{`{"pair":[1]}`, "json_type", "pair must be an array of 2"},
		{`{"bytes":"AAE"}`, "json_type", "bytes must be a base64 string"},
		{`{"digits":"1"}`, "json_type", "digits must be a number"},
		{`{"at":"yesterday"}`, "json_type", "at must be a value of its documented form"},
		{`{"labels":{"k":1}}`, "json_type", "labels.k must be a string"},
		{`{"inner":[{"X":1},{"X":true}]}`, "json_type", "inner[1].X must be an integer"},
		{`{"id":"run_x"}`, "bad_id", "id: not an identifier"},
		{`{"id":7}`, "json_type", "id must be a string"},
		{`[]`, "json_type", "the document must be an object, it is an array"},
		{`{"surplus":1}`, "json_unknown_member", `"surplus"`},
		{`{"Name":"n"}`, "json_unknown_member", `"Name"`},
		{`{"inner":[{"x":1}]}`, "json_unknown_member", `"inner[0].x"`},
		{`{"Hidden":"n"}`, "json_unknown_member", `"Hidden"`},
		{`{"private":"n"}`, "json_unknown_member", `"private"`},
		{`{"base":{}}`, "json_unknown_member", `"base"`},
		{`{"name":"a","name":"b"}`, "json_duplicate_key", `"name"`},
		{`{"name":"a"} x`, "json_trailing_data", ""},
	}
	for _, tt := range tests {
		var got sample
		err := canon.Decode([]byte(tt.in), canon.Limits{}, &got)
		if fault.CodeOf(err) != tt.code || fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("Decode(%s) = %v; want code %s and %q", tt.in, err, tt.code, tt.says)
		}
		loose := canon.DecodeLoose([]byte(tt.in), canon.Limits{}, new(sample))
		if want := tt.code != "json_unknown_member"; (loose != nil) != want {
			t.Errorf("DecodeLoose(%s) = %v", tt.in, loose)
		}
	}
	for _, dst := range []any{nil, sample{}, (*sample)(nil), new(chan int), new(map[int]string)} {
		if err := canon.Decode([]byte(`{"a":1}`), canon.Limits{}, dst); fault.KindOf(err) != fault.Internal {
			t.Errorf("Decode into %T = %v; want an internal fault", dst, err)
		}
	}
}

// TestDecodeReadsWhatStandardWrites: for documents of the right form both readers fill the same values.
func TestDecodeReadsWhatStandardWrites(t *testing.T) {
	type doc struct {
		S string         `json:"s"`
		I int64          `json:"i"`
		F float64        `json:"f"`
		L []uint8        `json:"l"`
		M map[string]int `json:"m"`
		P *doc           `json:"p"`
	}
	gen := rapid.Custom(func(t *rapid.T) doc {
		d := doc{S: rapid.String().Draw(t, "s"), I: rapid.Int64().Draw(t, "i"), F: rapid.Float64().Draw(t, "f"),
			L: rapid.SliceOf(rapid.Byte()).Draw(t, "l"), M: rapid.MapOf(rapid.String(), rapid.Int()).Draw(t, "m")}
		if rapid.Bool().Draw(t, "more") {
			d.P = &doc{S: rapid.String().Draw(t, "ps"), L: []byte{}, M: map[string]int{}}
		}
		return d
	})
	rapid.Check(t, func(t *rapid.T) {
		want := gen.Draw(t, "doc")
		b, err := json.Marshal(want)
		if err != nil {
			t.Skip(err)
		}
		var got doc
		if err := canon.Decode(b, canon.Limits{}, &got); err != nil {
			t.Fatalf("Decode(%s): %v", b, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}
