// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"

	"chaperone/internal/admit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/run"
)

const (
	grantType     = "client_credentials"
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 §2.2
	runDetails    = "chaperone_run"                                          // RFC 9396 type
)

// token is the credential endpoint: client_credentials with private_key_jwt and DPoP, one resource, and for agents the run in
// authorization_details.
func (d *Door) token(w http.ResponseWriter, r *http.Request) {
	form, err := readForm(r)
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	req, err := d.tokenRequest(r, form)
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	got, err := d.Road.Token(r.Context(), req)
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	out := struct {
		Access    string       `json:"access_token"`
		Type      string       `json:"token_type"`
		ExpiresIn int64        `json:"expires_in"`
		Details   []runGranted `json:"authorization_details,omitempty"`
	}{got.Token, "DPoP", int64(got.Credential.ExpiresAt.Sub(got.Credential.IssuedAt).Seconds()), nil}
	if !got.Run.ID.IsZero() {
		out.Details = []runGranted{{Type: runDetails, Run: got.Run.ID, Purpose: got.Run.Purpose, Budgets: got.Run.Budgets, Parent: got.Run.Parent}}
	}
	answer(w, http.StatusOK, out)
}

// runGranted is the run as it stands, echoed as RFC 9396 §7 asks.
type runGranted struct {
	Type    string      `json:"type"`
	Run     id.Run      `json:"run"`
	Purpose string      `json:"purpose"`
	Budgets run.Budgets `json:"budgets"`
	Parent  id.Run      `json:"parent,omitzero"`
}

func (d *Door) tokenRequest(r *http.Request, form url.Values) (admit.TokenRequest, error) {
	invalid := func(code, fix, format string, args ...any) error {
		return fault.New(fault.Invalid, "issuer.token", code, format, args...).WithFix("%s", fix)
	}
	if g := form.Get("grant_type"); g != grantType {
		return admit.TokenRequest{}, invalid("bad_grant_type", "send grant_type="+grantType, "the grant type %q is not served here", g)
	}
	if t := form.Get("client_assertion_type"); t != "" && t != assertionType {
		return admit.TokenRequest{}, invalid("bad_assertion_type", "send client_assertion_type="+assertionType, "the client assertion type is not served here")
	}
	p, err := d.presented(r, "/token")
	if err != nil {
		return admit.TokenRequest{}, err
	}
	req := admit.TokenRequest{ClientID: form.Get("client_id"), Assertion: form.Get("client_assertion"), Presented: p, Audience: form.Get("resource")}
	switch n := len(form["resource"]); {
	case n == 0:
		return req, invalid("resource_missing", "send resource with the URL of one MCP server at the gateway, or of the API", "no resource was stated (RFC 8707)")
	case n > 1:
		return req, invalid("resource_many", "ask for one credential per resource", "a credential is for one resource, %d were stated", n)
	}
	if raw := form.Get("authorization_details"); raw != "" {
		if req.Run, err = ParseDetails([]byte(raw)); err != nil {
			return req, err
		}
	}
	return req, nil
}

// runDetail is one chaperone_run object. A pointer tells absent from empty.
type runDetail struct {
	Type    string          `json:"type"`
	Run     *string         `json:"run"`
	Purpose *string         `json:"purpose"`
	Plan    *[]run.PlanStep `json:"plan"`
	Budgets *run.Budgets    `json:"budgets"`
	Parent  *string         `json:"parent"`
}

// ParseDetails reads authorization_details (RFC 9396 §2): exactly one object of type chaperone_run that either opens a run (purpose,
// plan, budgets, parent) or continues one (run). Unknown members, and both at once, are Invalid, "bad_run_order".
func ParseDetails(raw []byte) (*admit.RunOrder, error) {
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "issuer.details", "bad_run_order", format, args...).
			WithFix(`send [{"type":"chaperone_run","purpose":...}] to open a run, [{"type":"chaperone_run","run":"run_..."}] to continue one`)
	}
	var list []runDetail
	if err := canon.Decode(raw, canon.Limits{Bytes: maxBody, Depth: 16}, &list); err != nil {
		if e, ok := errors.AsType[*fault.Error](err); ok {
			return nil, bad("authorization_details: %s", e.Msg)
		}
		return nil, bad("authorization_details cannot be read")
	}
	if len(list) != 1 || list[0].Type != runDetails {
		return nil, bad("authorization_details must be one object of type %s", runDetails)
	}
	d, order := list[0], &admit.RunOrder{}
	var err error
	if d.Run != nil {
		if d.Purpose != nil || d.Plan != nil || d.Budgets != nil || d.Parent != nil {
			return nil, bad("a run that is continued takes no purpose, plan, budgets or parent")
		}
		if order.Continue, err = id.ParseRun(*d.Run); err != nil || order.Continue.IsZero() {
			return nil, bad("run is not the identifier of a run")
		}
		return order, nil
	}
	if d.Purpose != nil {
		order.Purpose = *d.Purpose
	}
	if d.Plan != nil {
		order.Plan = *d.Plan
	}
	if d.Budgets != nil {
		order.Budgets = *d.Budgets
	}
	if d.Parent != nil {
		if order.Parent, err = id.ParseRun(*d.Parent); err != nil || order.Parent.IsZero() {
			return nil, bad("parent is not the identifier of a run")
		}
	}
	return order, nil
}

// revoke gives a credential back (RFC 7009): 200 whether or not it was known.
func (d *Door) revoke(w http.ResponseWriter, r *http.Request) {
	form, err := readForm(r)
	if err == nil {
		err = d.Road.Revoke(r.Context(), admit.RevokeRequest{ClientID: form.Get("client_id"), Assertion: form.Get("client_assertion"), Token: form.Get("token")})
	}
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// readForm reads a form of which no parameter but resource may stand twice (RFC 6749 §3.2, RFC 8707 §2). Parameters in the URL are
// refused: credentials do not belong in logs of URLs.
func readForm(r *http.Request) (url.Values, error) {
	invalid := func(code, fix, format string, args ...any) error {
		return fault.New(fault.Invalid, "issuer.form", code, format, args...).WithFix("%s", fix)
	}
	if r.URL.RawQuery != "" {
		return nil, invalid("parameters_in_url", "send them in the body", "parameters stand in the URL")
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return nil, invalid("content_type", "send application/x-www-form-urlencoded", "the body is not a form")
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalid("bad_form", "encode the form as the standard says", "the form cannot be read")
	}
	for name, values := range form {
		if len(values) > 1 && name != "resource" {
			return nil, invalid("duplicate_parameter", "send each parameter once", "a parameter stands %d times", len(values))
		}
	}
	return form, nil
}

func readBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, fault.New(fault.Limited, "issuer.body", "body_too_large", "the body has more than %d bytes", maxBody).WithFix("send a smaller one")
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "issuer.body", "body_cut", "the body could not be read to its end").WithFix("send it again").WithCause(err)
	}
	return b, nil
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a caller that is gone needs no answer
}

// jwks publishes the keys that verify credentials (RFC 7517 §5). It may be cached for a minute.
func (d *Door) jwks(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=60")
	w.Header().Set("Content-Type", "application/jwk-set+json")
	_, _ = w.Write(identity.Set(d.Keys())) // as above
}
