// SPDX-License-Identifier: Apache-2.0

package needs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"chaperone/internal/needs"
)

// watched stands in for a test: it notes how it ended, as testing does by ending the goroutine.
type watched struct {
	testing.TB
	skipped, failed string
}

func (w *watched) Helper() {}
func (w *watched) Skipf(format string, args ...any) {
	w.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (w *watched) Fatalf(format string, args ...any) {
	w.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func ends(f func(testing.TB)) *watched {
	w := &watched{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(w)
	}()
	<-done
	return w
}

func TestLackingSkipsOrFails(t *testing.T) {
	lacking := map[string]func(testing.TB){
		"a program":      func(tb testing.TB) { needs.Program(tb, "no-such-program-of-chaperone") },
		"a node package": func(tb testing.TB) { needs.Package(tb, "@chaperone/no-such-package") },
		"anything":       func(tb testing.TB) { needs.Skip(tb, "the moon is not %s", "full") },
	}
	for name, f := range lacking {
		t.Setenv(needs.RequireAll, "")
		if w := ends(f); w.skipped == "" || w.failed != "" {
			t.Errorf("%s: skipped %q, failed %q; want a skip with its reason", name, w.skipped, w.failed)
		}
		t.Setenv(needs.RequireAll, "1")
		if w := ends(f); w.skipped != "" || !strings.Contains(w.failed, needs.RequireAll) {
			t.Errorf("%s: skipped %q, failed %q; want a failure that names %s", name, w.skipped, w.failed, needs.RequireAll)
		}
	}
}

func TestPresent(t *testing.T) {
	t.Setenv(needs.RequireAll, "1")
	bin, packages := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "node"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(packages, "node_modules", "@chaperone", "present")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	t.Setenv(needs.PackagesDir, packages)
	var program, found string
	w := ends(func(tb testing.TB) {
		program = needs.Program(tb, "node")
		found = needs.Package(tb, "@chaperone/present")
	})
	if w.skipped+w.failed != "" || program != filepath.Join(bin, "node") || found != dir {
		t.Errorf("program %q, package %q, skipped %q, failed %q", program, found, w.skipped, w.failed)
	}
}
