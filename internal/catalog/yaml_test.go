// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"os"
	"strings"
	"testing"

	"chaperone/internal/fault"
)

func TestParseYAMLReadsTheOffice(t *testing.T) {
	b, err := os.ReadFile("../../examples/demo/office.yaml")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := ParseYAML(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name != "payment_send" {
			continue
		}
		if e.Effect != Irreversible || len(e.Stakes) != 1 || e.Stakes[0] != Money || len(e.Sinks) != 1 || e.Origin["effect"] != FromOperator {
			t.Errorf("payment_send is %+v", e)
		}
		return
	}
	t.Error("payment_send is missing")
}

func TestParseYAMLRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"empty":        {"", "empty"},
		"unknown key":  {"version: 1\nservers:\n  a:\n    tools:\n      x: {efect: read}\n", "efect"},
		"repeated key": {"version: 1\nversion: 1\n", "already defined"},
		"all at once": {"version: 1\nservers:\n  a:\n    tools:\n      x: {effect: readonly, stakes: [cash]}\n      y: {sinks: [{argument: to, type: mail}]}\n",
			`a/x: effect "readonly"`},
		"two documents": {"version: 1\n---\nversion: 1\n", "more than one"},
		"version":       {"version: 2\n", "version is 2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseYAML([]byte(tt.in))
			if fault.CodeOf(err) != "bad_catalogue" || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want bad_catalogue with %q", err, tt.want)
			}
		})
	}
	_, err := ParseYAML([]byte("version: 1\nservers:\n  a:\n    tools:\n      x: {effect: readonly, stakes: [cash]}\n      y: {sinks: [{argument: to, type: mail}]}\n"))
	for _, want := range []string{"readonly", "cash", `type "mail"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not all faults are reported: %q is missing in %v", want, err)
		}
	}
}
