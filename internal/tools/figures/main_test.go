// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFigures(t *testing.T) {
	out := filepath.Join(t.TempDir(), "build", "bench.json")
	in := `goos: linux
pkg: chaperone/e2e
BenchmarkGateway/c=16-2         	     100	   1234.5 ns/op	        81.2 calls/s	      11 allocs/op
BenchmarkParse-2 	  469318	      2574 ns/op	 354.32 MB/s
Benchmarks are fun
PASS
ok  	chaperone/e2e	1.2s
`
	var pass bytes.Buffer
	if err := run(strings.NewReader(in), &pass, out); err != nil || pass.String() != in {
		t.Fatalf("%v; passed on %q", err, &pass)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]float64
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{"Gateway/c=16 ns_per_op": 1234.5, "Gateway/c=16 calls_per_s": 81.2, "Gateway/c=16 allocs_per_op": 11, "Parse ns_per_op": 2574, "Parse MB_per_s": 354.32}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"PASS\n", in + "--- FAIL: BenchmarkX\nFAIL\n"} {
		if err := run(strings.NewReader(bad), &pass, filepath.Join(t.TempDir(), "x")); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}
