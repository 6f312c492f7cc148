// SPDX-License-Identifier: Apache-2.0

// Package client is the Go twin of the API: the wire shapes of its requests and answers, and a client that holds a person's
// or an instance's key, keeps a short-lived credential fresh and proves the key on every request (RFC 9449). It decides
// when a credential is fetched anew and what is tried again; it never decides what the caller may do: a refusal comes back as a
// *fault.Error with the kind, code and fix that the API gave.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

const (
	maxAnswer  = 16 << 20 // bytes of one JSON answer
	spare      = 30 * time.Second
	answerTime = 75 * time.Second // for one whole answer: a grant may wait 55 s on an approval
)

// Holder is whose key speaks. ClientID is what login or enrolment answered; Run is the run that an instance's credential
// continues, empty for people.
type Holder struct {
	Key      *identity.Key
	ClientID string
	Issuer   string // the issuer identifier: the deployment's public URL
	Run      string
}

// Config are the outside parts of a client. The zero value is usable: no redirects, the system's clock.
type Config struct {
	HTTP *http.Client
	Now  func() time.Time
}

func (c Config) withDefaults() Config {
	if c.HTTP == nil {
		c.HTTP = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Client calls the API of one deployment for one holder. It is safe for concurrent use.
type Client struct {
	base   string
	source *Source
	cfg    Config
}

// New returns a client of the API at base (http://127.0.0.1:7401). It does no I/O. A holder without a key can only use
// what is public (Health, Ready, Checkpoint).
func New(base string, holder Holder, cfg Config) *Client {
	var details *Details
	if holder.Run != "" {
		details = RunDetails(holder.Run)
	}
	return &Client{base: strings.TrimSuffix(base, "/"), source: NewSource(holder, holder.Issuer+"/api", details, cfg), cfg: cfg.withDefaults()}
}

// Base returns the URL of the API without a slash at its end.
func (c *Client) Base() string { return c.base }

// nonces keeps the newest DPoP nonce of each origin: each door and each boot has its own.
type nonces struct {
	mu sync.Mutex
	by map[string]string
}

func (n *nonces) of(u *url.URL) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.by[u.Scheme+"://"+u.Host]
}

func (n *nonces) keep(u *url.URL, h http.Header) bool {
	v := h.Get("DPoP-Nonce")
	if v == "" {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil {
		n.by = map[string]string{}
	}
	n.by[u.Scheme+"://"+u.Host] = v
	return true
}

// request is one call of the API, repeatable.
type request struct {
	method, path string
	query        url.Values
	body         []byte
	media        string
	public       bool // no credential
}

// do sends a request and decodes the JSON answer into dst (nil = ignore).
func (c *Client) do(ctx context.Context, r request, dst any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := readAll(resp.Body)
	if err != nil {
		return c.unreachable(err)
	}
	if dst == nil || len(b) == 0 {
		return nil
	}
	if err := canon.DecodeLoose(b, canon.Limits{Bytes: maxAnswer}, dst); err != nil {
		return fault.New(fault.Unavailable, "client.do", "bad_answer", "the API at %s gave an answer that this version does not understand", c.base).
			WithFix("use a chaperone command of the same version as the server").WithCause(err)
	}
	return nil
}

// send returns the answer when it is a success; the caller closes its body.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	build := func() (*http.Request, error) { return c.build(ctx, r) }
	var resp *http.Response
	var err error
	if r.public {
		var req *http.Request
		if req, err = build(); err == nil {
			resp, err = send(c.cfg.HTTP, req)
		}
	} else {
		resp, err = c.source.Do(ctx, build)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := readAll(resp.Body)
	if err != nil {
		return nil, c.unreachable(err)
	}
	return nil, problemError(resp.StatusCode, b)
}

func (c *Client) build(ctx context.Context, r request) (*http.Request, error) {
	u := c.base + r.path
	if len(r.query) > 0 {
		u += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, body)
	if err != nil {
		return nil, fault.New(fault.Invalid, "client.build", "bad_url", "%q is not the URL of an API", c.base).
			WithFix("check api_url in the configuration (CHAPERONE_API_URL), then log in again").WithCause(err)
	}
	req.Header.Set("Accept", "application/json")
	if r.body != nil {
		req.Header.Set("Content-Type", r.media)
	}
	return req, nil
}

func (c *Client) unreachable(err error) error { return unreachable(c.base, err) }

func unreachable(at string, err error) error {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e // it says better what is wrong
	}
	return fault.New(fault.Unavailable, "client", "chaperone_unreachable", "cannot reach Chaperone at %s", at).
		WithFix("check that chaperone up runs there").WithCause(err)
}

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		return nil, fault.New(fault.Limited, "client", "answer_too_large", "the answer is over %d bytes", maxAnswer).
			WithFix("ask for a shorter page")
	}
	return b, err
}

// drain lets the connection be used again.
func drain(resp *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // a broken connection is closed anyway
	resp.Body.Close()
}

var kinds = []fault.Kind{
	fault.Internal, fault.Invalid, fault.NotFound, fault.Exists, fault.Conflict, fault.Unauthenticated, fault.Denied,
	fault.Suspended, fault.Limited, fault.Unavailable,
}

// ProblemType is the prefix of Problem.Type; the fault's kind follows.
const ProblemType = "urn:chaperone:problem:"

// Refusal is the cause inside the *fault.Error of a refused request: the whole problem document, for callers that show more
// than code, message and fix (errors.AsType).
type Refusal struct{ Problem Problem }

// Error returns the detail.
func (r *Refusal) Error() string { return r.Problem.Detail }

func problemError(status int, b []byte) error {
	var p Problem
	if err := canon.DecodeLoose(b, canon.Limits{Bytes: maxAnswer}, &p); err != nil || p.Code == "" {
		return fault.New(kindOfStatus(status), "client", "http_status", "the server answered HTTP %d without a reason", status).
			WithFix("check that the URL is that of Chaperone's API")
	}
	kind := kindOfStatus(status)
	for _, k := range kinds {
		if p.Type == ProblemType+k.String() {
			kind = k
		}
	}
	return fault.New(kind, "api", p.Code, "%s", p.Detail).WithFix("%s", p.Fix).WithCause(&Refusal{p})
}

func kindOfStatus(status int) fault.Kind {
	switch status {
	case http.StatusUnauthorized:
		return fault.Unauthenticated
	case http.StatusForbidden:
		return fault.Denied
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return fault.NotFound
	case http.StatusConflict:
		return fault.Conflict
	case http.StatusTooManyRequests:
		return fault.Limited
	}
	switch {
	case status >= 500:
		return fault.Unavailable
	case status >= 400:
		return fault.Invalid
	}
	return fault.Internal
}

func jsonBody(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // wire shapes only
		return []byte("null")
	}
	return b
}

// Do makes one request of the API for callers that know the route: path starts with /api/ and may carry a query. in is nil
// (no body), []byte (a YAML document) or a value that becomes JSON; out is nil or where the JSON answer goes.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	r := request{method: method, path: path}
	switch b := in.(type) {
	case nil:
	case []byte:
		r.body, r.media = b, "application/yaml"
	default:
		r.body, r.media = jsonBody(in), mediaJSON
	}
	return c.do(ctx, r, out)
}
