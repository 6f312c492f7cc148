// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// ignoreAgree leaves the check of a definition out of comparisons; it is a function.
var ignoreAgree = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Agree" }, cmp.Ignore())

func releases(msgs []enforce.Message, o enforce.Outcome, err error) *engine {
	return &engine{answer: func(_ context.Context, _ enforce.Request, out enforce.Sink) (enforce.Outcome, error) {
		for _, m := range msgs {
			if err := out.Release(m); err != nil {
				return enforce.Outcome{Verdict: enforce.Failed}, err
			}
		}
		return o, err
	}}
}

func TestReleasedForms(t *testing.T) {
	run := id.NewRun(time.Now())
	released := enforce.Outcome{Verdict: enforce.Released}
	odd := "{\"jsonrpc\":\"2.0\" ,\n \"id\":7,\"result\":{\"n\":1.50}}"
	call := ask{body: rpc("tools/call", `{"name":"pay"}`)}
	note := ask{body: `{"jsonrpc":"2.0","method":"notifications/progress"}`}
	tests := []struct {
		name   string
		ask    ask
		msgs   []enforce.Message
		o      enforce.Outcome
		err    error
		status int
		kind   string
		body   string
	}{
		{"one JSON message", call, []enforce.Message{{Raw: []byte(odd), Status: 200, Session: "up"}}, released, nil, 200, "application/json", odd},
		{"an error with its status", call, []enforce.Message{{Raw: []byte(odd), Status: 404}}, released, nil, 404, "application/json", odd},
		{"the upstream's 401 is not ours", call, []enforce.Message{{Raw: []byte(odd), Status: 401}}, released, nil, 200, "application/json", odd},
		{"the upstream's 503 keeps its words", call, []enforce.Message{{Raw: []byte(odd), Status: 503}}, released, nil, 200, "application/json", odd},
		{"a stream", call, []enforce.Message{
			{Stream: true, Status: 200, Event: "prime", EventID: "0"},
			{Stream: true, Raw: []byte(`{"a":1}`), Event: "message", EventID: "1"},
			{Stream: true, Retry: "500"},
			{Stream: true, Raw: []byte(odd)},
		}, released, nil, 200, "text/event-stream", ": open\n\nevent: message\ndata: {\"a\":1}\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\" ,\ndata:  \"id\":7,\"result\":{\"n\":1.50}}\n\n"},
		{"a stream that is refused on the way", call, []enforce.Message{{Stream: true, Raw: []byte(`{"a":1}`)}},
			enforce.Outcome{Verdict: enforce.Denied, Code: "budget_bytes", Reason: "Too much.", Listed: true, Begun: true}, nil, 200, "text/event-stream",
			"event: message\ndata: {\"a\":1}\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"_meta\":{\"chaperone/outcome\":{\"code\":\"budget_bytes\",\"reason\":\"Too much.\",\"verdict\":\"denied\"}},\"content\":[{\"text\":\"Denied (budget_bytes). Too much.\",\"type\":\"text\"}],\"isError\":true}}\n\n"},
		{"a stream that breaks", call, []enforce.Message{{Stream: true, Raw: []byte(`{"a":1}`)}},
			enforce.Outcome{Verdict: enforce.Failed, Begun: true}, fault.New(fault.Unavailable, "x", "upstream_unavailable", "broke off"), 200, "text/event-stream",
			"event: message\ndata: {\"a\":1}\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32603,\"data\":{\"code\":\"upstream_unavailable\"},\"message\":\"broke off\"}}\n\n"},
		{"a notification", note, []enforce.Message{{Status: 202}}, released, nil, 202, "", ""},
		{"a notification, nothing released", note, nil, released, nil, 202, "", ""},
		{"a call without an answer", call, []enforce.Message{{Status: 202}}, released, nil, 200, "application/json",
			`{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"data":{"code":"upstream_bad_message","fix":"try again later; other servers are not affected"},"message":"the server office gave no answer"}}`},
		{"the stream of a session", ask{method: "GET"}, []enforce.Message{{Stream: true, Status: 200}, {Stream: true, Raw: []byte(`{}`)}}, released, nil, 200, "text/event-stream", ": open\n\nevent: message\ndata: {}\n\n"},
		{"no stream", ask{method: "GET"}, []enforce.Message{{Status: 405, Header: map[string][]string{"Allow": {"OBEY"}}}}, released, nil, 405, "", ""},
		{"no stream at all", ask{method: "GET"}, nil, released, nil, 405, "", ""},
		{"the end of a session", ask{method: "DELETE"}, []enforce.Message{{Status: 200}}, released, nil, 204, "", ""},
		{"no end of sessions", ask{method: "DELETE"}, []enforce.Message{{Status: 405}}, released, nil, 405, "", ""},
	}
	for i := range tests {
		for j := range tests[i].msgs {
			tests[i].msgs[j].Run = run
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := door(t, releases(tt.msgs, tt.o, tt.err), nil)
			resp, body := send(t, base, tt.ask)
			if resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != tt.kind {
				t.Errorf("%d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
			}
			if d := cmp.Diff(tt.body, body); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if allow := resp.Header.Get("Allow"); (tt.status == 405) != (allow == "POST, DELETE" || allow == "GET, POST") {
				t.Errorf("Allow: %s", allow)
			}
			if s := resp.Header.Get("Mcp-Session-Id"); s != "" {
				d := New(Deps{}, Config{PublicURL: base, SessionKey: []byte("0123456789abcdef0123456789abcdef")})
				up, owner, ok := d.sessions.open(s, "office")
				if !ok || up != "up" || owner != run || strings.Contains(s, "up") {
					t.Error(s, up, owner, ok)
				}
			} else if len(tt.msgs) > 0 && tt.msgs[0].Session != "" {
				t.Error("the session was not passed on")
			}
		})
	}
}

func TestMessagesArriveAsTheyAreReleased(t *testing.T) {
	next := make(chan struct{})
	e := &engine{answer: func(ctx context.Context, _ enforce.Request, out enforce.Sink) (enforce.Outcome, error) {
		for range 3 {
			select {
			case <-next:
			case <-ctx.Done():
				return enforce.Outcome{}, ctx.Err()
			}
			if err := out.Release(enforce.Message{Stream: true, Raw: []byte(`{}`)}); err != nil {
				return enforce.Outcome{}, err
			}
		}
		return enforce.Outcome{Verdict: enforce.Released}, nil
	}}
	base := door(t, e, nil)
	r, _ := http.NewRequestWithContext(t.Context(), "POST", base+"/mcp/office", strings.NewReader(rpc("tools/call", `{"name":"pay"}`)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	go func() { next <- struct{}{} }()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		if i > 0 {
			next <- struct{}{}
		}
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(line, "data:") {
				break
			}
		}
	}
	io.Copy(io.Discard, resp.Body)
}

func TestCallerGoneEndsTheCall(t *testing.T) {
	ended := make(chan error, 1)
	e := &engine{answer: func(ctx context.Context, _ enforce.Request, out enforce.Sink) (enforce.Outcome, error) {
		for {
			if err := out.Release(enforce.Message{Stream: true, Raw: []byte(`{"a":"` + strings.Repeat("x", 1<<16) + `"}`)}); err != nil {
				ended <- err
				return enforce.Outcome{Verdict: enforce.Failed}, err
			}
		}
	}}
	// A caller that opens an answer and never reads it.
	base := door(t, e, func(c *Config) { c.Write = 200 * time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "POST", base+"/mcp/office", strings.NewReader(rpc("tools/call", `{"name":"pay"}`)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if fault.CodeOf(err) != "caller_gone" {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a slow reader holds the road")
	}
	cancel()
	resp.Body.Close()
	// The connection of the next request is not under the deadlines of an old one.
	base = door(t, &engine{}, func(c *Config) { c.Write, c.Read = 50*time.Millisecond, 50*time.Millisecond })
	for range 3 {
		if resp, _ := send(t, base, ask{body: rpc("ping", "{}")}); resp.StatusCode != 200 {
			t.Error(resp.StatusCode)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestSlowBody(t *testing.T) {
	e := &engine{}
	base := door(t, e, func(c *Config) { c.Read = 100 * time.Millisecond })
	pr, pw := io.Pipe()
	defer pw.Close()
	go io.WriteString(pw, `{"jsonrpc":`)
	r, _ := http.NewRequestWithContext(t.Context(), "POST", base+"/mcp/office", pr)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		// The door may close the connection before the answer is read; what counts is that nothing was asked of the road.
		if len(e.asked) != 0 {
			t.Errorf("half a body went on the road (%v)", err)
		}
		return
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 400 || !strings.Contains(string(b), "body_broken") || len(e.asked) != 0 {
		t.Error(resp.StatusCode, string(b))
	}
}

func TestLongCallOutlivesTheReadDeadline(t *testing.T) {
	e := &engine{answer: func(ctx context.Context, _ enforce.Request, out enforce.Sink) (enforce.Outcome, error) {
		select {
		case <-ctx.Done():
			return enforce.Outcome{Verdict: enforce.Failed}, fault.New(fault.Unavailable, "x", "caller_gone", "gone")
		case <-time.After(300 * time.Millisecond):
		}
		return enforce.Outcome{Verdict: enforce.Released}, out.Release(enforce.Message{Raw: []byte(`{}`), Status: 200})
	}}
	base := door(t, e, func(c *Config) { c.Read = 50 * time.Millisecond })
	if resp, body := send(t, base, ask{body: rpc("ping", "{}")}); resp.StatusCode != 200 || body != "{}" {
		t.Error(resp.StatusCode, body)
	}
}
