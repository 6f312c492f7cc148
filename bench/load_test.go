// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// caller makes one call and checks its answer. n is different for every call.
type caller func(n int64) error

// way is one way to the server: the caller, and the processes whose CPU is counted (0 = none).
type way struct {
	name             string
	call             caller
	middle, upstream int
}

// measure makes b.N calls by the given number of callers and reports what they took.
func (w way) measure(b *testing.B, callers int) {
	var left, number atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, callers)
	var failed atomic.Pointer[error]
	before := w.cpu(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 && failed.Load() == nil {
				start := time.Now()
				if err := w.call(number.Add(1)); err != nil {
					failed.Store(&err)
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	after := w.cpu(b)
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	at := func(share float64) float64 { return float64(all[int(share*float64(len(all)-1))].Microseconds()) / 1000 }
	each := func(i int) float64 { return float64((after[i] - before[i]).Microseconds()) / float64(b.N) }
	f := figure{calls: float64(b.N) / b.Elapsed().Seconds(), p50: at(0.50), p99: at(0.99), middle: each(0), upstream: each(1), clients: each(2)}
	found.road(key(w.name, callers), f)
	b.ReportMetric(0, "ns/op") // the next line says it better
	b.ReportMetric(f.calls, "calls/s")
	b.ReportMetric(f.p50, "p50-ms")
	b.ReportMetric(f.p99, "p99-ms")
	report := func(v float64, unit string, there bool) {
		if there {
			b.ReportMetric(v, unit)
		}
	}
	report(f.middle, "cpu-us/call", w.middle > 0)
	report(f.upstream, "server-cpu-us/call", w.upstream > 0)
	b.ReportMetric(f.clients, "client-cpu-us/call")
	of := func(unit string, v, base float64) { // nothing where the baseline did not run
		if base > 0 {
			b.ReportMetric(v/base, unit)
		}
	}
	if strings.HasPrefix(w.name, "gateway") {
		direct, proxy := found.of(key("direct", callers)), found.of(key("proxy", callers))
		of("rate-of-direct", f.calls, direct.calls)
		of("rate-of-proxy", f.calls, proxy.calls)
		of("cpu-of-proxy", f.middle, proxy.middle)
	}
}

// cpu is what the processes have used so far: middle, upstream, and the callers here.
func (w way) cpu(b *testing.B) [3]time.Duration {
	b.Helper()
	var out [3]time.Duration
	for i, pid := range []int{w.middle, w.upstream, os.Getpid()} {
		if pid > 0 {
			d, err := processCPU(pid)
			if err != nil {
				b.Fatal(err)
			}
			out[i] = d
		}
	}
	return out
}

// processCPU reads user and system time of a process from /proc/<pid>/stat (proc(5), fields 14 and 15, in hundredths of a second).
func processCPU(pid int) (time.Duration, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(raw, []byte(") ")) // the name of the program may hold spaces
	f := strings.Fields(string(rest))
	if !ok || len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat cannot be read", pid)
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, err
}

func newHTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}, Timeout: 30 * time.Second}
}

// poster makes the tool call at a URL and checks what it says. prove adds to the request what the way demands.
func poster(h *http.Client, url string, prove func(*http.Request) error, seen func(*http.Response)) caller {
	return func(n int64) error {
		text := "the quick brown fox number " + strconv.FormatInt(n, 10)
		body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"echo","arguments":{"text":%q}}}`, n, text)
		req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		req.Header.Set("MCP-Protocol-Version", "2025-11-25")
		if err := prove(req); err != nil {
			return err
		}
		resp, err := h.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		seen(resp)
		var answer struct {
			ID     int64
			Result struct {
				IsError bool
				Content []struct{ Text string }
			}
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return fmt.Errorf("HTTP %d: %w in %q", resp.StatusCode, err, raw)
		}
		if resp.StatusCode != http.StatusOK || answer.ID != n || answer.Result.IsError || len(answer.Result.Content) != 1 || answer.Result.Content[0].Text != text {
			return fmt.Errorf("HTTP %d: wrong answer to call %d: %s", resp.StatusCode, n, raw)
		}
		return nil
	}
}
