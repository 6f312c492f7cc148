// SPDX-License-Identifier: Apache-2.0

// Command mutants removes one guard at a time and demands that the guard's test goes red, for the reason that the test asserts.
// Each patch in testdata/mutants is one row of the enforcement matrix; testdata/mutants/ROWS lists the rows. It decides
// whether a row is held by a test; it never touches the tree it is run in, only a copy.
//
// A patch begins with three kinds of lines, then holds a unified diff as git writes it:
//
//	# row: replayed-proof
//	# test: ./internal/identity TestMatrix_ReplayedProof
//	# reason: a replayed proof was accepted, want proof_replayed
//
// The reason must appear in the failing output and not in the passing one; several such lines must all appear.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	root := flag.String("root", ".", "the root of the repository")
	only := flag.String("row", "", "run this row alone, and write no figures")
	timeout := flag.Duration("timeout", 4*time.Minute, "the longest that one test may take")
	countsFile := flag.String("counts", "", "append passed, failed and skipped to this `file`")
	keep := flag.Bool("v", false, "print the output of every test, not only of rows that are not held")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := &runner{root: *root, timeout: *timeout, out: os.Stdout, verbose: *keep}
	begin := time.Now()
	f, err := r.run(ctx, *only)
	if err == nil {
		f.Seconds = int(time.Since(begin).Seconds())
		fmt.Printf("\n%d of %d rows held\n", f.Killed, f.Rows)
		err = write(*root, *only, *countsFile, f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	if f.Killed != f.Rows || f.Rows == 0 {
		os.Exit(1)
	}
}

// figures is what build/mutants.json holds.
type figures struct {
	Rows     int `json:"rows"`
	Killed   int `json:"killed"`
	Survived int `json:"survived"` // the test stayed green, or failed for another reason
	Missing  int `json:"missing"`  // no patch
	Broken   int `json:"broken"`   // the patch does not apply or compile, or the test is red without it
	Seconds  int `json:"seconds"`
}

func write(root, only, countsFile string, f figures) error {
	if countsFile != "" {
		c, err := os.OpenFile(countsFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		fmt.Fprintln(c, f.Killed, f.Rows-f.Killed, 0)
		if err := c.Close(); err != nil {
			return err
		}
	}
	if only != "" {
		return nil
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, "build"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "build", "mutants.json"), append(b, '\n'), 0o644)
}
