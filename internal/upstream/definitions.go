// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/secret"
)

// The protocol versions that Definitions speaks, newest first.
const (
	EraStateless = "2026-07-28"
	EraSessions  = "2025-11-25"
)

// Definitions asks the server for everything it offers: by server/discover and the lists of MCP 2026-07-28 where the server has
// it, and else in a session of 2025-11-25 that is ended afterwards. It calls no tool and reads no resource. Everything is bounded
// (Config), names are unique within their kind. Errors: those of Forward, and Unavailable upstream_bad_message, Limited
// upstream_too_many.
func (c *Client) Definitions(ctx context.Context, s catalog.Server, in secret.Injection) (Definitions, error) {
	t := &talk{c: c, s: s, in: in, left: c.cfg.Total}
	out := Definitions{Endpoint: s.URL}
	info, err := t.open(ctx)
	if err != nil {
		return Definitions{}, err
	}
	defer t.close(ctx)
	out.Era = t.era
	out.Instructions, _ = info.Get("instructions").String()
	if n := info.Get("capabilities"); n != nil && n.Kind == canon.Object {
		out.Capabilities = n.Raw
	}
	server := info.Get("serverInfo")
	if server == nil {
		server = info.Get("_meta").Get("io.modelcontextprotocol/serverInfo")
	}
	if server != nil && server.Kind == canon.Object {
		out.ServerInfo = server.Raw
	}
	for _, l := range lists {
		if info.Get("capabilities").Get(l.capability) == nil {
			continue
		}
		items, err := t.list(ctx, l)
		if err != nil {
			return Definitions{}, err
		}
		out.Items = append(out.Items, items...)
	}
	return out, nil
}

type list struct {
	kind                           catalog.ItemKind
	capability, method, field, key string
	optional                       bool // a server may have the capability and not this list
}

var lists = []list{
	{catalog.KindTool, "tools", "tools/list", "tools", "name", false},
	{catalog.KindPrompt, "prompts", "prompts/list", "prompts", "name", false},
	{catalog.KindResource, "resources", "resources/list", "resources", "uri", false},
	{catalog.KindTemplate, "resources", "resources/templates/list", "resourceTemplates", "uriTemplate", true},
}

// talk is one conversation of ours with a server.
type talk struct {
	c       *Client
	s       catalog.Server
	in      secret.Injection
	era     string
	session string
	id      int
	left    int // bytes that may still come
}

// answerError is a JSON-RPC error that the server gave.
type answerError struct {
	code   int64
	status int
}

func (e *answerError) Error() string { return "JSON-RPC error " + strconv.FormatInt(e.code, 10) }

// open finds the newest version both sides speak and returns what the server says of itself.
func (t *talk) open(ctx context.Context) (*canon.Node, error) {
	t.era = EraStateless
	info, err := t.ask(ctx, "server/discover", nil)
	if err == nil && speaks(info, EraStateless) {
		return info, nil
	}
	// A server that does not know the question says so in many ways; only one that cannot be reached is given up here.
	var said *answerError
	if err != nil && !errors.As(err, &said) && !oneOf(fault.CodeOf(err), "upstream_status", "upstream_bad_message") {
		return nil, err
	}
	t.era = EraSessions
	info, err = t.ask(ctx, "initialize", map[string]any{
		"protocolVersion": EraSessions, "capabilities": map[string]any{},
		"clientInfo": map[string]any{"name": t.c.cfg.Name, "version": t.c.cfg.Version},
	})
	if err != nil {
		return nil, t.plain(err)
	}
	version, ok := info.Get("protocolVersion").String()
	if !ok || version == "" || len(version) > 32 {
		return nil, t.bad("its answer to initialize has no protocol version")
	}
	t.era = version
	return info, t.send(ctx, map[string]any{"jsonrpc": "2.0", "method": "notifications/initialized"})
}

func oneOf(s string, among ...string) bool {
	for _, a := range among {
		if s == a {
			return true
		}
	}
	return false
}

func speaks(info *canon.Node, version string) bool {
	versions := info.Get("supportedVersions")
	if versions == nil {
		return false
	}
	for _, v := range versions.Items {
		if s, _ := v.String(); s == version {
			return true
		}
	}
	return false
}

// close ends the session, if there is one. The server may refuse; nothing hangs on it.
func (t *talk) close(ctx context.Context) {
	if t.session == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	x, err := t.c.Forward(ctx, Forward{Server: t.s, Injection: t.in, Method: http.MethodDelete, Session: t.session,
		Header: map[string][]string{"Mcp-Protocol-Version": {t.era}}})
	if err == nil {
		x.Close()
	}
}

func (t *talk) list(ctx context.Context, l list) ([]Item, error) {
	var out []Item
	seen := map[string]bool{}
	cursor := ""
	for range t.c.cfg.Pages {
		params := map[string]any{}
		if cursor != "" {
			params["cursor"] = cursor
		}
		res, err := t.ask(ctx, l.method, params)
		if err != nil {
			var said *answerError
			if l.optional && errors.As(err, &said) && said.code == -32601 {
				return nil, nil
			}
			return nil, t.plain(err)
		}
		items := res.Get(l.field)
		if items == nil || items.Kind != canon.Array {
			return nil, t.bad("its answer to " + l.method + " has no " + l.field)
		}
		for _, n := range items.Items {
			name, ok := n.Get(l.key).String()
			if !ok || name == "" || len(name) > 4096 {
				return nil, t.bad("an item of " + l.method + " has no " + l.key)
			}
			if seen[name] {
				return nil, t.bad("two items of " + l.method + " have one " + l.key)
			}
			if len(out) == t.c.cfg.Items {
				return nil, t.many(l.method)
			}
			seen[name] = true
			out = append(out, Item{Kind: l.kind, Name: name, Raw: n.Raw})
		}
		next, _ := res.Get("nextCursor").String()
		if next == "" {
			return out, nil
		}
		if next == cursor {
			return nil, t.bad("the pages of " + l.method + " do not end")
		}
		cursor = next
	}
	return nil, t.many(l.method)
}

// ask sends one request and returns its result.
func (t *talk) ask(ctx context.Context, method string, params map[string]any) (*canon.Node, error) {
	t.id++
	if params == nil {
		params = map[string]any{}
	}
	if t.era == EraStateless {
		params["_meta"] = map[string]any{
			"io.modelcontextprotocol/protocolVersion":    t.era,
			"io.modelcontextprotocol/clientCapabilities": map[string]any{},
			"io.modelcontextprotocol/clientInfo":         map[string]any{"name": t.c.cfg.Name, "version": t.c.cfg.Version},
		}
	}
	x, err := t.post(ctx, method, map[string]any{"jsonrpc": "2.0", "id": t.id, "method": method, "params": params})
	if err != nil {
		return nil, err
	}
	defer x.Close()
	for {
		m, err := x.Next()
		if errors.Is(err, io.EOF) {
			return nil, t.bad("it gave no answer to " + method)
		}
		if err != nil {
			return nil, err
		}
		if t.left -= len(m.Raw); t.left < 0 {
			return nil, t.many(method)
		}
		// Notifications and requests of the server, which a stream may carry before the answer, are of no interest here.
		if m.Doc == nil || m.Doc.Get("method") != nil {
			continue
		}
		if e := m.Doc.Get("error"); e != nil {
			code, _ := e.Get("code").Int()
			return nil, &answerError{code: code, status: x.Status}
		}
		if id, _ := m.Doc.Get("id").Int(); id != int64(t.id) {
			continue
		}
		res := m.Doc.Get("result")
		if res == nil || res.Kind != canon.Object {
			return nil, t.bad("its answer to " + method + " has no result")
		}
		if method == "initialize" {
			t.session = x.Session
		}
		return res, nil
	}
}

// send sends a notification.
func (t *talk) send(ctx context.Context, msg map[string]any) error {
	x, err := t.post(ctx, "", msg)
	if err != nil {
		return err
	}
	defer x.Close()
	if x.Status >= 400 {
		return t.bad("it refused a notification with status " + strconv.Itoa(x.Status))
	}
	return nil
}

func (t *talk) post(ctx context.Context, method string, msg map[string]any) (*Exchange, error) {
	body, err := canon.Marshal(msg)
	if err != nil {
		return nil, fault.Wrap("upstream.Definitions", err)
	}
	h := map[string][]string{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	if method != "initialize" {
		h["Mcp-Protocol-Version"] = []string{t.era}
	}
	if t.era == EraStateless {
		h["Mcp-Method"] = []string{method}
	}
	return t.c.Forward(ctx, Forward{Server: t.s, Injection: t.in, Method: http.MethodPost, Header: h, Session: t.session, Body: body})
}

// plain turns a JSON-RPC error of the server into one of ours.
func (t *talk) plain(err error) error {
	var said *answerError
	if !errors.As(err, &said) {
		return err
	}
	return t.bad("it answered with the error " + strconv.FormatInt(said.code, 10)).(*fault.Error).WithCause(err)
}

func (t *talk) bad(what string) error {
	return fault.New(fault.Unavailable, "upstream.Definitions", "upstream_bad_message", "the server %s cannot be described: %s", t.s.Name, what).
		WithFix("check that the URL of server %s is an MCP endpoint over streamable HTTP", t.s.Name)
}

func (t *talk) many(method string) error {
	return fault.New(fault.Limited, "upstream.Definitions", "upstream_too_many", "the server %s offers more than can be read (%s)", t.s.Name, method).
		WithFix("put fewer tools, prompts and resources behind one server")
}
