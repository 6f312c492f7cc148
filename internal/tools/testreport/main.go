// SPDX-License-Identifier: Apache-2.0

// Command testreport reads `go test -json` from standard input and prints what failed and what was skipped, each with its reason,
// and as its last line "N passed, N failed, N skipped". It decides whether the run was good; it never runs a test itself.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	requireAll := flag.Bool("require-all", os.Getenv("CHAPERONE_REQUIRE_ALL") == "1", "a skipped test is a failure")
	countsFile := flag.String("counts", "", "append the three counts to this `file`, for a sum over several runs")
	figuresFile := flag.String("figures", "", "write the three counts to this `file` as a flat JSON object")
	flag.Parse()
	c, err := report(os.Stdin, os.Stdout, *requireAll)
	if err == nil && *countsFile != "" {
		err = c.append(*countsFile)
	}
	if err == nil && *figuresFile != "" {
		err = c.write(*figuresFile)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	if !c.good(*requireAll) {
		os.Exit(1)
	}
}

func (c counts) append(name string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, c.passed, c.failed, c.skipped); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (c counts) write(name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, fmt.Appendf(nil, "{\n  \"passed\": %d,\n  \"failed\": %d,\n  \"skipped\": %d\n}\n", c.passed, c.failed, c.skipped), 0o644)
}
