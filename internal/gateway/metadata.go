// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"net/http"
	"strings"

	"chaperone/internal/canon"
)

// metadataPath is where RFC 9728 §3.1 puts the metadata of a resource: between the host and the resource's own path.
const metadataPath = "/.well-known/oauth-protected-resource"

// metadata says where credentials for a server are had and that they must be bound to a key. It says the same of every name that a
// server could have, so that it does not tell which there are.
func (d *Door) metadata(w http.ResponseWriter, r *http.Request) {
	server := r.PathValue("server")
	if !serverName.MatchString(server) {
		d.refuse(w, asker{}, checkHeaders(r, server))
		return
	}
	b, err := canon.Marshal(map[string]any{
		"resource":                              d.resource(server),
		"resource_name":                         "MCP server " + server,
		"authorization_servers":                 []string{d.cfg.Issuer},
		"authorization_details_types_supported": []string{"chaperone_run"},
		"bearer_methods_supported":              []string{"header"},
		"dpop_bound_access_tokens_required":     true,
		"dpop_signing_alg_values_supported":     []string{"ES256"},
	})
	if err != nil {
		d.refuse(w, asker{}, problemOf(err))
		return
	}
	writeJSON(w, http.StatusOK, b)
}

func (d *Door) resource(server string) string { return d.cfg.PublicURL + "/mcp/" + server }

// challenge is the WWW-Authenticate of a 401 (RFC 9449 §7.1, RFC 9728 §5.1).
func (d *Door) challenge(server string, p *problem) string {
	s := `DPoP algs="ES256"`
	if server != "" {
		s += `, resource_metadata="` + d.base.Scheme + "://" + d.base.Host + metadataPath + d.base.Path + "/mcp/" + server + `"`
	}
	if e := oauthError(p.Code); e != "" {
		s += `, error="` + e + `", error_description="` + quotable(p.Code+": "+p.Msg) + `"`
	}
	return s
}

// oauthError is the error attribute; none where the caller tried nothing (RFC 6750 §3.1).
func oauthError(code string) string {
	switch code {
	case "no_credential":
		return ""
	case "use_dpop_nonce":
		return "use_dpop_nonce"
	case "no_proof", "bad_proof", "proof_replayed", "proof_memory_full", "key_mismatch":
		return "invalid_dpop_proof"
	}
	return "invalid_token"
}

// quotable keeps a text inside a quoted-string of ASCII.
func quotable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			return '\''
		}
		return r
	}, s)
}
