// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"chaperone/internal/canon"
)

// digester speaks just enough MCP to be pinned, and answers a call of any tool with the SHA-256 of the bytes it got, in an answer
// that is itself oddly written.
type digester struct {
	mu  sync.Mutex
	got []string
}

// calls is how many calls of tools have arrived.
func (d *digester) calls() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.got)
}

const oddAnswer = `{ "jsonrpc":"2.0", "result" : {"content":[ ],"structuredContent":{"sha256":"%x","n":1.0,"z":-0,"m":{"b":1,"a":[ 1e2 ]}},"resultType":"complete","\u0078":null},"id":%s}`

func (d *digester) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	n, err := canon.Parse(body, canon.Limits{})
	if err != nil || n.Get("id") == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	id := n.Get("id").Raw
	result := ""
	switch method, _ := n.Get("method").String(); method {
	case "server/discover":
		result = `{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{}},"serverInfo":{"name":"digester","version":"1"},"ttlMs":0,"cacheScope":"private"}`
	case "initialize":
		w.Header().Set("Mcp-Session-Id", fmt.Sprintf("s-%x", sha256.Sum256(body))[:12])
		result = `{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"digester","version":"1"}}`
	case "tools/list":
		open := `{"type":"object"}`
		shut := `{"type":"object","properties":{"n":{"type":"number"},"i":{"type":"integer"},"s":{"type":"string"},"l":{"type":"array","items":{"type":"number"}}}}`
		result = `{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[{"name":"look","inputSchema":` + open + `},{"name":"write","inputSchema":` + shut + `}]}`
	case "tools/call":
		d.mu.Lock()
		d.got = append(d.got, string(body))
		d.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, oddAnswer, sha256.Sum256(body), id)
		return
	default:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}`, id)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

// TestBytesGoThroughAsTheyAre sends oddly written calls through the whole product, in both eras, as a read and as an effect, and
// compares the digest that the upstream took with that of what was sent, and the answer byte for byte.
func TestBytesGoThroughAsTheyAre(t *testing.T) {
	ctx := within(t, time.Minute)
	s := open(t, "info")
	settle(t, s)
	far := &digester{}
	up := httptest.NewServer(far)
	t.Cleanup(up.Close)
	enlist(t, s, "digester", up.URL+"/mcp", `version: 1
servers:
  digester:
    tools:
      look: {effect: read, source: {integrity: trusted}}
      write: {effect: write, source: {integrity: trusted}}
`)
	must(t, s.Do(ctx, "nora", "", nil, "type", "put", "scribe", "--reads", "digester/look", "--writes", "digester/write"))
	h := enrolHand(t, s, join(t, s, "scribe", "scribe"))
	endpoint := s.Public + "/mcp/digester"
	access, run := h.credential(ctx, endpoint, map[string]string{"purpose": "send odd numbers"})
	if !strings.HasPrefix(run, "run_") {
		t.Fatalf("the credential opened no run: %q", run)
	}

	// What a read may carry: anything that is JSON, since nothing is decided on it but its being well formed.
	free := []string{
		`{}`, `{"n":1.0}`, `{"n":1e2}`, `{"n":-0}`, `{"n":-0.0}`, `{"n":1E+2,"m":100}`, `{"n":0.1e-7}`, `{"n":1.50}`,
		`{"n":0.1000000000000000055511151231257827}`, `{"n":12345678901234567890}`, `{"n":1e-400}`,
		`{"z":1,"a":2,"m":{"y":1,"b":2}}`, `{"s":"\u0041\/\u00e9é\ud83d\ude00 😀"}`, "{\n\t\"a\" : [ 1 , 2 ]\r\n}", `{"":null}`,
		`{"a":[[],{},[{}],""]}`, `{"__proto__":{"x":1}}`, `{"a":"\u0000\u001f\u2028"}`, `{"e\u0301":1,"é":2}`,
	}
	// What an effect may carry is what policy can see all of; how it is written is still the caller's affair.
	seen := []string{
		`{}`, `{"n":1e2}`, `{"n":1.0}`, `{"n":-0}`, `{"n":1E+2}`, `{"n":1.50,"i":7}`, `{"s":"\u0041\/\u00e9é\ud83d\ude00"}`,
		"{ \"s\" :\t\"x\",\r\n \"n\":0.5 , \"i\" : -0 }", `{"l":[ 1.0,1e1,-0 ],"n":2}`, `{"\u006e":3}`,
	}
	forms := map[string]string{
		"2025-11-25": "\n{ \"params\" : {\"arguments\":%[1]s,\"zzz\":[1.50],\"name\":\"%[2]s\", \"_meta\":{\"progressToken\":1e2,\"x/y\":{\"b\":1,\"a\":2}}} ,\"method\":\"tools/call\",\"unknown\":{\"q\":1},\"id\":\"\\u0041\",\"jsonrpc\":\"2.0\"}\n",
		"2026-07-28": `{"method":"tools/call","id":1.0,"jsonrpc":"2.0","params":{"arguments":%[1]s,"name":"%[2]s","_meta":{"other":{"z":0},"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"version":"1","name":"h"},"io.modelcontextprotocol/protocolVersion":"2026-07-28","traceparent":"00-x"}}}`,
	}
	calls := 0
	for era, form := range forms {
		for tool, corpus := range map[string][]string{"look": free, "write": seen} {
			for _, args := range corpus {
				body := fmt.Sprintf(form, args, tool)
				header, id := headers25(""), `"\u0041"`
				if era == "2026-07-28" {
					header, id = headers26("tools/call", tool), "1.0"
				}
				a := h.send(ctx, letter{url: endpoint, access: access, body: body, header: header})
				want := fmt.Sprintf(oddAnswer, sha256.Sum256([]byte(body)), id)
				if a.status != http.StatusOK || a.body != want {
					t.Errorf("%s %s %s\n got  %d %s\n want %s", era, tool, args, a.status, a.body, want)
				}
				calls++
			}
		}
	}
	if n := far.calls(); n != calls {
		t.Errorf("%d calls went upstream, want %d", n, calls)
	}
}
