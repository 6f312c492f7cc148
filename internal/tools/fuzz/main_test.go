// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRun fuzzes a module with one sound target and one that any input breaks.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":      "module m\n\ngo 1.26\n",
		"a/a_test.go": "package a\n\nimport \"testing\"\n\nfunc FuzzSound(f *testing.F) { f.Add(1); f.Fuzz(func(t *testing.T, n int) {}) }\nfunc FuzzBroken(f *testing.F) { f.Add(1); f.Fuzz(func(t *testing.T, n int) { t.Error(n) }) }\nfunc TestNot(t *testing.T) {}\n",
		"b/b.go":      "package b\n",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOWORK", "off")
	var out bytes.Buffer
	f, err := run(t.Context(), dir, time.Second, &out)
	if err != nil || f.Targets != 2 || f.Failed != 1 || f.Executions == 0 {
		t.Errorf("figures = %+v, %v\n%s", f, err, &out)
	}
}
