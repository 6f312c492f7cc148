// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"encoding/json"
	"net/http"
	"time"

	"chaperone/internal/admit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/run"
)

const (
	grantType     = "client_credentials"                                     // RFC 6749 §4.4
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 §2.2
	detailsType   = "chaperone_run"                                          // RFC 9396 §2
)

// details is the one authorization_details object: it opens a run, or continues the one that run names.
type details struct {
	Type    string         `json:"type"`
	Run     *id.Run        `json:"run"`
	Purpose *string        `json:"purpose"`
	Plan    []run.PlanStep `json:"plan"`
	Budgets *run.Budgets   `json:"budgets"`
	Parent  *id.Run        `json:"parent"`
}

// granted is what the answer says of the run (RFC 9396 §7).
type granted struct {
	Type      string      `json:"type"`
	Run       id.Run      `json:"run"`
	Opener    string      `json:"opener"` // agent | person | orchestrator
	Budgets   run.Budgets `json:"budgets"`
	ExpiresAt time.Time   `json:"expires_at"`
}

type tokenAnswer struct {
	AccessToken string    `json:"access_token"`
	TokenType   string    `json:"token_type"`
	ExpiresIn   int64     `json:"expires_in"`
	Details     []granted `json:"authorization_details,omitempty"`
}

// token is POST /token: RFC 6749 §4.4 with RFC 7523, RFC 8707, RFC 9396 and RFC 9449.
func (d *Door) token(w http.ResponseWriter, r *http.Request) error {
	presented, err := d.presented(r)
	if err != nil {
		return err
	}
	f, err := readForm(r)
	if err != nil {
		return err
	}
	switch {
	case f.get("grant_type") != grantType:
		return malformed("unsupported_grant_type", "the grant type is not %s", grantType).WithFix("send grant_type=%s", grantType)
	case f.get("scope") != "":
		return malformed("invalid_scope", "credentials have no scope here: policy decides at every step").WithFix("leave scope out; state a purpose in authorization_details")
	}
	if err := f.assertion(); err != nil {
		return err
	}
	if len(f["resource"]) != 1 {
		return malformed("one_audience", "a credential is for exactly one resource").WithFix("send one resource parameter: %s/mcp/<server> or %s/api", d.cfg.Issuer, d.cfg.Issuer)
	}
	order, err := parseDetails(f.get("authorization_details"))
	if err != nil {
		return err
	}
	out, err := d.deps.Road.Token(r.Context(), admit.TokenRequest{
		ClientID: f.get("client_id"), Assertion: f.get("client_assertion"), Presented: presented, Audience: f.get("resource"), Run: order,
	})
	if err != nil {
		return err
	}
	answer := tokenAnswer{
		AccessToken: out.Token, TokenType: "DPoP", ExpiresIn: int64(out.Credential.ExpiresAt.Sub(out.Credential.IssuedAt) / time.Second),
	}
	if !out.Credential.Run.IsZero() {
		answer.Details = []granted{{
			Type: detailsType, Run: out.Run.ID, Opener: string(out.Run.Opener.Kind), Budgets: out.Run.Budgets, ExpiresAt: out.Run.ExpiresAt,
		}}
	}
	return write(w, http.StatusOK, "application/json", answer)
}

// parseDetails reads authorization_details: nothing, or an array of exactly one chaperone_run object with no member that is not
// known. Error kind: Invalid, code "bad_authorization_details".
func parseDetails(raw string) (*admit.RunOrder, error) {
	if raw == "" {
		return nil, nil
	}
	bad := func(msg string) error {
		return malformed("bad_authorization_details", "authorization_details: %s", msg).
			WithFix(`send [{"type":"chaperone_run","purpose":"..."}] to open a run, or [{"type":"chaperone_run","run":"run_..."}] to continue one`)
	}
	n, err := canon.Parse([]byte(raw), canon.Limits{Bytes: maxBody, Depth: 8})
	if err != nil {
		return nil, bad(say(err))
	}
	if n.Kind != canon.Array || len(n.Items) != 1 || n.Items[0].Kind != canon.Object {
		return nil, bad("it is not an array of exactly one object")
	}
	if kind, _ := n.Items[0].Get("type").String(); kind != detailsType {
		return nil, bad("the type is not " + detailsType)
	}
	for _, m := range n.Items[0].Members {
		if m.Value.IsNull() {
			return nil, bad("a member is null")
		}
	}
	var got details
	if err := canon.Fill(n.Items[0], &got, true); err != nil {
		return nil, bad(say(err))
	}
	if got.Run != nil {
		if len(n.Items[0].Members) != 2 || got.Run.IsZero() {
			return nil, bad("a run that is continued is named alone")
		}
		return &admit.RunOrder{Continue: *got.Run}, nil
	}
	order := &admit.RunOrder{Plan: got.Plan}
	if got.Purpose != nil {
		order.Purpose = *got.Purpose
	}
	if got.Budgets != nil {
		order.Budgets = *got.Budgets
	}
	if got.Parent != nil {
		if order.Parent = *got.Parent; order.Parent.IsZero() {
			return nil, bad("parent is empty")
		}
	}
	return order, nil
}

// revoke is POST /revoke (RFC 7009): 200 whatever the token was, if only the client is who it says.
func (d *Door) revoke(w http.ResponseWriter, r *http.Request) error {
	if _, err := d.presented(r); err != nil {
		return err
	}
	f, err := readForm(r)
	if err != nil {
		return err
	}
	if err := f.assertion(); err != nil {
		return err
	}
	if f.get("token") == "" {
		return malformed("no_token", "there is no token to revoke").WithFix("send token=<credential>")
	}
	err = d.deps.Road.Revoke(r.Context(), admit.RevokeRequest{ClientID: f.get("client_id"), Assertion: f.get("client_assertion"), Token: f.get("token")})
	if err == nil {
		w.WriteHeader(http.StatusOK)
	}
	return err
}

// say returns what a fault tells the caller.
func say(err error) string {
	if e, ok := asFault(err); ok && e.Kind != fault.Internal {
		return e.Msg
	}
	return "it cannot be read"
}

func write(w http.ResponseWriter, status int, media string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fault.Wrap("issuer.write", err)
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_, _ = w.Write(b) // a caller who went away has nobody to be told
	return nil
}
