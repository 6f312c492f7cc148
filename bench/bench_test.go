// SPDX-License-Identifier: Apache-2.0

// Package bench measures the product as it is shipped, in processes of its own, beside baselines of the same run: the same calls
// straight to the server and through a plain reverse proxy, raw signatures, raw appends to a file. It decides what is counted and
// how; it never fails on a time, only on an answer that is wrong.
package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"text/tabwriter"
)

// TestMain runs one of the parts where this binary was started as one, else the benchmarks, and prints what they found.
func TestMain(m *testing.M) {
	if part := os.Getenv(partEnv); part != "" {
		if err := runPart(part); err != nil {
			fmt.Fprintln(os.Stderr, part+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	found.print(os.Stdout)
	os.Exit(code)
}

// figure is one line of the tables: what was measured over how many callers.
type figure struct {
	calls, p50, p99           float64 // per second; milliseconds
	middle, upstream, clients float64 // microseconds of CPU a call, by process
}

// table keeps the last, longest run of every benchmark.
type table struct {
	mu    sync.Mutex
	roads map[string]figure // "gateway, read/16"
	rooms map[string]float64
}

var found = table{roads: map[string]figure{}, rooms: map[string]float64{}}

func (t *table) road(name string, f figure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.roads[name] = f
}

func (t *table) of(name string) figure {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.roads[name]
}

// room keeps a figure per second.
func (t *table) room(name string, perSecond float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rooms[name] = perSecond
}

func (t *table) print(out io.Writer) {
	if len(t.roads) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(w, "\n\tcallers\tcalls/s\tp50 ms\tp99 ms\tCPU us/call: middle\tserver\tclient\trate/direct\trate/proxy\tCPU/proxy\t\n")
		for _, n := range []int{1, 16} {
			direct, proxy := t.roads[key("direct", n)], t.roads[key("proxy", n)]
			for _, way := range []string{"direct", "proxy", "gateway-read", "gateway-effect", "issue"} {
				f, ok := t.roads[key(way, n)]
				if !ok {
					continue
				}
				fmt.Fprintf(w, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.0f\t%.0f\t%.0f\t%s\t%s\t%s\t\n", way, n, f.calls, f.p50, f.p99, f.middle, f.upstream, f.clients,
					ratio(f.calls, direct.calls), ratio(f.calls, proxy.calls), ratio(f.middle, proxy.middle))
			}
		}
		w.Flush()
		fmt.Fprintln(out, "middle is the proxy or the gateway; client CPU holds what signing a proof costs, which only the gateway and the issuer ask for")
	}
	if len(t.rooms) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(w, "\n\tper second\tus each\tof its baseline\t\n")
		for _, name := range slices.SortedFunc(maps.Keys(t.rooms), func(a, b string) int { return cmp.Compare(a, b) }) {
			v, against := t.rooms[name], ""
			if base := baselines[name]; base != "" {
				against = ratio(v, t.rooms[base]) + " " + base
			}
			fmt.Fprintf(w, "%s\t%.0f\t%.1f\t%s\t\n", name, v, 1e6/v, against)
		}
		w.Flush()
	}
}

// baselines names what a room's figure is held against.
var baselines = map[string]string{
	"commit/writers=1": "append/writers=1", "commit/writers=64": "append/writers=64",
	"decide/read": "signature/verify", "decide/effect": "signature/verify", "decide/asks": "signature/verify",
	"proof/mint": "signature/sign", "proof/verify": "signature/verify",
}

func key(way string, callers int) string { return fmt.Sprintf("%s/c=%d", way, callers) }

func ratio(a, b float64) string {
	if a == 0 || b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2fx", a/b)
}
