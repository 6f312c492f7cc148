// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the scenarios of the whole: real processes, real clients, real servers. It decides nothing and never
// replaces a part with a stand-in.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chaperone/examples/demo"
)

// binary builds the product once, the way it is released: without C.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "chaperone-e2e-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "chaperone")
	cmd := exec.Command("go", "build", "-o", path, "chaperone/cmd/chaperone")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func product(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// open starts a deployment with an office and the three people of the demo.
func open(t *testing.T, level string) *demo.Stage {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	s, err := demo.NewStage(product(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Level = level
	t.Cleanup(s.Close)
	return s
}

// furnish brings the stage to where an agent can work: people, rules, and the agent clerk with a join code.
func furnish(t *testing.T, s *demo.Stage) (join string) {
	t.Helper()
	ctx := t.Context()
	_, up, err := s.Up(context.WithoutCancel(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.StartOffice(context.WithoutCancel(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := s.People(ctx, up); err != nil {
		t.Fatal(err)
	}
	if err := s.Rules(ctx, nil); err != nil {
		t.Fatal(err)
	}
	must(t, s.Do(ctx, "nora", "", nil, "agent", "register", "clerk", "--type", "bookkeeper", "--owner", "nora", "--purpose", "pays and files supplier invoices"))
	var code struct{ Code string }
	must(t, s.Do(ctx, "nora", "", &code, "agent", "join-code", "clerk"))
	return code.Code
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMain removes the built product.
func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil && code == 0 {
		_ = os.RemoveAll(filepath.Dir(path)) // a left-over directory harms nothing
	}
	os.Exit(code)
}

// within ends a test's context after d, so that a hang is a failure with a name.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
