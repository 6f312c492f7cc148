// SPDX-License-Identifier: Apache-2.0

// Package api is the door of people, orchestrators and bridges: JSON over HTTP, one file a group of resources, each handler
// decode, call the road, encode. It decides how bytes become a request and how a fault becomes an answer (RFC 9457); it holds no
// rule, knows nobody by where they call from, and never returns a secret.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/identity"
)

// Authenticator turns what a request presents into a verified credential (admit.Road).
type Authenticator interface {
	Authenticate(ctx context.Context, p identity.Presented, audience string) (identity.Credential, error)
}

// Nonces mints the DPoP nonces that the Authenticator accepts (identity.Nonces).
type Nonces interface{ Mint(now time.Time) string }

// Reader reads the public files of the log: the checkpoint and hash tiles (ledger.Log). NotFound for what is not there.
type Reader interface {
	Read(path string) ([]byte, error)
}

// Checks tells whether the process can do its work: store write, log lag, clock, policy, age of the revocation view.
type Checks interface {
	Check(ctx context.Context) []client.Check
}

// Config is what the door is told. PublicURL and APIURL are needed; MaxBody is 4 MiB when zero.
type Config struct {
	PublicURL   string // the issuer identifier; the audience is PublicURL + "/api"
	APIURL      string // how this door is reached
	TrustDomain string
	Version     string // of the program
	MaxBody     int64  // bytes of a request body
}

// Deps are the parts behind the door. Log and Checks may be nil: then /log/ is not served, and /readyz is red.
type Deps struct {
	Govern *govern.Road
	Auth   Authenticator
	Nonces Nonces
	Log    Reader
	Checks Checks
	Now    func() time.Time
	Logger *slog.Logger
}

// Door serves the API. It is safe for concurrent use.
type Door struct {
	Deps
	cfg    Config
	scheme string
	hosts  []string
}

// New returns the door. It does no I/O.
func New(deps Deps, cfg Config) *Door {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = canon.DefaultBytes
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	d := &Door{Deps: deps, cfg: cfg, scheme: "http"}
	if u, err := url.Parse(cfg.APIURL); err == nil {
		d.scheme, d.hosts = u.Scheme, aliases(u)
	}
	return d
}

// aliases are the Host values under which the door answers: its own, and for a loopback door the other names of loopback.
func aliases(u *url.URL) []string {
	out := []string{strings.ToLower(u.Host)}
	name := u.Hostname()
	if ip := net.ParseIP(name); name == "localhost" || ip != nil && ip.IsLoopback() {
		for _, other := range []string{"localhost", "127.0.0.1", "::1"} {
			host := other
			if u.Port() != "" {
				host = net.JoinHostPort(other, u.Port())
			} else if strings.Contains(other, ":") {
				host = "[" + other + "]"
			}
			out = append(out, host)
		}
	}
	return out
}

// handler answers one route: a value to encode as JSON, or an error.
type handler func(r *request) (any, error)

// Routes hangs the door's routes into mux.
func (d *Door) Routes(mux *http.ServeMux) {
	for pattern, h := range d.routes() {
		mux.Handle(pattern, d.guarded(h))
	}
	mux.Handle("/api/", d.guarded(func(r *request) (any, error) {
		return nil, fault.New(fault.NotFound, "api", "no_such_route", "there is no %s %s", r.Method, r.URL.Path).
			WithFix("see docs/api.md for the routes of this version")
	}))
	mux.HandleFunc("GET /api/audit/export", d.export)
	mux.HandleFunc("GET /approvals/{id}", d.approvalPage)
	mux.HandleFunc("GET /healthz", d.healthz)
	mux.HandleFunc("GET /readyz", d.readyz)
	if d.Log != nil {
		mux.HandleFunc("GET /log/", d.logFile)
	}
}

func (d *Door) routes() map[string]handler {
	return map[string]handler{
		"GET /api/whoami": d.whoami,
		"GET /api/status": d.status,
		"GET /api/doctor": d.doctor,

		"GET /api/people":                 d.people,
		"POST /api/people":                d.addPerson,
		"POST /api/people/{name}/suspend": d.suspendPerson,
		"POST /api/people/{name}/resume":  d.resumePerson,
		"POST /api/people/{name}/code":    d.personCode,

		"GET /api/types":                    d.types,
		"PUT /api/types/{name}":             d.putType,
		"GET /api/agents":                   d.agents,
		"POST /api/agents":                  d.register,
		"GET /api/agents/{name}":            d.agent,
		"POST /api/agents/{name}/suspend":   d.moveAgent((*govern.Road).SuspendAgent),
		"POST /api/agents/{name}/resume":    d.moveAgent((*govern.Road).ResumeAgent),
		"POST /api/agents/{name}/retire":    d.moveAgent((*govern.Road).RetireAgent),
		"POST /api/agents/{name}/join-code": d.joinCode,
		"GET /api/agents/{name}/instances":  d.instances,
		"POST /api/instances/{id}/revoke":   d.revokeInstance,

		"GET /api/runs":                   d.runs,
		"POST /api/runs":                  d.openRun,
		"GET /api/runs/{id}":              d.run,
		"POST /api/runs/{id}/end":         d.endRun,
		"GET /api/runs/{id}/grants":       d.runGrants,
		"POST /api/runs/{id}/grants":      d.askGrant,
		"GET /api/grants":                 d.grants,
		"POST /api/grants/{id}/revoke":    d.revokeGrant,
		"GET /api/approvals":              d.approvals,
		"GET /api/approvals/{id}":         d.approval,
		"POST /api/approvals/{id}/decide": d.decide,

		"GET /api/policies":        d.policies,
		"GET /api/policies/active": d.activePolicy,
		"POST /api/policies":       d.applyPolicy,
		"POST /api/policies/check": d.checkPolicy,

		"GET /api/servers":             d.servers,
		"PUT /api/servers/{name}":      d.putServer,
		"GET /api/servers/{name}/pins": d.pins,
		"POST /api/servers/{name}/pin": d.pin,
		"GET /api/catalog":             d.catalog,
		"PUT /api/catalog":             d.applyCatalog,
		"GET /api/secrets":             d.secrets,
		"PUT /api/secrets/{server}":    d.putSecret,
		"DELETE /api/secrets/{server}": d.deleteSecret,

		"GET /api/audit/events":   d.events,
		"GET /api/decisions/{id}": d.explain,
	}
}

// request is one authenticated request.
type request struct {
	*http.Request
	caller govern.Caller
	door   *Door
	body   []byte
}

// created marks an answer of status 201, accepted one of 202.
type (
	created  struct{ v any }
	accepted struct{ v any }
)

// guarded is the frame of every API route: Host and Origin, credential, body, then the handler and its answer.
func (d *Door) guarded(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		quiet(w.Header())
		caller, err := d.admit(w, r)
		if err != nil {
			d.problem(w, r, err)
			return
		}
		req := &request{Request: r, caller: caller, door: d}
		if req.body, err = d.read(w, r); err != nil {
			d.problem(w, r, err)
			return
		}
		out, err := h(req)
		if err != nil {
			d.problem(w, r, err)
			return
		}
		status := http.StatusOK
		switch v := out.(type) {
		case nil:
			w.WriteHeader(http.StatusNoContent)
			return
		case created:
			status, out = http.StatusCreated, v.v
		case accepted:
			status, out = http.StatusAccepted, v.v
		}
		d.write(w, r, status, "application/json", out)
	})
}

// quiet says that nothing of the answer may be kept or guessed at.
func quiet(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// admit checks where the request was sent and from, and who sends it.
func (d *Door) admit(w http.ResponseWriter, r *http.Request) (govern.Caller, error) {
	if err := d.place(r); err != nil {
		return govern.Caller{}, err
	}
	w.Header().Set("DPoP-Nonce", d.Nonces.Mint(d.Now()))
	p, err := d.presented(r)
	if err != nil {
		return govern.Caller{}, err
	}
	cred, err := d.Auth.Authenticate(r.Context(), p, d.cfg.PublicURL+"/api")
	if err != nil {
		return govern.Caller{}, err
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return govern.Caller{Credential: cred, Network: host}, nil
}

// place refuses another Host (DNS rebinding) and pages of other origins.
func (d *Door) place(r *http.Request) error {
	if !slices.Contains(d.hosts, strings.ToLower(r.Host)) {
		return fault.New(fault.Denied, "api", "host_not_allowed", "this door does not answer to the host %.100q", r.Host).
			WithFix("use %s", d.cfg.APIURL)
	}
	if origins := r.Header.Values("Origin"); len(origins) > 0 {
		if len(origins) > 1 || !strings.EqualFold(origins[0], d.scheme+"://"+r.Host) {
			return fault.New(fault.Denied, "api", "origin_not_allowed", "pages of other origins may not call this door").WithFix("use the chaperone command or its client")
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		return fault.New(fault.Denied, "api", "origin_not_allowed", "pages of other origins may not call this door").WithFix("use the chaperone command or its client")
	}
	return nil
}

func (d *Door) presented(r *http.Request) (identity.Presented, error) {
	p := identity.Presented{Method: r.Method, URL: d.scheme + "://" + strings.ToLower(r.Host) + r.URL.EscapedPath()}
	auth, proof := r.Header.Values("Authorization"), r.Header.Values("DPoP")
	if len(auth) > 1 || len(proof) > 1 {
		return p, fault.New(fault.Unauthenticated, "api", "bad_credential", "Authorization or DPoP is there more than once").WithFix("send each header once")
	}
	if len(auth) == 1 {
		p.Scheme, p.Token, _ = strings.Cut(auth[0], " ")
	}
	if len(proof) == 1 {
		p.Proof = proof[0]
	}
	return p, nil
}

func (d *Door) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, d.cfg.MaxBody))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, fault.New(fault.Limited, "api", "body_too_large", "the body is over %d bytes", d.cfg.MaxBody).WithFix("send less at once")
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "api", "body_broken", "the body broke off").WithFix("send it again").WithCause(err)
	}
	return b, nil
}

// decode reads the JSON body into dst, strictly. With optional, no body leaves dst as it is.
func (r *request) decode(dst any, optional bool) error {
	if len(r.body) == 0 && optional {
		return nil
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return fault.New(fault.Invalid, "api", "bad_media_type", "the body is not application/json").WithFix("send JSON with Content-Type: application/json")
	}
	return canon.Decode(r.body, canon.Limits{Bytes: int(r.door.cfg.MaxBody)}, dst)
}

// params reads the query; parameters that the route does not have, and those given twice, are refused.
func (r *request) params(known ...string) (map[string]string, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault.New(fault.Invalid, "api", "bad_query", "the query is not well-formed").WithFix("escape its values")
	}
	out := map[string]string{}
	for name, values := range q {
		if !slices.Contains(known, name) || len(values) != 1 {
			return nil, fault.New(fault.Invalid, "api", "bad_query", "the parameter %.40q is not known here, or is there twice", name).
				WithFix("this route takes: %s", strings.Join(known, ", "))
		}
		out[name] = values[0]
	}
	return out, nil
}

// The bounds of a page.
const (
	defaultPage = 100
	maxPage     = 1000
)

func limitOf(q map[string]string) (int, error) {
	s, ok := q["limit"]
	if !ok {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxPage {
		return 0, fault.New(fault.Invalid, "api", "bad_query", "limit is not a number from 1 to %d", maxPage).WithFix("leave it out for %d", defaultPage)
	}
	return n, nil
}

// page cuts one page out of a list. key names an item; after is the key of the last item that the caller has.
func page[T any](q map[string]string, all []T, key func(T) string) (client.List[T], error) {
	out := client.List[T]{Items: []T{}}
	limit, err := limitOf(q)
	if err != nil {
		return out, err
	}
	if after := q["after"]; after != "" {
		i := slices.IndexFunc(all, func(v T) bool { return key(v) == after })
		if i < 0 {
			return out, fault.New(fault.Invalid, "api", "bad_query", "after names nothing in this list").WithFix("start again without after")
		}
		all = all[i+1:]
	}
	if len(all) > limit {
		all, out.Next = all[:limit], key(all[limit-1])
	}
	out.Items = append(out.Items, all...)
	return out, nil
}

// write encodes v as it is: no escaping for HTML, so that canonical text stays canonical.
func (d *Door) write(w http.ResponseWriter, r *http.Request, status int, media string, v any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		d.Logger.ErrorContext(r.Context(), "encode answer", "path", r.URL.Path, "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes()) // the caller has gone; nothing is left to tell them
}
