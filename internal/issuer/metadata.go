// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"net/http"

	"chaperone/internal/identity"
)

// document is the authorization server metadata: RFC 8414 §2, RFC 9449 §5.1, RFC 9396 §10. The last two members are our own.
type document struct {
	Issuer                string   `json:"issuer"`
	TokenEndpoint         string   `json:"token_endpoint"`
	RevocationEndpoint    string   `json:"revocation_endpoint"`
	JWKS                  string   `json:"jwks_uri"`
	ResponseTypes         []string `json:"response_types_supported"` // none: there is no authorization endpoint
	GrantTypes            []string `json:"grant_types_supported"`
	TokenAuthMethods      []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgs         []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	RevocationAuthMethods []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAuthAlgs    []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	DPoPAlgs              []string `json:"dpop_signing_alg_values_supported"`
	Details               []string `json:"authorization_details_types_supported"`
	ResourceIndicators    bool     `json:"resource_indicators_supported"` // RFC 8707, and one is required
	Enrolment             string   `json:"chaperone_enrollment_endpoint"`
	Login                 string   `json:"chaperone_login_endpoint"`
}

// metadata is GET /.well-known/oauth-authorization-server.
func (d *Door) metadata(w http.ResponseWriter, _ *http.Request) error {
	alg, method := []string{"ES256"}, []string{"private_key_jwt"}
	at := d.cfg.Issuer
	return write(w, http.StatusOK, "application/json", document{
		Issuer: at, TokenEndpoint: at + "/token", RevocationEndpoint: at + "/revoke", JWKS: at + "/jwks",
		ResponseTypes: []string{}, GrantTypes: []string{grantType},
		TokenAuthMethods: method, TokenAuthAlgs: alg, RevocationAuthMethods: method, RevocationAuthAlgs: alg,
		DPoPAlgs: alg, Details: []string{detailsType}, ResourceIndicators: true,
		Enrolment: at + "/enroll", Login: at + "/login",
	})
}

// jwks is GET /jwks (RFC 7517 §5).
func (d *Door) jwks(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	_, _ = w.Write(identity.Set(d.deps.Keys())) // a caller who went away has nobody to be told
	return nil
}
