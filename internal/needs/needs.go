// SPDX-License-Identifier: Apache-2.0

// Package needs says what a test needs that a machine may lack. It decides between skipping and failing: where
// CHAPERONE_REQUIRE_ALL=1, as in .ci/run, nothing may be lacking and a skip is a failure. It never installs anything, and only
// tests import it.
package needs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// RequireAll is the environment variable that turns skips into failures.
const RequireAll = "CHAPERONE_REQUIRE_ALL"

// PackagesDir is the environment variable that names the directory where .ci/run has put node packages.
const PackagesDir = "CHAPERONE_NODE_PACKAGES"

// Required reports whether a skip is a failure.
func Required() bool { return os.Getenv(RequireAll) == "1" }

// Skip ends the test: skipped with the reason, or failed where everything is required. Tests call it in place of t.Skip.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if Required() {
		t.Fatalf("required by "+RequireAll+", but: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Program returns the path of an executable, and skips the test where there is none of that name.
func Program(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		Skip(t, "the program %s is not installed", name)
	}
	return p
}

// Package returns the directory of an installed node package, for example "@modelcontextprotocol/inspector", and skips the test
// where it or node is not installed. It looks under CHAPERONE_NODE_PACKAGES and, without that, under the user's cache directory,
// where .ci/run puts them.
func Package(t testing.TB, name string) string {
	t.Helper()
	Program(t, "node")
	root := os.Getenv(PackagesDir)
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			Skip(t, "there is no cache directory to look for node packages in")
		}
		root = filepath.Join(cache, "chaperone", "node")
	}
	dir := filepath.Join(root, "node_modules", filepath.FromSlash(name))
	if _, err := os.Stat(filepath.Join(dir, "package.json")); err != nil {
		Skip(t, "the node package %s is not installed (.ci/run --install-only installs it)", name)
	}
	return dir
}

// Root skips the test unless it runs as root, as tests that start processes under another uid must.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "the test does not run as root")
	}
}
