// SPDX-License-Identifier: Apache-2.0

// Package gateway is the agents' door: MCP over streamable HTTP at /mcp/{server}, in both protocol eras (2026-07-28, and the
// sessions of 2025-11-25 and before). It reads a request strictly and once, compares what its headers say with what its body
// says, hands it to the road and writes what the road releases. It decides what a well-formed request is; it never decides whether
// one may pass, and it changes no byte of a request or of an answer on its own account.
package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/enforce"
)

// Engine is the road of a request (enforce.Engine).
type Engine interface {
	Call(ctx context.Context, r enforce.Request, out enforce.Sink) (enforce.Outcome, error)
}

// Deps are what the door needs. Nonce mints a DPoP nonce (identity.Nonces); Log may be nil.
type Deps struct {
	Engine Engine
	Nonce  func() string
	Log    *slog.Logger
}

// Config holds the door's addresses and numbers. A zero field takes the default in brackets.
type Config struct {
	PublicURL string // scheme, host and an optional path under which the door is reached
	Issuer    string // where credentials come from [PublicURL]
	// AllowedHosts are the Host headers that are answered, with the port where there is one [the host of PublicURL].
	AllowedHosts []string
	// AllowedOrigins are the Origin headers that are answered; a request without one always is [the origin of PublicURL].
	AllowedOrigins []string
	SessionKey     []byte        // at least 32 bytes; sessions are sealed with a key made from it [random: sessions end with the process]
	Body           int           // bytes of a request body [4 MiB]
	Depth          int           // nesting of a request body [64]
	Wait           time.Duration // how long a call may wait for an approval on its socket [55 s; negative = not at all]
	Read           time.Duration // how long a body may take to arrive [30 s]
	Write          time.Duration // how long one message may take to be written to a slow caller [60 s]
}

func (c Config) withDefaults() Config {
	c.PublicURL = strings.TrimSuffix(c.PublicURL, "/")
	if c.Issuer == "" {
		c.Issuer = c.PublicURL
	}
	if u, err := url.Parse(c.PublicURL); err == nil {
		if len(c.AllowedHosts) == 0 {
			c.AllowedHosts = []string{u.Host}
		}
		if len(c.AllowedOrigins) == 0 {
			c.AllowedOrigins = []string{u.Scheme + "://" + u.Host}
		}
	}
	if c.Body <= 0 {
		c.Body = canon.DefaultBytes
	}
	if c.Depth <= 0 {
		c.Depth = canon.DefaultDepth
	}
	if c.Wait == 0 || c.Wait > maxWait {
		c.Wait = maxWait
	}
	c.Wait = max(c.Wait, 0)
	if c.Read <= 0 {
		c.Read = 30 * time.Second
	}
	if c.Write <= 0 {
		c.Write = 60 * time.Second
	}
	return c
}

// maxWait is less than the minute after which clients give up.
const maxWait = 55 * time.Second

// Door answers agents. It is safe for concurrent use.
type Door struct {
	Deps
	cfg      Config
	base     *url.URL
	sessions *sessions
}

// New returns the door. It opens nothing.
func New(d Deps, cfg Config) *Door {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Nonce == nil {
		d.Nonce = func() string { return "" }
	}
	cfg = cfg.withDefaults()
	base, err := url.Parse(cfg.PublicURL)
	if err != nil {
		base = &url.URL{}
	}
	return &Door{Deps: d, cfg: cfg, base: base, sessions: newSessions(cfg.SessionKey)}
}

// Routes adds the door to a mux.
func (d *Door) Routes(mux *http.ServeMux) {
	mux.HandleFunc(d.base.Path+"/mcp/{server}", d.guarded(d.serve))
	mux.HandleFunc("GET "+metadataPath+d.base.Path+"/mcp/{server}", d.guarded(d.metadata))
}

// guarded refuses hosts and origins that are not this door's, before anything is read: a page that a browser shows must not reach
// an agent's gateway under a name of its own (DNS rebinding).
func (d *Door) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if n := d.Nonce(); n != "" {
			h.Set("DPoP-Nonce", n)
		}
		if no := d.checkOrigin(r); no != nil {
			d.refuse(w, asker{}, no)
			return
		}
		next(w, r)
	}
}

// serve is one HTTP request to /mcp/{server}.
func (d *Door) serve(w http.ResponseWriter, r *http.Request) {
	req, env, no := d.receive(w, r)
	if no != nil {
		d.refuse(w, asker{env.id, env.era, req.Server}, no)
		return
	}
	out := &sink{door: d, w: w, server: req.Server, env: env, http: r.Method, kind: req.Kind, canElicit: req.CanElicit}
	outcome, err := d.Engine.Call(r.Context(), req, out)
	d.finish(r.Context(), out, outcome, err)
}
