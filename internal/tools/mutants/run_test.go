// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const guard = `package m

func Allowed(n int) bool {
	if n > 10 {
		return false
	}
	return true
}
`

const guardTest = `package m

import "testing"

func TestGuard(t *testing.T) {
	if Allowed(11) {
		t.Error("eleven is allowed, want code too_many")
	}
}

func TestGuardAgain(t *testing.T) {}

func TestRed(t *testing.T) { t.Error("always") }
`

const gone = `diff --git a/m.go b/m.go
--- a/m.go
+++ b/m.go
@@ -2,6 +2,6 @@ package m
 
 func Allowed(n int) bool {
-	if n > 10 {
+	if n > 10 && false {
 		return false
 	}
 	return true
`

func TestRunner(t *testing.T) {
	head := func(row, test, reason string) string {
		return "# row: " + row + "\n# test: " + test + "\n# reason: " + reason + "\n"
	}
	root := t.TempDir()
	files := map[string]string{
		"go.mod":            "module m\n\ngo 1.26\n",
		"m.go":              guard,
		"m_test.go":         guardTest,
		"never/no_test.go":  "package never\n\nimport \"testing\"\n\nfunc TestHangs(t *testing.T) {}\n",
		patchDir + "/ROWS":  "# the rows\nkilled\nanother-reason\nanother-test\nno-compile\nno-test\nsaid-anyway\nred-already\nno-apply\nno-patch\n\n",
		"untracked.go.text": "",
	}
	patches := map[string]string{
		"killed":         head("killed", ". TestGuard", "too_many") + gone,
		"another-reason": head("another-reason", ". TestGuard", "too_few") + gone,
		"another-test":   head("another-test", ". TestGuardAgain", "too_many") + gone,
		"no-compile":     head("no-compile", ". TestGuard", "too_many") + strings.Replace(gone, "&& false", "&& undefined", 1),
		"no-test":        head("no-test", ". TestNone", "too_many") + gone,
		"said-anyway":    head("said-anyway", ". TestGuard", "=== RUN") + gone,
		"red-already":    head("red-already", ". TestRed", "always") + gone,
		"no-apply":       head("no-apply", ". TestGuard", "too_many") + strings.ReplaceAll(gone, "n > 10", "n > 12"),
	}
	for row, text := range patches {
		files[patchDir+"/"+row+".patch"] = text
	}
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	var out bytes.Buffer
	r := &runner{root: root, timeout: time.Minute, out: &out}
	f, err := r.run(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if want := (figures{Rows: 9, Killed: 1, Survived: 2, Missing: 1, Broken: 5}); f != want {
		t.Errorf("figures = %+v, want %+v\n%s", f, want, &out)
	}
	for row, says := range map[string]string{
		"killed":         "held",
		"another-reason": `did not say "too_few"`,
		"another-test":   "green without the guard",
		"no-compile":     "does not compile",
		"no-test":        "no test of this name",
		"said-anyway":    `say "=== RUN" too`,
		"red-already":    "red without the patch",
		"no-apply":       "does not apply",
		"no-patch":       "does not exist",
	} {
		found := false
		for line := range strings.Lines(out.String()) {
			found = found || strings.Contains(line, " "+row+" ") && strings.Contains(line, says)
		}
		if !found {
			t.Errorf("no line says of %s: %s\n%s", row, says, &out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "m.go")); err != nil || string(b) != guard {
		t.Error("the tree itself was changed")
	}
	if _, err := os.Stat(r.dir); err == nil {
		t.Error("the copy is left behind")
	}

	out.Reset()
	if f, err = r.run(t.Context(), "killed"); err != nil || f != (figures{Rows: 1, Killed: 1}) {
		t.Errorf("one row alone: %+v, %v", f, err)
	}
	if _, err = r.run(t.Context(), "no-row"); err == nil {
		t.Error("a row that is none is accepted")
	}
	if err := os.Remove(filepath.Join(root, patchDir, "ROWS")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, patchDir, "ROWS"), []byte("killed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = r.run(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "no row of ROWS") {
		t.Errorf("a patch without a row: %v", err)
	}
}

func TestPatchIsChecked(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ text, says string }{
		"other":   {"# row: another\n# test: . T\n# reason: r\n\n+++ b/x\n", `says "another"`},
		"notest":  {"# row: notest\n# test: .\n# reason: r\n\n+++ b/x\n", "# test:"},
		"noword":  {"# row: noword\n# test: . T\n# reason:\n\n+++ b/x\n", "# reason:"},
		"nodiff":  {"# row: nodiff\n# test: . T\n# reason: r\n", "no diff"},
		"nothing": {"", "says"},
	} {
		file := filepath.Join(dir, name+".patch")
		if err := os.WriteFile(file, []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readPatch(file); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v; want %q", name, err, tt.says)
		}
	}
}
