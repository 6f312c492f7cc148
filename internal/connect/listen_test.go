// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/fault"
)

// listening serves a bridge on loopback and returns its URL.
func listening(t *testing.T, b *Bridge) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- b.Listen(ctx, "127.0.0.1:0", func(url string) { ready <- url }) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the bridge did not end in 10 s")
		}
	})
	return <-ready
}

type knock struct {
	verb, body, host string
	header           http.Header
}

// ask sends one request and returns the answer with its body still to read.
func (k knock) open(t *testing.T, url string) *http.Response {
	t.Helper()
	if k.verb == "" {
		k.verb = http.MethodPost
	}
	r, err := http.NewRequestWithContext(t.Context(), k.verb, url, strings.NewReader(k.body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, k.header)
	r.Host = k.host
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func (k knock) ask(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	resp := k.open(t, url)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp, string(b)
}

func TestListensOnLoopbackOnly(t *testing.T) {
	g := newGate(t, nil)
	b, _ := g.bridge(nil)
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.com:0", "127.0.0.1", "", "localhost"} {
		wantCode(t, b.Listen(t.Context(), addr, func(string) { t.Error("it listens") }), fault.Invalid, "listen_address")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wantCode(t, b.Listen(t.Context(), l.Addr().String(), nil), fault.Unavailable, "listen")
}

func TestOnlyWhoKnowsThePathIsHeard(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { result(w, m, `{}`) })
	b, _ := g.bridge(nil)
	url, other := listening(t, b), listening(t, b)
	base, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	if len(path) < 26+len("/mcp") || strings.HasSuffix(other, path) {
		t.Errorf("the path %q can be guessed", path)
	}
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	rows := []struct {
		name, url string
		k         knock
		status    int
	}{
		{"the right path", url, knock{body: ping}, 200},
		{"its own origin", url, knock{body: ping, header: http.Header{"Origin": {"http://" + base}}}, 200},
		{"no path", "http://" + base, knock{body: ping}, 404},
		{"a wrong path", "http://" + base + "/mcp", knock{body: ping}, 404},
		{"a longer path", url + "/x", knock{body: ping}, 404},
		{"the path in capitals", "http://" + base + "/" + strings.ToUpper(path), knock{body: ping}, 404},
		{"a foreign host", url, knock{body: ping, host: "evil.example"}, 403},
		{"a rebound name with the port", url, knock{body: ping, host: "evil.example:" + base[strings.LastIndex(base, ":")+1:]}, 403},
		{"a foreign origin", url, knock{body: ping, header: http.Header{"Origin": {"https://evil.example"}}}, 403},
		{"the origin null", url, knock{body: ping, header: http.Header{"Origin": {"null"}}}, 403},
		{"an empty origin", url, knock{body: ping, header: http.Header{"Origin": {""}}}, 403},
		{"two origins", url, knock{body: ping, header: http.Header{"Origin": {"http://" + base, "https://evil.example"}}}, 403},
		{"a foreign GET", url, knock{verb: "GET", header: http.Header{"Origin": {"https://evil.example"}}}, 403},
		{"a preflight", url, knock{verb: "OPTIONS", header: http.Header{"Origin": {"https://evil.example"}}}, 403},
	}
	want := 0
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			resp, body := r.k.ask(t, r.url)
			if resp.StatusCode != r.status || resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
		if r.status == 200 {
			want++
		}
	}
	if n := len(g.seen()); n != want {
		t.Errorf("%d of %d knocks reached the gateway", n, want)
	}
}

// TestClientsHeadersDoNotRoute: what is decided by is the body, so the headers say what the body says whatever the client sent; and nothing
// else of the client's goes out under the agent's name.
func TestClientsHeadersDoNotRoute(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) {
		w.Header().Set("WWW-Authenticate", "DPoP")
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("Mcp-Session-Id", "s1.session")
		result(w, m, `{}`)
	})
	b, _ := g.bridge(nil)
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"payment_send","arguments":{"to":"x"},` + meta26 + `}}`
	resp, _ := knock{body: body, header: http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {"2025-11-25"},
		"Mcp-Method": {"tools/list"}, "Mcp-Name": {"mail_list"}, "Mcp-Param-To": {"y"}, "mcp-name": {"other"},
		"Authorization": {"Bearer mine"}, "Dpop": {"mine"}, "Cookie": {"c"}, "X-Forwarded-For": {"192.0.2.1"}, "Idempotency-Key": {"k"}, "Prefer": {"wait=1"},
	}}.ask(t, listening(t, b))
	h := g.last("tools/call").header
	for name := range h {
		switch name {
		case "Accept", "Content-Type", "Prefer", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name", "Authorization", "Dpop", "User-Agent", "Content-Length", "Accept-Encoding":
		default:
			t.Errorf("%s: %q went out", name, h[name])
		}
	}
	for name, want := range map[string][]string{"Mcp-Method": {"tools/call"}, "Mcp-Name": {"payment_send"}, "Mcp-Protocol-Version": {"2026-07-28"},
		"Authorization": {"DPoP credential-1"}, "Prefer": {"wait=1"}} {
		if d := cmp.Diff(want, h[name]); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	if resp.Header.Get("WWW-Authenticate") != "" || resp.Header.Get("Set-Cookie") != "" || resp.Header.Get("Mcp-Session-Id") != "s1.session" {
		t.Errorf("came back: %v", resp.Header)
	}
	if g.last("tools/call").body != body {
		t.Error("the body is another")
	}
}

func TestNotificationOfTheNewEraKeepsItsHeaders(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { w.WriteHeader(http.StatusAccepted) })
	b, _ := g.bridge(nil)
	resp, body := knock{body: `{"jsonrpc":"2.0","method":"notifications/progress"}`,
		header: http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/list"}}}.ask(t, listening(t, b))
	if h := g.last("notifications/progress").header; h.Get("Mcp-Method") != "notifications/progress" || resp.StatusCode != 202 || body != "" {
		t.Errorf("%d %q with %v", resp.StatusCode, body, h)
	}
}

func TestStreamsAreFlushedAtOnce(t *testing.T) {
	for verb, body := range map[string]string{"GET": "", "POST": `{"jsonrpc":"2.0","id":1,"method":"tools/call"}`} {
		t.Run(verb, func(t *testing.T) {
			next := make(chan string)
			g := newGate(t, func(w http.ResponseWriter, r *http.Request, m seen) {
				send := stream(w)
				for s := range next {
					send(s)
				}
			})
			b, _ := g.bridge(nil)
			url := listening(t, b)
			resp := knock{verb: verb, body: body, header: http.Header{"Mcp-Session-Id": {"s1.x"}, "Last-Event-Id": {"7"}}}.open(t, url) // the header is there before any event
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
				t.Fatalf("%d %v", resp.StatusCode, resp.Header)
			}
			lines := bufio.NewReader(resp.Body)
			for _, s := range []string{`{"jsonrpc":"2.0","method":"a"}`, `{"jsonrpc":"2.0","method":"b"}`} {
				next <- s
				event, err := lines.ReadString('\n')
				data, err2 := lines.ReadString('\n')
				_, err3 := lines.ReadString('\n')
				if err != nil || err2 != nil || err3 != nil || event != "event: message\n" || data != "data: "+s+"\n" {
					t.Fatalf("%q %q %v %v", event, data, err, err2)
				}
			}
			close(next)
			rest, err := io.ReadAll(lines)
			if err != nil {
				t.Fatal(err)
			}
			if verb == "POST" { // its answer never came
				if _, code := codeOf(t, strings.TrimPrefix(strings.Split(string(rest), "\n")[1], "data: ")); code != "answer_lost" {
					t.Errorf("%s", rest)
				}
			} else if len(rest) > 0 {
				t.Errorf("%s", rest)
			}
			if h := g.last(verb).header; h.Get("Mcp-Session-Id") != "s1.x" || h.Get("Last-Event-Id") != "7" {
				t.Errorf("%v", h)
			}
		})
	}
}

func TestDeleteIsPassed(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) {
		w.Header().Set("Allow", "POST")
		w.WriteHeader(map[string]int{"DELETE": 204, "GET": 405, "PUT": 405}[m.verb])
	})
	b, _ := g.bridge(nil)
	url := listening(t, b)
	for verb, status := range map[string]int{"DELETE": 204, "GET": 405, "PUT": 405} {
		resp, _ := knock{verb: verb, body: map[string]string{"PUT": "x"}[verb], header: http.Header{"Mcp-Session-Id": {"s1.x"}}}.ask(t, url)
		if got := g.last(verb); resp.StatusCode != status || got.header.Get("Mcp-Session-Id") != "s1.x" || got.body != "" {
			t.Errorf("%s: %d, sent %+v", verb, resp.StatusCode, got)
		}
	}
}

func TestHTTPRequestsAreAnsweredToo(t *testing.T) {
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call"}`
	rows := []struct {
		name, body string
		serve      func(w http.ResponseWriter, m seen)
		status     int
		code       string
	}{
		{"cut", call, func(w http.ResponseWriter, m seen) { cut(t, w) }, 200, "answer_lost"},
		{"cut in JSON", call, func(w http.ResponseWriter, m seen) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "99")
			_, _ = io.WriteString(w, "{")
		}, 200, "answer_lost"},
		{"a notification that failed", `{"jsonrpc":"2.0","method":"a"}`, func(w http.ResponseWriter, m seen) { cut(t, w) }, 502, "answer_lost"},
		{"no credential any more", call, func(w http.ResponseWriter, m seen) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(401)
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32010,"message":"no","data":{"code":"bad_credential"}}}`)
		}, 200, "bad_credential"},
		{"not JSON", `{"jsonrpc"`, nil, 400, "json_syntax"},
		{"a batch", `[` + call + `]`, nil, 400, "not_jsonrpc"},
		{"too large", `"` + strings.Repeat("x", maxBody) + `"`, nil, 413, "message_too_large"},
		{"unroutable", `{"jsonrpc":"2.0","id":1,"method":"a\nb","params":{` + meta26 + `}}`, nil, 200, "unroutable"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { r.serve(w, m) })
			b, _ := g.bridge(nil)
			resp, body := knock{body: r.body}.ask(t, listening(t, b))
			if _, code := codeOf(t, body); resp.StatusCode != r.status || code != r.code || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
}

// TestListenEndsWithItsStreams: a client that holds a stream does not keep the bridge.
func TestListenEndsWithItsStreams(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, r *http.Request, m seen) { stream(w); <-r.Context().Done() })
	b, _ := g.bridge(nil)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- b.Listen(ctx, "127.0.0.1:0", func(url string) { ready <- url }) }()
	resp := knock{verb: "GET"}.open(t, <-ready)
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it goes on")
	}
	_, _ = io.Copy(io.Discard, resp.Body)
}
