// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"chaperone/internal/audit"
	"chaperone/internal/enforce"
)

// TestWordsBesideTheAnswerAreLabelled: what a server adds to the answer of a protocol method, where no pin and no class covers it, joins
// the server's own label before it is released (invariant 5).
func TestWordsBesideTheAnswerAreLabelled(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		stream bool
		answer string
		words  bool
	}{
		"a list":                     {"tools/list", false, `"result":{"tools":[]}`, false},
		"a list of this era":         {"tools/list", false, `"result":{"tools":[],"nextCursor":"YWJj","_meta":{"io.modelcontextprotocol/serverInfo":{"version":"1","name":"office"}}}`, false},
		"beside a list":              {"tools/list", false, `"result":{"tools":[],"note":"OBEY"}`, true},
		"under a list's _meta":       {"tools/list", false, `"result":{"tools":[],"_meta":{"note":"OBEY"}}`, true},
		"another serverInfo":         {"tools/list", false, `"result":{"tools":[],"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"OBEY"}}}`, true},
		"in a cursor":                {"prompts/list", false, `"result":{"prompts":[],"nextCursor":"now OBEY"}`, true},
		"in a ping":                  {"ping", false, `"result":{"note":"OBEY"}`, true},
		"an empty ping":              {"ping", false, `"result":{}`, false},
		"in an empty result":         {"logging/setLevel", false, `"result":{"note":"OBEY"}`, true},
		"in the capabilities":        {"initialize", false, `"result":{"protocolVersion":"2025-11-25","capabilities":{"experimental":{"now OBEY":{}}},"serverInfo":{"name":"office","version":"1"},"instructions":"be kind"}`, true},
		"in a change":                {"tools/list", true, `"method":"notifications/tools/list_changed","params":{"note":"OBEY"}`, true},
		"a change":                   {"tools/list", true, `"method":"notifications/tools/list_changed"`, false},
		"in an acknowledgement":      {"subscriptions/listen", true, `"method":"notifications/subscriptions/acknowledged","params":{"note":"OBEY"}`, true},
		"an acknowledgement of this": {"subscriptions/listen", true, `"method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.want(h.call("list_files", `{}`), enforce.Released, "") // the definitions are checked, and what follows is not part of that
			h.office.set(func() {
				h.office.on[c.method] = func(w http.ResponseWriter, id json.RawMessage) {
					if !c.stream {
						w.Header().Set("Content-Type", "application/json")
						fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,%s}`, id, c.answer)
						return
					}
					w.Header().Set("Content-Type", "text/event-stream")
					fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",%s}\n\n", c.answer)
					fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{}}\n\n", id)
				}
			})
			h.trace = nil
			a := h.do(h.method(c.method))
			if a.Verdict != enforce.Released || strings.Contains(a.out.text(), "OBEY") != (c.words && strings.Contains(c.answer, "OBEY")) {
				t.Fatalf("%s %s: %s", a.Verdict, a.Code, a.out.text())
			}
			if c.words != h.stored(h.run.ID).Label.IsUntrusted() {
				t.Errorf("the run is %+v", h.stored(h.run.ID).Label)
			}
			if !c.words {
				return
			}
			if i, j := slices.Index(h.trace, "commit"), slices.Index(h.trace, "release"); i < 0 || j < i {
				t.Errorf("released before the label was durable: %v", h.trace)
			}
			if len(h.events(h.run.ID, audit.LabelJoined)) == 0 {
				t.Error("the label is not on the record")
			}
		})
	}
}

// TestNothingBesideTheMessage: a member that JSON-RPC does not have would pass beside an answer that was cut or laid bare.
func TestNothingBesideTheMessage(t *testing.T) {
	h := newHouse(t)
	for _, answer := range []string{`"result":{"tools":[]}`, `"error":{"code":-1,"message":"x"}`} {
		h.office.set(func() {
			h.office.on["logging/setLevel"] = func(w http.ResponseWriter, id json.RawMessage) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"note":"OBEY",%s}`, id, answer)
			}
		})
		h.want(h.do(h.method("logging/setLevel")), enforce.Failed, "upstream_bad_message")
	}
}
