// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chaperone/internal/api/client"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
)

// treeLog is a transparency log as C2SP tlog-tiles serves one.
type treeLog struct {
	*httptest.Server
	key    string
	signer note.Signer

	mu      sync.Mutex
	records [][]byte
	down    func(path string) bool
	asked   atomic.Int64
}

func newTreeLog(t *testing.T) *treeLog {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, "chaperone.internal/log")
	if err != nil {
		t.Fatal(err)
	}
	l := &treeLog{key: public}
	if l.signer, err = note.NewSigner(private); err != nil {
		t.Fatal(err)
	}
	l.Server = httptest.NewServer(http.HandlerFunc(l.serve))
	t.Cleanup(l.Close)
	return l
}

func (l *treeLog) set(down func(path string) bool, records ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down, l.records = down, nil
	for _, r := range records {
		l.records = append(l.records, []byte(r))
	}
}

func (l *treeLog) serve(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked.Add(1)
	path := strings.TrimPrefix(r.URL.Path, "/log/")
	if l.down != nil && l.down(path) {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	var hashes []tlog.Hash
	read := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i, x := range at {
			out[i] = hashes[x]
		}
		return out, nil
	})
	for i, rec := range l.records {
		more, err := tlog.StoredHashes(int64(i), rec, read)
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		hashes = append(hashes, more...)
	}
	n := int64(len(l.records))
	if path == "checkpoint" {
		root, err := tlog.TreeHash(n, read)
		if err == nil {
			var signed []byte
			text := fmt.Sprintf("%s\n%d\n%s\n", l.signer.Name(), n, base64.StdEncoding.EncodeToString(root[:]))
			if signed, err = note.Sign(&note.Note{Text: text}, l.signer); err == nil {
				_, _ = w.Write(signed)
				return
			}
		}
		http.Error(w, err.Error(), 500)
		return
	}
	if n < 256 && path == audit.TilePath(0, 0, int(n)) { // all the tiles that these small trees have
		tile, err := tlog.ReadTileData(tlog.Tile{H: 8, W: int(n)}, read)
		if err == nil {
			_, _ = w.Write(tile)
			return
		}
	}
	http.NotFound(w, r)
}

func (l *treeLog) watcher(t *testing.T) (*watcher, *logbook) {
	t.Helper()
	g := newGate(t, nil)
	b, log := g.bridge(nil)
	b.state.Enrolled.LogKey = l.key
	b.watch.api = l.URL
	return b.watch, log
}

func kept(t *testing.T, w *watcher, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.state.Dir, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

func TestCheckpointIsKeptAndConsistencyDemanded(t *testing.T) {
	l := newTreeLog(t)
	w, log := l.watcher(t)
	good := func(records ...string) string {
		t.Helper()
		l.set(nil, records...)
		if err := w.check(t.Context()); err != nil {
			t.Fatal(err)
		}
		return kept(t, w, checkpointFile)
	}
	first := good("a", "b", "c")
	if !strings.Contains(first, "\n3\n") {
		t.Fatalf("kept %q", first)
	}
	if again := good("a", "b", "c"); again != first {
		t.Error("the same tree is kept anew")
	}
	grown := good("a", "b", "c", "d", "e")
	if !strings.Contains(grown, "\n5\n") {
		t.Fatalf("kept %q", grown)
	}

	t.Run("unreachable is no error", func(t *testing.T) {
		l.set(func(string) bool { return true }, "a")
		if err := w.check(t.Context()); err != nil || kept(t, w, checkpointFile) != grown {
			t.Errorf("%v", err)
		}
	})
	t.Run("no proof is nothing kept", func(t *testing.T) {
		l.set(func(path string) bool { return path != "checkpoint" }, "x", "y", "z", "1", "2", "3", "4")
		if err := w.check(t.Context()); err != nil || kept(t, w, checkpointFile) != grown || !strings.Contains(log.String(), "checkpoint_unproved") {
			t.Errorf("%v; a tree that is not proved was taken:\n%s", err, log)
		}
	})
	refused := ""
	for _, r := range []struct {
		name    string
		records []string
	}{{"rewritten and grown", []string{"a", "X", "c", "d", "e", "f"}}, {"rewritten", []string{"a", "b", "c", "d", "X"}}, {"cut off", []string{"a", "b"}}, {"emptied", nil}} {
		t.Run(r.name, func(t *testing.T) {
			l.set(nil, r.records...)
			wantCode(t, w.check(t.Context()), fault.Invalid, "log_inconsistent")
			if kept(t, w, checkpointFile) != grown {
				t.Error("the good checkpoint was replaced")
			}
			proof := kept(t, w, checkpointFile+".refused")
			if proof == "" || refused != "" && proof != refused {
				t.Errorf("the first proof is not kept: %q", proof)
			}
			refused = proof
		})
	}
	t.Run("signed by another", func(t *testing.T) {
		other := newTreeLog(t)
		other.set(nil, "a", "b", "c", "d", "e", "f")
		w.api = other.URL
		wantCode(t, w.check(t.Context()), fault.Invalid, "checkpoint_invalid")
		w.api = l.URL
	})
	if again := good("a", "b", "c", "d", "e", "f", "g"); !strings.Contains(again, "\n7\n") {
		t.Errorf("kept %q", again)
	}
}

// TestBridgesOfOneDirectoryDoNotMistakeEachOther: each looks under the lock, so that one's older sight is never held against the other's newer.
func TestBridgesOfOneDirectoryDoNotMistakeEachOther(t *testing.T) {
	l := newTreeLog(t)
	l.set(nil, "0")
	w, _ := l.watcher(t)
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		records := []string{"0"}
		for i := 1; i < 200; i++ {
			select {
			case <-stop:
				return
			default:
			}
			records = append(records, fmt.Sprint(i))
			l.set(nil, records...)
			time.Sleep(time.Millisecond)
		}
	})
	var looking sync.WaitGroup
	for range 6 {
		looking.Go(func() {
			for range 6 {
				// A tile of the old width may be gone when the log grows between two looks: that is unproved, not inconsistent.
				if err := w.check(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	looking.Wait()
	close(stop)
	all.Wait()
}

// TestABridgeDoesNotOpenOnARewrittenLog, but does on one that is away; and one that is open looks again and says so.
func TestABridgeDoesNotOpenOnARewrittenLog(t *testing.T) {
	l := newTreeLog(t)
	l.set(nil, "a", "b")
	g := newGate(t, nil)
	b, log := g.bridge(func(c *Config) { c.Watch = 20 * time.Millisecond })
	b.state.Enrolled.LogKey, b.watch.api = l.key, l.URL
	if _, err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	orders := len(g.orders)
	k := talk(t, b)
	l.set(nil, "a", "X", "c")
	_, err := b.Open(t.Context())
	wantCode(t, err, fault.Invalid, "log_inconsistent")
	if len(g.orders) != orders {
		t.Error("a run was opened before the record was looked at")
	}
	eventually(t, "the open bridge says so", func() bool {
		return strings.Contains(log.String(), "checkpoint_refused") && strings.Contains(log.String(), "log_inconsistent")
	})
	k.ends()
	l.Close()
	if _, err := b.Open(t.Context()); err != nil {
		t.Errorf("a log that is away keeps the bridge from opening: %v", err)
	}
	if !strings.Contains(log.String(), "checkpoint_unreachable") {
		t.Error("that the log is away is not logged")
	}
}

func TestRunsAreOpenedByWhoeverIsGiven(t *testing.T) {
	g := newGate(t, nil)
	open := func(change func(*Config)) string {
		g.mu.Lock()
		g.orders = nil
		g.mu.Unlock()
		g.bridge(change)
		return g.orders[0]
	}
	if got := open(nil); got != `[{"type":"chaperone_run","purpose":"tests"}]` {
		t.Errorf("by the agent: %s", got)
	}
	if got := open(func(c *Config) { c.Run = "run_7" }); got != `[{"type":"chaperone_run","run":"run_7"}]` {
		t.Errorf("continued: %s", got)
	}
	var asked string
	by := func(_ ctx, agent, purpose string) (string, error) {
		asked = agent + ": " + purpose
		return "run_8", nil
	}
	if got := open(func(c *Config) { c.OpenRun = by }); got != `[{"type":"chaperone_run","run":"run_8"}]` || asked != "clerk: tests" {
		t.Errorf("by a person: %s, asked %s", got, asked)
	}
	state := &State{Dir: t.TempDir(), Enrolled: client.Enrolment{Issuer: g.URL, ClientID: "x"}, key: g.key}
	_, err := New(state, Config{OpenRun: func(ctx, string, string) (string, error) {
		return "", fault.New(fault.Denied, "api", "denied", "not yours")
	}}).Open(t.Context())
	wantCode(t, err, fault.Denied, "denied")
	g.refuse = `{"error":"unauthorized_client","code":"agent_suspended","error_description":"suspended"}`
	_, err = New(state, Config{}).Open(t.Context())
	wantCode(t, err, fault.Suspended, "agent_suspended")
}
