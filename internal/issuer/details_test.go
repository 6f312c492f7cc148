// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/admit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/run"
)

func TestParseDetails(t *testing.T) {
	got, err := parseDetails(`[{"type":"chaperone_run","purpose":"pay invoice 7","plan":[{"tool":"office/pay","sinks":{"iban":["DE1"]},"max":1}],
		"budgets":{"steps":9,"seconds":60,"bytes":1000,"calls":{"money":1}},"parent":"` + someRun + `"}]`)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := id.ParseRun(someRun)
	if err != nil {
		t.Fatal(err)
	}
	want := &admit.RunOrder{
		Purpose: "pay invoice 7", Plan: []run.PlanStep{{Tool: "office/pay", Sinks: map[string][]string{"iban": {"DE1"}}, Max: 1}},
		Budgets: run.Budgets{Steps: 9, Seconds: 60, Bytes: 1000, Calls: map[string]int64{"money": 1}}, Parent: parent,
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b id.Run) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got, err := parseDetails(""); got != nil || err != nil {
		t.Errorf("nothing: %+v, %v", got, err)
	}
}

var someRun = id.NewRun(time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)).String()

func FuzzParseDetails(f *testing.F) {
	f.Add(`[{"type":"chaperone_run","purpose":"p","plan":[{"tool":"a/b","sinks":{"x":["y"]},"max":2}],"budgets":{"steps":1,"calls":{"money":1}}}]`)
	f.Add(`[{"type":"chaperone_run","run":"` + someRun + `"}]`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, raw string) {
		o, err := parseDetails(raw)
		if err != nil {
			if fault.CodeOf(err) != "bad_authorization_details" || o != nil {
				t.Fatalf("%+v, %v", o, err)
			}
			return
		}
		if o != nil && !o.Continue.IsZero() && (o.Purpose != "" || len(o.Plan) > 0 || !o.Parent.IsZero() || o.Budgets.Steps != 0) {
			t.Fatalf("a run is continued and changed: %+v", o)
		}
	})
}
