// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// searchAgent looks for a secret in the environment, readable memory and files of a process and all its children. It returns
// where it was found ("" = nowhere) and how many processes were searched.
func searchAgent(pid int, home, secret string) (where string, searched int, err error) {
	pids, err := family(pid)
	if err != nil {
		return "", 0, err
	}
	needle := []byte(secret)
	for _, p := range pids {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p))
		if err != nil {
			return "", searched, err
		}
		if bytes.Contains(env, needle) {
			return fmt.Sprintf("environment (process %d)", p), searched, nil
		}
		found, err := inMemory(p, needle)
		if err != nil {
			return "", searched, err
		}
		if found {
			return fmt.Sprintf("memory (process %d)", p), searched, nil
		}
		searched++
	}
	err = filepath.WalkDir(home, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, needle) {
			where = "files (" + path + ")"
		}
		return err
	})
	return where, searched, err
}

// family lists a process and its descendants.
func family(pid int) ([]int, error) {
	children := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue // it ended meanwhile
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], p)
		}
	}
	out := []int{pid}
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i]]...)
	}
	return out, nil
}

func inMemory(pid int, needle []byte) (bool, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false, err
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return false, err
	}
	defer mem.Close()
	buf := make([]byte, 1<<20)
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || mode[0] != 'r' || mode[1] != 'w' {
			continue // what the process cannot write holds nothing that came to it
		}
		for at := from; at < to; at += int64(len(buf)) - int64(len(needle)) {
			n, err := mem.ReadAt(buf[:min(int64(len(buf)), to-at)], at)
			if n > 0 && bytes.Contains(buf[:n], needle) {
				return true, nil
			}
			if err != nil && !errors.Is(err, io.EOF) {
				break // a guard page, or the mapping is gone
			}
		}
	}
	return false, lines.Err()
}
