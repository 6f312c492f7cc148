// SPDX-License-Identifier: Apache-2.0

package message

import (
	"regexp"
	"slices"

	"chaperone/internal/canon"
)

// Frame is what a protocol message of a server may hold without saying anything that nobody has pinned.
type Frame struct {
	List string // the list that was cut for the caller, "" for none
	Self bool   // it says what the server is, and that is held against the pin
	// Info reports whether a serverInfo that stands beside the answer is the pinned one; nil = none is.
	Info func(raw []byte) bool
}

// Says reports whether a result or notification holds more than its frame: members that the protocol does not define there, or text
// where it defines marks. Such words may be anybody's, so a label must cover them. What an opaque cursor or id could spell is not
// read; it may hold no blank.
func Says(doc *canon.Node, f Frame) bool {
	if params := doc.Get("params"); params != nil {
		return !f.notification(params)
	}
	result := doc.Get("result")
	return result != nil && !f.result(result)
}

func (f Frame) notification(params *canon.Node) bool {
	for _, m := range params.Members {
		switch m.Key {
		case "_meta":
			if !f.meta(m.Value) {
				return false
			}
		case "notifications": // what a subscription was granted (2026-07-28)
			if !marks(m.Value, 1) {
				return false
			}
		default:
			return false
		}
	}
	return params.Kind == canon.Object
}

func (f Frame) result(result *canon.Node) bool {
	for _, m := range result.Members {
		if !f.member(m.Key, m.Value) {
			return false
		}
	}
	return true
}

func (f Frame) member(key string, v *canon.Node) bool {
	text, isText := v.String()
	switch key {
	case "_meta":
		return f.meta(v)
	case "resultType":
		return text == "complete" || text == "input_required"
	case "ttlMs":
		return v.Kind == canon.Number
	case "cacheScope":
		return text == "public" || text == "private"
	case "requestState":
		return isText // the road puts its own in its place
	case "nextCursor":
		return f.List != "" && isText && opaque.MatchString(text)
	case "instructions", "serverInfo":
		return f.Self
	case "protocolVersion":
		return f.Self && date.MatchString(text)
	case "supportedVersions":
		return f.Self && !slices.ContainsFunc(v.Items, func(n *canon.Node) bool { s, _ := n.String(); return !date.MatchString(s) })
	case "capabilities":
		return f.Self && marks(v, 8)
	}
	return f.List != "" && key == f.List
}

func (f Frame) meta(v *canon.Node) bool {
	for _, m := range v.Members {
		switch m.Key {
		case "io.modelcontextprotocol/serverInfo":
			if f.Info == nil || !f.Info(m.Value.Raw) {
				return false
			}
		case "io.modelcontextprotocol/subscriptionId":
			if s, ok := m.Value.String(); m.Value.Kind != canon.Number && (!ok || !opaque.MatchString(s)) {
				return false
			}
		default:
			return false
		}
	}
	return v.Kind == canon.Object
}

var (
	date   = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
	opaque = regexp.MustCompile(`^[A-Za-z0-9._:/+=~-]{0,512}$`)
	mark   = regexp.MustCompile(`^[A-Za-z0-9._/-]{1,64}$`)
)

// marks reports whether a value is made of names, yes and no, and numbers alone.
func marks(v *canon.Node, depth int) bool {
	switch v.Kind {
	case canon.Bool, canon.Null, canon.Number:
		return true
	case canon.Object:
		for _, m := range v.Members {
			if depth == 0 || !mark.MatchString(m.Key) || !marks(m.Value, depth-1) {
				return false
			}
		}
		return true
	case canon.Array, canon.String:
	}
	return false
}
