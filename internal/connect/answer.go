// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"encoding/json"
	"errors"

	"chaperone/internal/fault"
)

// The JSON-RPC codes of the bridge's own errors are those of the gateway's table for the same kinds.
const (
	rpcParse          = -32700
	rpcInvalidRequest = -32600
	rpcInternal       = -32603
)

var rpcCodes = map[fault.Kind]int{
	fault.Invalid: rpcInvalidRequest, fault.Unauthenticated: -32010, fault.Denied: -32011, fault.Suspended: -32012, fault.Limited: -32013,
}

// failure is the bridge's own answer to a request that could not be carried. A nil id is written as null.
func failure(id []byte, err error) []byte {
	if id == nil {
		id = []byte("null")
	}
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind == fault.Internal {
		e = fault.New(fault.Internal, "connect", "internal", "the bridge failed").WithFix("look at what the bridge wrote to its standard error")
	}
	code, ok := rpcCodes[e.Kind]
	if !ok {
		code = rpcInternal
	}
	switch e.Code {
	case "json_syntax", "json_trailing_data", "json_invalid_utf8":
		code = rpcParse
	}
	text := e.Msg + " (" + e.Code + ")"
	data := map[string]string{"code": e.Code}
	if e.Fix != "" {
		text += "; next: " + e.Fix
		data["fix"] = e.Fix
	}
	raw, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": json.RawMessage(id), "error": map[string]any{"code": code, "message": text, "data": data}})
	if err != nil { // only for an id that is no JSON, and all ids here were parsed
		return []byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"the bridge failed"}}`)
	}
	return raw
}

func lost(why string, cause error) error {
	return fault.New(fault.Unavailable, "connect", "answer_lost", "%s before the answer; whether the call ran is not known here", why).
		WithFix("look at the run's record before you repeat it").WithCause(cause)
}
