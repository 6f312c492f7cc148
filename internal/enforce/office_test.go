// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// office is a small MCP server whose tools the test writes.
type office struct {
	*httptest.Server
	h *house

	mu           sync.Mutex
	tools        []string // raw definitions
	instructions string
	down         bool
	bodies       []string // of tools/call
	headers      []http.Header
	on           map[string]func(w http.ResponseWriter, id json.RawMessage)
	answers      []string // what the gateway answered to requests of the server
}

func definition(name string) string {
	return fmt.Sprintf(`{"name":%q,"description":"does %s","inputSchema":{"type":"object","properties":{"to":{"type":"string"},"iban":{"type":"string"},"amount":{"type":"integer"},"text":{"type":"string"},"n":{"type":"number"}}}}`, name, name)
}

func newOffice(t testing.TB, h *house) *office {
	o := &office{h: h, instructions: "be kind", on: map[string]func(http.ResponseWriter, json.RawMessage){}}
	for _, n := range []string{"read_mail", "list_files", "other_files", "hidden", "note", "send_mail", "pay"} {
		o.tools = append(o.tools, definition(n))
	}
	o.Server = httptest.NewServer(o)
	t.Cleanup(o.Close)
	return o
}

func (o *office) calls() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.bodies)
}

func (o *office) set(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

func (o *office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var m struct {
		ID     json.RawMessage
		Method string
		Params struct{ Name string }
		Error  json.RawMessage
	}
	_ = json.Unmarshal(body, &m)
	o.mu.Lock()
	down, instructions, tools, on := o.down, o.instructions, strings.Join(o.tools, ","), o.on[m.Params.Name]
	if on == nil {
		on = o.on[m.Method]
	}
	if m.Method == "tools/call" {
		o.bodies = append(o.bodies, string(body))
		o.headers = append(o.headers, r.Header.Clone())
	}
	if m.Error != nil {
		o.answers = append(o.answers, string(body))
	}
	o.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	if m.Method == "tools/call" {
		o.h.note("upstream")
	}
	if on != nil {
		on(w, m.ID)
		return
	}
	say := func(result string) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
	}
	switch {
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case m.ID == nil || m.Method == "":
		w.WriteHeader(http.StatusAccepted)
	case m.Method == "initialize":
		w.Header().Set("Mcp-Session-Id", "upstream-session")
		say(fmt.Sprintf(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{},"resources":{}},"serverInfo":{"name":"office","version":"1"},"instructions":%q}`, instructions))
	case m.Method == "ping", m.Method == "logging/setLevel":
		say(`{}`)
	case m.Method == "tools/list":
		say(`{"tools":[` + tools + `]}`)
	case m.Method == "prompts/list":
		say(`{"prompts":[{"name":"greet"}]}`)
	case m.Method == "resources/list":
		say(`{"resources":[{"uri":"file:///a.txt","name":"a"}]}`)
	case m.Method == "resources/templates/list":
		say(`{"resourceTemplates":[{"uriTemplate":"file:///dir/{name}","name":"dir"}]}`)
	case m.Method == "tools/call", m.Method == "prompts/get", m.Method == "resources/read", m.Method == "completion/complete",
		strings.HasPrefix(m.Method, "tasks/"):
		say(`{"content":[{"type":"text","text":"done ` + m.Params.Name + `"}]}`)
	default:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`, m.ID)
	}
}

// streams makes a tool answer with these messages as server-sent events; %s stands for the request's id.
func (o *office) streams(name string, messages ...string) {
	o.set(func() {
		o.on[name] = func(w http.ResponseWriter, id json.RawMessage) {
			w.Header().Set("Content-Type", "text/event-stream")
			for _, m := range messages {
				fmt.Fprintf(w, "event: message\ndata: %s\n\n", strings.ReplaceAll(m, "%s", string(id)))
				w.(http.Flusher).Flush()
			}
		}
	})
}

func newServer(t testing.TB, handler http.Handler) string {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}
