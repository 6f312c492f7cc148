// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/secret"
)

func sdkServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "office", Version: "1"}, &mcp.ServerOptions{Instructions: "be kind", PageSize: 2})
	for i := range 5 {
		mcp.AddTool(s, &mcp.Tool{Name: fmt.Sprintf("tool%d", i), Description: "d"}, func(context.Context, *mcp.CallToolRequest, struct {
			X int `json:"x"`
		}) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{}, nil, nil
		})
	}
	s.AddPrompt(&mcp.Prompt{Name: "greet"}, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) { return nil, nil })
	read := func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) { return nil, nil }
	s.AddResource(&mcp.Resource{URI: "file:///a", Name: "a"}, read)
	s.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "file:///{x}", Name: "x"}, read)
	return s
}

func TestDefinitionsOfTheSDKServer(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		for _, plain := range []bool{true, false} {
			t.Run(fmt.Sprintf("stateless %v json %v", stateless, plain), func(t *testing.T) {
				srv := sdkServer()
				deleted := false
				h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return srv }, &mcp.StreamableHTTPOptions{Stateless: stateless, JSONResponse: plain})
				s := local(t, func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Authorization") != "Bearer "+canary {
						t.Error("no credential")
					}
					deleted = deleted || r.Method == "DELETE"
					h.ServeHTTP(w, r)
				})
				got, err := newClient(t, Config{}).Definitions(t.Context(), s, bearer())
				if err != nil {
					t.Fatal(err)
				}
				wantEra := EraSessions
				if stateless {
					wantEra = EraStateless
				}
				if got.Era != wantEra || got.Instructions != "be kind" || got.Endpoint != s.URL || deleted == stateless {
					t.Errorf("%+v, session ended %v", got, deleted)
				}
				if string(got.ServerInfo) != `{"name":"office","version":"1"}` {
					t.Errorf("%s", got.ServerInfo)
				}
				var names []string
				for _, i := range got.Items {
					names = append(names, string(i.Kind)+" "+i.Name)
					if !json.Valid(i.Raw) {
						t.Error(string(i.Raw))
					}
				}
				want := []string{"tool tool0", "tool tool1", "tool tool2", "tool tool3", "tool tool4", "prompt greet", "resource file:///a", "template file:///{x}"}
				if d := cmp.Diff(want, names); d != "" {
					t.Error(d)
				}
				pin, err := got.Server()
				if err != nil || string(pin) != `{"endpoint":"`+s.URL+`","instructions":"be kind","serverInfo":{"name":"office","version":"1"}}` {
					t.Error(string(pin), err)
				}
			})
		}
	}
}

// script answers by method with one result each; an absent method is -32601.
func script(t *testing.T, answers map[string]string) catalog.Server {
	return local(t, func(w http.ResponseWriter, r *http.Request) {
		var req struct {
			ID     json.RawMessage
			Method string
		}
		b, _ := io.ReadAll(r.Body)
		json.Unmarshal(b, &req)
		if req.ID == nil {
			w.WriteHeader(202)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if a, ok := answers[req.Method]; ok {
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, req.ID, a)
		} else {
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}`, req.ID)
		}
	})
}

func TestDefinitionsKeepsTheRawBytes(t *testing.T) {
	odd := `{ "name":"a","x":1.50, "\u0061b":[ ],"inputSchema":{"type":"object"} }`
	s := script(t, map[string]string{
		"initialize": `{"protocolVersion":"2025-06-18","capabilities":{"tools":{},"resources":{}},"serverInfo":{"name":"o"}}`,
		"tools/list": `{"tools":[` + odd + `]}`, "resources/list": `{"resources":[]}`,
	})
	got, err := newClient(t, Config{}).Definitions(t.Context(), s, secret.Injection{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Items) != 1 || string(got.Items[0].Raw) != odd || got.Era != "2025-06-18" {
		t.Errorf("%+v", got)
	}
}

func TestDefinitionsRefuses(t *testing.T) {
	hello := `{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"o"}}`
	many := func(n int) string {
		var b []string
		for i := range n {
			b = append(b, fmt.Sprintf(`{"name":"t%d"}`, i))
		}
		return `{"tools":[` + strings.Join(b, ",") + `]}`
	}
	tests := []struct {
		name    string
		answers map[string]string
		code    string
	}{
		{"no MCP server", nil, "upstream_bad_message"},
		{"no version", map[string]string{"initialize": `{"capabilities":{}}`}, "upstream_bad_message"},
		{"no list", map[string]string{"initialize": hello}, "upstream_bad_message"},
		{"list of another shape", map[string]string{"initialize": hello, "tools/list": `{"tools":{}}`}, "upstream_bad_message"},
		{"no name", map[string]string{"initialize": hello, "tools/list": `{"tools":[{"Name":"a"}]}`}, "upstream_bad_message"},
		{"one name twice", map[string]string{"initialize": hello, "tools/list": `{"tools":[{"name":"a"},{"name":"a"}]}`}, "upstream_bad_message"},
		{"pages without end", map[string]string{"initialize": hello, "tools/list": `{"tools":[],"nextCursor":"x"}`}, "upstream_bad_message"},
		{"too many items", map[string]string{"initialize": hello, "tools/list": many(11)}, "upstream_too_many"},
		{"too many bytes", map[string]string{"initialize": hello, "tools/list": `{"tools":[],"a":"` + strings.Repeat("x", 4000) + `"}`}, "upstream_too_many"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, Config{Items: 10, Total: 3000, Pages: 5})
			if _, err := c.Definitions(t.Context(), script(t, tt.answers), secret.Injection{}); fault.CodeOf(err) != tt.code {
				t.Errorf("got %v, want %s", err, tt.code)
			}
		})
	}
	n := 0
	s := local(t, func(w http.ResponseWriter, r *http.Request) { n++; http.Redirect(w, r, "/", 302) })
	if _, err := newClient(t, Config{}).Definitions(t.Context(), s, secret.Injection{}); fault.CodeOf(err) != "upstream_redirect" || n != 1 {
		t.Errorf("a redirect: %v after %d requests", err, n)
	}
	dead := httptest.NewServer(nil)
	dead.Close()
	start := time.Now()
	if _, err := newClient(t, Config{}).Definitions(t.Context(), catalog.Server{Name: "o", URL: dead.URL, AllowLoopback: true}, secret.Injection{}); fault.CodeOf(err) != "upstream_unavailable" || time.Since(start) > time.Second {
		t.Error(err)
	}
}
