// SPDX-License-Identifier: Apache-2.0

// Package message reads what one JSON-RPC message of an MCP server says of itself, and makes the few changes that the road may
// make to one: items are cut from a list, a requestState is replaced, a cache scope is made private. Everything else keeps its
// original bytes. It decides what a message is; it never decides whether it may pass (the road does) and reads no network.
package message

import (
	"bytes"
	"slices"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// Kind is what a message is in JSON-RPC 2.0.
type Kind string

// The kinds. A response is a Result or an Error; a Request carries an id, a Notification does not.
const (
	Result       Kind = "result"
	Error        Kind = "error"
	Notification Kind = "notification"
	Request      Kind = "request"
)

// Seen is what a message says of itself.
type Seen struct {
	Kind   Kind
	Method string // of a Request or Notification
	ID     string // canonical JSON of the id; "" if there is none
	// Failed is set for an Error and for a tool's result with isError.
	Failed bool
	// Task is the id of a task that the result made, "" for none.
	Task string
	// Asks are the methods of the input requests in an input_required result (MCP 2026-07-28), sorted. State is its requestState;
	// Waits is set when the result is not final because input is required.
	Asks  []string
	State string
	Waits bool
	// Instructions and ServerInfo are what an initialize or server/discover result says of the server; Names says that it does.
	Names        bool
	Instructions string
	ServerInfo   []byte
}

// Read tells what the message is. doc is the whole parsed message. Error: Invalid, "bad_message".
func Read(doc *canon.Node) (Seen, error) {
	bad := func(what string) (Seen, error) {
		return Seen{}, fault.New(fault.Invalid, "message.Read", "bad_message", "not a JSON-RPC 2.0 message: %s", what)
	}
	if doc == nil || doc.Kind != canon.Object {
		return bad("not an object")
	}
	if v, ok := doc.Get("jsonrpc").String(); !ok || v != "2.0" {
		return bad("jsonrpc is not 2.0")
	}
	for _, m := range doc.Members { // what stands beside the message would pass unread, also beside an error laid bare
		switch m.Key {
		case "jsonrpc", "id", "method", "params", "result", "error":
		default:
			return bad("it has a member that JSON-RPC does not")
		}
	}
	var s Seen
	if node := doc.Get("id"); node != nil && !node.IsNull() {
		id, err := ID(node)
		if err != nil {
			return bad("the id is neither a string nor a number")
		}
		s.ID = id
	}
	method, hasMethod := doc.Get("method").String()
	result, failure := doc.Get("result"), doc.Get("error")
	switch {
	case hasMethod && (result != nil || failure != nil), result != nil && failure != nil, !hasMethod && doc.Get("params") != nil:
		return bad("it is a request and a response, or both kinds of response")
	case hasMethod && method != "" && s.ID != "":
		s.Kind, s.Method = Request, method
	case hasMethod && method != "" && doc.Get("id") == nil:
		s.Kind, s.Method = Notification, method
	case result != nil && result.Kind == canon.Object && s.ID != "":
		s.Kind = Result
		s.readResult(result)
	case failure != nil && failure.Kind == canon.Object: // an error may lack its id (JSON-RPC 2.0 §5)
		s.Kind, s.Failed = Error, true
	default:
		return bad("neither a request nor a response")
	}
	return s, nil
}

func (s *Seen) readResult(result *canon.Node) {
	s.Failed, _ = result.Get("isError").Bool()
	kind, _ := result.Get("resultType").String()
	if s.Task, _ = result.Get("task").Get("taskId").String(); s.Task == "" {
		s.Task, _ = result.Get("taskId").String()
	}
	s.State, _ = result.Get("requestState").String()
	if asks := result.Get("inputRequests"); asks != nil {
		for _, m := range asks.Members {
			method, _ := m.Value.Get("method").String()
			s.Asks = append(s.Asks, method)
		}
		slices.Sort(s.Asks)
	}
	s.Waits = kind == "input_required" || len(s.Asks) > 0
	info := result.Get("serverInfo")
	if info == nil {
		info = result.Get("_meta").Get("io.modelcontextprotocol/serverInfo")
	}
	if text, ok := result.Get("instructions").String(); ok || info != nil {
		s.Names, s.Instructions = true, text
		if info != nil {
			s.ServerInfo = info.Raw
		}
	}
}

// ID returns the canonical form of a JSON-RPC id, so that two spellings of one id are one. Error: Invalid, "bad_message".
func ID(node *canon.Node) (string, error) {
	if node == nil || (node.Kind != canon.String && node.Kind != canon.Number) {
		return "", fault.New(fault.Invalid, "message.ID", "bad_message", "an id is a string or a number")
	}
	b, err := canon.Canonical(node)
	if err != nil {
		return string(node.Raw), nil // a number that no double holds is its own spelling
	}
	return string(b), nil
}

// Silent reports whether a server's notification carries no words of its own, so that passing it on tells the agent nothing
// but that something changed.
func Silent(method string) bool {
	switch method {
	case "notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed":
		return true
	}
	return false
}

// Changes reports whether a notification says that definitions changed.
func Changes(method string) bool { return Silent(method) }

// The lists that Keep can cut.
const (
	Tools     = "tools"
	Prompts   = "prompts"
	Resources = "resources"
	Templates = "resourceTemplates"
	Tasks     = "tasks"
)

var nameOf = map[string]string{Tools: "name", Prompts: "name", Resources: "uri", Templates: "uriTemplate", Tasks: "taskId"}

// Keep returns the message with only those items of the result's list for which keep returns true, each in its original bytes.
// An item without a name is cut. If private is set, the result's cacheScope becomes "private" (a list cut for one caller must
// not be shown to another). A message without the list is returned as it is. Error: Invalid, "bad_message".
func Keep(raw []byte, doc *canon.Node, list string, private bool, keep func(name string, definition []byte) bool) ([]byte, error) {
	result := doc.Get("result")
	items := result.Get(list)
	if items == nil {
		return raw, nil
	}
	if items.Kind != canon.Array {
		return nil, fault.New(fault.Invalid, "message.Keep", "bad_message", "%s is not a list", list)
	}
	var kept [][]byte
	for _, item := range items.Items {
		if name, ok := item.Get(nameOf[list]).String(); ok && keep(name, item.Raw) {
			kept = append(kept, item.Raw)
		}
	}
	var edits []edit
	if len(kept) != len(items.Items) {
		edits = append(edits, edit{items.Start, items.End, slices.Concat([]byte("["), bytes.Join(kept, []byte(",")), []byte("]"))})
	}
	if private {
		edits = append(edits, setMember(result, "cacheScope", []byte(`"private"`))...)
	}
	return apply(raw, edits), nil
}

// SetResultState replaces the requestState of an input_required result.
func SetResultState(raw []byte, doc *canon.Node, state string) ([]byte, error) {
	return setState(raw, doc.Get("result"), state)
}

// SetRequestState replaces the requestState in the params of a request; the empty state removes it and the inputResponses that
// belong to it, because the upstream never asked for any.
func SetRequestState(raw []byte, doc *canon.Node, state string) ([]byte, error) {
	params := doc.Get("params")
	if state != "" {
		return setState(raw, params, state)
	}
	if params == nil || params.Kind != canon.Object {
		return raw, nil
	}
	out := []byte("{")
	for _, m := range params.Members {
		if m.Key == "requestState" || m.Key == "inputResponses" {
			continue
		}
		key, err := canon.Marshal(m.Key)
		if err != nil {
			return nil, fault.Wrap("message.SetRequestState", err)
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), m.Value.Raw...)
	}
	return apply(raw, []edit{{params.Start, params.End, append(out, '}')}}), nil
}

func setState(raw []byte, object *canon.Node, state string) ([]byte, error) {
	if object == nil || object.Kind != canon.Object {
		return nil, fault.New(fault.Invalid, "message.setState", "bad_message", "there is no object to hold a requestState")
	}
	value, err := canon.Marshal(state)
	if err != nil {
		return nil, fault.Wrap("message.setState", err)
	}
	return apply(raw, setMember(object, "requestState", value)), nil
}

// Bare returns an error message with its code and nothing that the server said: fixed words instead of the message, no data.
func Bare(raw []byte, doc *canon.Node) ([]byte, error) {
	failure := doc.Get("error")
	code, ok := failure.Get("code").Int()
	if !ok {
		return nil, fault.New(fault.Invalid, "message.Bare", "bad_message", "an error without a code")
	}
	words, known := plain[code]
	if !known {
		words = "the server refused"
	}
	with := append([]byte(`{"code":`), failure.Get("code").Raw...)
	with = append(append(append(with, `,"message":"`...), words...), `"}`...)
	return apply(raw, []edit{{failure.Start, failure.End, with}}), nil
}

var plain = map[int64]string{
	-32700: "Parse error", -32600: "Invalid Request", -32601: "Method not found", -32602: "Invalid params", -32603: "Internal error",
	-32002: "Resource not found",
}

// Refusal is the answer to a request that the server sent and that nobody will be asked. id is canonical JSON.
func Refusal(id, text string) []byte {
	words, err := canon.Marshal(text)
	if err != nil {
		words = []byte(`"not available"`)
	}
	return slices.Concat([]byte(`{"jsonrpc":"2.0","id":`), []byte(id), []byte(`,"error":{"code":-32601,"message":`), words, []byte(`}}`))
}

type edit struct {
	start, end int
	with       []byte
}

// setMember replaces a member's value, or adds the member at the object's end.
func setMember(object *canon.Node, key string, value []byte) []edit {
	if have := object.Get(key); have != nil {
		if bytes.Equal(have.Raw, value) {
			return nil
		}
		return []edit{{have.Start, have.End, value}}
	}
	add := slices.Concat([]byte(`"`+key+`":`), value)
	if len(object.Members) > 0 {
		add = append([]byte(","), add...)
	}
	return []edit{{object.End - 1, object.End - 1, add}}
}

// apply makes the edits, which do not overlap.
func apply(raw []byte, edits []edit) []byte {
	if len(edits) == 0 {
		return raw
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	var out []byte
	at := 0
	for _, e := range edits {
		out = append(append(out, raw[at:e.start]...), e.with...)
		at = e.end
	}
	return append(out, raw[at:]...)
}
