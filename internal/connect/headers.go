// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"encoding/base64"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// statelessEra is the first protocol revision without sessions, whose requests carry their routing in headers.
const statelessEra = "2026-07-28"

const metaVersion = "io.modelcontextprotocol/protocolVersion"

// routing writes the headers that mirror the body, from the body itself. h holds no routing headers yet; its MCP-Protocol-Version
// is what the client said outside the body, and gives way to what the body says. Invalid, "unroutable": a header cannot carry it.
func (m letter) routing(h http.Header, params *paramHeaders) error {
	if m.version != "" {
		h.Set("Mcp-Protocol-Version", m.version)
	}
	version := h.Get("Mcp-Protocol-Version")
	if !plain(version) || !plain(m.method) {
		return fault.New(fault.Invalid, "connect.routing", "unroutable", "the protocol version or the method holds characters that no header carries").
			WithFix("use the names that the protocol defines")
	}
	if version < statelessEra || m.kind == answer {
		return nil
	}
	h.Set("Mcp-Method", m.method)
	if m.name != "" {
		h.Set("Mcp-Name", headerValue(m.name))
	}
	if m.method == "tools/call" {
		params.write(h, m.name, m.args)
	}
	return nil
}

// plain reports whether a header carries s as it is.
func plain(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 || c >= 0x7f {
			return false
		}
	}
	return strings.TrimSpace(s) == s
}

// headerValue encodes what a header cannot carry as it is (MCP 2026-07-28, transports: the =?base64?...?= form).
func headerValue(s string) string {
	if s != "" && plain(s) && !strings.HasPrefix(s, "=?base64?") {
		return s
	}
	return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?="
}

// paramHeaders remembers which arguments of which tool are mirrored as Mcp-Param headers (x-mcp-header in the schema), as seen in
// the lists that passed by. It is safe for concurrent use.
type paramHeaders struct {
	mu    sync.Mutex
	tools map[string][]binding
}

type binding struct {
	path   []string
	header string
}

// learn reads the tools of a tools/list result.
func (p *paramHeaders) learn(result *canon.Node) {
	tools := result.Get("tools")
	if tools == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tools == nil {
		p.tools = map[string][]binding{}
	}
	for _, t := range tools.Items {
		if name, ok := t.Get("name").String(); ok {
			p.tools[name] = annotated(t.Get("inputSchema").Get("properties"), nil, nil)
		}
	}
}

// knows reports whether the tool's definition has passed by.
func (p *paramHeaders) knows(tool string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.tools[tool]
	return ok
}

func annotated(props *canon.Node, prefix []string, out []binding) []binding {
	if props == nil {
		return out
	}
	for _, m := range props.Members {
		path := append(append([]string{}, prefix...), m.Key)
		// A name that no header can have is left out: the gateway refuses the call, since it asks for a header that cannot be.
		if h, ok := m.Value.Get("x-mcp-header").String(); ok && isName(h) {
			out = append(out, binding{path: path, header: h})
		}
		out = annotated(m.Value.Get("properties"), path, out)
	}
	return out
}

// isName reports whether s can end a header's name (RFC 9110 §5.6.2).
func isName(s string) bool {
	for _, c := range []byte(s) {
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

func (p *paramHeaders) write(h http.Header, tool string, args *canon.Node) {
	p.mu.Lock()
	bindings := p.tools[tool]
	p.mu.Unlock()
	for _, b := range bindings {
		v := args
		for _, key := range b.path {
			v = v.Get(key)
		}
		if text, ok := mirrored(v); ok {
			h.Set("Mcp-Param-"+b.header, headerValue(text))
		}
	}
}

// mirrored is how a header says a string, a boolean or a whole number; nothing else is mirrored.
func mirrored(v *canon.Node) (string, bool) {
	if v == nil {
		return "", false
	}
	switch v.Kind {
	case canon.String, canon.Bool:
		return v.Text, true
	case canon.Number:
		f, err := strconv.ParseFloat(v.Text, 64)
		if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53-1 {
			return "", false
		}
		return strconv.FormatInt(int64(f), 10), true
	case canon.Null, canon.Array, canon.Object:
	}
	return "", false
}
