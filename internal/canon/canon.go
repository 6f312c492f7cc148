// SPDX-License-Identifier: Apache-2.0

// Package canon reads JSON strictly and writes it canonically (RFC 8785, JCS), so that one value has one digest and no two
// readers of the same bytes can disagree about what they say. It decides whether bytes are well-formed JSON that means one
// thing; it never decides what the value is good for, and never repairs what it refuses.
package canon

import (
	"encoding/json"
	"strconv"

	"chaperone/internal/fault"
)

// The defaults of Limits, used for every field that is zero.
const (
	DefaultBytes = 4 << 20 // the bound of a request body
	DefaultDepth = 64      // nested arrays and objects
)

// Limits bounds what Parse accepts. The zero value means the defaults.
type Limits struct {
	// Bytes is the largest input, in bytes.
	Bytes int
	// Depth is the largest number of arrays and objects inside one another; a scalar alone has depth 0.
	Depth int
	// Values is the largest number of values of any kind, because a value costs far more memory than the byte or two that
	// may spell it. Zero means one for every 16 bytes of Bytes, and at least 4,096.
	Values int
}

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = DefaultBytes
	}
	if l.Depth <= 0 {
		l.Depth = DefaultDepth
	}
	if l.Values <= 0 {
		l.Values = max(4096, l.Bytes/16)
	}
	return l
}

// Kind is the kind of a JSON value. The zero value is no kind at all, so that a Node nobody filled is not a null.
type Kind uint8

// The six kinds of RFC 8259.
const (
	Null Kind = iota + 1
	Bool
	Number
	String
	Array
	Object
)

var kindNames = [...]string{"nothing", "null", "boolean", "number", "string", "array", "object"}

// String returns the kind's name as errors print it.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[0]
}

// Node is one parsed value. Nodes are read-only once Parse has returned, and then safe for concurrent use as long as
// nobody writes to the parsed bytes. A nil *Node is "absent": every method of it answers so.
type Node struct {
	Kind Kind
	// Start and End are the byte range of the value in the input, without surrounding white space.
	Start, End int
	// Raw is input[Start:End], shared with the input and capped.
	Raw []byte
	// Text is the decoded text of a String, or the literal of a Number or Bool as it was written.
	Text string
	// Members are an Object's members in input order; names are unique.
	Members []Member
	// Items are an Array's elements.
	Items []*Node
}

// Member is one member of an object, its name decoded.
type Member struct {
	Key   string
	Value *Node
}

// Get returns the value of the member with exactly this name (case matters), nil if there is none or the node is not an
// object.
func (n *Node) Get(key string) *Node {
	if n == nil {
		return nil
	}
	for i := range n.Members {
		if n.Members[i].Key == key {
			return n.Members[i].Value
		}
	}
	return nil
}

// String returns the decoded text and whether the node is a string.
func (n *Node) String() (string, bool) {
	if n == nil || n.Kind != String {
		return "", false
	}
	return n.Text, true
}

// Int returns the value of a number that is written as an integer and fits 64 bits. 1.0 and 1e3 are not written so.
func (n *Node) Int() (int64, bool) {
	if n == nil || n.Kind != Number {
		return 0, false
	}
	v, err := strconv.ParseInt(n.Text, 10, 64)
	return v, err == nil
}

// Bool returns the value and whether the node is a boolean.
func (n *Node) Bool() (value, ok bool) {
	if n == nil || n.Kind != Bool {
		return false, false
	}
	return n.Text == "true", true
}

// IsNull reports whether the node is present and null.
func (n *Node) IsNull() bool { return n != nil && n.Kind == Null }

// Any returns the value as encoding/json would put it in an any, except that numbers are json.Number and so keep every
// digit. A nil node is nil.
func (n *Node) Any() any {
	if n == nil {
		return nil
	}
	switch n.Kind {
	case Bool:
		return n.Text == "true"
	case Number:
		return json.Number(n.Text)
	case String:
		return n.Text
	case Array:
		out := make([]any, len(n.Items))
		for i, item := range n.Items {
			out[i] = item.Any()
		}
		return out
	case Object:
		out := make(map[string]any, len(n.Members))
		for _, m := range n.Members {
			out[m.Key] = m.Value.Any()
		}
		return out
	}
	return nil
}

func refuse(op, code, fix, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, op, code, format, args...).WithFix("%s", fix)
}
