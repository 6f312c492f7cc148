// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"chaperone/examples/demo"
	"chaperone/internal/api/client"
	"chaperone/internal/app"
	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/config"
	"chaperone/internal/grant"
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

// crashStage makes a deployment with an agent in a run that olaf has opened, and starts it.
func crashStage(t *testing.T) *crashed {
	t.Helper()
	c := &crashed{t: t, s: open(t, "info"), far: &crashFar{told: map[string]int{}}, acked: map[string]string{},
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}}
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

// crashEvent is what the tests read of a record.
type crashEvent struct {
	Type, Step, Grant, Approval string
	Data                        struct{ Outcome, Class, JTI string }
	position                    int64
	text                        string // of the arguments, where they lie beside it
}

func crashRead(position int64, leaf, arguments []byte) (crashEvent, error) {
	e := crashEvent{position: position}
	if err := json.Unmarshal(leaf, &e); err != nil {
		return e, err
	}
	var args struct{ Text string }
	if len(arguments) > 0 {
		if err := json.Unmarshal(arguments, &args); err != nil {
			return e, err
		}
	}
	e.text = args.Text
	return e, nil
}

// recent reads the newest events of the run.
func (c *crashed) recent(t *testing.T) []crashEvent {
	t.Helper()
	page, err := c.ada.Events(t.Context(), client.EventQuery{Run: c.run, Newest: true, Limit: 40})
	must(t, err)
	var out []crashEvent
	for _, e := range page.Items {
		var args []byte
		for _, p := range e.Parts {
			if p.Name == "arguments" {
				args = []byte(p.Text)
			}
		}
		one, err := crashRead(e.Position, e.Leaf, args)
		must(t, err)
		out = append(out, one)
	}
	return out
}

// crashTrail is what the record says of one text.
type crashTrail struct {
	intents, outcomes, whole, asked, consumed int
}

func crashTrailOf(events []crashEvent, text string) (out crashTrail) {
	steps := map[string]bool{}
	for _, e := range events {
		if e.text == text {
			steps[e.Step] = true
		}
	}
	for _, e := range events {
		if !steps[e.Step] {
			continue
		}
		switch {
		case e.Type == audit.CallIntent:
			out.intents++
		case e.Type == audit.CallOutcome && e.Data.Outcome == audit.OutcomeOK:
			out.outcomes++
		case e.Type == audit.CallDecided && e.Data.Outcome == audit.OutcomeOK:
			out.whole++
		case e.Type == audit.CallDecided && e.Data.Outcome == audit.OutcomePending:
			out.asked++
		case e.Type == audit.ApprovalConsumed:
			out.consumed++
		}
	}
	return out
}

// account waits until the log has caught up, exports the record, verifies it against every checkpoint that was ever seen, and holds
// what the database, the client and the far server know against it.
func (c *crashed) account(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	before, err := c.ada.Status(ctx)
	must(t, err)
	c.settled(t, before.Events)
	var raw bytes.Buffer
	must(t, c.ada.Export(ctx, &raw))
	export := crashUntar(t, &raw)
	for _, pinned := range append(c.pinned, nil) {
		report, err := audit.Verify(export, audit.Options{PinnedCheckpoint: pinned})
		must(t, err)
		if !report.OK() || report.Records < before.Events {
			t.Fatalf("the record does not verify, or has %d of %d records:\n%s", report.Records, before.Events, report)
		}
	}
	events := crashRecords(t, export)
	for i, e := range events {
		if e.position != int64(i) {
			t.Fatalf("position %d follows %d", e.position, i-1)
		}
	}
	c.holdBudgets(t, events)
	c.holdGrants(t, events)
	c.holdApprovals(t, events)
	c.mu.Lock()
	defer c.mu.Unlock()
	trails := crashTrails(events)
	for text, tool := range c.acked {
		if got := trails[text]; tool == "look" && got.whole == 0 || tool != "look" && (got.intents == 0 || got.outcomes == 0) {
			t.Errorf("%s %s was released to the client and the record has %+v", tool, text, got)
		}
	}
	c.far.mu.Lock()
	defer c.far.mu.Unlock()
	for text, n := range c.far.told {
		if got := trails[text]; !strings.HasPrefix(text, "look") && !strings.HasPrefix(text, "warm") && got.intents < n {
			t.Errorf("%s reached the server %d times and the record has %+v", text, n, got)
		}
	}
}

// settled waits until the published checkpoint covers n records.
func (c *crashed) settled(t *testing.T, n int64) {
	t.Helper()
	for range 200 {
		raw, err := c.ada.Checkpoint(t.Context())
		if lines := strings.Split(string(raw), "\n"); err == nil && len(lines) > 1 {
			if size, err := strconv.ParseInt(lines[1], 10, 64); err == nil && size >= n {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the log did not catch up with %d records in ten seconds\n%s", n, c.s.LogTail("chaperone"))
}

// holdBudgets compares the steps that the run has spent with those on the record.
func (c *crashed) holdBudgets(t *testing.T, events []crashEvent) {
	t.Helper()
	asked := map[string]bool{}
	for _, e := range events {
		if e.Type == audit.ApprovalRequested {
			asked[e.Step] = true
		}
	}
	var want int64
	for _, e := range events {
		switch {
		case e.Type == audit.CallIntent, e.Type == audit.CallRefused,
			e.Type == audit.CallDecided && e.text != "" && (e.Data.Outcome == audit.OutcomeOK || e.Data.Outcome == audit.OutcomeError),
			e.Type == audit.CallDecided && e.Data.Outcome == audit.OutcomePending && asked[e.Step]:
			want++
		}
	}
	r, err := c.ada.Run(t.Context(), c.run)
	must(t, err)
	if r.Spent.Steps != want {
		t.Errorf("the run has spent %d steps, the record has %d", r.Spent.Steps, want)
	}
}

// holdGrants compares every grant of the run with its events.
func (c *crashed) holdGrants(t *testing.T, events []crashEvent) {
	t.Helper()
	used, released := map[string]int{}, map[string]int{}
	intents := 0
	for _, e := range events {
		switch e.Type {
		case audit.GrantUsed:
			used[e.Grant]++
		case audit.GrantReleased:
			released[e.Grant]++
		case audit.CallIntent:
			intents++
		}
	}
	rows := 0
	for after := ""; ; {
		page, err := c.ada.RunGrants(t.Context(), c.run, client.Page{After: after, Limit: 500})
		must(t, err)
		for _, g := range page.Items {
			rows++
			key := g.ID.String()
			if used[key] != 1 || released[key] != map[bool]int{true: 1}[g.State == grant.Released] || g.State != grant.Used && g.State != grant.Released {
				t.Errorf("grant %s is %s; the record has it used %d times and released %d times", key, g.State, used[key], released[key])
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if rows != len(used) || rows != intents {
		t.Errorf("%d grants, %d used on the record, %d intents", rows, len(used), intents)
	}
}

// holdApprovals compares every approval with its events: used once at most, and no call asked about twice at a time.
func (c *crashed) holdApprovals(t *testing.T, events []crashEvent) {
	t.Helper()
	consumed, requested := map[string]int{}, map[string]int{}
	for _, e := range events {
		switch e.Type {
		case audit.ApprovalConsumed:
			consumed[e.Approval]++
		case audit.ApprovalRequested:
			requested[e.Approval]++
		}
	}
	pending := map[string]int{}
	page, err := c.ada.Approvals(t.Context(), "", client.Page{Limit: 500})
	must(t, err)
	for _, a := range page.Items {
		key := a.ID.String()
		if requested[key] != 1 || consumed[key] != map[bool]int{true: 1}[a.State == approval.Consumed] {
			t.Errorf("approval %s is %s; the record has it requested %d times and consumed %d times", key, a.State, requested[key], consumed[key])
		}
		if a.State == approval.Pending {
			if pending[a.CallDigest]++; pending[a.CallDigest] > 1 {
				t.Errorf("approval %s asks a second time about the same call", key)
			}
		}
	}
}

func crashUntar(t *testing.T, r io.Reader) fs.FS {
	t.Helper()
	out := fstest.MapFS{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		if h.Typeflag == tar.TypeReg {
			b, err := io.ReadAll(in)
			must(t, err)
			out[h.Name] = &fstest.MapFile{Data: b}
		}
	}
}

func crashRecords(t *testing.T, export fs.FS) []crashEvent {
	t.Helper()
	raw, err := fs.ReadFile(export, audit.RecordsFile)
	must(t, err)
	var out []crashEvent
	for line := range bytes.Lines(raw) {
		var row struct {
			Position int64
			Leaf     []byte
			Parts    []struct {
				Name  string
				Bytes []byte
			}
		}
		must(t, json.Unmarshal(line, &row))
		var args []byte
		for _, p := range row.Parts {
			if p.Name == "arguments" {
				args = p.Bytes
			}
		}
		e, err := crashRead(row.Position, row.Leaf, args)
		must(t, err)
		out = append(out, e)
	}
	return out
}

func crashTrails(events []crashEvent) map[string]crashTrail {
	by := map[string][]crashEvent{} // by step
	texts := map[string][]string{}
	for _, e := range events {
		if e.Step == "" {
			continue
		}
		if e.text != "" {
			texts[e.text] = append(texts[e.text], e.Step)
		}
		by[e.Step] = append(by[e.Step], e)
	}
	out := map[string]crashTrail{}
	for text, steps := range texts {
		var all []crashEvent
		seen := map[string]bool{}
		for _, s := range steps {
			if !seen[s] {
				all = append(all, by[s]...)
				seen[s] = true
			}
		}
		out[text] = crashTrailOf(all, text)
	}
	return out
}
