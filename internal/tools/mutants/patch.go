// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// patch is one row: what to break, which test must notice, and what it must say.
type patch struct {
	row, file string
	pkg, test string
	reasons   []string
}

const patchDir = "testdata/mutants"

// readRows returns the rows of the matrix in order. Empty lines and lines that begin with # are not rows.
func readRows(root string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(root, patchDir, "ROWS"))
	if err != nil {
		return nil, err
	}
	var rows []string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if slices.Contains(rows, line) {
			return nil, fmt.Errorf("%s/ROWS names %s twice", patchDir, line)
		}
		rows = append(rows, line)
	}
	return rows, nil
}

// readPatches returns the patches by row. A file that says another row than its name, or lacks a line, is an error.
func readPatches(root string) (map[string]patch, error) {
	files, err := filepath.Glob(filepath.Join(root, patchDir, "*.patch"))
	if err != nil {
		return nil, err
	}
	out := map[string]patch{}
	for _, file := range files {
		p, err := readPatch(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out[p.row] = p
	}
	return out, nil
}

func readPatch(file string) (patch, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return patch{}, err
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return patch{}, err
	}
	p := patch{file: abs}
	for line := range strings.Lines(string(b)) {
		text, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "# ")
		if !ok {
			break
		}
		name, value, _ := strings.Cut(text, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "row":
			p.row = value
		case "test":
			p.pkg, p.test, _ = strings.Cut(value, " ")
			p.test = strings.TrimSpace(p.test)
		case "reason":
			if value != "" {
				p.reasons = append(p.reasons, value)
			}
		}
	}
	switch {
	case p.row != strings.TrimSuffix(filepath.Base(file), ".patch"):
		return p, fmt.Errorf("the line \"# row:\" says %q", p.row)
	case p.pkg == "" || p.test == "":
		return p, errors.New("the line \"# test: <package> <test>\" is missing")
	case len(p.reasons) == 0:
		return p, errors.New("the line \"# reason:\" is missing")
	case !strings.Contains(string(b), "\n+++ "):
		return p, errors.New("there is no diff")
	}
	return p, nil
}

// copyTree copies the files that git tracks or would track, as they are in the work tree, to dir.
func copyTree(root, dir string, files []string) error {
	for _, name := range files {
		from, to := filepath.Join(root, name), filepath.Join(dir, name)
		info, err := os.Lstat(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted and not yet committed
		}
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(from)
			if err != nil {
				return err
			}
			if err := os.Symlink(target, to); err != nil {
				return err
			}
			continue
		}
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, b, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}
