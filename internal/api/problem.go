// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"net/http"
	"strings"

	"chaperone/internal/api/client"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
)

// statuses is the one table from kind to HTTP status.
func statuses(k fault.Kind) int {
	switch k {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Exists, fault.Conflict:
		return http.StatusConflict
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.Denied, fault.Suspended:
		return http.StatusForbidden
	case fault.Limited:
		return http.StatusTooManyRequests
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// problem answers with a fault as a problem document (RFC 9457). An internal fault is logged and tells nothing.
func (d *Door) problem(w http.ResponseWriter, r *http.Request, err error) {
	kind := fault.KindOf(err)
	p := client.Problem{
		Type: client.ProblemType + kind.String(), Status: statuses(kind), Title: strings.ReplaceAll(kind.String(), "_", " "),
		Code: fault.CodeOf(err), Instance: r.URL.EscapedPath(),
	}
	if e, ok := errors.AsType[*fault.Error](err); ok && kind != fault.Internal {
		p.Detail, p.Fix = e.Msg, e.Fix
	} else {
		p.Code, p.Detail, p.Fix = "internal", "something went wrong inside", "look at the log of the process"
		d.Logger.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if no, ok := errors.AsType[*govern.Denial](err); ok {
		p.Rule, p.Decision = no.Rule, no.Decision.String()
	}
	if no, ok := errors.AsType[*govern.Refused](err); ok {
		p.Problems = no.Problems
	}
	if kind == fault.Unauthenticated {
		// RFC 9449 §7.1 and §9: the challenge names the algorithm and, for a nonce, the error.
		challenge := `DPoP algs="ES256"`
		switch p.Code {
		case "no_credential":
		case "use_dpop_nonce":
			challenge += `, error="use_dpop_nonce", error_description="the proof needs a nonce of this server"`
		case "bad_proof", "no_proof", "proof_replayed", "key_mismatch":
			challenge += `, error="invalid_dpop_proof"`
		default:
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
	if kind == fault.Unavailable || kind == fault.Limited {
		w.Header().Set("Retry-After", "1")
	}
	d.write(w, r, p.Status, "application/problem+json", p)
}
