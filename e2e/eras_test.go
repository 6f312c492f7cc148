// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"chaperone/examples/demo"
)

// eras are the two that the official client speaks with us.
var eras = []string{"2025-11-25", "2026-07-28"}

// upWith starts the deployment with more settings than a stage has.
func upWith(t *testing.T, s *demo.Stage, env ...string) demo.Started {
	t.Helper()
	p, err := s.Start(context.WithoutCancel(t.Context()), "chaperone", func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, env...) }, "up", "-o", "json")
	must(t, err)
	var st demo.Started
	if err := p.JSON(&st); err != nil {
		t.Fatalf("chaperone up: %v\n%s", err, s.LogTail("chaperone"))
	}
	go io.Copy(io.Discard, p.Lines)
	return st
}

// sdkClient is the official client behind `chaperone connect`, over stdio.
func sdkClient(ctx context.Context, t *testing.T, s *demo.Stage, era string, opts *mcp.ClientOptions, connect ...string) *mcp.ClientSession {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.Bin, append([]string{"connect"}, connect...)...)
	cmd.Env, cmd.Dir = s.Environ(), s.Dir
	said, err := os.OpenFile(filepath.Join(s.Dir, "connect.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	cmd.Stderr = said
	session, err := mcp.NewClient(&mcp.Implementation{Name: "official", Version: "1"}, opts).
		Connect(ctx, &mcp.CommandTransport{Command: cmd, TerminateDuration: 10 * time.Second}, &mcp.ClientSessionOptions{ProtocolVersion: era})
	if err != nil {
		t.Fatalf("the official client does not connect in %s: %v\n%s", era, err, s.LogTail("connect"))
	}
	t.Cleanup(func() {
		_ = session.Close() // a closed pipe is how it ends
		said.Close()
	})
	if got := session.InitializeResult().ProtocolVersion; got != era {
		t.Errorf("the client speaks %s, want %s", got, era)
	}
	return session
}

// outcome is what the gateway says of a refused or pending call under _meta.
type outcome struct {
	Verdict, Code, Rule, Decision string
	Approval                      struct{ ID, Link, State string }
}

func outcomeOf(t *testing.T, res *mcp.CallToolResult) outcome {
	t.Helper()
	b, err := json.Marshal(res.Meta["chaperone/outcome"])
	must(t, err)
	var o outcome
	must(t, json.Unmarshal(b, &o))
	return o
}

func textOf(res *mcp.CallToolResult) string {
	var b strings.Builder
	for _, c := range res.Content {
		if tc, ok := c.(*mcp.TextContent); ok {
			b.WriteString(tc.Text)
		}
	}
	return b.String()
}

// rpcCode is the JSON-RPC code of an error, 0 if it is none.
func rpcCode(err error) int64 {
	e, ok := errors.AsType[*jsonrpc.Error](err)
	if !ok {
		return 0
	}
	return e.Code
}

// rpcData is what the gateway says beside an error.
func rpcData(err error) string {
	e, ok := errors.AsType[*jsonrpc.Error](err)
	if !ok {
		return fmt.Sprint(err)
	}
	return string(e.Data)
}

var payment = map[string]any{"iban": "DE89370400440532013000", "recipient": "Hallmann Print", "amount": 1240, "reference": "2043"}

// approvePending has ada approve the one pending approval of a run.
func approvePending(ctx context.Context, s *demo.Stage, run string) error {
	var page struct {
		Items []struct {
			ID            string
			BindingDigest string `json:"binding_digest"`
			Call          struct{ Run string }
			Run           string
		}
	}
	if err := s.Do(ctx, "ada", "", &page, "approval", "list", "--state", "pending"); err != nil {
		return err
	}
	if len(page.Items) != 1 {
		return fmt.Errorf("%d approvals are pending in run %s, want 1", len(page.Items), run)
	}
	a := page.Items[0]
	return s.Do(ctx, "ada", "", nil, "approval", "approve", a.ID, "--binding", a.BindingDigest, "--reason", "seen")
}

// payments is how many payments the office has made.
func payments(ctx context.Context, t *testing.T, c *mcp.ClientSession) int {
	t.Helper()
	res, err := c.CallTool(ctx, &mcp.CallToolParams{Name: "payment_list", Arguments: map[string]any{}})
	must(t, err)
	b, err := json.Marshal(res.StructuredContent)
	must(t, err)
	var got struct{ Payments []json.RawMessage }
	must(t, json.Unmarshal(b, &got))
	return len(got.Payments)
}

// TestEras drives the official client through connect in both eras: what is permitted, denied, hidden and pending, and the other
// things an MCP server has beside tools.
func TestEras(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	s := open(t, "info")
	up := upWith(t, s, "CHAPERONE_LIMITS_HOLD=300ms")
	_, err := s.StartOffice(context.WithoutCancel(ctx))
	must(t, err)
	must(t, s.People(ctx, up))
	must(t, s.Rules(ctx, nil))
	more := filepath.Join(s.Dir, "more.yaml")
	must(t, os.WriteFile(more, []byte(`version: 1
servers:
  office:
    prompts:
      month_end: {effect: read, source: {integrity: trusted}}
    resources:
      "office://handbook": {effect: read, source: {integrity: trusted}}
`), 0o600))
	must(t, s.Do(ctx, "nora", "", nil, "catalog", "apply", more))
	tools := "office/mail_list,office/mail_read,office/file_list,office/file_read,office/payment_list,office/diagnostics"
	must(t, s.Do(ctx, "nora", "", nil, "type", "put", "bookkeeper", "--writes", "office/payment_send,office/mail_send",
		"--reads", tools+",office/prompt:month_end,office/resource:office://handbook"))
	must(t, s.Do(ctx, "nora", "", nil, "type", "put", "visitor", "--reads", "office/file_list"))

	for _, era := range eras {
		t.Run(era, func(t *testing.T) {
			name := "clerk-" + era[:4]
			code := join(t, s, name, "bookkeeper")
			run := openRun(t, s, name, "keep the books")
			state := filepath.Join(s.Dir, name)
			var mu sync.Mutex
			var progress []string
			opts := &mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{}, ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
				mu.Lock()
				defer mu.Unlock()
				progress = append(progress, r.Params.Message)
			}}
			c := sdkClient(ctx, t, s, era, opts, "--state", state, "--server", "office", "--run", run, "--join", code)
			eraTools(ctx, t, c)
			eraPending(ctx, t, s, c, run)
			eraPrompts(ctx, t, c)

			call := &mcp.CallToolParams{Name: "diagnostics", Arguments: map[string]any{}}
			call.SetProgressToken("p1")
			res, err := c.CallTool(ctx, call)
			must(t, err)
			if text := textOf(res); !strings.Contains(text, "[redacted]") || strings.Contains(text, s.Secret) {
				t.Errorf("diagnostics answered %q", text)
			}
			mu.Lock()
			if len(progress) != 2 || !strings.Contains(progress[0], "credential begins") {
				t.Errorf("progress %q, want two messages", progress)
			}
			mu.Unlock()

			if era == "2026-07-28" {
				eraInputRequired(ctx, t, s, state, run)
			}
			eraUnknown(ctx, t, s, era, state, run)

			visitor := "visitor-" + era[:4]
			code = join(t, s, visitor, "visitor")
			eraVisitor(ctx, t, sdkClient(ctx, t, s, era, opts, "--state", filepath.Join(s.Dir, visitor), "--server", "office",
				"--run", openRun(t, s, visitor, "look around"), "--join", code))
		})
	}
}

func eraTools(ctx context.Context, t *testing.T, c *mcp.ClientSession) {
	t.Helper()
	list, err := c.ListTools(ctx, nil)
	must(t, err)
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
	}
	slices.Sort(names)
	want := []string{"diagnostics", "file_list", "file_read", "mail_list", "mail_read", "mail_send", "payment_list", "payment_send"}
	if !slices.Equal(names, want) {
		t.Errorf("listed %v, want %v", names, want)
	}
	res, err := c.CallTool(ctx, &mcp.CallToolParams{Name: "file_read", Arguments: map[string]any{"name": "notes.txt"}})
	if err != nil || res.IsError || !strings.Contains(textOf(res), "yard gate") {
		t.Errorf("file_read: %v %v", res, err)
	}
	large := map[string]any{"iban": "DE89370400440532013000", "recipient": "Hallmann Print", "amount": 9000, "reference": "2043"}
	res, err = c.CallTool(ctx, &mcp.CallToolParams{Name: "payment_send", Arguments: large})
	must(t, err)
	if o := outcomeOf(t, res); !res.IsError || o.Rule != "payments-over-limit" || !strings.HasPrefix(o.Decision, "dec_") || !strings.Contains(textOf(res), "by hand") {
		t.Errorf("payment over the limit: %+v %q", o, textOf(res))
	}
	_, hidden := c.CallTool(ctx, &mcp.CallToolParams{Name: "file_delete", Arguments: map[string]any{"name": "notes.txt"}})
	_, absent := c.CallTool(ctx, &mcp.CallToolParams{Name: "no_such", Arguments: map[string]any{"name": "notes.txt"}})
	if rpcCode(hidden) != -32602 || !strings.Contains(rpcData(hidden), "not_listed") || hidden.Error() != absent.Error() || rpcData(hidden) != rpcData(absent) {
		t.Errorf("a hidden tool: %v %s; an absent one: %v %s", hidden, rpcData(hidden), absent, rpcData(absent))
	}
}

// eraPending: a client that cannot be asked anything is told that the call is pending, and repeats it.
func eraPending(ctx context.Context, t *testing.T, s *demo.Stage, c *mcp.ClientSession, run string) {
	t.Helper()
	before := payments(ctx, t, c)
	pay := func() *mcp.CallToolResult {
		t.Helper()
		res, err := c.CallTool(ctx, &mcp.CallToolParams{Name: "payment_send", Arguments: payment})
		must(t, err)
		return res
	}
	first := pay()
	o := outcomeOf(t, first)
	if !first.IsError || o.Verdict != "pending" || o.Rule != "irreversible-needs-approval" || !strings.Contains(textOf(first), "This cannot be undone") || o.Approval.Link != s.API+"/approvals/"+o.Approval.ID {
		t.Fatalf("the payment did not wait: %+v %q", o, textOf(first))
	}
	if again := outcomeOf(t, pay()); again.Approval.ID != o.Approval.ID {
		t.Errorf("the same call asked a second question: %s and %s", o.Approval.ID, again.Approval.ID)
	}
	must(t, approvePending(ctx, s, run))
	if res := pay(); res.IsError {
		t.Errorf("approved and repeated, the payment did not run: %q", textOf(res))
	}
	if n := payments(ctx, t, c) - before; n != 1 {
		t.Errorf("%d payments were made, want 1", n)
	}
	if o := outcomeOf(t, pay()); o.Verdict != "pending" {
		t.Errorf("an approval served twice: %+v", o)
	}
	must(t, approvePending(ctx, s, run)) // so that nothing stays open
	pay()
}

// eraInputRequired: a client of 2026-07-28 that can show a link is asked for input, and the SDK repeats the call by itself.
func eraInputRequired(ctx context.Context, t *testing.T, s *demo.Stage, state, run string) {
	t.Helper()
	var links []string
	opts := &mcp.ClientOptions{Capabilities: &mcp.ClientCapabilities{Elicitation: &mcp.ElicitationCapabilities{URL: &mcp.URLElicitationCapabilities{}}},
		ElicitationHandler: func(ctx context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			links = append(links, r.Params.URL)
			if len(links) == 2 { // the first time the user comes back before anybody has decided
				if err := approvePending(ctx, s, run); err != nil {
					return nil, err
				}
			}
			return &mcp.ElicitResult{Action: "accept"}, nil
		}}
	c := sdkClient(ctx, t, s, "2026-07-28", opts, "--state", state, "--server", "office", "--run", run)
	before := payments(ctx, t, c)
	res, err := c.CallTool(ctx, &mcp.CallToolParams{Name: "payment_send", Arguments: payment})
	if err != nil || res.IsError {
		t.Fatalf("the payment that was asked for: %v %v", res, err)
	}
	if len(links) != 2 || links[0] != links[1] || !strings.HasPrefix(links[0], s.API+"/approvals/apr_") {
		t.Errorf("the user was sent to %q, want one link twice", links)
	}
	if n := payments(ctx, t, c) - before; n != 1 {
		t.Errorf("%d payments were made, want 1", n)
	}

	// Without the SDK's own repeating: the result says so, and the state is given back by hand.
	opts.MultiRoundTrip = &mcp.MultiRoundTripOptions{Disabled: true}
	byHand := sdkClient(ctx, t, s, "2026-07-28", opts, "--state", state, "--server", "office", "--run", run)
	res, err = byHand.CallTool(ctx, &mcp.CallToolParams{Name: "payment_send", Arguments: payment})
	must(t, err)
	if !res.NeedsInput() || res.RequestState == "" {
		t.Fatalf("want input_required, got %+v", res)
	}
	must(t, approvePending(ctx, s, run))
	changed := map[string]any{"iban": "DE89370400440532013000", "recipient": "Hallmann Print", "amount": 1241, "reference": "2043"}
	answers := mcp.InputResponseMap{"approval": &mcp.ElicitResult{Action: "accept"}}
	if _, err := byHand.CallTool(ctx, &mcp.CallToolParams{Name: "payment_send", Arguments: changed, RequestState: res.RequestState, InputResponses: answers}); !strings.Contains(rpcData(err), "request_state_other_call") {
		t.Errorf("changed arguments under the state of another call: %v %s", err, rpcData(err))
	}
	res, err = byHand.CallTool(ctx, &mcp.CallToolParams{Name: "payment_send", Arguments: payment, RequestState: res.RequestState, InputResponses: answers})
	if err != nil || res.IsError {
		t.Errorf("the state given back after the approval: %v %v", res, err)
	}
}

func eraPrompts(ctx context.Context, t *testing.T, c *mcp.ClientSession) {
	t.Helper()
	prompts, err := c.ListPrompts(ctx, nil)
	if err != nil || len(prompts.Prompts) != 1 || prompts.Prompts[0].Name != "month_end" {
		t.Errorf("prompts: %v %v", prompts, err)
	}
	p, err := c.GetPrompt(ctx, &mcp.GetPromptParams{Name: "month_end"})
	if err != nil || len(p.Messages) != 1 {
		t.Errorf("prompt: %v %v", p, err)
	}
	resources, err := c.ListResources(ctx, nil)
	if err != nil || len(resources.Resources) != 1 || resources.Resources[0].URI != "office://handbook" {
		t.Errorf("resources: %v %v", resources, err)
	}
	r, err := c.ReadResource(ctx, &mcp.ReadResourceParams{URI: "office://handbook"})
	if err != nil || len(r.Contents) != 1 || !strings.Contains(r.Contents[0].Text, "tenth") {
		t.Errorf("resource: %v %v", r, err)
	}
	if _, err := c.ReadResource(ctx, &mcp.ReadResourceParams{URI: "office://safe"}); !strings.Contains(rpcData(err), "not_listed") {
		t.Errorf("an unknown resource: %v %s", err, rpcData(err))
	}
}

// eraVisitor: what the type does not list is neither shown nor given.
func eraVisitor(ctx context.Context, t *testing.T, c *mcp.ClientSession) {
	t.Helper()
	tools, err := c.ListTools(ctx, nil)
	if err != nil || len(tools.Tools) != 1 || tools.Tools[0].Name != "file_list" {
		t.Errorf("the visitor's tools: %v %v", tools, err)
	}
	prompts, err := c.ListPrompts(ctx, nil)
	if err != nil || len(prompts.Prompts) != 0 {
		t.Errorf("the visitor's prompts: %v %v", prompts, err)
	}
	resources, err := c.ListResources(ctx, nil)
	if err != nil || len(resources.Resources) != 0 {
		t.Errorf("the visitor's resources: %v %v", resources, err)
	}
	_, hidden := c.GetPrompt(ctx, &mcp.GetPromptParams{Name: "month_end"})
	_, absent := c.GetPrompt(ctx, &mcp.GetPromptParams{Name: "no_such"})
	if rpcCode(hidden) != -32602 || hidden.Error() != absent.Error() || rpcData(hidden) != rpcData(absent) {
		t.Errorf("a hidden prompt: %v; an absent one: %v", hidden, absent)
	}
	_, hidden = c.ReadResource(ctx, &mcp.ReadResourceParams{URI: "office://handbook"})
	_, absent = c.ReadResource(ctx, &mcp.ReadResourceParams{URI: "office://no_such"})
	if hidden == nil || absent == nil || rpcData(hidden) != rpcData(absent) || !strings.Contains(rpcData(hidden), "not_listed") {
		t.Errorf("a hidden resource: %v; an absent one: %v", hidden, absent)
	}
}

// eraUnknown sends methods that no SDK would, through the bridge.
func eraUnknown(ctx context.Context, t *testing.T, s *demo.Stage, era, state, run string) {
	t.Helper()
	p, err := s.Start(context.WithoutCancel(ctx), "raw-connect", nil, "connect", "--state", state, "--server", "office", "--run", run)
	must(t, err)
	defer p.Stop()
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	if era != "2026-07-28" {
		meta = `"a":1`
	}
	for _, method := range []string{"office/open_safe", "tools/delete", "sampling/createMessage", "rpc.discover"} {
		_, err := fmt.Fprintf(p.Stdin, `{"jsonrpc":"2.0","id":"u","method":"%s","params":{%s}}`+"\n", method, meta)
		must(t, err)
		var got struct {
			ID    string
			Error struct {
				Code    int
				Message string
			}
		}
		must(t, p.JSON(&got))
		if got.ID != "u" || got.Error.Code != -32601 {
			t.Errorf("%s in %s: %+v, want -32601", method, era, got)
		}
	}
}
