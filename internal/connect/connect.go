// SPDX-License-Identifier: Apache-2.0

// Package connect is the agent's side: it holds the instance's key, enrols once, opens or continues a run, keeps the
// credential fresh, and bridges an unmodified MCP client to the gateway over stdio or loopback HTTP. It decides nothing
// about a call; it never shows the key or the credential to the client, and never passes a message without a proof.
package connect

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"chaperone/internal/api/client"
)

// Config is one bridge. A zero field takes the default in brackets.
type Config struct {
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
	// Silence is how long the gateway may be silent while an answer is awaited [6 min: it gives up on its own side before].
	Silence time.Duration
	// Watch is how often the log's checkpoint is looked at [1 min].
	Watch time.Duration
	// Grace is what is in flight gets when the client goes away [2 s].
	Grace time.Duration
	Now   func() time.Time
	Log   *slog.Logger
	// HTTP is the client used towards Chaperone; nil = one of the bridge's own, which follows no redirect.
	HTTP *http.Client
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	def(&c.Silence, 6*time.Minute)
	def(&c.Watch, time.Minute)
	def(&c.Grace, 2*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.HTTP == nil {
		c.HTTP = &http.Client{
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
				TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 32, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return c
}

const (
	maxBody   = 4 << 20  // bytes of a client's message
	maxAnswer = 64 << 20 // bytes of one message of the gateway
)

// Bridge is one connection of a client to one server, in one run.
type Bridge struct {
	cfg    Config
	state  *State
	source *client.Source
	watch  *watcher
}

// New prepares a bridge for an enrolled state directory. It does no I/O.
func New(state *State, cfg Config) *Bridge {
	cfg = cfg.withDefaults()
	return &Bridge{cfg: cfg, state: state, watch: &watcher{state: state, api: cfg.APIURL, http: cfg.HTTP, every: cfg.Watch, grace: cfg.Grace, log: cfg.Log}}
}

// Open demands that the record still extends what this instance has seen of it, obtains the first credential, which opens the
// run or continues the given one, and returns the run's id.
func (b *Bridge) Open(ctx context.Context) (string, error) {
	if err := b.watch.check(ctx); err != nil {
		return "", err
	}
	run := b.cfg.Run
	if run == "" && b.cfg.OpenRun != nil {
		var err error
		if run, err = b.cfg.OpenRun(ctx, b.state.Enrolled.AgentName, b.cfg.Purpose); err != nil {
			return "", err
		}
	}
	details := client.OpenDetails(b.cfg.Purpose)
	if run != "" {
		details = client.RunDetails(run)
	}
	holder := client.Holder{Key: b.state.key, ClientID: b.state.Enrolled.ClientID, Issuer: b.state.Enrolled.Issuer}
	b.source = client.NewSource(holder, b.endpoint(), details, client.Config{HTTP: b.cfg.HTTP, Now: b.cfg.Now})
	if err := b.source.Ready(ctx); err != nil {
		return "", err
	}
	return b.source.Run(), nil
}

// endpoint is the URL of the server at the gateway; it is also the audience.
func (b *Bridge) endpoint() string { return b.state.Enrolled.Issuer + "/mcp/" + b.cfg.Server }
