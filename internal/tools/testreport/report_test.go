// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	tests := []struct {
		name, in   string
		want       counts
		requireAll bool
		good       bool
		says       []string
	}{
		{name: "all pass", good: true, want: counts{passed: 2}, in: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"B"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"pass","Package":"p","Elapsed":1.5}`, says: []string{"ok   p 1.5s", "2 passed, 0 failed, 0 skipped\n"}},
		{name: "a parent is not a test of its own", good: true, want: counts{passed: 1, skipped: 1}, in: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"run","Package":"p","Test":"A/y"}
{"Action":"output","Package":"p","Test":"A/y","Output":"    a_test.go:7: the program node is not installed\n"}
{"Action":"pass","Package":"p","Test":"A/x"}
{"Action":"skip","Package":"p","Test":"A/y"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`, says: []string{"  p A/y: the program node is not installed\n", "1 passed, 0 failed, 1 skipped\n"}},
		{name: "a skip where everything is required", requireAll: true, want: counts{passed: 1, skipped: 1}, in: `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"pass","Package":"p"}`, says: []string{"no reason given", "so a skipped test is a failure"}},
		{name: "a child fails", want: counts{passed: 1, failed: 1}, in: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"output","Package":"p","Test":"A/x","Output":"    a_test.go:7: got 1\n"}
{"Action":"fail","Package":"p","Test":"A/x"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"fail","Package":"p"}`, says: []string{"--- failed: p A/x\n    a_test.go:7: got 1\n"}},
		{name: "a parent fails by itself", want: counts{passed: 1, failed: 1}, in: `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"pass","Package":"p","Test":"A/x"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`},
		{name: "it does not build", want: counts{passed: 1, failed: 1}, in: `{"ImportPath":"p","Action":"build-output","Output":"p/x.go:1: undefined: y\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p"}
{"Action":"pass","Package":"q","Test":"A"}`, says: []string{"undefined: y", "--- failed: p\n"}},
		{name: "it ends early", want: counts{passed: 1, failed: 1}, in: `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"B"}
{"Action":"output","Package":"p","Test":"B","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p"}`, says: []string{"panic: test timed out"}},
		{name: "a package without tests", want: counts{}, in: `{"Action":"output","Package":"p","Output":"?   p [no test files]\n"}
{"Action":"skip","Package":"p"}`, says: []string{"no test ran"}},
		{name: "the go command speaks", want: counts{passed: 1}, good: true, in: `go: downloading example.org/x v1.0.0
{"Action":"pass","Package":"p","Test":"A"}`, says: []string{"go: downloading"}},
		{name: "nothing", want: counts{}, says: []string{"no test ran"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			got, err := report(strings.NewReader(tt.in), &out, tt.requireAll)
			if err != nil || got != tt.want || got.good(tt.requireAll) != tt.good {
				t.Errorf("counts = %v (good %v), %v; want %v (good %v)\n%s", got, got.good(tt.requireAll), err, tt.want, tt.good, &out)
			}
			for _, s := range append(tt.says, got.String()) {
				if !strings.Contains(out.String(), s) {
					t.Errorf("%q is not in:\n%s", s, &out)
				}
			}
			if !strings.HasSuffix(out.String(), got.String()+"\n") {
				t.Errorf("the last line is not the counts:\n%s", &out)
			}
		})
	}
}

// TestRealRun reads what the installed go command writes, for a module with one test of each end and one broken package.
func TestRealRun(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":        "module m\n\ngo 1.26\n",
		"a/a_test.go":   "package a\n\nimport \"testing\"\n\nfunc TestPass(t *testing.T) { t.Run(\"sub\", func(t *testing.T) {}) }\nfunc TestSkip(t *testing.T) { t.Skip(\"no moon\") }\nfunc TestFail(t *testing.T) { t.Error(\"it is red\") }\n",
		"b/b_test.go":   "package b\n\nvar x int = \"\"\n",
		"none/none.go":  "package none\n",
		"c/c_test.go":   "package c\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestExit(t *testing.T) { os.Exit(3) }\n",
		"d/ok_test.go":  "package d\n\nimport \"testing\"\n\nfunc TestD(t *testing.T) {}\n",
		"d/doc.go":      "package d\n",
		"none/doc.text": "",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	in, _ := cmd.CombinedOutput() // it fails, as it must
	var out bytes.Buffer
	got, err := report(bytes.NewReader(in), &out, false)
	if want := (counts{passed: 2, failed: 3, skipped: 1}); err != nil || got != want {
		t.Errorf("counts = %v, %v; want %v\n%s\n--- from\n%s", got, err, want, &out, in)
	}
	for _, s := range []string{"m/a TestSkip: no moon", "it is red", "cannot use \"\"", "--- failed: m/c TestExit"} {
		if !strings.Contains(out.String(), s) {
			t.Errorf("%q is not in:\n%s", s, &out)
		}
	}
}
