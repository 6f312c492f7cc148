// SPDX-License-Identifier: Apache-2.0

// Command fuzz runs every fuzz target of the module for a while, one after the other. It decides which targets there are by
// asking the go command; it never leaves a target out. An input that fails is kept by the go command under the package's
// testdata/fuzz, as a test case to commit with the repair.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func main() {
	each := flag.Duration("time", 20*time.Second, "how long to run each target")
	out := flag.String("o", "build/fuzz.json", "the `file` to write")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	f, err := run(ctx, ".", *each, os.Stdout)
	if err == nil {
		err = write(*out, f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(2)
	}
	if f.Failed > 0 || f.Targets == 0 {
		os.Exit(1)
	}
}

type figures struct {
	Targets    int   `json:"targets"`
	Failed     int   `json:"failed"`
	Executions int64 `json:"executions"`
	Seconds    int   `json:"seconds"`
}

type target struct{ pkg, name string }

func run(ctx context.Context, dir string, each time.Duration, w io.Writer) (figures, error) {
	var f figures
	begin := time.Now()
	cmd := exec.CommandContext(ctx, "go", "test", "-list", "^Fuzz", "./...")
	cmd.Dir = dir
	cmd.Stderr = w
	list, err := cmd.Output()
	if err != nil {
		return f, fmt.Errorf("go test -list: %w\n%s", err, list)
	}
	for _, t := range targets(string(list)) {
		f.Targets++
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(), t.pkg)
		cmd.Dir = dir
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		if ctx.Err() != nil {
			return f, ctx.Err()
		}
		n := executions(out.String())
		f.Executions += n
		if err != nil {
			f.Failed++
			fmt.Fprintf(w, "FAIL %s %s\n%s\n", t.pkg, t.name, &out)
			continue
		}
		fmt.Fprintf(w, "ok   %s %s, %d executions\n", t.pkg, t.name, n)
	}
	f.Seconds = int(time.Since(begin).Seconds())
	fmt.Fprintf(w, "\n%d targets, %d failed, %d executions\n", f.Targets, f.Failed, f.Executions)
	return f, nil
}

// targets reads the list: names, and after them a line "ok", the package and the time.
func targets(list string) []target {
	var out []target
	var names []string
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		switch {
		case len(f) == 1 && strings.HasPrefix(f[0], "Fuzz"):
			names = append(names, f[0])
		case len(f) >= 2 && f[0] == "ok":
			for _, n := range names {
				out = append(out, target{f[1], n})
			}
			names = nil
		}
	}
	return out
}

var execs = regexp.MustCompile(`execs: (\d+)`)

func executions(out string) int64 {
	all := execs.FindAllStringSubmatch(out, -1)
	if len(all) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(all[len(all)-1][1], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func write(out string, f figures) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(out, append(b, '\n'), 0o644)
}
