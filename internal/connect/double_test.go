// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chaperone/internal/api/client"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gate is an issuer and a gateway that answer as a test says. What they must demand of a bridge they do demand: a proof by its key for
// every request, and a credential that was given out. The real ones are met in real_test.go.
type gate struct {
	*httptest.Server
	t     *testing.T
	key   *identity.Key
	now   func() time.Time
	serve func(w http.ResponseWriter, r *http.Request, m seen)

	mu     sync.Mutex
	got    []seen
	orders []string // authorization_details of each request for a credential
	refuse string   // body of a refusal, instead of a credential
}

// seen is one request as the gateway got it.
type seen struct {
	verb   string
	header http.Header
	body   string
	id     string // raw JSON
	method string
}

func newGate(t *testing.T, serve func(w http.ResponseWriter, r *http.Request, m seen)) *gate {
	t.Helper()
	g := &gate{t: t, serve: serve, now: time.Now}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", g.token)
	mux.HandleFunc("/mcp/office", g.mcp)
	g.Server = httptest.NewServer(mux)
	t.Cleanup(g.Close)
	return g
}

func (g *gate) token(w http.ResponseWriter, r *http.Request) {
	if _, err := identity.VerifyProof(r.Header.Get("DPoP"), r.Method, g.URL+"/token", "", g.now()); err != nil {
		g.t.Errorf("the proof at the issuer: %v", err)
	}
	g.mu.Lock()
	g.orders = append(g.orders, r.FormValue("authorization_details"))
	n, refusal := len(g.orders), g.refuse
	g.mu.Unlock()
	if refusal != "" {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, refusal)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprint("credential-", n), "expires_in": 300,
		"authorization_details": []any{map[string]string{"type": "chaperone_run", "run": fmt.Sprint("run_", 1)}}})
}

func (g *gate) mcp(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the bridge ended it
	}
	credential := strings.TrimPrefix(r.Header.Get("Authorization"), "DPoP ")
	proof, err := identity.VerifyProof(r.Header.Get("DPoP"), r.Method, g.URL+"/mcp/office", credential, g.now())
	if public := g.key.Public(); err != nil || proof.Key.JKT() != public.JKT() || !strings.HasPrefix(credential, "credential-") {
		g.t.Errorf("%s with credential %q and proof by %q: %v", r.Method, credential, proof.Key.JKT(), err)
	}
	m := seen{verb: r.Method, header: r.Header.Clone(), body: string(body)}
	var read struct {
		ID     json.RawMessage
		Method string
	}
	_ = json.Unmarshal(body, &read)
	m.id, m.method = string(read.ID), read.Method
	g.mu.Lock()
	g.got = append(g.got, m)
	g.mu.Unlock()
	g.serve(w, r, m)
}

func (g *gate) seen() []seen {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]seen(nil), g.got...)
}

// methods are the methods in the order in which they came; GET and DELETE by their verb.
func (g *gate) methods() []string {
	var out []string
	for _, m := range g.seen() {
		switch {
		case m.verb != http.MethodPost:
			out = append(out, m.verb)
		case m.method == "":
			out = append(out, "answer")
		default:
			out = append(out, m.method)
		}
	}
	return out
}

// last is the last request with this method (or verb).
func (g *gate) last(method string) seen {
	g.t.Helper()
	var out seen
	for _, m := range g.seen() {
		if m.method == method || m.verb == method {
			out = m
		}
	}
	if out.verb == "" {
		g.t.Fatalf("no %s came; these did: %v", method, g.methods())
	}
	return out
}

// result answers a request with a result, as JSON.
func result(w http.ResponseWriter, m seen, result string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+m.id+`,"result":`+result+`}`)
}

// stream answers with events, each flushed; it returns how to send one.
func stream(w http.ResponseWriter) func(data string) {
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(data string) {
		if data != "" {
			_, _ = io.WriteString(w, "event: message\ndata: "+strings.ReplaceAll(data, "\n", "\ndata: ")+"\n\n")
		}
		_ = http.NewResponseController(w).Flush()
	}
	send("")
	return send
}

// cut breaks the connection.
func cut(t *testing.T, w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Errorf("hijack: %v", err)
		return
	}
	c.Close()
}

// logbook is what the bridge logged.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// bridge is an enrolled bridge to the gate's server office, with its run open.
func (g *gate) bridge(change func(*Config)) (*Bridge, *logbook) {
	g.t.Helper()
	state, err := Enrol(g.t.Context(), g.t.TempDir(), false, func(_ context.Context, k *identity.Key) (client.Enrolment, error) {
		g.key = k
		return client.Enrolment{ClientID: "spiffe://chaperone.internal/agent/clerk/ins_1", AgentName: "clerk", Issuer: g.URL}, nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	log := &logbook{}
	cfg := Config{Server: "office", Purpose: "tests", Grace: 200 * time.Millisecond, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&cfg)
	}
	b := New(state, cfg)
	if _, err := b.Open(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(b.cfg.HTTP.CloseIdleConnections)
	return b, log
}

// talker is a client that speaks over stdio.
type talker struct {
	t     *testing.T
	in    *io.PipeWriter
	lines chan string
	done  chan error
	stop  context.CancelFunc
}

func talk(t *testing.T, b *Bridge) *talker {
	t.Helper()
	in, w := io.Pipe()
	r, out := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	k := &talker{t: t, in: w, lines: make(chan string, 1000), done: make(chan error, 1), stop: stop}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			k.lines <- line
		}
	}()
	go func() {
		k.done <- b.Stdio(ctx, in, out)
		out.Close()
	}()
	t.Cleanup(func() {
		w.Close()
		stop()
		<-read
	})
	return k
}

func (k *talker) say(lines ...string) {
	k.t.Helper()
	for _, l := range lines {
		if _, err := io.WriteString(k.in, l+"\n"); err != nil {
			k.t.Fatal(err)
		}
	}
}

// hear waits for the next line.
func (k *talker) hear() string {
	k.t.Helper()
	select {
	case l := <-k.lines:
		return strings.TrimSuffix(l, "\n")
	case <-time.After(10 * time.Second):
		k.t.Fatal("the bridge said nothing for 10 s")
		return ""
	}
}

// silent demands that nothing is said for a moment.
func (k *talker) silent() {
	k.t.Helper()
	select {
	case l := <-k.lines:
		k.t.Fatalf("the bridge said %s", l)
	case <-time.After(100 * time.Millisecond):
	}
}

// code waits for an error as the next line and returns the id it is for and the bridge's code.
func (k *talker) code() (id, code string) {
	k.t.Helper()
	return codeOf(k.t, k.hear())
}

func codeOf(t *testing.T, line string) (id, code string) {
	t.Helper()
	var e struct {
		ID    json.RawMessage
		Error struct{ Data struct{ Code string } }
	}
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	return string(e.ID), e.Error.Data.Code
}

// ends closes the input and demands that the bridge ends well and soon.
func (k *talker) ends() {
	k.t.Helper()
	k.in.Close()
	k.ended(nil)
}

func (k *talker) ended(want error) {
	k.t.Helper()
	select {
	case err := <-k.done:
		if !errors.Is(err, want) {
			k.t.Errorf("the bridge ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		k.t.Fatal("the bridge did not end in 10 s")
	}
}

func wantCode(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind || fault.CodeOf(err) != code {
		t.Fatalf("got %v (%s), want %s %s", err, fault.CodeOf(err), kind, code)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}
