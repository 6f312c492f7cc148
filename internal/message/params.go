// SPDX-License-Identifier: Apache-2.0

package message

import (
	"slices"
	"strings"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// Beside names the members of a request's params that are neither what is called, nor its arguments, nor the protocol's own: what
// people who are shown the arguments would not see. Sorted.
func Beside(doc *canon.Node) []string {
	var out []string
	params := doc.Get("params")
	if params == nil {
		return nil
	}
	for _, m := range params.Members {
		switch m.Key {
		case "name", "uri", "arguments", "_meta", "requestState", "task":
		default:
			out = append(out, m.Key)
		}
	}
	slices.Sort(out)
	return out
}

// PlainMeta cuts from the params' _meta what MCP does not define itself (progressToken, io.modelcontextprotocol/..., and the trace
// context of SEP-414). A request without such members is returned as it is.
func PlainMeta(raw []byte, doc *canon.Node) ([]byte, error) {
	meta := doc.Get("params").Get("_meta")
	if meta == nil {
		return raw, nil
	}
	out, cut := []byte("{"), false
	for _, m := range meta.Members {
		if !ofProtocol(m.Key) {
			cut = true
			continue
		}
		key, err := canon.Marshal(m.Key)
		if err != nil {
			return nil, fault.Wrap("message.PlainMeta", err)
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), m.Value.Raw...)
	}
	if !cut && meta.Kind == canon.Object {
		return raw, nil
	}
	return apply(raw, []edit{{meta.Start, meta.End, append(out, '}')}}), nil
}

func ofProtocol(key string) bool {
	switch key {
	case "progressToken", "traceparent", "tracestate", "baggage":
		return true
	}
	return strings.HasPrefix(key, "io.modelcontextprotocol/")
}
