// SPDX-License-Identifier: Apache-2.0

// Package upstream is the far side: it carries one request to one registered MCP server and brings the answer back message by
// message. It decides which addresses may be dialled, which name the certificate must carry, where the credential goes and that
// its echo does not come back. It never follows a redirect, never uses a proxy, never decides whether a call may be made, and
// never reads what a message means.
package upstream

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/secret"
)

// Config bounds the client. A zero field takes the default in brackets.
type Config struct {
	Dial    time.Duration // connecting, and again the TLS handshake [10 s]
	Header  time.Duration // from the last byte sent to the answer's header [120 s]
	Idle    time.Duration // silence inside the answer to a POST [300 s]; the stream of a GET may be silent
	Message int           // bytes of one message [8 MiB]
	Depth   int           // nesting of one message [64]
	Pages   int           // pages of one list in Definitions [100]
	Items   int           // items of one list in Definitions [5000]
	Total   int           // bytes of all answers in Definitions [32 MiB]
	// Name and Version are said of the caller in the handshake of Definitions [chaperone, 0].
	Name, Version string
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	num := func(d *int, v int) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.Dial, 10*time.Second)
	def(&c.Header, 120*time.Second)
	def(&c.Idle, 300*time.Second)
	num(&c.Message, 8<<20)
	num(&c.Depth, canon.DefaultDepth)
	num(&c.Pages, 100)
	num(&c.Items, 5000)
	num(&c.Total, 32<<20)
	if c.Name == "" {
		c.Name = "chaperone"
	}
	if c.Version == "" {
		c.Version = "0"
	}
	return c
}

// Deps are what the client needs. Log may be nil.
type Deps struct {
	Log *slog.Logger
}

// Client talks to upstreams. Every server has connections of its own; no two share one. It is safe for concurrent use.
type Client struct {
	cfg Config
	log *slog.Logger

	mu    sync.Mutex
	lines map[string]*line // by server name
}

// New returns a client. It dials nothing.
func New(d Deps, cfg Config) *Client {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg.withDefaults(), log: d.Log, lines: map[string]*line{}}
}

// Close drops idle connections. Exchanges under way go on until they are closed.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, l := range c.lines {
		l.transport.CloseIdleConnections()
		delete(c.lines, name)
	}
}

// Forward is one request to one server.
type Forward struct {
	Server    catalog.Server
	Injection secret.Injection // zero = none; must be for this server
	Method    string           // POST, GET or DELETE
	// Header holds what the caller sent and may be passed on. Whatever is not of MCP (Accept, Content-Type, Last-Event-ID, Mcp-*) is
	// dropped here, credentials above all; see Forwardable.
	Header map[string][]string
	// Session is the upstream's own session id, "" for none. A Mcp-Session-Id in Header is ignored.
	Session string
	Body    []byte // sent as it is
}

// Exchange is the answer under way. It is for one goroutine, but for Close.
type Exchange struct {
	Status int
	// Stream is true for text/event-stream: messages come one by one, and may go on for long.
	Stream bool
	// Session is the session id that the upstream gave with this answer, "" for none.
	Session string
	// Header is what may be passed back: Content-Type, Cache-Control, Retry-After, Allow. Values are redacted.
	Header http.Header

	next   func() (Message, error)
	cancel context.CancelFunc
	body   io.Closer
	once   sync.Once
}

// Message is one JSON-RPC message of an answer, in its original bytes but for redacted echoes of the credential. An event that
// carries no message (a priming event, a retry time) has Raw nil and may be released at once; the stream of a GET begins with one
// that is all empty, so that its opening can be passed on. Doc is Raw, parsed.
type Message struct {
	Raw     []byte
	Doc     *canon.Node
	EventID string // SSE id, "" for none
	Event   string // SSE event name, "" for none
	Retry   string // SSE retry, "" for none
	// Redacted counts the places where the upstream's credential was taken out.
	Redacted int
}

// Next returns the next message, io.EOF after the last. An answer without a body (202, 204, 405) has none. Errors are of kind
// Unavailable (upstream_unavailable, upstream_bad_message, upstream_status) or Limited (upstream_too_large).
func (x *Exchange) Next() (Message, error) { return x.next() }

// Close ends the exchange, whether or not it was read to its end. It is idempotent and may be called at any time, from any
// goroutine; a Next that waits then returns.
func (x *Exchange) Close() error {
	x.once.Do(func() {
		x.cancel()
		if x.body != nil {
			x.body.Close()
		}
	})
	return nil
}

// Item is one tool, prompt, resource or resource template as the server defines it. Name is the URI for a resource and the URI
// template for a template.
type Item struct {
	Kind catalog.ItemKind
	Name string
	Raw  json.RawMessage // original bytes, but for redacted echoes
}

// Definitions is what a server says of itself.
type Definitions struct {
	Era          string // protocol version that was spoken
	Endpoint     string
	Instructions string
	ServerInfo   json.RawMessage // nil if the server gave none
	Capabilities json.RawMessage
	Items        []Item // tools, prompts, resources, templates, each in the server's order
}

// Server returns the definition that is pinned for the server itself: canonical JSON of {endpoint, instructions, serverInfo}.
func (d Definitions) Server() (json.RawMessage, error) {
	v := struct {
		Endpoint     string          `json:"endpoint"`
		Instructions string          `json:"instructions"`
		ServerInfo   json.RawMessage `json:"serverInfo"`
	}{d.Endpoint, d.Instructions, d.ServerInfo}
	if v.ServerInfo == nil {
		v.ServerInfo = json.RawMessage("null")
	}
	return canon.Marshal(v)
}
