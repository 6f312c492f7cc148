// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// event is one line of `go test -json` (go doc test2json), with the two actions of a failed build.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64
	Output     string
}

// counts are of tests without subtests; a test with subtests counts only where it failed by itself. A package that failed
// without a failed test (it did not build, or ended early) counts as one failure.
type counts struct{ passed, failed, skipped int }

func (c counts) good(requireAll bool) bool {
	return c.failed == 0 && c.passed > 0 && (!requireAll || c.skipped == 0)
}

func (c counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
}

type result struct {
	action string // pass, fail, skip; "" = it never ended
	output []string
	parent bool
}

type key struct{ pkg, test string }

type run struct {
	w       io.Writer
	results map[key]*result
	order   []key
	build   map[string][]string
}

func report(in io.Reader, w io.Writer, requireAll bool) (counts, error) {
	r := &run{w: w, results: map[key]*result{}, build: map[string][]string{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return counts{}, err
		}
	}
	return r.end(requireAll), nil
}

func (r *run) line(line []byte) {
	var e event
	if !bytes.HasPrefix(line, []byte("{")) || json.Unmarshal(line, &e) != nil {
		fmt.Fprint(r.w, string(line)) // not of test2json: the go command itself speaks
		return
	}
	if e.Action == "build-output" || e.Action == "build-fail" {
		if e.Output != "" {
			r.build[e.ImportPath] = append(r.build[e.ImportPath], e.Output)
		}
		return
	}
	k := key{e.Package, e.Test}
	res := r.results[k]
	if res == nil {
		res = &result{}
		r.results[k] = res
		r.order = append(r.order, k)
		for up := e.Test; strings.Contains(up, "/"); {
			up = up[:strings.LastIndexByte(up, '/')]
			if p := r.results[key{e.Package, up}]; p != nil {
				p.parent = true
			}
		}
	}
	switch e.Action {
	case "output":
		res.output = append(res.output, e.Output)
	case "pass", "fail", "skip":
		res.action = e.Action
		if e.Test == "" && e.Action != "skip" {
			word := map[string]string{"pass": "ok  ", "fail": "FAIL"}[e.Action]
			fmt.Fprintf(r.w, "%s %s %.1fs\n", word, e.Package, e.Elapsed)
		}
	}
}

func (r *run) end(requireAll bool) counts {
	var c counts
	var failed, skipped []key
	failedIn := map[string]bool{}
	for _, k := range r.order {
		res := r.results[k]
		if k.test == "" || res.parent && (res.action != "fail" || r.childFailed(k)) {
			continue
		}
		switch res.action {
		case "pass":
			c.passed++
		case "skip":
			c.skipped++
			skipped = append(skipped, k)
		default:
			c.failed++
			failed = append(failed, k)
			failedIn[k.pkg] = true
		}
	}
	for _, k := range r.order {
		if k.test == "" && r.results[k].action != "pass" && r.results[k].action != "skip" && !failedIn[k.pkg] {
			c.failed++
			failed = append(failed, k)
		}
	}
	for _, text := range r.build {
		fmt.Fprint(r.w, "\n", strings.Join(text, ""))
	}
	for _, k := range failed {
		fmt.Fprintf(r.w, "\n--- failed: %s\n%s", k, strings.Join(r.results[k].output, ""))
	}
	if len(skipped) > 0 {
		fmt.Fprintf(r.w, "\nskipped, and why:\n")
		for _, k := range skipped {
			fmt.Fprintf(r.w, "  %s: %s\n", k, reason(r.results[k].output))
		}
		if requireAll {
			fmt.Fprintln(r.w, "everything is required here, so a skipped test is a failure")
		}
	}
	if c.passed+c.failed == 0 {
		fmt.Fprintln(r.w, "no test ran")
	}
	fmt.Fprintf(r.w, "\n%s\n", c)
	return c
}

func (r *run) childFailed(k key) bool {
	return slices.ContainsFunc(r.order, func(o key) bool {
		return o.pkg == k.pkg && strings.HasPrefix(o.test, k.test+"/") && r.results[o].action != "pass" && r.results[o].action != "skip"
	})
}

func (k key) String() string {
	if k.test == "" {
		return k.pkg
	}
	return k.pkg + " " + k.test
}

// reason is what a test said before it ended, without the lines that the testing package writes around it.
func reason(output []string) string {
	var said []string
	for line := range strings.Lines(strings.Join(output, "")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if _, after, ok := strings.Cut(line, "_test.go:"); ok {
			if _, text, ok := strings.Cut(after, ": "); ok {
				line = text
			}
		} else if _, after, ok := strings.Cut(line, ".go:"); ok {
			if _, text, ok := strings.Cut(after, ": "); ok {
				line = text
			}
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, "; ")
}
