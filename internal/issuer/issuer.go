// SPDX-License-Identifier: Apache-2.0

// Package issuer is the identity door on the agents' listener: the OAuth token and revocation endpoints, enrolment, login, the
// signing keys and the metadata that names them. It decides what a well-formed request for a credential is, and it says each
// refusal in OAuth's words; it never decides who gets a credential (package admit does).
package issuer

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"chaperone/internal/admit"
	"chaperone/internal/identity"
	"chaperone/internal/people"
)

// Road is what the door asks (admit.Road).
type Road interface {
	Token(context.Context, admit.TokenRequest) (admit.TokenAnswer, error)
	Revoke(context.Context, admit.RevokeRequest) error
	Enrol(ctx context.Context, code string, p identity.Presented) (identity.Instance, identity.Agent, error)
	BindPerson(ctx context.Context, code, profile string, p identity.Presented) (people.Person, error)
	Nonce() string
}

// Deps are what the door needs. Keys returns the public keys whose credentials may be alive; Log may be nil.
type Deps struct {
	Road Road
	Keys func() []identity.PublicKey
	Log  *slog.Logger
}

// Config says what the door is called and what it tells who enrols.
type Config struct {
	Issuer      string // the public URL, without a slash at the end
	TrustDomain string
	LogOrigin   string // of the transparency log
	LogKey      string // its verifier key, as a signed note names it
	// AllowedHosts are the Host headers that are answered, with the port where there is one; empty = the issuer's.
	AllowedHosts []string
	// AllowedOrigins are the Origin headers that are answered; a request without one always is. Empty = the issuer's.
	AllowedOrigins []string
}

// maxBody bounds a request body, in bytes.
const maxBody = 64 << 10

// Door answers over HTTP. It is safe for concurrent use.
type Door struct {
	deps Deps
	cfg  Config
	path string // of the issuer's URL, without a slash at the end
}

// New returns the door. It opens nothing.
func New(d Deps, cfg Config) *Door {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Issuer = strings.TrimSuffix(cfg.Issuer, "/")
	door := &Door{deps: d}
	if u, err := url.Parse(cfg.Issuer); err == nil {
		door.path = u.Path
		if len(cfg.AllowedHosts) == 0 {
			cfg.AllowedHosts = []string{u.Host}
		}
		if len(cfg.AllowedOrigins) == 0 {
			cfg.AllowedOrigins = []string{u.Scheme + "://" + u.Host}
		}
	}
	door.cfg = cfg
	return door
}

// Routes adds the door to a mux.
func (d *Door) Routes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+d.path+"/token", d.guarded(d.token))
	mux.HandleFunc("POST "+d.path+"/revoke", d.guarded(d.revoke))
	mux.HandleFunc("POST "+d.path+"/enroll", d.guarded(d.enroll))
	mux.HandleFunc("POST "+d.path+"/login", d.guarded(d.login))
	mux.HandleFunc("GET "+d.path+"/jwks", d.guarded(d.jwks))
	mux.HandleFunc("GET /.well-known/oauth-authorization-server"+d.path, d.guarded(d.metadata))
}

// guarded refuses hosts and pages that are not this door's before anything is read (DNS rebinding), caps the body and forbids
// keeping the answer.
func (d *Door) guarded(next func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Pragma", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		same := func(list []string, s string) bool {
			return slices.ContainsFunc(list, func(one string) bool { return strings.EqualFold(one, s) })
		}
		if !same(d.cfg.AllowedHosts, r.Host) {
			d.refuse(w, r, refusal{http.StatusForbidden, "invalid_request", "host_not_allowed", "the Host header is not one of this issuer's",
				"reach the issuer under its public URL, or add the host to the allowed ones"})
			return
		}
		for _, origin := range r.Header.Values("Origin") {
			if !same(d.cfg.AllowedOrigins, origin) {
				d.refuse(w, r, refusal{http.StatusForbidden, "invalid_request", "origin_not_allowed", "the Origin header is not one of this issuer's",
					"agents do not run in pages; add the origin to the allowed ones if yours does"})
				return
			}
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if r.Method == http.MethodPost {
			h.Set("DPoP-Nonce", d.deps.Road.Nonce()) // always a fresh one, so that the next request needs no challenge
		}
		if err := next(w, r); err != nil {
			no := refusalOf(err)
			if no.status >= 500 {
				d.deps.Log.ErrorContext(r.Context(), "a request failed", "path", r.URL.Path, "error", err)
			}
			d.refuse(w, r, no)
		}
	}
}

// presented is the proof of a request to this door. The URL is the public one: what a proxy in between made of it is nobody's proof.
func (d *Door) presented(r *http.Request) (identity.Presented, error) {
	proofs := r.Header.Values("DPoP")
	if len(proofs) > 1 {
		return identity.Presented{}, malformed("dpop_header_twice", "there is more than one DPoP header").WithFix("send exactly one proof")
	}
	if len(r.Header.Values("Authorization")) > 0 {
		return identity.Presented{}, malformed("authorization_header", "clients are not authenticated by the Authorization header").
			WithFix("send client_assertion (private_key_jwt) and a DPoP proof")
	}
	p := identity.Presented{Method: r.Method, URL: d.cfg.Issuer + strings.TrimPrefix(r.URL.EscapedPath(), d.path)}
	if len(proofs) == 1 {
		p.Proof = proofs[0]
	}
	return p, nil
}
