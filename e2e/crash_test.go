// SPDX-License-Identifier: Apache-2.0

package e2e

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
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chaperone/examples/demo"
	"chaperone/internal/api/client"
	"chaperone/internal/app"
	"chaperone/internal/approval"
	"chaperone/internal/canon"
	"chaperone/internal/config"
)

// crashEnv makes this test binary the server that the crash tests kill.
const crashEnv = "CHAPERONE_CRASH_CHILD"

// TestCrashChild is the process that the tests below kill: the whole program, with a failpoint. A line of standard input names the
// point: a step of the road, or "commit 1" for the first durable commit from then on, before anybody has heard of it. There the
// process kills itself with SIGKILL.
func TestCrashChild(t *testing.T) {
	if os.Getenv(crashEnv) == "" {
		return // a part of the tests below, nothing by itself
	}
	if err := crashServe(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0) // without the end of TestMain
}

func crashServe() error {
	conf, err := config.Load(config.Sources{Default: config.Default(os.Getenv("XDG_DATA_HOME"), os.Getenv("XDG_CONFIG_HOME")),
		Environ: os.Environ(), Ignore: []string{crashEnv}})
	if err != nil {
		return err
	}
	var armed atomic.Pointer[string]
	var commits atomic.Int64
	reach := func(point string) {
		if p := armed.Load(); p != nil && *p == point {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	a, err := app.New(ctx, conf, slog.New(slog.NewTextHandler(os.Stderr, nil)), app.Options{Version: "crash", Failpoint: reach,
		Trace: func(string) { reach("commit " + strconv.FormatInt(commits.Add(1), 10)) }})
	if err != nil {
		return err
	}
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			commits.Store(0)
			armed.Store(new(in.Text()))
			fmt.Println("armed")
		}
	}()
	err = a.Run(ctx, func(s app.Started) {
		_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"public_url": s.PublicURL, "api_url": s.APIURL, "login_code": s.LoginCode})
	})
	return errors.Join(err, a.Close())
}

// crashFar is the server behind the gateway: three tools that note what they were told. It speaks just enough MCP to be pinned.
type crashFar struct {
	mu    sync.Mutex
	told  map[string]int // by text, what arrived
	first func()         // is called once, at the first byte of the next request
}

func (f *crashFar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	first := f.first
	f.first = nil
	f.mu.Unlock()
	if first != nil {
		first()
	}
	body, err := io.ReadAll(r.Body)
	if err != nil && len(body) == 0 {
		return
	}
	n, err := canon.Parse(body, canon.Limits{})
	if err != nil || n.Get("id") == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	result := ""
	switch method, _ := n.Get("method").String(); method {
	case "initialize":
		result = `{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"far","version":"1"}}`
	case "tools/list":
		schema := `{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}`
		result = `{"tools":[{"name":"look","inputSchema":` + schema + `},{"name":"note","inputSchema":` + schema + `},{"name":"pay","inputSchema":` + schema + `}]}`
	case "tools/call":
		text, _ := n.Get("params").Get("arguments").Get("text").String()
		f.mu.Lock()
		f.told[text]++
		f.mu.Unlock()
		result = `{"content":[{"type":"text","text":"done: ` + text + `"}]}`
	}
	w.Header().Set("Content-Type", "application/json")
	if result == "" {
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}`, n.Get("id").Raw)
		return
	}
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, n.Get("id").Raw, result)
}

func (f *crashFar) heard(text string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told[text]
}

// crashed is a deployment that is killed and started again on the same data.
type crashed struct {
	t     *testing.T
	s     *demo.Stage
	far   *crashFar
	agent *hand
	ada   *client.Client // decides and reads
	run   string
	http  *http.Client

	proc   *demo.Proc
	lines  chan string // of its standard output; closed when it is gone
	access string

	number atomic.Int64
	mu     sync.Mutex
	acked  map[string]string // text -> tool, of what the client was told is done
	pinned [][]byte          // checkpoints as they were seen before each kill
}

// crashStage makes a deployment with an agent in a run that olaf has opened, and starts it. Those of prepare that are given see the
// data directory before anything is in it.
func crashStage(t *testing.T, prepare ...func(data string)) *crashed {
	t.Helper()
	c := &crashed{t: t, s: open(t, "info"), far: &crashFar{told: map[string]int{}}, acked: map[string]string{},
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}}
	data := filepath.Join(c.s.Dir, "data")
	must(t, os.MkdirAll(data, 0o700))
	for _, p := range prepare {
		p(data)
	}
	code := c.start(t)
	up := httptest.NewServer(c.far)
	t.Cleanup(up.Close)
	must(t, c.s.People(t.Context(), demo.Started{LoginCode: code}))
	enlist(t, c.s, "far", up.URL+"/mcp", `version: 1
servers:
  far:
    tools:
      look: {effect: read, source: {integrity: trusted}}
      note: {effect: write, source: {integrity: trusted}}
      pay: {effect: irreversible, stakes: [money], source: {integrity: trusted}}
`)
	must(t, c.s.Do(t.Context(), "nora", "", nil, "type", "put", "scribe", "--reads", "far/look", "--writes", "far/note,far/pay"))
	c.agent = enrolHand(t, c.s, join(t, c.s, "scribe", "scribe"))
	var r struct{ ID string }
	must(t, c.s.Do(t.Context(), "olaf", "", &r, "run", "open", "--agent", "scribe", "--purpose", "be killed", "--steps", "100000"))
	c.run = r.ID
	ada := personHand(t, c.s, "ada")
	c.ada = client.New(c.s.API, client.Holder{Key: ada.key, ClientID: ada.clientID, Issuer: ada.issuer}, client.Config{})
	c.ready(t)
	return c
}

// start starts the process and returns the operator's login code, if it is the first time.
func (c *crashed) start(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	began := time.Now()
	p, err := c.s.Start(context.WithoutCancel(t.Context()), "chaperone", func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args = self, []string{self, "-test.run=^TestCrashChild$", "-test.timeout=0"}
		cmd.Env = append(cmd.Env, crashEnv+"=1", "CHAPERONE_LIMITS_HOLD=0s")
	})
	must(t, err)
	var up struct {
		Code string `json:"login_code"`
	}
	if err := p.JSON(&up); err != nil {
		t.Fatalf("it does not start: %v\n%s", err, c.s.LogTail("chaperone"))
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to start", took)
	}
	lines := make(chan string, 4)
	go func() {
		defer close(lines)
		for {
			line, err := p.Lines.ReadString('\n')
			if err != nil {
				return
			}
			lines <- strings.TrimSpace(line)
		}
	}()
	c.proc, c.lines = p, lines
	return up.Code
}

// ready gets a credential and makes one read, so that the process knows the server and the agent its nonce.
func (c *crashed) ready(t *testing.T) {
	t.Helper()
	c.agent.t = t
	c.access, _ = c.agent.credential(t.Context(), c.s.Public+"/mcp/far", map[string]string{"run": c.run})
	c.mustDo(t, "look", c.text("warm"))
}

func (c *crashed) text(word string) string {
	return word + "-" + strconv.FormatInt(c.number.Add(1), 10)
}

// arm names the point where the process is to kill itself.
func (c *crashed) arm(t *testing.T, point string) {
	t.Helper()
	checkpoint, err := c.ada.Checkpoint(t.Context())
	must(t, err)
	c.pinned = append(c.pinned, checkpoint)
	_, err = io.WriteString(c.proc.Stdin, point+"\n")
	must(t, err)
	if got, ok := <-c.lines; !ok || got != "armed" {
		t.Fatalf("the process says %q", got)
	}
}

// gone waits until the process is dead.
func (c *crashed) gone(t *testing.T) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case _, ok := <-c.lines:
			if ok {
				continue
			}
			c.proc.Kill() // only to reap it
			return
		case <-late:
			t.Fatalf("the process did not die where it should\n%s", c.s.LogTail("chaperone"))
		}
	}
}

// crashReply is what came of one call, as far as it came.
type crashReply struct {
	status int
	body   string // what arrived of it
	err    error
	at     struct { // out of the result's _meta
		Verdict, Code string
		Approval      struct{ ID string }
	}
}

// done reports whether the client was told that the call is done.
func (r crashReply) done(text string) bool { return strings.Contains(r.body, "done: "+text+`"`) }

// do makes one call. first is called at the first byte of the answer's body.
func (c *crashed) do(ctx context.Context, tool, text string, first func()) (r crashReply) {
	n := c.number.Add(1)
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":{"text":%q}}}`, n, tool, text)
	for range 2 {
		r = crashReply{}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.s.Public+"/mcp/far", strings.NewReader(body))
		if err != nil {
			return crashReply{err: err}
		}
		for k, v := range headers25("") {
			req.Header.Set(k, v)
		}
		req.Header.Set("Authorization", "DPoP "+c.access)
		req.Header.Set("DPoP", c.agent.prove(c.agent.key, http.MethodPost, req.URL.String(), c.agent.nonce(req.URL.String()), c.access))
		resp, err := c.http.Do(req)
		if err != nil {
			return crashReply{err: err}
		}
		var got bytes.Buffer
		one := make([]byte, 1)
		if k, _ := resp.Body.Read(one); k == 1 {
			got.Write(one)
			if first != nil {
				first()
			}
		}
		_, r.err = io.Copy(&got, resp.Body)
		resp.Body.Close()
		r.status, r.body = resp.StatusCode, got.String()
		if v := resp.Header.Get("DPoP-Nonce"); v != "" {
			c.agent.mu.Lock()
			c.agent.nonces[req.URL.Host] = v
			c.agent.mu.Unlock()
		}
		if !strings.Contains(resp.Header.Get("WWW-Authenticate"), "use_dpop_nonce") {
			break
		}
	}
	var answer struct {
		Result struct {
			Meta map[string]json.RawMessage `json:"_meta"`
		}
	}
	if json.Unmarshal([]byte(r.body), &answer) == nil {
		_ = json.Unmarshal(answer.Result.Meta["chaperone/outcome"], &r.at) // absent where the call went through
	}
	if r.done(text) {
		c.mu.Lock()
		c.acked[text] = tool
		c.mu.Unlock()
	}
	return r
}

// mustDo makes a call that has to go through.
func (c *crashed) mustDo(t *testing.T, tool, text string) {
	t.Helper()
	if r := c.do(t.Context(), tool, text, nil); r.err != nil || !r.done(text) {
		t.Fatalf("%s %s did not go through: HTTP %d %s %v\n%s", tool, text, r.status, r.body, r.err, c.s.LogTail("chaperone"))
	}
}

// mustAsk makes a call that has to wait for people, and returns the approval.
func (c *crashed) mustAsk(t *testing.T, tool, text string) string {
	t.Helper()
	r := c.do(t.Context(), tool, text, nil)
	if r.at.Code != "approval_pending" {
		t.Fatalf("%s %s is not pending: HTTP %d %s %v", tool, text, r.status, r.body, r.err)
	}
	return r.at.Approval.ID
}

// approve has ada approve.
func (c *crashed) approve(ctx context.Context, which string) error {
	a, err := c.ada.Approval(ctx, which)
	if err != nil {
		return err
	}
	_, err = c.ada.Decide(ctx, which, client.Decide{Verdict: approval.Yes, BindingDigest: a.BindingDigest, Channel: "api"})
	return err
}
