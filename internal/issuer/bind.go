// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"mime"
	"net/http"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// deployment is what a fresh key needs to know of where it was bound.
type deployment struct {
	Issuer      string `json:"issuer"`
	TrustDomain string `json:"trust_domain"`
	LogOrigin   string `json:"log_origin"`
	LogKey      string `json:"log_key"`
}

func (d *Door) deployment() deployment {
	return deployment{d.cfg.Issuer, d.cfg.TrustDomain, d.cfg.LogOrigin, d.cfg.LogKey}
}

// enrol binds an instance's own key with a single-use join code; the DPoP proof shows the key.
func (d *Door) enrol(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Code string `json:"code"`
	}
	p, err := d.read(r, "/enroll", &in)
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	instance, agent, err := d.Road.Enrol(r.Context(), in.Code, p)
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	answer(w, http.StatusOK, struct {
		ClientID  string `json:"client_id"`
		Instance  string `json:"instance"`
		Agent     string `json:"agent"`
		AgentName string `json:"agent_name"`
		AgentType string `json:"agent_type"`
		deployment
	}{identity.InstanceSPIFFE(d.cfg.TrustDomain, agent.Name, instance.ID), instance.ID.String(), agent.ID.String(), agent.Name, agent.Type, d.deployment()})
}

// login binds a person's own key with a single-use login code.
func (d *Door) login(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Code    string `json:"code"`
		Profile string `json:"profile"`
	}
	p, err := d.read(r, "/login", &in)
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	person, err := d.Road.BindPerson(r.Context(), in.Code, in.Profile, p)
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	answer(w, http.StatusOK, struct {
		ClientID string `json:"client_id"`
		Person   string `json:"person"`
		Name     string `json:"name"`
		Profile  string `json:"profile"`
		deployment
	}{identity.PersonSPIFFE(d.cfg.TrustDomain, person.Name), person.ID.String(), person.Name, in.Profile, d.deployment()})
}

// read decodes a strict JSON body and what the request presents.
func (d *Door) read(r *http.Request, endpoint string, dst any) (identity.Presented, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return identity.Presented{}, fault.New(fault.Invalid, "issuer.read", "content_type", "the body is not JSON").WithFix("send application/json")
	}
	body, err := readBody(r)
	if err != nil {
		return identity.Presented{}, err
	}
	if err := canon.Decode(body, canon.Limits{Bytes: maxBody, Depth: 8}, dst); err != nil {
		return identity.Presented{}, err
	}
	return d.presented(r, endpoint)
}

// metadata describes the issuer (RFC 8414, RFC 9449 §5.1, RFC 9396 §10).
func (d *Door) metadata(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=300")
	i := d.cfg.Issuer
	answer(w, http.StatusOK, map[string]any{
		"issuer": i, "token_endpoint": i + "/token", "revocation_endpoint": i + "/revoke", "jwks_uri": i + "/jwks",
		"grant_types_supported": []string{grantType}, "response_types_supported": []string{},
		"token_endpoint_auth_methods_supported":                 []string{"private_key_jwt"},
		"token_endpoint_auth_signing_alg_values_supported":      []string{"ES256"},
		"revocation_endpoint_auth_methods_supported":            []string{"private_key_jwt"},
		"revocation_endpoint_auth_signing_alg_values_supported": []string{"ES256"},
		"dpop_signing_alg_values_supported":                     []string{"ES256"},
		"authorization_details_types_supported":                 []string{runDetails},
	})
}
