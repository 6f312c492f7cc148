// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	meta26     = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	initialize = `{"jsonrpc":"2.0","id":"init","method":"initialize","params":{"protocolVersion":"2025-11-25"}}`
	initReply  = `{"protocolVersion":"2025-11-25","capabilities":{}}`
)

// sessions answers initialize with a session and everything else by f.
func sessions(f func(w http.ResponseWriter, r *http.Request, m seen)) func(http.ResponseWriter, *http.Request, seen) {
	return func(w http.ResponseWriter, r *http.Request, m seen) {
		switch {
		case m.method == "initialize":
			w.Header().Set("Mcp-Session-Id", "s1.session")
			result(w, m, initReply)
		case m.verb == http.MethodGet && f == nil:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case m.verb == http.MethodDelete && f == nil:
			w.WriteHeader(http.StatusNoContent)
		case f == nil && m.id == "":
			w.WriteHeader(http.StatusAccepted)
		case f == nil:
			result(w, m, `{}`)
		default:
			f(w, r, m)
		}
	}
}

func TestSessionFromFirstToLast(t *testing.T) {
	g := newGate(t, sessions(nil))
	b, _ := g.bridge(nil)
	k := talk(t, b)
	k.say(initialize)
	if got := k.hear(); got != `{"jsonrpc":"2.0","id":"init","result":`+initReply+`}` {
		t.Fatal(got)
	}
	k.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	if got := k.hear(); got != `{"jsonrpc":"2.0","id":1,"result":{}}` {
		t.Fatal(got)
	}
	eventually(t, "the session's own stream is opened", func() bool { return slices.Contains(g.methods(), "GET") })
	k.ends()
	for _, name := range []string{"notifications/initialized", "tools/list", "GET", "DELETE"} {
		h := g.last(name).header
		if h.Get("Mcp-Session-Id") != "s1.session" || h.Get("Mcp-Protocol-Version") != "2025-11-25" {
			t.Errorf("%s: session %q, version %q", name, h.Get("Mcp-Session-Id"), h.Get("Mcp-Protocol-Version"))
		}
	}
	if h := g.last("initialize").header; h.Get("Mcp-Session-Id") != "" || h.Get("Mcp-Protocol-Version") != "" || h.Get("Mcp-Method") != "" {
		t.Errorf("initialize went out with %v", h)
	}
	if m := g.methods(); m[len(m)-1] != "DELETE" {
		t.Errorf("the session was not ended: %v", m)
	}
}

// TestBytesStayAsTheyAre: out, the body is the client's line; back, only line breaks are touched, and only where they are white space.
func TestBytesStayAsTheyAre(t *testing.T) {
	odd := `{"jsonrpc":"2.0",  "id":1,"method":"tools/call","params":{"z":1.50,"a":1e2,"name":"x","arguments":{"b":9007199254740993,"ü":"\u00e9\/"},"_meta":{"k":null}}, "extra":[ ]}`
	answer := "{\n  \"jsonrpc\": \"2.0\",\r\n  \"id\": 1,\n\t\"result\": {\"n\": 1.0, \"s\": \"line\\nbreak \\u2028\u2028\", \"m\": 9007199254740993}\n}\n"
	for name, serve := range map[string]func(w http.ResponseWriter){
		"JSON": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_, _ = io.WriteString(w, answer)
		},
		"stream": func(w http.ResponseWriter) { stream(w)(strings.ReplaceAll(answer, "\r", "")) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(w http.ResponseWriter, _ *http.Request, _ seen) { serve(w) })
			b, _ := g.bridge(nil)
			k := talk(t, b)
			k.say("  " + odd + "\r")
			got := k.hear()
			if want := strings.NewReplacer("\r", " ", "\n", " ").Replace(strings.TrimSpace(answer)); strings.ReplaceAll(got, "  ", " ") != strings.ReplaceAll(want, "  ", " ") {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			k.ends()
			if sent := g.last("tools/call").body; sent != odd {
				t.Errorf("sent %q", sent)
			}
		})
	}
}

func TestWhatIsNoMessageIsAnsweredWithANullID(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { result(w, m, `{}`) })
	b, _ := g.bridge(nil)
	k := talk(t, b)
	for line, want := range map[string]string{
		`{"jsonrpc":`:                            "json_syntax",
		`{"jsonrpc":"2.0","id":1,"id":2}`:        "json_duplicate_key",
		`[{"jsonrpc":"2.0","id":1}]`:             "not_jsonrpc",
		`{"jsonrpc":"2.0","id":1}`:               "not_jsonrpc",
		`{"id":1,"method":"a"} {"id":2}`:         "json_trailing_data",
		"{\"id\":1,\"method\":\"\xc3\x28\"}":     "json_invalid_utf8",
		strings.Repeat(`{"a":`, 70) + `1` + "}}": "json_too_deep",
	} {
		k.say(line)
		if id, code := k.code(); id != "null" || code != want {
			t.Errorf("%.40s: id %s, code %s, want null and %s", line, id, code, want)
		}
	}
	k.say("", "   ", `{"jsonrpc":"2.0","id":3,"method":"ping"}`) // empty lines are nothing
	if got := k.hear(); got != `{"jsonrpc":"2.0","id":3,"result":{}}` {
		t.Error(got)
	}
	k.ends()
	if got := g.methods(); !slices.Equal(got, []string{"ping"}) {
		t.Errorf("what cannot be read was sent on: %v", got)
	}
}

func TestHugeLinesAreRefused(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { result(w, m, `{}`) })
	b, _ := g.bridge(nil)
	k := talk(t, b)
	fill := func(n int) string {
		head, tail := `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"`, `"}}`
		return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
	}
	k.say(fill(maxBody))
	if got := k.hear(); got != `{"jsonrpc":"2.0","id":1,"result":{}}` {
		t.Errorf("a message at the bound: %s", got)
	}
	go func() { _, _ = io.WriteString(k.in, fill(maxBody+1)+"\n") }()
	if id, code := k.code(); id != "null" || code != "message_too_large" {
		t.Errorf("id %s, code %s", id, code)
	}
	select {
	case err := <-k.done:
		wantCode(t, err, 8, "message_too_large")
	case <-time.After(5 * time.Second):
		t.Error("the bridge reads on behind a line whose end it does not know")
	}
	if n := len(g.seen()); n != 1 {
		t.Errorf("%d messages were sent", n)
	}
}

// TestNotificationsAreNeverAnswered, whatever the gateway says to them.
func TestNotificationsAreNeverAnswered(t *testing.T) {
	answers := []func(w http.ResponseWriter, m seen){
		func(w http.ResponseWriter, m seen) { w.WriteHeader(http.StatusAccepted) },
		func(w http.ResponseWriter, m seen) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":null,"error":{"code":-32011,"message":"no"}}`)
		},
		func(w http.ResponseWriter, m seen) {
			stream(w)(`{"jsonrpc":"2.0","id":null,"error":{"code":-32011,"message":"no"}}`)
		},
		func(w http.ResponseWriter, m seen) { w.WriteHeader(http.StatusBadGateway) },
		func(w http.ResponseWriter, m seen) { cut(t, w) },
	}
	var n atomic.Int64
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { answers[n.Add(1)-1](w, m) })
	b, log := g.bridge(nil)
	k := talk(t, b)
	for i := range answers {
		if i%2 == 0 {
			k.say(`{"jsonrpc":"2.0","method":"notifications/progress"}`)
		} else {
			k.say(`{"jsonrpc":"2.0","id":"server-1","result":{}}`)
		}
		eventually(t, "it was sent", func() bool { return n.Load() == int64(i+1) })
	}
	k.silent()
	k.ends()
	for _, want := range []string{"status=403", "status=502", "answer_lost"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, log)
		}
	}
}

func TestRequestsRunSideBySideAndInitializeComesFirst(t *testing.T) {
	release := make(chan struct{})
	var calls sync.WaitGroup
	calls.Add(3)
	g := newGate(t, func(w http.ResponseWriter, r *http.Request, m seen) {
		switch m.method {
		case "initialize":
			time.Sleep(50 * time.Millisecond)
			result(w, m, initReply)
		case "notifications/initialized":
			time.Sleep(50 * time.Millisecond)
			w.WriteHeader(http.StatusAccepted)
		case "tools/call":
			calls.Done()
			<-release // all three are here before one is answered
			result(w, m, `{}`)
		}
	})
	b, _ := g.bridge(nil)
	k := talk(t, b)
	k.say(initialize, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	for _, id := range []string{"1", "2", "3"} {
		k.say(`{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call"}`)
	}
	calls.Wait()
	close(release)
	heard := map[string]bool{}
	for range 4 {
		heard[k.hear()] = true
	}
	k.ends()
	if !heard[`{"jsonrpc":"2.0","id":3,"result":{}}`] || len(heard) != 4 {
		t.Errorf("%v", heard)
	}
	want := []string{"initialize", "notifications/initialized", "tools/call", "tools/call", "tools/call"}
	if d := cmp.Diff(want, g.methods()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestTheServerAsks: requests of the server come down the answer's stream and the session's own, and the client's answers go back, even
// while initialize is under way.
func TestTheServerAsks(t *testing.T) {
	answers := make(chan string, 4)
	g := newGate(t, func(w http.ResponseWriter, r *http.Request, m seen) {
		switch {
		case m.method == "initialize":
			w.Header().Set("Mcp-Session-Id", "s1.session")
			send := stream(w)
			send(`{"jsonrpc":"2.0","id":"q1","method":"ping"}`)
			answers <- <-answers
			send(`{"jsonrpc":"2.0","id":` + m.id + `,"result":` + initReply + `}`)
		case m.verb == http.MethodGet:
			send := stream(w)
			send(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
			send(`{"jsonrpc":"2.0","id":"q3","method":"roots/list"}`)
			<-r.Context().Done()
		case m.method == "tools/call":
			send := stream(w)
			send(`{"jsonrpc":"2.0","id":"q2","method":"elicitation/create"}`)
			send(`{"jsonrpc":"2.0","id":` + m.id + `,"result":{}}`)
		case m.method == "" && m.verb == http.MethodPost:
			answers <- m.id
			w.WriteHeader(http.StatusAccepted)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	})
	b, _ := g.bridge(nil)
	k := talk(t, b)
	k.say(initialize)
	if got := k.hear(); got != `{"jsonrpc":"2.0","id":"q1","method":"ping"}` {
		t.Fatal(got)
	}
	k.say(`{"jsonrpc":"2.0","id":"q1","result":{}}`)
	if got := k.hear(); !strings.Contains(got, initReply) {
		t.Fatal(got)
	}
	if id := <-answers; id != `"q1"` {
		t.Errorf("the server heard the answer to %s", id)
	}
	k.say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	if a, c := k.hear(), k.hear(); a != `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}` || c != `{"jsonrpc":"2.0","id":"q3","method":"roots/list"}` {
		t.Errorf("heard %s and %s", a, c)
	}
	k.say(`{"jsonrpc":"2.0","id":9,"method":"tools/call"}`)
	if a, c := k.hear(), k.hear(); !strings.Contains(a, `"q2"`) || c != `{"jsonrpc":"2.0","id":9,"result":{}}` {
		t.Errorf("heard %s and %s", a, c)
	}
	k.say(`{"jsonrpc":"2.0","id":"q2","error":{"code":-1,"message":"no"}}`)
	if id := <-answers; id != `"q2"` || g.last("").header.Get("Mcp-Session-Id") != "s1.session" {
		t.Errorf("the server heard the answer to %s", id)
	}
	k.ends()
}

func TestCancelInSessions(t *testing.T) {
	arrived, told := make(chan struct{}), make(chan struct{})
	g := newGate(t, sessions(func(w http.ResponseWriter, r *http.Request, m seen) {
		switch m.method {
		case "tools/call":
			stream(w)
			close(arrived)
			<-told // and so it stops, without an answer
		case "notifications/cancelled":
			close(told)
			w.WriteHeader(http.StatusAccepted)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	b, _ := g.bridge(nil)
	k := talk(t, b)
	k.say(initialize)
	k.hear()
	k.say(`{"jsonrpc":"2.0","id":"c","method":"tools/call"}`)
	<-arrived
	k.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"\u0063"}}`)
	<-told
	k.silent() // neither the answer nor that it is missing
	k.ends()
	if g.last("notifications/cancelled").header.Get("Mcp-Session-Id") != "s1.session" {
		t.Error("the server was not told in its session")
	}
}

func TestCancelWithoutSessions(t *testing.T) {
	arrived, ended := make(chan struct{}), make(chan struct{})
	g := newGate(t, func(w http.ResponseWriter, r *http.Request, m seen) {
		if m.id == "7" {
			stream(w)
			close(arrived)
			<-r.Context().Done()
			close(ended)
			return
		}
		result(w, m, `{}`)
	})
	b, _ := g.bridge(nil)
	k := talk(t, b)
	k.say(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"pay",` + meta26 + `}}`)
	<-arrived
	k.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`)
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the stream of a cancelled request stays open")
	}
	k.silent()
	k.say(`{"jsonrpc":"2.0","method":"notifications/progress"}`, `{"jsonrpc":"2.0","id":8,"method":"tools/list","params":{`+meta26+`}}`)
	if got := k.hear(); got != `{"jsonrpc":"2.0","id":8,"result":{}}` {
		t.Error(got)
	}
	k.ends()
	if d := cmp.Diff([]string{"tools/call", "notifications/progress", "tools/list"}, g.methods()); d != "" {
		t.Errorf("this era has no cancellation to send (-want +got):\n%s", d)
	}
	if h := g.last("notifications/progress").header; h.Get("Mcp-Protocol-Version") != "2026-07-28" || h.Get("Mcp-Method") != "notifications/progress" {
		t.Errorf("a notification names no version, the bridge does: %v", h)
	}
}

// TestEveryRequestIsAnswered: what breaks on the way is said, and whether the call may have run.
func TestEveryRequestIsAnswered(t *testing.T) {
	rows := []struct {
		name  string
		serve func(w http.ResponseWriter, m seen)
		code  string
	}{
		{"cut before the answer", func(w http.ResponseWriter, m seen) { cut(t, w) }, "answer_lost"},
		{"cut within a stream", func(w http.ResponseWriter, m seen) {
			stream(w)(`{"jsonrpc":"2.0","method":"notifications/progress"}`)
			cut(t, w)
		}, "answer_lost"},
		{"cut within an event", func(w http.ResponseWriter, m seen) {
			stream(w)
			_, _ = io.WriteString(w, `data: {"jsonrpc":"2.0","id":1,`)
		}, "answer_lost"},
		{"a stream that ends", func(w http.ResponseWriter, m seen) { stream(w) }, "answer_lost"},
		{"cut within JSON", func(w http.ResponseWriter, m seen) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0",`)
		}, "answer_lost"},
		{"empty", func(w http.ResponseWriter, m seen) { w.WriteHeader(200) }, "answer_lost"},
		{"a proxy's page", func(w http.ResponseWriter, m seen) { http.Error(w, "<html>", http.StatusBadGateway) }, "answer_lost"},
		{"not JSON", func(w http.ResponseWriter, m seen) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "hello\n{}")
		}, "answer_lost"},
		{"the answer to another", func(w http.ResponseWriter, m seen) { m.id = "99"; result(w, m, `{}`) }, "answer_lost"},
		{"refused before the id was read", func(w http.ResponseWriter, m seen) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no","data":{"code":"host_not_allowed"}}}`)
		}, "host_not_allowed"},
		{"refused", func(w http.ResponseWriter, m seen) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32010,"message":"no","data":{"code":"key_mismatch"}}}`)
		}, "key_mismatch"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { r.serve(w, m) })
			b, _ := g.bridge(nil)
			k := talk(t, b)
			k.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}`)
			line := k.hear()
			if strings.Contains(line, "notifications/progress") {
				line = k.hear()
			}
			if id, code := codeOf(t, line); id != "1" || code != r.code {
				t.Errorf("id %s, code %q, want 1 and %s: %s", id, code, r.code, line)
			}
			k.silent()
			k.ends()
			if n := len(g.seen()); n != 1 {
				t.Errorf("the call was sent %d times", n)
			}
		})
	}
}

func TestRepliesOnlyOnceWhenTheIDIsSpeltAnew(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { m.id = `"a/b"`; result(w, m, `{}`) })
	b, _ := g.bridge(nil)
	k := talk(t, b)
	k.say(`{"jsonrpc":"2.0","id":"a\/b","method":"ping"}`)
	if got := k.hear(); got != `{"jsonrpc":"2.0","id":"a/b","result":{}}` {
		t.Error(got)
	}
	k.silent()
	k.ends()
}

// TestNothingHangs: a gateway that is silent, and a client that leaves, end what is under way.
func TestNothingHangs(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request, m seen) {
		if m.id == `"stream"` {
			stream(w)
		}
		<-r.Context().Done()
	}
	t.Run("a silent gateway", func(t *testing.T) {
		g := newGate(t, hang)
		b, _ := g.bridge(func(c *Config) { c.Silence = 100 * time.Millisecond })
		k := talk(t, b)
		k.say(`{"jsonrpc":"2.0","id":"stream","method":"tools/call"}`, `{"jsonrpc":"2.0","id":"header","method":"tools/call"}`)
		for range 2 {
			if id, code := k.code(); code != "answer_lost" {
				t.Errorf("%s: %s", id, code)
			}
		}
		k.ends()
	})
	t.Run("a stream that goes on", func(t *testing.T) {
		g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) {
			send := stream(w)
			for range 5 {
				time.Sleep(60 * time.Millisecond)
				send(`{"jsonrpc":"2.0","method":"notifications/progress"}`)
			}
			send(`{"jsonrpc":"2.0","id":1,"result":{}}`)
		})
		b, _ := g.bridge(func(c *Config) { c.Silence = 200 * time.Millisecond })
		k := talk(t, b)
		k.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`)
		var last string
		for range 6 {
			last = k.hear()
		}
		if last != `{"jsonrpc":"2.0","id":1,"result":{}}` {
			t.Errorf("only silence ends an answer: %s", last)
		}
		k.ends()
	})
	t.Run("the client leaves", func(t *testing.T) {
		g := newGate(t, hang)
		b, _ := g.bridge(nil)
		k := talk(t, b)
		k.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`, `{"jsonrpc":"2.0","method":"notifications/progress"}`, `{"jsonrpc":"2.0","id":2,"method":"tools/call"}`)
		eventually(t, "they are under way", func() bool { return len(g.seen()) >= 2 })
		k.ends()
	})
	t.Run("the bridge is told to stop", func(t *testing.T) {
		g := newGate(t, hang)
		b, _ := g.bridge(nil)
		k := talk(t, b)
		k.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`)
		eventually(t, "it is under way", func() bool { return len(g.seen()) == 1 })
		k.stop()
		k.ended(nil)
	})
	t.Run("the client does not read", func(t *testing.T) {
		g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { result(w, m, `{}`) })
		b, _ := g.bridge(nil)
		in, w := io.Pipe()
		r, out := io.Pipe()
		done := make(chan error, 1)
		go func() { done <- b.Stdio(t.Context(), in, out) }()
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"method":"ping"}`+"\n")
		w.Close()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("a client that does not read keeps the bridge")
		}
		r.Close()
	})
}

func TestBrokenInputIsSaid(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) {})
	b, _ := g.bridge(nil)
	in, w := io.Pipe()
	w.CloseWithError(errors.New("the wire is cut"))
	wantCode(t, b.Stdio(t.Context(), in, io.Discard), 1, "input_broken")
}

// TestGatewayGone: a call that never left is told from one that may have run.
func TestGatewayGone(t *testing.T) {
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { result(w, m, `{}`) })
	b, _ := g.bridge(nil)
	k := talk(t, b)
	g.Close()
	b.cfg.HTTP.CloseIdleConnections() // on one of these it could not be told
	k.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`)
	if id, code := k.code(); id != "1" || code != "chaperone_unreachable" {
		t.Errorf("id %s, code %s", id, code)
	}
	k.ends()
}

func TestStreamIsOpenedAgain(t *testing.T) {
	var opened atomic.Int64
	g := newGate(t, sessions(func(w http.ResponseWriter, r *http.Request, m seen) {
		if m.verb != http.MethodGet {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		switch opened.Add(1) {
		case 1:
			cut(t, w)
		case 2:
			stream(w)(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
		default:
			w.WriteHeader(http.StatusNotFound) // the session is gone
		}
	}))
	b, _ := g.bridge(nil)
	p := &pipe{b: b, out: io.Discard, session: "s1.session", version: "2025-11-25"}
	p.openStream(context.Background())
	p.stream.Wait()
	if n := opened.Load(); n < 3 || n > 4 { // net/http may repeat a GET of its own accord
		t.Errorf("opened %d times", n)
	}
	p.close(t.Context(), func() {})
	p.openStream(t.Context())
	if p.unlisten != nil {
		t.Error("a stream is opened after the end")
	}
}
