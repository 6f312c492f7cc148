// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

func TestReadMessage(t *testing.T) {
	type want struct {
		kind                               kind
		id, key, method, name, ver, cancel string
	}
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}`
	rows := map[string]want{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"a":1},` + meta + `}}`: {kind: request, id: "1", key: "1", method: "tools/call", name: "pay", ver: "2026-07-28"},
		`{"jsonrpc":"2.0","id":"a\u0062","method":"prompts/get","params":{"name":"p"}}`:                           {kind: request, id: `"a\u0062"`, key: `"ab"`, method: "prompts/get", name: "p"},
		`{"id":1.0,"method":"resources/read","params":{"uri":"file:///x","name":"not this"}}`:                     {kind: request, id: "1.0", key: "1", method: "resources/read", name: "file:///x"},
		`{"id":2,"method":"tools/list","params":{"name":"not a name here"}}`:                                      {kind: request, id: "2", key: "2", method: "tools/list"},
		`{"method":"notifications/cancelled","params":{"requestId":1e0}}`:                                         {kind: notification, method: "notifications/cancelled", cancel: "1"},
		`{"method":"notifications/initialized"}`:                                                                  {kind: notification, method: "notifications/initialized"},
		`{"id":"s-1","result":{}}`:                                                                                {kind: answer, id: `"s-1"`, key: `"s-1"`},
		`{"id":7,"error":{"code":-1,"message":"no"}}`:                                                             {kind: answer, id: "7", key: "7"},
		`{"id":7,"method":"tools/call","params":{"name":7,"arguments":[],"_meta":[]}}`:                            {kind: request, id: "7", key: "7", method: "tools/call"},
	}
	for body, w := range rows {
		m, err := readMessage([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		got := want{m.kind, string(m.id), m.key, m.method, m.name, m.version, m.cancels}
		if d := cmp.Diff(w, got, cmp.AllowUnexported(want{})); d != "" || string(m.raw) != body {
			t.Errorf("%s (-want +got):\n%s", body, d)
		}
	}
	for body, code := range map[string]string{
		``:                                  "json_syntax",
		`hello`:                             "json_syntax",
		`{"id":1,"method":"a"}{}`:           "json_trailing_data",
		`{"id":1,"id":2,"method":"a"}`:      "json_duplicate_key",
		"{\"id\":1,\"method\":\"\xff\"}":    "json_invalid_utf8",
		strings.Repeat("[", 100):            "json_too_deep",
		`[{"id":1,"method":"a"}]`:           "not_jsonrpc",
		`7`:                                 "not_jsonrpc",
		`{"id":null,"method":"a"}`:          "not_jsonrpc",
		`{"id":{},"method":"a"}`:            "not_jsonrpc",
		`{"id":1}`:                          "not_jsonrpc",
		`{"id":1,"method":7}`:               "not_jsonrpc",
		`{"id":1,"method":"","result":{}}`:  "not_jsonrpc",
		`{"result":{}}`:                     "not_jsonrpc",
		`"` + strings.Repeat("x", 5<<20):    "json_too_large",
		`{"id":1,"method":7,"result":true}`: "not_jsonrpc",
	} {
		if _, err := readMessage([]byte(body)); fault.CodeOf(err) != code || fault.KindOf(err) != fault.Invalid {
			t.Errorf("%.60s: %v, want %s", body, err, code)
		}
	}
}

func TestReply(t *testing.T) {
	m, err := readMessage([]byte(`{"id":"a\u0062","method":"tools/call"}`))
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]struct {
		out  string
		ours bool
	}{
		`{"id":"ab","result":{}}`:                  {`{"id":"ab","result":{}}`, true}, // another spelling of the id, kept as it is
		`{"id":"x","result":{}}`:                   {`{"id":"x","result":{}}`, false},
		`{"id":"ab","method":"ping"}`:              {`{"id":"ab","method":"ping"}`, false}, // the server asks; that its id is the same says nothing
		`{"id":null,"error":{"code":1,"d":[1.0]}}`: {`{"jsonrpc":"2.0","id":"a\u0062","error":{"code":1,"d":[1.0]}}`, true},
		`{"error":{"code":1}}`:                     {`{"jsonrpc":"2.0","id":"a\u0062","error":{"code":1}}`, true},
		`{"id":null,"result":{}}`:                  {`{"id":null,"result":{}}`, false},
		`hello`:                                    {"", false},
		`[]`:                                       {"", false},
	} {
		out, _, ours := m.reply([]byte(raw))
		if string(out) != want.out || ours != want.ours {
			t.Errorf("%s: %s, %v", raw, out, ours)
		}
	}
}

// FuzzReadMessage: whatever a client writes, what is made of it can be sent and answered.
func FuzzReadMessage(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"to":"x"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`))
	f.Add([]byte(`{"id":"\n","method":"a\r\nX: y","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"9\n"}}}`))
	f.Add([]byte(`{"method":"notifications/cancelled","params":{"requestId":"7"}}`))
	f.Add([]byte(`{"id":1e400,"result":null}`))
	params := &paramHeaders{tools: map[string][]binding{"pay": {{path: []string{"to"}, header: "To"}}}}
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := readMessage(in)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("%v", err)
			}
			return
		}
		if !bytes.Equal(m.raw, in) || (m.kind == notification) != (m.id == nil) || (m.kind == answer) != (m.method == "") {
			t.Fatalf("%+v", m)
		}
		for _, h := range []http.Header{{}, {"Mcp-Protocol-Version": {"2026-07-28"}}} {
			if err := m.routing(h, params); err != nil {
				if fault.CodeOf(err) != "unroutable" {
					t.Fatalf("%v", err)
				}
				continue
			}
			for name, values := range h {
				if !isName(name) || !plain(values[0]) {
					t.Fatalf("%q: %q goes into no header", name, values)
				}
			}
		}
		var out bytes.Buffer
		(&pipe{out: &out}).write(failure(m.id, io.ErrUnexpectedEOF))
		if line := out.Bytes(); bytes.IndexByte(line, '\n') != len(line)-1 || !json.Valid(line) {
			t.Fatalf("%q is no line of JSON", line)
		}
	})
}

func TestRoutingSaysWhatTheBodySays(t *testing.T) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}`
	rows := []struct {
		name, body, said string // said: the client's MCP-Protocol-Version header
		want             http.Header
	}{
		{"a call", `{"id":1,"method":"tools/call","params":{"name":"pay",` + meta + `}}`, "", http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"pay"}}},
		{"the body over the header", `{"id":1,"method":"tools/call","params":{"name":"pay",` + meta + `}}`, "2025-11-25", http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"pay"}}},
		{"no name", `{"id":1,"method":"tools/list","params":{` + meta + `}}`, "", http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/list"}}},
		{"a URI", `{"id":1,"method":"resources/read","params":{"uri":"file:///ü",` + meta + `}}`, "", http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"resources/read"}, "Mcp-Name": {"=?base64?ZmlsZTovLy/DvA==?="}}},
		{"a notification", `{"method":"notifications/progress"}`, "2026-07-28", http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"notifications/progress"}}},
		{"an answer", `{"id":1,"result":{}}`, "2026-07-28", http.Header{"Mcp-Protocol-Version": {"2026-07-28"}}},
		{"sessions", `{"id":1,"method":"tools/call","params":{"name":"pay"}}`, "2025-11-25", http.Header{"Mcp-Protocol-Version": {"2025-11-25"}}},
		{"initialize", `{"id":1,"method":"initialize"}`, "", http.Header{}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			m, err := readMessage([]byte(r.body))
			if err != nil {
				t.Fatal(err)
			}
			h := http.Header{}
			if r.said != "" {
				h.Set("Mcp-Protocol-Version", r.said)
			}
			if err := m.routing(h, &paramHeaders{}); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(r.want, h); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	for _, body := range []string{
		`{"id":1,"method":"tools/list\r\nAuthorization: x","params":{` + meta + `}}`,
		`{"id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28\n"}}}`,
	} {
		m, err := readMessage([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.routing(http.Header{}, &paramHeaders{}); fault.CodeOf(err) != "unroutable" {
			t.Errorf("%s: %v, want unroutable", body, err)
		}
	}
}

func TestHeaderValueProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`(=\?base64\?)?[ -~]{0,12}(\?=)?`)).Draw(t, "s")
		v := headerValue(s)
		if !plain(v) || v == "" {
			t.Fatalf("%q becomes %q, which no header carries", s, v)
		}
		got := v
		if inner, ok := strings.CutPrefix(v, "=?base64?"); ok {
			b, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(inner, "?="))
			if err != nil {
				t.Fatal(err)
			}
			got = string(b)
		}
		if got != s {
			t.Fatalf("%q comes back as %q", s, got)
		}
	})
}

func TestParamHeaders(t *testing.T) {
	list, err := canon.Parse([]byte(`{"tools":[
		{"name":"pay","inputSchema":{"properties":{"to":{"x-mcp-header":"To"},"n":{"x-mcp-header":"N"},"b":{"x-mcp-header":"B"},"plain":{},
			"deep":{"properties":{"er":{"x-mcp-header":"Deeper"}}},"bad":{"x-mcp-header":"No: such"},"none":{"x-mcp-header":""},"odd":{"x-mcp-header":7}}}},
		{"name":"other"},{"inputSchema":{}}]}`), canon.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	p := &paramHeaders{}
	p.learn(nil)
	p.learn(list)
	if !p.knows("pay") || !p.knows("other") || p.knows("") || p.knows("nobody") {
		t.Error("the tools of the list are not the ones it knows")
	}
	rows := map[string]http.Header{
		`{"to":"ana","n":1240,"b":true,"plain":"x","deep":{"er":"y"}}`: {"Mcp-Param-To": {"ana"}, "Mcp-Param-N": {"1240"}, "Mcp-Param-B": {"true"}, "Mcp-Param-Deeper": {"y"}},
		`{"to":"ä","n":12.40e2}`:                                       {"Mcp-Param-To": {"=?base64?w6Q=?="}, "Mcp-Param-N": {"1240"}},
		`{"to":"","n":-0}`:                                             {"Mcp-Param-To": {"=?base64??="}, "Mcp-Param-N": {"0"}},
		`{"to":null,"n":1.5,"b":[],"deep":{}}`:                         {},
		`{"n":9007199254740993}`:                                       {},
		`{"n":1e999,"bad":"x","none":"y","odd":""}`:                    {},
		`{}`:  {},
		`[1]`: {},
	}
	for args, want := range rows {
		n, err := canon.Parse([]byte(args), canon.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		p.write(h, "pay", n)
		if d := cmp.Diff(want, h); d != "" {
			t.Errorf("%s (-want +got):\n%s", args, d)
		}
	}
	h := http.Header{}
	p.write(h, "pay", nil)
	p.write(h, "nobody", list)
	if len(h) > 0 {
		t.Errorf("%v", h)
	}
}

func TestFailureSaysWhatToDo(t *testing.T) {
	e := fault.New(fault.Suspended, "x", "agent_suspended", "the agent is suspended").WithFix("ask its owner")
	want := `{"error":{"code":-32012,"data":{"code":"agent_suspended","fix":"ask its owner"},"message":"the agent is suspended (agent_suspended); next: ask its owner"},"id":"q","jsonrpc":"2.0"}`
	if got := string(failure([]byte(`"q"`), e)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	secret := string(failure(nil, fault.Wrap("x", io.ErrShortBuffer)))
	if strings.Contains(secret, "short buffer") || !strings.Contains(secret, `"id":null`) {
		t.Errorf("what went wrong inside is told: %s", secret)
	}
}
