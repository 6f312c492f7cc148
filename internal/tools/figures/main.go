// SPDX-License-Identifier: Apache-2.0

// Command figures reads what `go test -bench` prints, passes it on, and writes a flat JSON object of figure name to number. It
// decides how a figure is named ("Gateway/c=16" with the unit "calls/s" is "Gateway/c=16 calls_per_s"); it never judges one.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

func main() {
	out := flag.String("o", "build/bench.json", "the `file` to write")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *out); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, pass io.Writer, out string) error {
	figures := map[string]float64{}
	failed := false
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(pass, lines.Text())
		failed = failed || strings.HasPrefix(lines.Text(), "FAIL") || strings.HasPrefix(lines.Text(), "--- FAIL")
		read(lines.Text(), figures)
	}
	switch {
	case lines.Err() != nil:
		return lines.Err()
	case failed:
		return errors.New("a benchmark failed; no figures are written")
	case len(figures) == 0:
		return errors.New("no benchmark ran")
	}
	b, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(out, append(b, '\n'), 0o644)
}

// processors is the suffix that the testing package adds for GOMAXPROCS.
var processors = regexp.MustCompile(`-\d+$`)

// read takes the figures of one line: name, count, and then pairs of value and unit. Of a benchmark that ran several times the
// last run stands.
func read(line string, figures map[string]float64) {
	f := strings.Fields(line)
	if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
		return
	}
	if _, err := strconv.Atoi(f[1]); err != nil {
		return
	}
	name := processors.ReplaceAllString(strings.TrimPrefix(f[0], "Benchmark"), "")
	for i := 2; i+1 < len(f); i += 2 {
		if v, err := strconv.ParseFloat(f[i], 64); err == nil {
			figures[name+" "+strings.ReplaceAll(f[i+1], "/", "_per_")] = v
		}
	}
}
