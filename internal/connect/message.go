// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"bytes"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/message"
)

// kind is what a client's message is. An answer is one to a request that the server sent.
type kind int

const (
	request kind = iota + 1
	notification
	answer
)

// letter is one message of the client: its bytes, and what the bridge must know of them.
type letter struct {
	kind   kind
	raw    []byte
	id     []byte // as the client wrote it; nil for notifications
	key    string // the id in canonical form, so that two spellings of one id are one
	method string // "" for answers

	name    string // of the tool or prompt, or the resource's URI
	version string // protocol version in _meta
	meta    *canon.Node
	args    *canon.Node
	cancels string // canonical id of the request that a notifications/cancelled names
}

// readMessage reads a client's message as strictly as the gateway does. Errors, all Invalid: the json_ codes of package canon, and
// "not_jsonrpc" for JSON that is no single message.
func readMessage(body []byte) (letter, error) {
	n, err := canon.Parse(body, canon.Limits{Bytes: maxBody})
	if err != nil {
		return letter{}, err
	}
	m := letter{raw: body}
	m.method, _ = n.Get("method").String()
	id := n.Get("id")
	if id != nil {
		if m.key, err = message.ID(id); err != nil {
			return letter{}, notJSONRPC("the id is neither a string nor a number")
		}
		m.id = id.Raw
	}
	switch {
	case n.Kind != canon.Object:
		return letter{}, notJSONRPC("it is not one object")
	case m.method != "" && id != nil:
		m.kind = request
	case m.method != "":
		m.kind = notification
	case id != nil && n.Get("method") == nil && (n.Get("result") != nil || n.Get("error") != nil):
		m.kind = answer
		return m, nil
	default:
		return letter{}, notJSONRPC("it is neither a request nor a notification nor an answer")
	}
	params := n.Get("params")
	m.meta = params.Get("_meta")
	m.version, _ = m.meta.Get(metaVersion).String()
	switch m.method {
	case "tools/call", "prompts/get":
		m.name, _ = params.Get("name").String()
		m.args = params.Get("arguments")
	case "resources/read":
		m.name, _ = params.Get("uri").String()
	case "notifications/cancelled":
		if key, err := message.ID(params.Get("requestId")); err == nil {
			m.cancels = key
		}
	}
	return m, nil
}

func notJSONRPC(what string) error {
	return fault.New(fault.Invalid, "connect.read", "not_jsonrpc", "not a JSON-RPC 2.0 message: %s", what).
		WithFix("send one request, notification or answer at a time")
}

// reply looks at a message of the gateway that came for m, and returns it as the client may see it; ours says that it answers m.
// An error that carries no id, because the gateway refused before it read one, gets m's: everything else keeps its bytes.
func (m letter) reply(raw []byte) (out []byte, doc *canon.Node, ours bool) {
	doc, err := canon.Parse(raw, canon.Limits{Bytes: maxAnswer, Depth: 256})
	if err != nil || doc.Kind != canon.Object {
		return nil, nil, false
	}
	if doc.Get("method") != nil || m.kind != request {
		return raw, doc, false
	}
	id := doc.Get("id")
	if key, err := message.ID(id); err == nil {
		return raw, doc, key == m.key
	}
	failure := doc.Get("error")
	if failure == nil {
		return raw, doc, false
	}
	return bytes.Join([][]byte{[]byte(`{"jsonrpc":"2.0","id":`), m.id, []byte(`,"error":`), failure.Raw, []byte(`}`)}, nil), doc, true
}
