// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"net/http"
	"slices"
	"strings"

	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/message"
)

// The protocol versions that the door speaks. What is older than eraStateless is one era: JSON-RPC messages without headers of
// their own, in sessions.
const (
	eraStateless = "2026-07-28"
	eraSessions  = "2025-11-25"
)

var versions = []string{eraStateless, eraSessions, "2025-06-18", "2025-03-26"}

// removed are the methods of the sessions' era that 2026-07-28 no longer has.
var removed = []string{"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}

const (
	metaVersion      = "io.modelcontextprotocol/protocolVersion"
	metaCapabilities = "io.modelcontextprotocol/clientCapabilities"
)

// envelope is one JSON-RPC message as the caller wrote it.
type envelope struct {
	era    string
	id     []byte // the raw JSON of the id, nil for a notification or an answer
	idNode *canon.Node
	method string // "" for an answer to a request of the server
	params *canon.Node
	meta   *canon.Node
	answer *canon.Node // the id of the server's request that an answer is for
}

// problem is why the door refuses a request on its own: the shape of it, never its content.
type problem struct {
	*fault.Error
	rpc    int // JSON-RPC code, 0 = by the table
	status int // HTTP status, 0 = by the table
	data   map[string]any
}

func invalid(rpc int, code, fix, format string, args ...any) *problem {
	return &problem{Error: fault.New(fault.Invalid, "gateway.receive", code, format, args...).WithFix("%s", fix), rpc: rpc, status: http.StatusBadRequest}
}

// read parses a body strictly and finds the version it is written in. The envelope is returned with what was understood even if
// there is a problem, so that the answer can carry the id.
func (d *Door) read(body []byte, h http.Header) (envelope, *problem) {
	env := envelope{era: eraOf(h.Get("Mcp-Protocol-Version"))}
	doc, err := canon.Parse(body, canon.Limits{Bytes: d.cfg.Body, Depth: d.cfg.Depth})
	if err != nil {
		return env, unreadable(err)
	}
	if doc.Kind == canon.Array {
		return env, invalid(rpcInvalidRequest, "batch", "send one message in one request", "batches are not part of this protocol version")
	}
	if doc.Kind != canon.Object {
		return env, invalid(rpcInvalidRequest, "not_jsonrpc", "send one JSON-RPC 2.0 message", "the body is not an object")
	}
	if no := exact(doc, "", "jsonrpc", "id", "method", "params", "result", "error"); no != nil {
		return env, no
	}
	if v, ok := doc.Get("jsonrpc").String(); !ok || v != "2.0" {
		return env, invalid(rpcInvalidRequest, "not_jsonrpc", "send one JSON-RPC 2.0 message", `the member jsonrpc is not "2.0"`)
	}
	id := doc.Get("id")
	if id != nil && id.Kind != canon.String && id.Kind != canon.Number {
		return env, invalid(rpcInvalidRequest, "not_jsonrpc", "give the request an id that is a string or a number", "the id is neither a string nor a number")
	}
	if id != nil && len(id.Raw) > 1024 {
		return env, invalid(rpcInvalidRequest, "not_jsonrpc", "give the request a shorter id", "the id is longer than 1024 bytes")
	}
	method, isRequest := doc.Get("method").String()
	result, failure := doc.Get("result"), doc.Get("error")
	switch {
	case isRequest && method != "" && result == nil && failure == nil:
		env.method = method
		if id != nil {
			env.id, env.idNode = id.Raw, id
		}
	case doc.Get("method") == nil && id != nil && (result != nil) != (failure != nil):
		env.answer = id
	default:
		return env, invalid(rpcInvalidRequest, "not_jsonrpc", "send a request, a notification or an answer", "the message is none of request, notification and answer")
	}
	if env.params = doc.Get("params"); env.params != nil {
		if env.params.Kind != canon.Object {
			return env, invalid(rpcInvalidParams, "bad_params", "send params as an object", "params is not an object")
		}
		if no := exact(env.params, "params.", "_meta", "name", "arguments", "uri", "cursor", "taskId", "requestState", "inputResponses"); no != nil {
			return env, no
		}
		if env.meta = env.params.Get("_meta"); env.meta != nil {
			if env.meta.Kind != canon.Object {
				return env, invalid(rpcInvalidParams, "bad_params", "send _meta as an object", "params._meta is not an object")
			}
			if no := exact(env.meta, "params._meta.", metaVersion, metaCapabilities); no != nil {
				return env, no
			}
		}
	}
	return env, env.version(h)
}

func unreadable(err error) *problem {
	rpc := rpcInvalidRequest
	switch fault.CodeOf(err) {
	case "json_syntax", "json_trailing_data", "json_invalid_utf8":
		rpc = rpcParse
	}
	p := &problem{Error: fault.Wrap("gateway.receive", err).(*fault.Error), rpc: rpc, status: http.StatusBadRequest}
	if p.Code == "json_too_large" {
		p.status = http.StatusRequestEntityTooLarge
	}
	return p
}

// exact refuses members that differ from a known name in nothing but case: readers that do not care about case (Go's own among
// them) would take them for it, and so read another message than the one that was decided on.
func exact(n *canon.Node, path string, known ...string) *problem {
	for _, m := range n.Members {
		for _, k := range known {
			if m.Key != k && strings.EqualFold(m.Key, k) {
				return invalid(rpcInvalidRequest, "json_case", "write "+path+k+" as it is defined", "the member %s%s is spelt in another case", path, k)
			}
		}
	}
	return nil
}

func eraOf(version string) string {
	if version >= eraStateless {
		return eraStateless
	}
	return eraSessions
}

// version settles the protocol version: header and body must say the same where either says 2026-07-28.
func (env *envelope) version(h http.Header) *problem {
	header := h.Get("Mcp-Protocol-Version")
	body := ""
	if v := env.meta.Get(metaVersion); v != nil {
		s, ok := v.String()
		if !ok || s == "" {
			return invalid(rpcInvalidParams, "bad_params", "send the protocol version as a string", "params._meta[%q] is not a version", metaVersion)
		}
		body = s
	}
	if header != "" && !slices.Contains(versions, header) {
		return unsupported(header)
	}
	if header != eraStateless && (body == "" || body == header) {
		env.era = eraSessions
		return nil
	}
	env.era = eraStateless
	switch {
	case header == "":
		return mismatch("send the header MCP-Protocol-Version with the version of the body", "the header MCP-Protocol-Version is missing")
	case body == "" && env.id == nil && env.method != "":
		return nil // notifications carry no _meta of their own
	case body == "":
		return invalid(rpcInvalidParams, "bad_params", "send the protocol version in params._meta", "params._meta[%q] is missing", metaVersion)
	case header != body:
		return mismatch("send one version", "the header MCP-Protocol-Version says %q and the body %q", header, body)
	case env.id != nil && (env.meta.Get(metaCapabilities) == nil || env.meta.Get(metaCapabilities).Kind != canon.Object):
		return invalid(rpcInvalidParams, "bad_params", "send the client's capabilities in params._meta", "params._meta[%q] is missing or no object", metaCapabilities)
	}
	return nil
}

func unsupported(version string) *problem {
	p := invalid(rpcVersion, "unsupported_version", "speak "+versions[0]+" or "+versions[1], "the protocol version %q is not supported", version)
	p.data = map[string]any{"supported": versions, "requested": version}
	return p
}

func mismatch(fix, format string, args ...any) *problem {
	return invalid(rpcHeader, "header_mismatch", fix, format, args...)
}

// fill writes into the request what the body says of itself.
func (env *envelope) fill(req *enforce.Request) *problem {
	text := func(member string) (string, *problem) {
		v := env.params.Get(member)
		if s, ok := v.String(); ok && s != "" {
			return s, nil
		}
		return "", invalid(rpcInvalidParams, "bad_params", "send params."+member+" as a string that is not empty", "params.%s is missing or no text", member)
	}
	if env.answer != nil {
		id, err := message.ID(env.answer)
		if err != nil {
			return invalid(rpcInvalidRequest, "not_jsonrpc", "answer with the id of the request", "the id of the answer cannot be read")
		}
		req.Method, req.Reply = enforce.MethodReply, id
		return nil
	}
	req.Method, req.Notification = env.method, env.id == nil
	if env.era == eraStateless && env.id != nil && slices.Contains(removed, env.method) {
		return &problem{Error: fault.New(fault.NotFound, "gateway.receive", "method_unknown", "method not found").
			WithFix("this protocol version has no %s", env.method), rpc: rpcMethodNotFound}
	}
	if env.idNode != nil {
		id, err := message.ID(env.idNode)
		if err != nil {
			return invalid(rpcInvalidRequest, "not_jsonrpc", "give the request an id that is a string or a number", "the id cannot be read")
		}
		req.ID = id
	}
	var no *problem
	switch env.method {
	case enforce.MethodCall, enforce.MethodPrompt:
		req.Kind = catalog.KindTool
		if env.method == enforce.MethodPrompt {
			req.Kind = catalog.KindPrompt
		}
		if req.Name, no = text("name"); no != nil {
			return no
		}
		if args := env.params.Get("arguments"); args != nil && !args.IsNull() {
			if args.Kind != canon.Object {
				return invalid(rpcInvalidParams, "bad_params", "send params.arguments as an object", "params.arguments is not an object")
			}
			req.Arguments = args.Raw
		}
	case enforce.MethodRead, "resources/subscribe", "resources/unsubscribe":
		req.Kind = catalog.KindResource
		if req.Name, no = text("uri"); no != nil {
			return no
		}
		args, err := canon.Marshal(map[string]string{"uri": req.Name})
		if err != nil {
			return invalid(rpcInvalidParams, "bad_params", "send params.uri as text", "params.uri cannot be written")
		}
		req.Arguments = args
	default:
		if strings.HasPrefix(env.method, "tasks/") && env.method != "tasks/list" {
			if req.Task, no = text("taskId"); no != nil {
				return no
			}
		}
	}
	if v := env.params.Get("requestState"); v != nil {
		s, ok := v.String()
		if !ok {
			return invalid(rpcInvalidParams, "bad_params", "repeat requestState as it was given", "params.requestState is not a string")
		}
		req.RequestState = s
	}
	if env.era == eraStateless {
		ask := env.meta.Get(metaCapabilities).Get("elicitation").Get("url")
		req.CanElicit = ask != nil && ask.Kind == canon.Object
	}
	return nil
}
