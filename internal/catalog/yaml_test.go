// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/fault"
	"chaperone/internal/label"
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
		"two documents":  {"version: 1\n---\nversion: 1\n", "more than one"},
		"version":        {"version: 2\n", "version is 2"},
		"server's name":  {"version: 1\nservers:\n  A/b:\n    tools: {}\n", `"A/b" is not a server's name`},
		"no name":        {"version: 1\nservers:\n  a:\n    tools: {\"\": {effect: read}}\n", "a tool has no name"},
		"sink path":      {"version: 1\nservers:\n  a:\n    tools:\n      x: {sinks: [{argument: \"to[0]\", type: email}]}\n", "is no path"},
		"no sink path":   {"version: 1\nservers:\n  a:\n    tools:\n      x: {sinks: [{type: email}]}\n", "is no path"},
		"sink twice":     {"version: 1\nservers:\n  a:\n    tools:\n      x: {sinks: [{argument: to, type: email}, {argument: to, type: name}]}\n", "twice"},
		"half an object": {"version: 1\nservers:\n  a:\n    tools:\n      x: {object: {type: mail}}\n", "object needs"},
		"source":         {"version: 1\nservers:\n  a:\n    tools:\n      x: {source: {integrity: fine}}\n", "integrity"},
		"annotations":    {"version: 1\nservers:\n  a:\n    tools:\n      x: {annotations: trust}\n", "annotations"},
		"alias bomb":     {"version: 1\nservers:\n  a:\n    tools: &t\n      x: *t\n", "not found"},
		"too large":      {strings.Repeat("#", maxFile+1), "bytes"},
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

// What an operator may write, and what becomes of what is left out.
func TestParseYAMLKeepsWhatWasWritten(t *testing.T) {
	entries, err := ParseYAML([]byte(`version: 1
servers:
  b-1:
    prompts: {greet: {effect: read}}
    resources: {"file:///a": {}}
    templates: {"file:///{x}": {source: {level: secret}}}
    tools:
      x: {sinks: [{argument: 'to[].a\.b', type: email}], source: {integrity: trusted, readers: [ana]}, annotations: ignore}
`))
	if err != nil {
		t.Fatal(err)
	}
	origin := func(kv ...string) map[string]string {
		m := map[string]string{}
		for _, k := range kv {
			m[k] = FromOperator
		}
		return m
	}
	ignoring := origin("sinks", "source")
	ignoring["annotations"] = "ignore"
	want := []Entry{
		{Server: "b-1", Kind: KindPrompt, Name: "greet", Effect: Read, Known: true, Origin: origin("effect")},
		{Server: "b-1", Kind: KindResource, Name: "file:///a", Known: true, Origin: origin()},
		{Server: "b-1", Kind: KindTemplate, Name: "file:///{x}", Known: true, Source: label.Label{Integrity: label.Untrusted, Level: label.Secret}, Origin: origin("source")},
		{Server: "b-1", Kind: KindTool, Name: "x", Known: true, Sinks: []Sink{{`to[].a\.b`, "email"}},
			Source: label.Label{Integrity: label.Trusted, Readers: label.Readers{Known: true, Names: []string{"ana"}}}, Origin: ignoring},
	}
	if d := cmp.Diff(want, entries); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	// Left out means the strictest.
	if e := Describe(entries[1], true, nil); e.Effect != Irreversible || !e.Source.IsUntrusted() || e.Origin["effect"] != FromDefault || e.Origin["source"] != FromDefault {
		t.Errorf("%+v", e)
	}
	if e := Describe(entries[3], true, []byte(`{"annotations":{"openWorldHint":true}}`)); e.Source.IsUntrusted() {
		t.Errorf("annotations that the operator ignores count: %+v", e)
	}
}

func FuzzParseYAML(f *testing.F) {
	f.Add([]byte("version: 1\nservers:\n  a:\n    tools:\n      x: {effect: read, stakes: [money], sinks: [{argument: 'a[].b', type: email}], object: {type: t, argument: id}}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := ParseYAML(b)
		if err != nil {
			if fault.CodeOf(err) != "bad_catalogue" {
				t.Fatal(err)
			}
			return
		}
		for _, e := range entries {
			if d := Describe(e, true, nil); !d.Known || d.Effect == "" || d.Source.Check() != nil {
				t.Fatalf("%+v becomes %+v", e, d)
			}
		}
	})
}
