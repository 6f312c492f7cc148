// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/upstream"
)

// transparent is a road that permits everything and passes it on, so that door and upstream can be seen at work together.
type transparent struct {
	client *upstream.Client
	server catalog.Server
	run    id.Run
	eras   atomic.Int32 // requests of 2026-07-28
}

func (e *transparent) Call(ctx context.Context, r enforce.Request, out enforce.Sink) (enforce.Outcome, error) {
	failed := func(err error) (enforce.Outcome, error) {
		return enforce.Outcome{Verdict: enforce.Failed, Code: fault.CodeOf(err)}, err
	}
	if r.Era == eraStateless {
		e.eras.Add(1)
	}
	if r.Session != "" && r.SessionRun != e.run {
		return failed(fault.New(fault.NotFound, "x", "session_of_another_run", "another run's"))
	}
	x, err := e.client.Forward(ctx, upstream.Forward{Server: e.server, Method: r.HTTPMethod, Header: r.Header, Session: r.Session, Body: r.Body})
	if err != nil {
		return failed(err)
	}
	defer x.Close()
	m := enforce.Message{Status: x.Status, Header: x.Header, Stream: x.Stream, Session: x.Session, Run: e.run}
	any := false
	for {
		got, err := x.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return failed(err)
		}
		any = true
		m.Raw, m.EventID, m.Event, m.Retry = got.Raw, got.EventID, got.Event, got.Retry
		if err := out.Release(m); err != nil {
			return failed(err)
		}
	}
	if !any {
		if err := out.Release(m); err != nil {
			return failed(err)
		}
	}
	return enforce.Outcome{Verdict: enforce.Released}, nil
}

func through(t *testing.T, h http.Handler) (string, *transparent) {
	t.Helper()
	up := httptest.NewServer(h)
	t.Cleanup(up.Close)
	c := upstream.New(upstream.Deps{}, upstream.Config{})
	t.Cleanup(c.Close)
	e := &transparent{client: c, server: catalog.Server{Name: "office", URL: up.URL + "/mcp", AllowLoopback: true}, run: id.NewRun(time.Now())}
	return door(t, e, func(c *Config) { c.Body = 4 << 20; c.Depth = 64 }), e
}

// digests answers every request with the SHA-256 of the bytes it got.
func digests() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		n, err := canon.Parse(b, canon.Limits{})
		if err != nil || n.Get("id") == nil {
			w.WriteHeader(202)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{ "jsonrpc":"2.0", "result" : {"sha256":"%x", "n": 1.0, "unknown":{"z":1,"a":[ ]} },"id":%s}`, sha256.Sum256(b), n.Get("id").Raw)
	})
}

// TestBytesAreForwarded is Shows 2 of the first issue: odd numbers, member order, unknown members and _meta arrive as they were sent.
func TestBytesAreForwarded(t *testing.T) {
	base, _ := through(t, digests())
	args := []string{
		`{}`, `{"n":1.0}`, `{"n":1e400}`, `{"n":-0}`, `{"n":-0.0}`, `{"n":1E+2,"m":100}`, `{"n":12345678901234567890}`, `{"n":0.1000000000000000055511151231257827}`,
		`{"z":1,"a":2,"m":{"y":1,"b":2}}`, `{"s":"\u0041\/\u00e9é\ud83d\ude00"}`, "{\n\t\"a\" : [ 1 , 2 ]\r\n}", `{"":null}`, `{"a":[[],{},[{}],""]}`, `{"__proto__":{"x":1}}`, `{"a":"\u0000\u001f"}`,
	}
	wraps := []struct {
		header map[string]string
		form   string
	}{
		{nil, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":%s}}`},
		{nil, "\n{ \"params\" : {\"arguments\":%s,\"zzz\":[1.50],\"name\":\"\\u0065cho\", \"_meta\":{\"progressToken\":1e2,\"x/y\":{\"b\":1,\"a\":2}}} ,\"method\":\"tools/call\",\"unknown\":{\"q\":1},\"id\":\"\\u0041\",\"jsonrpc\":\"2.0\"}\n"},
		{stateless("tools/call", "echo"), `{"method":"tools/call","id":1.0,"jsonrpc":"2.0","params":{"arguments":%s,"name":"echo","_meta":{"other":{"z":0},"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/protocolVersion":"2026-07-28","traceparent":"00-x"}}}`},
	}
	for _, w := range wraps {
		for _, a := range args {
			body := fmt.Sprintf(w.form, a)
			resp, got := send(t, base, ask{body: body, header: w.header})
			sum := sha256.Sum256([]byte(body))
			doc, err := canon.Parse([]byte(body), canon.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf(`{ "jsonrpc":"2.0", "result" : {"sha256":"%s", "n": 1.0, "unknown":{"z":1,"a":[ ]} },"id":%s}`, hex.EncodeToString(sum[:]), doc.Get("id").Raw)
			if resp.StatusCode != 200 || got != want {
				t.Errorf("%s\n got  %d %s\n want %s", body, resp.StatusCode, got, want)
			}
		}
	}
}

func office(wait chan struct{}) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "office", Version: "1"}, &mcp.ServerOptions{
		CompletionHandler: func(context.Context, *mcp.CompleteRequest) (*mcp.CompleteResult, error) {
			return &mcp.CompleteResult{Completion: mcp.CompletionResultDetails{Values: []string{"x"}}}, nil
		},
		SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	})
	type in struct {
		Text string `json:"text"`
	}
	mcp.AddTool(s, &mcp.Tool{Name: "echo"}, func(_ context.Context, _ *mcp.CallToolRequest, a in) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: a.Text}}, StructuredContent: map[string]any{"text": a.Text}}, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "slow"}, func(ctx context.Context, r *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		for i := range 3 {
			// A server that answers in JSON and has no session has no way to send it; that is not the door's affair.
			_ = r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i), Message: "p"})
		}
		if wait != nil {
			select {
			case <-wait:
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "done"}}}, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "ask"}, func(ctx context.Context, r *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		if r.Params.InputResponses == nil {
			return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"q": &mcp.ElicitParams{Mode: "form", Message: "name?", RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{"a": map[string]any{"type": "string"}}}}}, RequestState: "the-state"}, nil, nil
		}
		if r.Params.RequestState != "the-state" {
			return nil, nil, fmt.Errorf("state %q", r.Params.RequestState)
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "thanks"}}}, nil, nil
	})
	s.AddPrompt(&mcp.Prompt{Name: "greet"}, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: "hello"}}}}, nil
	})
	s.AddResource(&mcp.Resource{URI: "file:///a", Name: "a"}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: "file:///a", Text: "body"}}}, nil
	})
	return s
}

// TestSDKClientThroughTheDoor drives the official client in both eras, against the official server in every mode it has.
func TestSDKClientThroughTheDoor(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		for _, plain := range []bool{true, false} {
			t.Run(fmt.Sprintf("sessions %v json %v", stateful, plain), func(t *testing.T) {
				srv := office(nil)
				h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return srv }, &mcp.StreamableHTTPOptions{Stateless: !stateful, JSONResponse: plain})
				base, e := through(t, h)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				var progress atomic.Int32
				changed := make(chan struct{}, 10)
				client := mcp.NewClient(&mcp.Implementation{Name: "c", Version: "1"}, &mcp.ClientOptions{
					ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) { progress.Add(1) },
					ToolListChangedHandler:      func(context.Context, *mcp.ToolListChangedRequest) { changed <- struct{}{} },
					ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
						return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"a": "b"}}, nil
					},
				})
				session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: base + "/mcp/office"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer session.Close()
				if (e.eras.Load() > 1) == stateful {
					t.Errorf("%d requests of 2026-07-28", e.eras.Load())
				}
				tools, err := session.ListTools(ctx, nil)
				if err != nil || len(tools.Tools) != 3 {
					t.Fatal(tools, err)
				}
				res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"text": "zahle é 1"}})
				if err != nil || res.IsError || res.Content[0].(*mcp.TextContent).Text != "zahle é 1" || res.StructuredContent == nil {
					t.Fatal(res, err)
				}
				if _, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "none"}); err == nil || !strings.Contains(err.Error(), "none") {
					t.Error(err)
				}
				slow := &mcp.CallToolParams{Name: "slow"}
				slow.SetProgressToken("p1")
				if res, err = session.CallTool(ctx, slow); err != nil || res.IsError {
					t.Fatal(res, err)
				}
				if res, err = session.CallTool(ctx, &mcp.CallToolParams{Name: "ask"}); stateful && plain {
					// The server asks on its own stream, which a JSON answer does not have.
				} else if err != nil || res.IsError || res.Content[0].(*mcp.TextContent).Text != "thanks" {
					t.Errorf("%+v %v", res, err)
				}
				if p, err := session.GetPrompt(ctx, &mcp.GetPromptParams{Name: "greet"}); err != nil || len(p.Messages) != 1 {
					t.Error(p, err)
				}
				if r, err := session.ReadResource(ctx, &mcp.ReadResourceParams{URI: "file:///a"}); err != nil || r.Contents[0].Text != "body" {
					t.Error(r, err)
				}
				if c, err := session.Complete(ctx, &mcp.CompleteParams{Ref: &mcp.CompleteReference{Type: "ref/prompt", Name: "greet"}, Argument: mcp.CompleteParamsArgument{Name: "a", Value: "b"}}); err != nil || len(c.Completion.Values) != 1 {
					t.Error(c, err)
				}
				if !plain && progress.Load() != 3 {
					t.Errorf("%d of 3 progress notifications", progress.Load())
				}
				if stateful {
					if err := session.Ping(ctx, nil); err != nil {
						t.Error(err)
					}
					mcp.AddTool(srv, &mcp.Tool{Name: "new"}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
						return nil, nil, nil
					})
					select {
					case <-changed:
					case <-time.After(5 * time.Second):
						t.Error("nothing came over the stream of the session")
					}
				}
				if err := session.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestSessionOfAnotherRun(t *testing.T) {
	srv := office(nil)
	h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return srv }, nil)
	base, e := through(t, h)
	init := ask{body: rpc("initialize", `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}`)}
	resp, body := send(t, base, init)
	session := resp.Header.Get("Mcp-Session-Id")
	if session == "" || !strings.HasPrefix(session, sessionPrefix) {
		t.Fatal(resp.StatusCode, body)
	}
	use := func() (*http.Response, string) {
		return send(t, base, ask{body: rpc("ping", "{}"), header: map[string]string{"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}})
	}
	if resp, body := use(); resp.StatusCode != 200 || !strings.Contains(body, `"result"`) {
		t.Error(resp.StatusCode, body)
	}
	ours := e.run
	defer func() {
		e.run = ours
		if resp, _ := send(t, base, ask{method: "DELETE", header: map[string]string{"Mcp-Session-Id": session}}); resp.StatusCode != 204 {
			t.Error(resp.StatusCode)
		}
	}()
	e.run = id.NewRun(time.Now())
	if resp, body := use(); resp.StatusCode != 404 || !strings.Contains(body, "session_of_another_run") {
		t.Error(resp.StatusCode, body)
	}
}

func TestDeadUpstreamIsOneClearError(t *testing.T) {
	base, e := through(t, digests())
	dead := httptest.NewServer(nil)
	e.server.URL = dead.URL
	dead.Close()
	for _, h := range []map[string]string{nil, stateless("tools/call", "pay")} {
		params := `{"name":"pay"}`
		if h != nil {
			params = `{"name":"pay",` + meta26 + `}`
		}
		resp, body := send(t, base, ask{body: rpc("tools/call", params), header: h})
		want := `{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"data":{"code":"upstream_unavailable","fix":"try again later; other servers are not affected"},"message":"the server office cannot be reached"}}`
		if resp.StatusCode != 200 || body != want {
			t.Error(resp.StatusCode, body)
		}
	}
}
