// SPDX-License-Identifier: Apache-2.0

// Package connect is the agent's side: it holds the instance's key, enrols once, opens or continues a run, keeps the
// credential fresh, and bridges an unmodified MCP client to the gateway over stdio or loopback HTTP. It decides nothing
// about a call; it never shows the key or the credential to the client, and never passes a message without a proof.
package connect

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// Config is one bridge.
type Config struct {
	// State is the directory that keeps the instance's key. Several bridges on one directory are one instance.
	State string
	// Server is the name of the upstream as registered at the gateway.
	Server string
	// Purpose is what the run is for, at most 4 KiB. Stated by the agent's own key, it is recorded and clears nothing.
	Purpose string
	// Run, when set, is continued instead of opening one.
	Run string
	// OpenRun, when set, opens the run for the agent under a signed-in person's key and returns its id.
	OpenRun func(ctx context.Context, agent, purpose string) (string, error)
	// APIURL is where the public log is read from; empty = no checkpoint is kept.
	APIURL string
	Now    func() time.Time
	Log    *slog.Logger
	// HTTP is the client used towards Chaperone; nil = one with sane time-outs.
	HTTP *http.Client
}

const maxBody = 4 << 20

// Bridge is one connection of a client to one server, in one run.
type Bridge struct {
	cfg   Config
	state *State
	creds *credentials
	watch *watcher
}

// New prepares a bridge for an enrolled state directory. It does no I/O towards Chaperone.
func New(state *State, cfg Config) *Bridge {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32, IdleConnTimeout: 90 * time.Second, Proxy: nil},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	b := &Bridge{cfg: cfg, state: state}
	b.creds = newCredentials(state, cfg)
	b.watch = &watcher{state: state, api: cfg.APIURL, http: cfg.HTTP, log: cfg.Log}
	return b
}

// Open obtains the first credential, which opens the run or continues the given one, and returns the run's id.
func (b *Bridge) Open(ctx context.Context) (string, error) {
	if b.cfg.Run == "" && b.cfg.OpenRun != nil {
		r, err := b.cfg.OpenRun(ctx, b.state.Enrolled.AgentName, b.cfg.Purpose)
		if err != nil {
			return "", err
		}
		b.creds.run = r
	}
	if _, err := b.creds.current(ctx, false); err != nil {
		return "", err
	}
	if err := b.watch.check(ctx); err != nil {
		return "", err
	}
	return b.creds.runID(), nil
}

// endpoint is the URL of the server at the gateway; it is also the audience.
func (b *Bridge) endpoint() string { return b.state.Enrolled.Issuer + "/mcp/" + b.cfg.Server }
