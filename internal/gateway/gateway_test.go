// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// engine is a fake road: it keeps what it was asked and answers as the test says.
type engine struct {
	mu     sync.Mutex
	asked  []enforce.Request
	answer func(ctx context.Context, r enforce.Request, out enforce.Sink) (enforce.Outcome, error)
}

func (e *engine) Call(ctx context.Context, r enforce.Request, out enforce.Sink) (enforce.Outcome, error) {
	e.mu.Lock()
	e.asked = append(e.asked, r)
	e.mu.Unlock()
	if e.answer == nil {
		return enforce.Outcome{Verdict: enforce.Released}, out.Release(enforce.Message{Raw: []byte(`{"jsonrpc":"2.0","id":1,"result":{}}`), Status: 200})
	}
	return e.answer(ctx, r, out)
}

func (e *engine) last(t *testing.T) enforce.Request {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.asked) == 0 {
		t.Fatal("the road was not asked")
	}
	return e.asked[len(e.asked)-1]
}

func door(t *testing.T, e Engine, change func(*Config)) string {
	t.Helper()
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	cfg := Config{PublicURL: s.URL, SessionKey: []byte("0123456789abcdef0123456789abcdef"), Body: 4096, Depth: 16}
	if change != nil {
		change(&cfg)
	}
	New(Deps{Engine: e, Nonce: func() string { return "nonce-1" }}, cfg).Routes(mux)
	return s.URL
}

type ask struct {
	method, path, body string
	header             map[string]string // "" removes
	add                map[string][]string
	host               string
}

func send(t *testing.T, base string, a ask) (*http.Response, string) {
	t.Helper()
	if a.method == "" {
		a.method = "POST"
	}
	if a.path == "" {
		a.path = "/mcp/office"
	}
	var body io.Reader
	if a.body != "" {
		body = strings.NewReader(a.body)
	}
	r, err := http.NewRequestWithContext(t.Context(), a.method, base+a.path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Authorization", "DPoP credential")
	r.Header.Set("DPoP", "proof")
	for k, v := range a.header {
		if v == "" {
			r.Header.Del(k)
		} else {
			r.Header.Set(k, v)
		}
	}
	for k, vs := range a.add {
		for _, v := range vs {
			r.Header.Add(k, v)
		}
	}
	r.Host = a.host
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func rpc(method, params string) string {
	return `{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":` + params + `}`
}

const meta26 = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}}}}`

func stateless(method, name string) map[string]string {
	return map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, "Mcp-Name": name}
}

func TestRefusedBeforeTheRoad(t *testing.T) {
	call := rpc("tools/call", `{"name":"pay","arguments":{"to":"a"}}`)
	call26 := rpc("tools/call", `{"name":"pay","arguments":{"to":"a"},`+meta26+`}`)
	with := func(base map[string]string, kv ...string) map[string]string {
		out := map[string]string{}
		for k, v := range base {
			out[k] = v
		}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = kv[i+1]
		}
		return out
	}
	ok26 := stateless("tools/call", "pay")
	tests := []struct {
		name   string
		ask    ask
		status int
		rpc    int
		code   string
	}{
		{"foreign host", ask{body: call, host: "evil.example"}, 403, -32600, "host_not_allowed"},
		{"foreign origin", ask{body: call, header: map[string]string{"Origin": "https://evil.example"}}, 403, -32600, "origin_not_allowed"},
		{"null origin", ask{body: call, header: map[string]string{"Origin": "null"}}, 403, -32600, "origin_not_allowed"},
		{"foreign origin on a GET", ask{method: "GET", header: map[string]string{"Origin": "https://evil.example"}}, 403, -32600, "origin_not_allowed"},
		{"credential in the query", ask{body: call, path: "/mcp/office?access_token=x"}, 400, -32600, "credential_in_query"},
		{"credential in the query, other case", ask{body: call, path: "/mcp/office?a=b&Access_Token=x"}, 400, -32600, "credential_in_query"},
		{"odd server name", ask{body: call, path: "/mcp/Of%2Ffice"}, 404, -32600, "server_unknown"},
		{"two credentials", ask{body: call, add: map[string][]string{"Authorization": {"DPoP other"}}}, 400, -32020, "header_mismatch"},
		{"two proofs", ask{body: call, add: map[string][]string{"DPoP": {"other"}}}, 400, -32020, "header_mismatch"},
		{"two of a parameter", ask{body: call26, header: ok26, add: map[string][]string{"Mcp-Param-To": {"a", "b"}}}, 400, -32020, "header_mismatch"},
		{"other method", ask{method: "PUT", body: call}, 405, -32600, "method_not_allowed"},
		{"other media type", ask{body: call, header: map[string]string{"Content-Type": "text/plain"}}, 415, -32600, "content_type"},
		{"no media type", ask{body: call, header: map[string]string{"Content-Type": ""}}, 415, -32600, "content_type"},
		{"encoded", ask{body: call, header: map[string]string{"Content-Encoding": "gzip"}}, 415, -32600, "content_encoding"},
		{"accepts no stream", ask{body: call, header: map[string]string{"Accept": "application/json"}}, 400, -32600, "accept"},
		{"accepts no JSON", ask{body: call, header: map[string]string{"Accept": "text/event-stream"}}, 400, -32600, "accept"},
		{"accepts nothing", ask{body: call, header: map[string]string{"Accept": ""}}, 400, -32600, "accept"},
		{"body too large", ask{body: rpc("tools/call", `{"name":"`+strings.Repeat("x", 5000)+`"}`)}, 413, -32600, "body_too_large"},
		{"no body", ask{}, 400, -32700, "json_syntax"},
		{"no JSON", ask{body: "hello"}, 400, -32700, "json_syntax"},
		{"data after it", ask{body: call + "{}"}, 400, -32700, "json_trailing_data"},
		{"not UTF-8", ask{body: "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}"}, 400, -32700, "json_invalid_utf8"},
		{"half a surrogate", ask{body: `{"jsonrpc":"2.0","id":1,"method":"\ud800"}`}, 400, -32700, "json_invalid_utf8"},
		{"a name twice", ask{body: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","name":"pay"}}`}, 400, -32600, "json_duplicate_key"},
		{"a name twice in the arguments, escaped", ask{body: rpc("tools/call", `{"name":"pay","arguments":{"to":"a","t\u006f":"b"}}`)}, 400, -32600, "json_duplicate_key"},
		{"too deep", ask{body: rpc("tools/call", `{"name":"pay","arguments":{"a":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)+`}}`)}, 400, -32600, "json_too_deep"},
		{"a batch", ask{body: "[" + call + "]"}, 400, -32600, "batch"},
		{"a number", ask{body: "7"}, 400, -32600, "not_jsonrpc"},
		{"other version of JSON-RPC", ask{body: `{"jsonrpc":"1.0","id":1,"method":"ping"}`}, 400, -32600, "not_jsonrpc"},
		{"null id", ask{body: `{"jsonrpc":"2.0","id":null,"method":"ping"}`}, 400, -32600, "not_jsonrpc"},
		{"object id", ask{body: `{"jsonrpc":"2.0","id":{},"method":"ping"}`}, 400, -32600, "not_jsonrpc"},
		{"request and answer", ask{body: `{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`}, 400, -32600, "not_jsonrpc"},
		{"answer and error", ask{body: `{"jsonrpc":"2.0","id":1,"error":{},"result":{}}`}, 400, -32600, "not_jsonrpc"},
		{"nothing", ask{body: `{"jsonrpc":"2.0","id":1}`}, 400, -32600, "not_jsonrpc"},
		{"method of no name", ask{body: `{"jsonrpc":"2.0","id":1,"method":""}`}, 400, -32600, "not_jsonrpc"},
		{"Method beside method", ask{body: `{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call"}`}, 400, -32600, "json_case"},
		{"Kelvin sign", ask{body: rpc("tools/call", `{"name":"read","taſkId":"x"}`)}, 400, -32600, "json_case"},
		{"Name beside name", ask{body: rpc("tools/call", `{"name":"read","Name":"pay"}`)}, 400, -32600, "json_case"},
		{"Arguments beside arguments", ask{body: rpc("tools/call", `{"name":"read","arguments":{},"ARGUMENTS":{"to":"x"}}`)}, 400, -32600, "json_case"},
		{"params as a list", ask{body: rpc("tools/call", `["pay"]`)}, 400, -32602, "bad_params"},
		{"no tool name", ask{body: rpc("tools/call", `{"arguments":{}}`)}, 400, -32602, "bad_params"},
		{"tool name of no text", ask{body: rpc("tools/call", `{"name":1}`)}, 400, -32602, "bad_params"},
		{"arguments as text", ask{body: rpc("tools/call", `{"name":"pay","arguments":"{}"}`)}, 400, -32602, "bad_params"},
		{"no prompt name", ask{body: rpc("prompts/get", `{}`)}, 400, -32602, "bad_params"},
		{"no URI", ask{body: rpc("resources/read", `{"name":"x"}`)}, 400, -32602, "bad_params"},
		{"no task", ask{body: rpc("tasks/get", `{}`)}, 400, -32602, "bad_params"},
		{"requestState of no text", ask{body: rpc("tools/call", `{"name":"pay","requestState":{}}`)}, 400, -32602, "bad_params"},
		{"a session that is not ours", ask{body: call, header: map[string]string{"Mcp-Session-Id": "abc"}}, 404, -32600, "session_unknown"},
		{"GET of a body", ask{method: "GET", body: "x"}, 400, -32600, "unexpected_body"},
		{"GET of JSON", ask{method: "GET", header: map[string]string{"Accept": "application/json"}}, 400, -32600, "accept"},

		{"a replay", ask{method: "GET", header: map[string]string{"Last-Event-ID": "4"}}, 400, -32600, "replay_not_offered"},

		{"unknown version", ask{body: call, header: map[string]string{"MCP-Protocol-Version": "2027-01-01"}}, 400, -32022, "unsupported_version"},
		{"unknown old version", ask{body: call, header: map[string]string{"MCP-Protocol-Version": "2024-01-01"}}, 400, -32022, "unsupported_version"},
		{"unknown version on a DELETE", ask{method: "DELETE", header: map[string]string{"MCP-Protocol-Version": "1"}}, 400, -32022, "unsupported_version"},
		{"2026: GET", ask{method: "GET", header: map[string]string{"MCP-Protocol-Version": "2026-07-28"}}, 405, -32600, "method_not_allowed"},
		{"2026: DELETE", ask{method: "DELETE", header: map[string]string{"MCP-Protocol-Version": "2026-07-28"}}, 405, -32600, "method_not_allowed"},
		{"2026: no header", ask{body: call26}, 400, -32020, "header_mismatch"},
		{"2026: no _meta", ask{body: call, header: ok26}, 400, -32602, "bad_params"},
		{"2026: version of no text", ask{body: rpc("ping", `{"_meta":{"io.modelcontextprotocol/protocolVersion":2026}}`), header: stateless("ping", "")}, 400, -32602, "bad_params"},
		{"2026: no capabilities", ask{body: rpc("tools/list", `{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}`), header: stateless("tools/list", "")}, 400, -32602, "bad_params"},
		{"2026: two versions", ask{body: call26, header: with(ok26, "MCP-Protocol-Version", "2025-11-25")}, 400, -32020, "header_mismatch"},
		{"2026: no Mcp-Method", ask{body: call26, header: with(ok26, "Mcp-Method", "")}, 400, -32020, "header_mismatch"},
		{"2026: another Mcp-Method", ask{body: call26, header: with(ok26, "Mcp-Method", "tools/list")}, 400, -32020, "header_mismatch"},
		{"2026: no Mcp-Name", ask{body: call26, header: with(ok26, "Mcp-Name", "")}, 400, -32020, "header_mismatch"},
		{"2026: another Mcp-Name", ask{body: call26, header: with(ok26, "Mcp-Name", "read")}, 400, -32020, "header_mismatch"},
		{"2026: Mcp-Name in another case", ask{body: call26, header: with(ok26, "Mcp-Name", "Pay")}, 400, -32020, "header_mismatch"},
		{"2026: another Mcp-Name in base64", ask{body: call26, header: with(ok26, "Mcp-Name", "=?base64?cmVhZA==?=")}, 400, -32020, "header_mismatch"},
		{"2026: Mcp-Name of broken base64", ask{body: call26, header: with(ok26, "Mcp-Name", "=?base64?@@?=")}, 400, -32020, "header_mismatch"},
		{"2026: Mcp-Name where there is none", ask{body: rpc("tools/list", `{`+meta26+`}`), header: stateless("tools/list", "pay")}, 400, -32020, "header_mismatch"},
		{"2026: initialize", ask{body: rpc("initialize", "{"+meta26+"}"), header: stateless("initialize", "")}, 404, -32601, "method_unknown"},
		{"2026: resources/subscribe", ask{body: rpc("resources/subscribe", "{"+meta26+"}"), header: stateless("resources/subscribe", "")}, 404, -32601, "method_unknown"},
		{"2026: an answer", ask{body: `{"jsonrpc":"2.0","id":1,"result":{}}`, header: map[string]string{"MCP-Protocol-Version": "2026-07-28"}}, 400, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := &engine{}
			base := door(t, e, nil)
			resp, body := send(t, base, tt.ask)
			var got struct {
				JSONRPC string
				ID      any
				Error   struct {
					Code    int
					Message string
					Data    struct{ Code, Fix string }
				}
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatalf("%d %q: %v", resp.StatusCode, body, err)
			}
			if resp.StatusCode != tt.status || tt.code != "" && (got.Error.Code != tt.rpc || got.Error.Data.Code != tt.code) {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
			if len(e.asked) != 0 {
				t.Error("the road was asked")
			}
			if got.Error.Message == "" || got.Error.Data.Fix == "" {
				t.Errorf("the answer does not say what is wrong and what to do: %s", body)
			}
			if resp.Header.Get("DPoP-Nonce") != "nonce-1" || resp.Header.Get("Cache-Control") == "" {
				t.Errorf("headers: %v", resp.Header)
			}
			if tt.status == 405 && resp.Header.Get("Allow") == "" {
				t.Error("no Allow")
			}
		})
	}
}

func TestFormedRequest(t *testing.T) {
	e := &engine{}
	var d *Door
	base := door(t, e, nil)
	d = New(Deps{}, Config{PublicURL: base, SessionKey: []byte("0123456789abcdef0123456789abcdef")})
	run := id.NewRun(time.Now())
	session := d.sessions.seal("up/1", "office", run)
	odd := "{\t\"id\" : \"\\u0061\", \"params\":{\"_meta\":{\"x\":1e400},\"arguments\":{\"b\":1.50,\"a\":[ ]},\"name\":\"pay\",\"zz\":0}\n,\"method\":\"tools/call\",\"jsonrpc\":\"2.0\",\"more\":{}}"
	plain := map[string][]string{"Accept": {"application/json, text/event-stream"}, "Content-Type": {"application/json"}}
	and := func(kv ...string) map[string][]string {
		out := map[string][]string{}
		for k, v := range plain {
			out[k] = v
		}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = []string{kv[i+1]}
		}
		return out
	}
	tests := []struct {
		name string
		ask  ask
		want enforce.Request
	}{
		{"call", ask{body: odd, header: map[string]string{"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": session, "Cookie": "a=b", "X-Other": "1", "Mcp-Param-To": "x"}},
			enforce.Request{Era: eraSessions, Method: "tools/call", Kind: catalog.KindTool, Name: "pay", Arguments: []byte(`{"b":1.50,"a":[ ]}`),
				ID: `"a"`, Body: []byte(odd), Header: and("Mcp-Protocol-Version", "2025-11-25"), Session: "up/1", SessionRun: run, Wait: 55 * time.Second}},
		{"call of 2026", ask{body: rpc("tools/call", `{"name":"zahle é","requestState":"st","arguments":null,`+meta26+`}`), header: map[string]string{
			"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "=?base64?emFobGUgw6k=?=", "Mcp-Param-To": "x", "Mcp-Session-Id": "ignored", "Last-Event-ID": "9"}},
			enforce.Request{Era: eraStateless, Method: "tools/call", Kind: catalog.KindTool, Name: "zahle é", RequestState: "st", CanElicit: true,
				ID: "7", Body: []byte(rpc("tools/call", `{"name":"zahle é","requestState":"st","arguments":null,`+meta26+`}`)),
				Header: and("Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "=?base64?emFobGUgw6k=?=", "Mcp-Param-To", "x")}},
		{"prompt, waiting less", ask{body: rpc("prompts/get", `{"name":"greet","arguments":{"who":"x"}}`), header: map[string]string{"Prefer": "respond-async, wait=3"}},
			enforce.Request{Era: eraSessions, Method: "prompts/get", Kind: catalog.KindPrompt, Name: "greet", Arguments: []byte(`{"who":"x"}`),
				ID: "7", Body: []byte(rpc("prompts/get", `{"name":"greet","arguments":{"who":"x"}}`)), Header: plain, Wait: 3 * time.Second}},
		{"resource", ask{body: rpc("resources/read", `{"uri":"file:///a b"}`)},
			enforce.Request{Era: eraSessions, Method: "resources/read", Kind: catalog.KindResource, Name: "file:///a b", Arguments: []byte(`{"uri":"file:///a b"}`),
				ID: "7", Body: []byte(rpc("resources/read", `{"uri":"file:///a b"}`)), Header: plain, Wait: 55 * time.Second}},
		{"task", ask{body: rpc("tasks/get", `{"taskId":"t1"}`)},
			enforce.Request{Era: eraSessions, Method: "tasks/get", Task: "t1", ID: "7", Body: []byte(rpc("tasks/get", `{"taskId":"t1"}`)), Header: plain, Wait: 55 * time.Second}},
		{"unknown method", ask{body: rpc("x/y", `{}`)},
			enforce.Request{Era: eraSessions, Method: "x/y", ID: "7", Body: []byte(rpc("x/y", `{}`)), Header: plain, Wait: 55 * time.Second}},
		{"notification", ask{body: `{"jsonrpc":"2.0","method":"notifications/initialized"}`},
			enforce.Request{Era: eraSessions, Method: "notifications/initialized", Notification: true, Body: []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`), Header: plain, Wait: 55 * time.Second}},
		{"answer", ask{body: `{"jsonrpc":"2.0","id":"s-1","result":{}}`},
			enforce.Request{Era: eraSessions, Method: enforce.MethodReply, Reply: `"s-1"`, Body: []byte(`{"jsonrpc":"2.0","id":"s-1","result":{}}`), Header: plain, Wait: 55 * time.Second}},
		{"stream", ask{method: "GET", header: map[string]string{"Content-Type": "", "Mcp-Session-Id": session}},
			enforce.Request{Era: eraSessions, Method: enforce.MethodStream, Session: "up/1", SessionRun: run,
				Header: map[string][]string{"Accept": {"application/json, text/event-stream"}}}},
		{"end", ask{method: "DELETE", header: map[string]string{"Content-Type": "", "Accept": "", "Mcp-Session-Id": session}},
			enforce.Request{Era: eraSessions, Method: enforce.MethodEnd, Session: "up/1", SessionRun: run, Header: map[string][]string{}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := send(t, base, tt.ask)
			if resp.StatusCode >= 400 && resp.StatusCode != 405 {
				t.Fatal(resp.StatusCode, body)
			}
			tt.want.Server, tt.want.Remote = "office", "127.0.0.1"
			tt.want.HTTPMethod = tt.ask.method
			if tt.ask.method == "" {
				tt.want.HTTPMethod = "POST"
			}
			tt.want.Presented = identity.Presented{Scheme: "DPoP", Token: "credential", Proof: "proof", Method: tt.want.HTTPMethod, URL: base + "/mcp/office"}
			got := e.last(t)
			if d := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b id.Run) bool { return a == b }), ignoreAgree); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestExternalURL(t *testing.T) {
	e := &engine{}
	base := door(t, e, func(c *Config) {
		c.AllowedHosts = []string{"gate.example", strings.TrimPrefix(c.PublicURL, "http://")}
		c.PublicURL = "https://gate.example"
	})
	for host, want := range map[string]string{"gate.example": "https://gate.example/mcp/office", "": base + "/mcp/office"} {
		send(t, base, ask{body: rpc("ping", "{}"), host: host, path: "/mcp/office?x=1"})
		if got := e.last(t).Presented.URL; got != want {
			t.Errorf("%q: %s, want %s", host, got, want)
		}
	}
}

func TestOutcomes(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	dec, apr := id.NewDecision(now), id.NewApproval(now)
	denied := enforce.Outcome{Verdict: enforce.Denied, Code: "denied", Rule: "untrusted-sink", Reason: "The run has read untrusted content.", Listed: true, Decision: dec}
	hidden := enforce.Outcome{Verdict: enforce.Denied, Code: enforce.CodeNotListed, Decision: dec}
	pending := enforce.Outcome{Verdict: enforce.Pending, Code: "approval_pending", Rule: "irreversible-needs-approval", Reason: "Money leaves.", Listed: true, Decision: dec,
		Approval: &enforce.Waiting{ID: apr, Link: "http://127.0.0.1:7401/approvals/" + apr.String(), NotAfter: now, State: "pending"}, RequestState: "st.mac"}
	failed := func(kind fault.Kind, code string) func() (enforce.Outcome, error) {
		return func() (enforce.Outcome, error) {
			return enforce.Outcome{Verdict: enforce.Failed, Code: code}, fault.New(kind, "x", code, "it went wrong").WithFix("do this").WithCause(io.ErrUnexpectedEOF)
		}
	}
	is := func(o enforce.Outcome) func() (enforce.Outcome, error) {
		return func() (enforce.Outcome, error) { return o, nil }
	}
	call := `{"jsonrpc":"2.0","id": "\u0041/<1>","method":"tools/call","params":{"name":"pay"}}`
	call26 := `{"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"name":"pay",` + meta26 + `}}`
	noElicit := strings.Replace(call26, `"url":{}`, `"form":{}`, 1)
	get := rpc("prompts/get", `{"name":"pay"}`)
	text := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	deniedMeta := `{"code":"denied","decision":"` + dec.String() + `","reason":"The run has read untrusted content.","rule":"untrusted-sink","verdict":"denied"}`
	deniedText := "Denied (denied). The run has read untrusted content. Rule: untrusted-sink. Decision: " + dec.String() + "."
	waiting := `{"approval":{"id":"` + apr.String() + `","link":"` + pending.Approval.Link + `","not_after":"2026-11-23T12:00:00Z","state":"pending"},"code":"approval_pending","decision":"` +
		dec.String() + `","reason":"Money leaves.","rule":"irreversible-needs-approval","verdict":"pending"}`
	waitingText := "Waiting for approval " + apr.String() + ": a person decides at " + pending.Approval.Link + ". Why: Money leaves. Repeat the same call, unchanged, once it is approved. Rule: irreversible-needs-approval. Decision: " + dec.String() + "."
	unknown := `"error":{"code":-32602,"data":{"code":"not_listed","fix":"list what there is and use a name from the list"},"message":"unknown tool"}}`
	tests := []struct {
		name    string
		body    string
		header  map[string]string
		outcome func() (enforce.Outcome, error)
		status  int
		want    string
	}{
		{"hidden tool", call, nil, is(hidden), 200, `{"jsonrpc":"2.0","id":"\u0041/<1>",` + unknown},
		{"hidden tool of 2026", call26, stateless("tools/call", "pay"), is(hidden), 400, `{"jsonrpc":"2.0","id":1.0,` + unknown},
		{"hidden prompt", get, nil, is(hidden), 200, `{"jsonrpc":"2.0","id":7,` + strings.Replace(unknown, "unknown tool", "unknown prompt", 1)},
		{"denied tool", call, nil, is(denied), 200, `{"jsonrpc":"2.0","id":"\u0041/<1>","result":{"_meta":{"chaperone/outcome":` + deniedMeta + `},"content":[{"text":` + text(deniedText) + `,"type":"text"}],"isError":true}}`},
		{"denied tool of 2026", call26, stateless("tools/call", "pay"), is(denied), 200, `{"jsonrpc":"2.0","id":1.0,"result":{"_meta":{"chaperone/outcome":` + deniedMeta + `},"content":[{"text":` + text(deniedText) + `,"type":"text"}],"isError":true,"resultType":"complete"}}`},
		{"denied prompt", get, nil, is(denied), 200, `{"jsonrpc":"2.0","id":7,"error":{"code":-32011,"data":` + deniedMeta + `,"message":` + text(deniedText) + `}}`},
		{"pending tool", call, nil, is(pending), 200, `{"jsonrpc":"2.0","id":"\u0041/<1>","result":{"_meta":{"chaperone/outcome":` + waiting + `},"content":[{"text":` + text(waitingText) + `,"type":"text"}],"isError":true}}`},
		{"pending tool of 2026, client cannot be asked", noElicit, stateless("tools/call", "pay"), is(pending), 200, `{"jsonrpc":"2.0","id":1.0,"result":{"_meta":{"chaperone/outcome":` + waiting + `},"content":[{"text":` + text(waitingText) + `,"type":"text"}],"isError":true,"resultType":"complete"}}`},
		{"pending tool of 2026", call26, stateless("tools/call", "pay"), is(pending), 200, `{"jsonrpc":"2.0","id":1.0,"result":{"_meta":{"chaperone/outcome":` + waiting + `},"inputRequests":{"approval":{"method":"elicitation/create","params":{"elicitationId":"` + apr.String() +
			`","message":` + text(waitingText) + `,"mode":"url","url":"` + pending.Approval.Link + `"}}},"requestState":"st.mac","resultType":"input_required"}}`},
		{"pending prompt", get, nil, is(pending), 200, `{"jsonrpc":"2.0","id":7,"error":{"code":-32015,"data":` + strings.Replace(waiting, `"code":"approval_pending",`, `"code":"approval_pending",`, 1) + `,"message":` + text(waitingText) + `}}`},
		{"unknown method", rpc("x/y", "{}"), nil, is(enforce.Outcome{Verdict: enforce.Denied, Code: "method_unknown", Listed: true}), 200, `{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"data":{"code":"method_unknown"},"message":"method not found"}}`},
		{"unknown method of 2026", rpc("x/y", "{"+meta26+"}"), stateless("x/y", ""), is(enforce.Outcome{Verdict: enforce.Denied, Code: "method_unknown", Listed: true}), 404, `{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"data":{"code":"method_unknown"},"message":"method not found"}}`},
		{"parameter header", call26, stateless("tools/call", "pay"), is(enforce.Outcome{Verdict: enforce.Denied, Code: "header_mismatch", Reason: "the header Mcp-Param-To is missing", Fix: "send it", Listed: true}), 400,
			`{"jsonrpc":"2.0","id":1.0,"error":{"code":-32020,"data":{"code":"header_mismatch","fix":"send it"},"message":"the header Mcp-Param-To is missing"}}`},
		{"denied notification", `{"jsonrpc":"2.0","method":"notifications/progress"}`, nil, is(denied), 403, `{"jsonrpc":"2.0","id":null,"error":{"code":-32011,"data":` + deniedMeta + `,"message":` + text(deniedText) + `}}`},
		{"dead upstream", call, nil, failed(fault.Unavailable, "upstream_unavailable"), 200, `{"jsonrpc":"2.0","id":"\u0041/<1>","error":{"code":-32603,"data":{"code":"upstream_unavailable","fix":"do this"},"message":"it went wrong"}}`},
		{"dead upstream, notification", `{"jsonrpc":"2.0","method":"notifications/progress"}`, nil, failed(fault.Unavailable, "upstream_unavailable"), 503, `{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"data":{"code":"upstream_unavailable","fix":"do this"},"message":"it went wrong"}}`},
		{"our own fault", call, nil, failed(fault.Internal, "secret_detail"), 200, `{"jsonrpc":"2.0","id":"\u0041/<1>","error":{"code":-32603,"data":{"code":"internal","fix":"try again; if it stays, tell the operator the time of this answer"},"message":"the gateway failed"}}`},
		{"session of another run", call, nil, failed(fault.NotFound, "session_of_another_run"), 404, `{"jsonrpc":"2.0","id":"\u0041/<1>","error":{"code":-32600,"data":{"code":"session_of_another_run","fix":"do this"},"message":"it went wrong"}}`},
		{"suspended", call, nil, failed(fault.Suspended, "agent_suspended"), 403, `{"jsonrpc":"2.0","id":"\u0041/<1>","error":{"code":-32012,"data":{"code":"agent_suspended","fix":"do this"},"message":"it went wrong"}}`},
		{"too much", call, nil, failed(fault.Limited, "upstream_too_large"), 200, `{"jsonrpc":"2.0","id":"\u0041/<1>","error":{"code":-32013,"data":{"code":"upstream_too_large","fix":"do this"},"message":"it went wrong"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := &engine{answer: func(context.Context, enforce.Request, enforce.Sink) (enforce.Outcome, error) { return tt.outcome() }}
			resp, body := send(t, door(t, e, nil), ask{body: tt.body, header: tt.header})
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
			if d := cmp.Diff(tt.want, body); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if strings.Contains(body, "unexpected EOF") {
				t.Error("a cause was told")
			}
		})
	}
}

func TestHiddenAndAbsentAreOneAnswer(t *testing.T) {
	for _, stateful := range []bool{true, false} {
		var bodies []string
		for _, tool := range []string{"pay", "absent"} {
			e := &engine{answer: func(context.Context, enforce.Request, enforce.Sink) (enforce.Outcome, error) {
				return enforce.Outcome{Verdict: enforce.Denied, Code: enforce.CodeNotListed, Decision: id.NewDecision(time.Now()), Rule: "only on the record", Reason: tool}, nil
			}}
			a := ask{body: rpc("tools/call", `{"name":"`+tool+`"}`)}
			if !stateful {
				a = ask{body: rpc("tools/call", `{"name":"`+tool+`",`+meta26+`}`), header: stateless("tools/call", tool)}
			}
			resp, body := send(t, door(t, e, nil), a)
			bodies = append(bodies, resp.Status+body)
		}
		if bodies[0] != bodies[1] {
			t.Errorf("%s\n%s", bodies[0], bodies[1])
		}
	}
}

func TestChallenges(t *testing.T) {
	for code, want := range map[string]string{
		"no_credential":      `DPoP algs="ES256", resource_metadata="BASE/.well-known/oauth-protected-resource/mcp/office"`,
		"use_dpop_nonce":     `DPoP algs="ES256", resource_metadata="BASE/.well-known/oauth-protected-resource/mcp/office", error="use_dpop_nonce", error_description="use_dpop_nonce: it 'is' so"`,
		"credential_expired": `DPoP algs="ES256", resource_metadata="BASE/.well-known/oauth-protected-resource/mcp/office", error="invalid_token", error_description="credential_expired: it 'is' so"`,
		"proof_replayed":     `DPoP algs="ES256", resource_metadata="BASE/.well-known/oauth-protected-resource/mcp/office", error="invalid_dpop_proof", error_description="proof_replayed: it 'is' so"`,
	} {
		e := &engine{answer: func(context.Context, enforce.Request, enforce.Sink) (enforce.Outcome, error) {
			return enforce.Outcome{Verdict: enforce.Failed, Code: code}, fault.New(fault.Unauthenticated, "x", code, "it \"is\" so")
		}}
		base := door(t, e, nil)
		for _, a := range []ask{{body: rpc("ping", "{}")}, {method: "GET"}, {method: "DELETE"}} {
			resp, body := send(t, base, a)
			if got := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != 401 || got != strings.ReplaceAll(want, "BASE", base) {
				t.Errorf("%s: %d %s", code, resp.StatusCode, got)
			}
			if resp.Header.Get("DPoP-Nonce") != "nonce-1" || !strings.Contains(body, `"code":-32010`) || !strings.Contains(body, `"code":"`+code+`"`) {
				t.Errorf("%s: %v %s", code, resp.Header, body)
			}
		}
	}
}

func TestMetadata(t *testing.T) {
	base := door(t, &engine{}, func(c *Config) { c.Issuer = "https://issuer.example" })
	resp, body := send(t, base, ask{method: "GET", path: "/.well-known/oauth-protected-resource/mcp/office"})
	want := `{"authorization_details_types_supported":["chaperone_run"],"authorization_servers":["https://issuer.example"],"bearer_methods_supported":["header"],"dpop_bound_access_tokens_required":true,"dpop_signing_alg_values_supported":["ES256"],"resource":"` + base + `/mcp/office","resource_name":"MCP server office"}`
	if resp.StatusCode != 200 || body != want {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	_, other := send(t, base, ask{method: "GET", path: "/.well-known/oauth-protected-resource/mcp/none"})
	if strings.ReplaceAll(other, "none", "office") != body {
		t.Error("the metadata tells which servers there are")
	}
	if resp, _ := send(t, base, ask{method: "GET", path: "/.well-known/oauth-protected-resource/mcp/N%20o"}); resp.StatusCode != 404 {
		t.Error(resp.StatusCode)
	}
	if resp, _ := send(t, base, ask{method: "GET", path: "/.well-known/oauth-protected-resource/mcp/office", host: "evil.example"}); resp.StatusCode != 403 {
		t.Error(resp.StatusCode)
	}
}
