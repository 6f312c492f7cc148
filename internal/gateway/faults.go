// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"net/http"

	"chaperone/internal/fault"
)

// JSON-RPC codes. Those of -32020 and below are MCP's (2026-07-28); -32010 to -32019 are ours, in the range that is left to
// implementations.
const (
	rpcParse           = -32700
	rpcInvalidRequest  = -32600
	rpcMethodNotFound  = -32601
	rpcInvalidParams   = -32602
	rpcInternal        = -32603
	rpcHeader          = -32020
	rpcVersion         = -32022
	rpcUnauthenticated = -32010
	rpcDenied          = -32011
	rpcSuspended       = -32012
	rpcLimited         = -32013
	rpcConflict        = -32014
	rpcPending         = -32015
)

// row says how a kind of error is answered. Answered is the status where a JSON-RPC error answers a request with an id: clients
// throw the body of a 5xx or 429 away, and with it the words that say what to do.
type row struct{ rpc, status, answered int }

// table is the one place where kinds become codes.
var table = map[fault.Kind]row{
	fault.Invalid:         {rpcInvalidRequest, http.StatusBadRequest, http.StatusBadRequest},
	fault.NotFound:        {rpcInvalidParams, http.StatusNotFound, http.StatusNotFound},
	fault.Exists:          {rpcConflict, http.StatusConflict, http.StatusOK},
	fault.Conflict:        {rpcConflict, http.StatusConflict, http.StatusOK},
	fault.Unauthenticated: {rpcUnauthenticated, http.StatusUnauthorized, http.StatusUnauthorized},
	fault.Denied:          {rpcDenied, http.StatusForbidden, http.StatusOK},
	fault.Suspended:       {rpcSuspended, http.StatusForbidden, http.StatusForbidden},
	fault.Limited:         {rpcLimited, http.StatusTooManyRequests, http.StatusOK},
	fault.Unavailable:     {rpcInternal, http.StatusServiceUnavailable, http.StatusOK},
	fault.Internal:        {rpcInternal, http.StatusInternalServerError, http.StatusOK},
}

// statelessStatus are the statuses that 2026-07-28 prescribes for errors of its own.
var statelessStatus = map[int]int{
	rpcMethodNotFound: http.StatusNotFound,
	rpcInvalidParams:  http.StatusBadRequest,
	rpcVersion:        http.StatusBadRequest,
	rpcHeader:         http.StatusBadRequest,
	-32021:            http.StatusBadRequest,
}

// problemOf turns an error of the road into what the caller is told. The text of an Internal error stays inside.
func problemOf(err error) *problem {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind == fault.Internal {
		return &problem{Error: fault.New(fault.Internal, "gateway.serve", "internal", "the gateway failed").
			WithFix("try again; if it stays, tell the operator the time of this answer")}
	}
	p := &problem{Error: e}
	switch e.Code {
	case "header_mismatch":
		p.rpc = rpcHeader
	case "session_of_another_run", "session_unknown", "session_gone":
		p.rpc = rpcInvalidRequest
	}
	return p
}

// codes returns the JSON-RPC code and the HTTP status of a problem.
func (p *problem) codes(hasID bool, era string) (rpc, status int) {
	r, ok := table[p.Kind]
	if !ok {
		r = table[fault.Internal]
	}
	rpc, status = r.rpc, r.status
	if hasID {
		status = r.answered
	}
	if p.rpc != 0 {
		rpc = p.rpc
		if s, ok := statelessStatus[rpc]; ok && era == eraStateless {
			status = s
		}
	}
	if p.status != 0 {
		status = p.status
	}
	return rpc, status
}
