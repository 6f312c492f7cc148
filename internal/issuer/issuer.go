// SPDX-License-Identifier: Apache-2.0

// Package issuer is the identity door: OAuth's endpoints for credentials and their end, the metadata and keys that others verify them
// with, and the two places where a single-use code binds a key. It decides how a form becomes a request and a fault becomes an OAuth
// error; it holds no rule (admit does), never shows a private key, and never redirects.
package issuer

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"chaperone/internal/admit"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/people"
)

// Road is the road of credentials (admit.Road).
type Road interface {
	Nonce() string
	Token(ctx context.Context, req admit.TokenRequest) (admit.TokenAnswer, error)
	Revoke(ctx context.Context, req admit.RevokeRequest) error
	Enrol(ctx context.Context, code string, p identity.Presented) (identity.Instance, identity.Agent, error)
	BindPerson(ctx context.Context, code, profile string, p identity.Presented) (people.Person, error)
}

// Deps are the parts behind the door. Keys returns the public keys of credentials that may still be alive; Log may be nil.
type Deps struct {
	Road Road
	Keys func() []identity.PublicKey
	Log  *slog.Logger
}

// Config is what the door says of itself. Issuer is its URL without a slash at the end. AllowedHosts are the Host headers that are
// answered, the host of Issuer by default.
type Config struct {
	Issuer       string
	TrustDomain  string
	LogOrigin    string
	LogKey       string
	AllowedHosts []string
}

// maxBody bounds every form and document, in bytes.
const maxBody = 64 << 10

// Door answers at the issuer's URL. It is safe for concurrent use.
type Door struct {
	Deps
	cfg    Config
	path   string // of the issuer's URL
	origin string
}

// New returns the door. It does no I/O.
func New(d Deps, cfg Config) *Door {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	door := &Door{Deps: d, cfg: cfg}
	if u, err := url.Parse(cfg.Issuer); err == nil {
		door.path, door.origin = u.Path, u.Scheme+"://"+u.Host
		if len(cfg.AllowedHosts) == 0 {
			door.cfg.AllowedHosts = []string{u.Host}
		}
	}
	return door
}

// Routes hangs the door's routes into mux. Metadata stands where RFC 8414 §3.1 puts it, before the issuer's path.
func (d *Door) Routes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+d.path+"/token", d.guarded(d.token))
	mux.HandleFunc("POST "+d.path+"/revoke", d.guarded(d.revoke))
	mux.HandleFunc("POST "+d.path+"/enroll", d.guarded(d.enrol))
	mux.HandleFunc("POST "+d.path+"/login", d.guarded(d.login))
	mux.HandleFunc("GET "+d.path+"/jwks", d.guarded(d.jwks))
	mux.HandleFunc("GET /.well-known/oauth-authorization-server"+d.path, d.guarded(d.metadata))
}

// guarded refuses hosts and origins that are not this door's, before anything is read (DNS rebinding, cross-site posts), and gives
// every answer a fresh nonce.
func (d *Door) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("DPoP-Nonce", d.Road.Nonce())
		if !slices.Contains(d.cfg.AllowedHosts, r.Host) {
			d.refuse(w, r, fault.New(fault.Denied, "issuer", "foreign_host", "this door does not answer for that host").
				WithFix("use the URL %s", d.cfg.Issuer))
			return
		}
		if o := r.Header.Get("Origin"); o != "" && o != d.origin {
			d.refuse(w, r, fault.New(fault.Denied, "issuer", "foreign_origin", "this door does not answer pages of other origins").
				WithFix("call it from a program"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next(w, r)
	}
}

// presented is what came on the wire, with the URL as the caller must have used it: the Host was checked, so it is the issuer's.
func (d *Door) presented(r *http.Request, endpoint string) (identity.Presented, error) {
	proofs := r.Header.Values("DPoP")
	if len(proofs) > 1 {
		return identity.Presented{}, fault.New(fault.Unauthenticated, "issuer", "bad_proof", "there is more than one DPoP header").
			WithFix("send exactly one (RFC 9449 §4.3)")
	}
	return identity.Presented{Proof: strings.Join(proofs, ""), Method: r.Method, URL: d.cfg.Issuer + endpoint}, nil
}

// oauth is one row of the table of answers: RFC 6749 §5.2, RFC 8707 §2, RFC 9396 §5, RFC 9449 §5 and §8.
type oauth struct {
	code   string
	status int
}

// byCode are the faults with an OAuth code of their own; byKind is for the rest.
var byCode = map[string]oauth{
	"use_dpop_nonce":    {"use_dpop_nonce", http.StatusBadRequest},
	"no_proof":          {"invalid_dpop_proof", http.StatusBadRequest},
	"bad_proof":         {"invalid_dpop_proof", http.StatusBadRequest},
	"proof_replayed":    {"invalid_dpop_proof", http.StatusBadRequest},
	"unknown_audience":  {"invalid_target", http.StatusBadRequest},
	"resource_missing":  {"invalid_target", http.StatusBadRequest},
	"resource_many":     {"invalid_target", http.StatusBadRequest},
	"bad_grant_type":    {"unsupported_grant_type", http.StatusBadRequest},
	"bad_run_order":     {"invalid_authorization_details", http.StatusBadRequest},
	"run_required":      {"invalid_authorization_details", http.StatusBadRequest},
	"run_unknown":       {"invalid_authorization_details", http.StatusBadRequest},
	"join_code":         {"invalid_grant", http.StatusBadRequest},
	"login_code":        {"invalid_grant", http.StatusBadRequest},
	"proof_memory_full": {"temporarily_unavailable", http.StatusServiceUnavailable},
}

var byKind = map[fault.Kind]oauth{
	fault.Invalid:         {"invalid_request", http.StatusBadRequest},
	fault.NotFound:        {"invalid_request", http.StatusBadRequest},
	fault.Exists:          {"invalid_grant", http.StatusConflict},
	fault.Conflict:        {"temporarily_unavailable", http.StatusConflict},
	fault.Unauthenticated: {"invalid_client", http.StatusUnauthorized},
	fault.Denied:          {"access_denied", http.StatusForbidden},
	fault.Suspended:       {"access_denied", http.StatusForbidden},
	fault.Limited:         {"temporarily_unavailable", http.StatusTooManyRequests},
	fault.Unavailable:     {"temporarily_unavailable", http.StatusServiceUnavailable},
	fault.Internal:        {"server_error", http.StatusInternalServerError},
}

// refusal is the body of every refusal: OAuth's members, and beside them the house's stable code and the next step.
type refusal struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	Code        string `json:"code"`
	Fix         string `json:"fix,omitempty"`
}

func (d *Door) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind == fault.Internal {
		d.Log.ErrorContext(r.Context(), "the issuer failed", "path", r.URL.Path, "error", err)
		e = fault.New(fault.Internal, "issuer", "internal", "the issuer failed").WithFix("try again; if it stays, tell the operator the time of this answer")
	}
	o, ok := byCode[e.Code]
	if !ok {
		o = byKind[e.Kind]
	}
	if o.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `DPoP algs="ES256"`)
	}
	answer(w, o.status, refusal{Error: o.code, Description: e.Msg, Code: e.Code, Fix: e.Fix})
}
