// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"errors"
	"net/http"
	"strings"

	"chaperone/internal/fault"
)

// refusal is an error as it goes out: OAuth's error and description (RFC 6749 §5.2), our stable code and the next step.
type refusal struct {
	status int
	error  string
	code   string
	words  string
	fix    string
}

type refusalBody struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
	Code        string `json:"code,omitempty"`
	Fix         string `json:"fix,omitempty"`
}

// wordOf returns OAuth's error for a code of the road, empty for one that its kind tells.
func wordOf(code string) string {
	switch code {
	case "use_dpop_nonce": // RFC 9449 §8
		return "use_dpop_nonce"
	case "no_proof", "bad_proof", "proof_replayed", "key_mismatch", "dpop_header_twice": // RFC 9449 §5
		return "invalid_dpop_proof"
	case "no_assertion", "unknown_client", "bad_assertion", "assertion_audience", "assertion_expired", "assertion_replayed",
		"authorization_header", "client_secret": // RFC 6749 §5.2
		return "invalid_client"
	case "agent_suspended", "agent_retired", "agent_expired", "agent_not_enrolled", "instance_revoked", "person_suspended", "not_your_credential":
		return "unauthorized_client"
	case "join_code", "login_code", "key_bound", "too_many_keys", "run_ended", "run_expired", "run_suspended", "run_unknown",
		"run_of_another_agent", "run_of_another_instance", "too_many_runs":
		return "invalid_grant"
	case "unknown_audience", "one_audience": // RFC 8707 §2
		return "invalid_target"
	case "bad_authorization_details", "run_required", "run_not_for_people", "bad_run_order", "bad_purpose", "bad_plan", "bad_budget",
		"too_deep", "wider_than_parent", "bad_opener": // RFC 9396 §5
		return "invalid_authorization_details"
	case "unsupported_grant_type", "invalid_scope":
		return code
	}
	return ""
}

// refusalOf finds the words and the status. What went wrong inside is not told.
func refusalOf(err error) refusal {
	e, ok := asFault(err)
	if !ok || e.Kind == fault.Internal {
		return refusal{http.StatusInternalServerError, "server_error", "internal", "internal error", "ask the operator to look at the log"}
	}
	out := refusal{http.StatusBadRequest, wordOf(e.Code), e.Code, e.Msg, e.Fix}
	switch {
	case e.Code == "body_too_large":
		out.status, out.error = http.StatusRequestEntityTooLarge, "invalid_request"
	case out.error == "invalid_client":
		out.status = http.StatusUnauthorized
	case out.error != "":
	case e.Kind == fault.Limited, e.Kind == fault.Unavailable, e.Kind == fault.Conflict:
		out.status, out.error = http.StatusServiceUnavailable, "temporarily_unavailable"
	default:
		out.error = "invalid_request"
	}
	return out
}

func (d *Door) refuse(w http.ResponseWriter, r *http.Request, no refusal) {
	if no.code != "use_dpop_nonce" { // every client's first request is answered so; it is no refusal
		d.deps.Log.InfoContext(r.Context(), "a request was refused", "path", r.URL.Path, "status", no.status, "fault_code", no.code)
	}
	switch no.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `DPoP algs="ES256"`)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "2")
	}
	_ = write(w, no.status, "application/json", refusalBody{Error: no.error, Description: printable(no.words), Code: no.code, Fix: no.fix})
}

// printable keeps to the characters RFC 6749 §5.2 allows in a description.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		switch {
		case c == '"' || c == '\\':
			return '\''
		case c < ' ' || c > '~':
			return '?'
		}
		return c
	}, s)
	return s[:min(len(s), 500)]
}

func asFault(err error) (*fault.Error, bool) { return errors.AsType[*fault.Error](err) }
