// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

type runner struct {
	root    string
	timeout time.Duration
	out     io.Writer
	verbose bool

	dir string // the copy
}

// end is how a row ended.
type end string

const (
	killed   end = "held"
	survived end = "NOT HELD"
	missing  end = "NO PATCH"
	broken   end = "BROKEN"
)

func (r *runner) run(ctx context.Context, only string) (figures, error) {
	var f figures
	rows, err := readRows(r.root)
	if err != nil {
		return f, err
	}
	patches, err := readPatches(r.root)
	if err != nil {
		return f, err
	}
	for row := range patches {
		if !slices.Contains(rows, row) {
			return f, fmt.Errorf("%s/%s.patch is no row of ROWS", patchDir, row)
		}
	}
	if only != "" {
		if !slices.Contains(rows, only) {
			return f, fmt.Errorf("%s is no row of ROWS", only)
		}
		rows = []string{only}
	}
	if r.dir, err = os.MkdirTemp("", "chaperone-mutants-"); err != nil {
		return f, err
	}
	defer os.RemoveAll(r.dir)
	files, err := r.command(ctx, r.root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return f, fmt.Errorf("git ls-files: %w\n%s", err, files)
	}
	if err := copyTree(r.root, r.dir, strings.Split(strings.Trim(files, "\x00"), "\x00")); err != nil {
		return f, err
	}
	wrong, err := r.baseline(ctx, rows, patches)
	if err != nil {
		return f, err
	}
	f.Rows = len(rows)
	for _, row := range rows {
		begin := time.Now()
		how, why, output := r.row(ctx, row, patches, wrong)
		if ctx.Err() != nil {
			return f, ctx.Err()
		}
		switch how {
		case killed:
			f.Killed++
		case survived:
			f.Survived++
		case missing:
			f.Missing++
		case broken:
			f.Broken++
		}
		fmt.Fprintf(r.out, "%-9s %-34s %5.1fs  %s\n", how, row, time.Since(begin).Seconds(), why)
		if output != "" && (how != killed || r.verbose) {
			fmt.Fprintf(r.out, "%s\n", indent(output))
		}
	}
	return f, nil
}

// baseline runs every test once on the copy as it is, a package at a time, and returns what is wrong with a row before its patch
// is applied: a test that is red already, that does not exist, or that prints the reason anyway proves nothing.
func (r *runner) baseline(ctx context.Context, rows []string, patches map[string]patch) (map[string]string, error) {
	tests := map[string][]string{}
	for _, row := range rows {
		if p, ok := patches[row]; ok && !slices.Contains(tests[p.pkg], p.test) {
			tests[p.pkg] = append(tests[p.pkg], p.test)
		}
	}
	wrong := map[string]string{}
	for _, pkg := range slices.Sorted(maps.Keys(tests)) {
		out, err := r.test(ctx, pkg, tests[pkg]...)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for _, row := range rows {
			if p, ok := patches[row]; ok && p.pkg == pkg {
				if why := unfit(p, out, err); why != "" {
					wrong[row] = why + "\n" + out
				}
			}
		}
	}
	return wrong, nil
}

// unfit says why a row's test proves nothing, from what the package's tests said without a patch; "" if it is fit.
func unfit(p patch, out string, err error) string {
	line, bad := regexp.Compile(`(?m)^ *--- (PASS|FAIL|SKIP): ` + p.test + ` `)
	if bad != nil {
		return "the name of the test is no expression"
	}
	ended := map[string]bool{}
	for _, m := range line.FindAllStringSubmatch(out, -1) {
		ended[m[1]] = true
	}
	stopped := err != nil && (strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]") || strings.Contains(out, "panic: "))
	switch {
	case ended["FAIL"], !ended["PASS"] && stopped:
		return "the test is red without the patch"
	case !ended["PASS"]:
		return "no test of this name passed without the patch"
	}
	for _, reason := range p.reasons {
		if strings.Contains(out, reason) {
			return fmt.Sprintf("without the patch the tests say %q too", reason)
		}
	}
	return ""
}

// touched reads the files that a patch changes, as they are in dir.
func touched(dir, patchFile string) (map[string][]byte, error) {
	text, err := os.ReadFile(patchFile)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "+++ b/")
		if !ok {
			continue
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if out[path], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (r *runner) row(ctx context.Context, row string, patches map[string]patch, wrong map[string]string) (how end, why, output string) {
	p, ok := patches[row]
	if !ok {
		return missing, patchDir + "/" + row + ".patch does not exist", ""
	}
	if what, bad := wrong[row]; bad {
		why, output, _ = strings.Cut(what, "\n")
		return broken, why, output
	}
	// The files are put back byte by byte: a patch that is applied backwards may find its few lines elsewhere in the file.
	before, err := touched(r.dir, p.file)
	if err != nil {
		return broken, "the patch names a file that cannot be read", err.Error()
	}
	defer func() {
		for name, b := range before {
			if err := os.WriteFile(name, b, 0o644); err != nil {
				how, why, output = broken, "the patch could not be taken back", err.Error()
			}
		}
	}()
	if out, err := r.command(ctx, r.dir, "git", "apply", "--whitespace=nowarn", p.file); err != nil {
		return broken, "the patch does not apply", out
	}
	// A test may build the program itself; so the whole must compile, or its failure would say nothing. To list the packages with
	// their export data compiles what the patch reaches, and links nothing.
	if out, err := r.command(ctx, r.dir, "go", "list", "-export", "-f", "{{/**/}}", "./..."); err != nil {
		return broken, "the patched tree does not compile", out
	}
	out, err := r.test(ctx, p.pkg, p.test)
	switch {
	case strings.Contains(out, "[build failed]"), strings.Contains(out, "[setup failed]"):
		return broken, "the patched test does not compile", out
	case err == nil:
		return survived, "the test is green without the guard", ""
	case strings.Contains(out, "panic: test timed out"), errors.Is(err, context.DeadlineExceeded):
		return survived, "the test did not end", out
	case !strings.Contains(out, "--- FAIL: "):
		return survived, "the test did not fail by itself", out
	}
	for _, reason := range p.reasons {
		if !strings.Contains(out, reason) {
			return survived, fmt.Sprintf("the test failed, but did not say %q", reason), out
		}
	}
	return killed, strings.Join(p.reasons, "; "), out
}

func (r *runner) test(ctx context.Context, pkg string, names ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout+30*time.Second)
	defer cancel()
	exact := make([]string, 0, len(names))
	for _, name := range names {
		exact = append(exact, anchored(name))
	}
	out, err := r.command(ctx, r.dir, "go", "test", "-count=1", "-vet=off", "-v", "-timeout", r.timeout.String(), "-run", strings.Join(exact, "|"), pkg)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return out, err
}

// anchored makes TestX mean that test and not TestXAgain, part by part.
func anchored(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		if !strings.HasPrefix(p, "^") {
			p = "^" + p
		}
		if !strings.HasSuffix(p, "$") {
			p += "$"
		}
		parts[i] = p
	}
	return strings.Join(parts, "/")
}

func (r *runner) command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.WaitDelay = 10 * time.Second
	// The copy lies in no repository; a repository above it must not be found.
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.dir), "GOWORK=off")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func indent(s string) string {
	const most = 4000
	if len(s) > most {
		s = "...\n" + s[len(s)-most:]
	}
	return "    " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    ")
}
