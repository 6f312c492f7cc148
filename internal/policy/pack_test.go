// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chaperone/internal/fault"
)

func officeTools(t testing.TB) []Tool {
	t.Helper()
	b, err := os.ReadFile("testdata/tools.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tools, err := ParseTools(b)
	if err != nil {
		t.Fatal(err)
	}
	return tools
}

func mustCompile(t testing.TB, files map[string]string, tools []Tool) *Set {
	t.Helper()
	s, problems := Compile(files, tools)
	for _, p := range problems {
		t.Fatalf("%s:%d %s: %s (%s)", p.File, p.Line, p.Rule, p.Msg, p.Code)
	}
	return s
}

func TestShippedPack(t *testing.T) {
	set := mustCompile(t, DefaultFiles(), officeTools(t))
	used := map[string]bool{}
	files, err := filepath.Glob("testdata/cases/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		results, err := RunCases(set, b)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for _, r := range results {
			for _, reason := range slices.Concat(r.Decision.Reasons, r.Decision.Lifted) {
				used[reason.Rule] = true
			}
			if !r.OK {
				t.Errorf("%s:%d %s: %v", filepath.Base(f), r.Line, r.Name, r.Faults)
			}
		}
	}
	for _, r := range set.Rules() {
		if !used[r.ID] {
			t.Errorf("no case reaches the rule %s", r.ID)
		}
		if r.Reason == "" {
			t.Errorf("the rule %s has no @reason", r.ID)
		}
	}
}

// Each rule of the pack is needed: without it a case fails.
func TestEveryRuleIsNeeded(t *testing.T) {
	tools := officeTools(t)
	whole := mustCompile(t, DefaultFiles(), tools)
	for _, r := range whole.Rules() {
		files := DefaultFiles()
		text := files[r.File]
		i := indexOf(text, r.Text)
		files[r.File] = text[:i] + text[i+len(r.Text):]
		set := mustCompile(t, files, tools)
		failed := 0
		cases, _ := filepath.Glob("testdata/cases/*.yaml")
		for _, f := range cases {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			results, err := RunCases(set, b)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range results {
				if !c.OK {
					failed++
				}
			}
		}
		if failed == 0 {
			t.Errorf("no case fails without the rule %s", r.ID)
		}
	}
}

func indexOf(text, part string) int {
	for i := 0; i+len(part) <= len(text); i++ {
		if text[i:i+len(part)] == part {
			return i
		}
	}
	panic("the rule's text is not in its file")
}

// The pack stands before anything is in the catalogue, and with servers that offer nothing.
func TestShippedPackOnEmptyCatalogue(t *testing.T) {
	mustCompile(t, DefaultFiles(), nil)
	mustCompile(t, DefaultFiles(), []Tool{{Server: "empty", Kind: KindServer}})
}

func TestRunCasesRefuses(t *testing.T) {
	set := mustCompile(t, DefaultFiles(), officeTools(t))
	const head = "agents: {a: {type: t}}\npeople: {p: {}}\ncases:\n"
	for name, text := range map[string]string{
		"not yaml":          "cases: [",
		"no cases":          "agents: {}",
		"unknown key":       "case: []",
		"two documents":     head + "  - {name: n, principal: a, action: x/y, expect: {effect: forbid}}\n---\ncases: []\n",
		"misspelt fact":     head + "  - {name: n, principal: a, action: x/y, flow: {untrustd: true}, expect: {effect: forbid}}\n",
		"no name":           head + "  - {principal: a, action: x/y, expect: {effect: forbid}}\n",
		"no effect":         head + "  - {name: n, principal: a, action: x/y}\n",
		"unknown principal": head + "  - {name: n, principal: b, action: x/y, expect: {effect: forbid}}\n",
		"alias":             head + "  - {name: n, principal: a, action: x/y, arguments: &x {a: *x}, expect: {effect: forbid}}\n",
		"not JSON":          head + "  - {name: n, principal: a, action: x/y, arguments: {a: .inf}, expect: {effect: forbid}}\n",
		"sinks":             head + "  - {name: n, principal: a, action: x/y, flow: {uncleared: [to]}, expect: {effect: forbid}}\n",
		"huge":              head + string(make([]byte, maxYAML)),
	} {
		if _, err := RunCases(set, []byte(text)); fault.CodeOf(err) != "bad_cases" {
			t.Errorf("%s: %v", name, err)
		}
	}
	results, err := RunCases(set, []byte(head+"  - {name: n, principal: a, action: office/mail_read, expect: {effect: permit, rule: nobody, missing: [x], require: [y], lifted: [z], listed: true}}\n"))
	if err != nil || len(results) != 1 || results[0].OK || len(results[0].Faults) != 6 {
		t.Errorf("a wrong case passes: %+v %v", results, err)
	}
	if _, err := ParseTools([]byte("tools: [{sever: x}]")); fault.CodeOf(err) != "bad_cases" {
		t.Errorf("tools with a misspelt key: %v", err)
	}
}
