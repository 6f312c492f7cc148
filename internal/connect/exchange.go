// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"chaperone/internal/canon"
)

// statelessEra is the first protocol revision without sessions, whose requests carry their routing in headers.
const statelessEra = "2026-07-28"

// exchange sends one request to the gateway with a fresh proof. It repeats once when the gateway wants its nonce and once when
// the credential died of age; in both cases the gateway has not acted on the first.
func (b *Bridge) exchange(ctx context.Context, method string, header http.Header, body []byte) (*http.Response, error) {
	var renewed, nonced bool
	for {
		credential, err := b.creds.current(ctx, renewed)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, method, b.endpoint(), bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if body == nil {
			req.Body, req.ContentLength = http.NoBody, 0
		}
		req.Header = header.Clone()
		if err := b.creds.prove(req, credential); err != nil {
			return nil, err
		}
		resp, err := b.cfg.HTTP.Do(req)
		if err != nil {
			return nil, unreachable(b.endpoint(), err)
		}
		b.creds.keepNonce(resp)
		if resp.StatusCode == http.StatusUnauthorized {
			challenge := resp.Header.Get("WWW-Authenticate")
			switch {
			case strings.Contains(challenge, "use_dpop_nonce") && !nonced:
				nonced = true
				drain(resp)
				continue
			case strings.Contains(challenge, "invalid_token") && strings.Contains(challenge, "credential_expired") && !renewed:
				renewed = true
				drain(resp)
				continue
			}
		}
		return resp, nil
	}
}

func drain(resp *http.Response) {
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
}

// message is what the bridge must know of a client's message.
type message struct {
	id      json.RawMessage // nil for notifications
	method  string          // "" for answers
	name    string
	version string // _meta protocol version
	args    *canon.Node
	cancels string // raw id of the request that a notifications/cancelled names
}

func readMessage(body []byte) (message, error) {
	n, err := canon.Parse(body, canon.Limits{})
	if err != nil {
		return message{}, err
	}
	var m message
	if v := n.Get("id"); v != nil {
		m.id = v.Raw
	}
	m.method, _ = n.Get("method").String()
	params := n.Get("params")
	m.version, _ = params.Get("_meta").Get("io.modelcontextprotocol/protocolVersion").String()
	switch m.method {
	case "tools/call", "prompts/get":
		m.name, _ = params.Get("name").String()
		m.args = params.Get("arguments")
	case "resources/read":
		m.name, _ = params.Get("uri").String()
	case "notifications/cancelled":
		if v := params.Get("requestId"); v != nil {
			m.cancels = string(v.Raw)
		}
	}
	return m, nil
}

// routing writes the headers that mirror the body, from the body itself, whatever the client sent.
func (m message) routing(h http.Header, params *paramHeaders) {
	for name := range h {
		if name == "Mcp-Method" || name == "Mcp-Name" || strings.HasPrefix(name, "Mcp-Param-") {
			h.Del(name)
		}
	}
	if m.version == "" || m.version < statelessEra || m.method == "" {
		return
	}
	h.Set("MCP-Protocol-Version", m.version)
	h.Set("Mcp-Method", m.method)
	if m.name != "" {
		h.Set("Mcp-Name", headerValue(m.name))
	}
	if m.method == "tools/call" {
		params.write(h, m.name, m.args)
	}
}

// paramHeaders remembers which arguments of which tool are mirrored as Mcp-Param headers (x-mcp-header in the schema), as
// seen in the lists that passed by.
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
		name, _ := t.Get("name").String()
		p.tools[name] = annotated(t.Get("inputSchema").Get("properties"), nil, nil)
	}
}

func annotated(props *canon.Node, prefix []string, out []binding) []binding {
	if props == nil {
		return out
	}
	for _, m := range props.Members {
		path := append(append([]string{}, prefix...), m.Key)
		if h, ok := m.Value.Get("x-mcp-header").String(); ok && h != "" {
			out = append(out, binding{path: path, header: h})
		}
		out = annotated(m.Value.Get("properties"), path, out)
	}
	return out
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
		if v == nil {
			continue
		}
		if s, ok := v.String(); ok {
			h.Set("Mcp-Param-"+b.header, headerValue(s))
		} else if i, ok := v.Int(); ok {
			h.Set("Mcp-Param-"+b.header, strconv.FormatInt(i, 10))
		} else if t, ok := v.Bool(); ok {
			h.Set("Mcp-Param-"+b.header, strconv.FormatBool(t))
		}
	}
}

// headerValue encodes what a header cannot carry as it is (MCP 2026-07-28, transports: the =?base64?...?= form).
func headerValue(s string) string {
	plain := s != "" && strings.TrimSpace(s) == s && !strings.HasPrefix(s, "=?base64?")
	for _, c := range []byte(s) {
		plain = plain && c >= 0x20 && c < 0x7f
	}
	if plain {
		return s
	}
	return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?="
}
