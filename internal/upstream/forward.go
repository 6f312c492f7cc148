// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/secret"
	"chaperone/internal/sse"
)

// Forwardable reports whether a caller's header may go to an upstream: those that MCP itself defines and nothing else. The caller's
// Authorization, DPoP and Cookie, its Host, Origin and addresses, and everything between two hops stay behind.
func Forwardable(name string) bool {
	n := strings.ToLower(name)
	switch n {
	case "accept", "content-type", "last-event-id", "mcp-protocol-version", "mcp-method", "mcp-name":
		return true
	}
	return strings.HasPrefix(n, "mcp-param-")
}

// Forward sends one request and returns when the answer's header is there. Errors: Invalid (the entry), Denied upstream_address,
// Unavailable upstream_unavailable, upstream_redirect, upstream_encoding, upstream_bad_message, Internal injection_foreign. The
// exchange ends with ctx. Forward never sends a request twice on its own account once a byte of it may have arrived, but for what
// net/http retries on a connection that the server closed before reading.
func (c *Client) Forward(ctx context.Context, f Forward) (*Exchange, error) {
	l, err := c.lineOf(f.Server)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	x, err := c.forward(ctx, cancel, l, f)
	if err != nil {
		cancel()
		return nil, err
	}
	return x, nil
}

func (c *Client) forward(ctx context.Context, cancel context.CancelFunc, l *line, f Forward) (*Exchange, error) {
	u := *l.url
	h := http.Header{}
	for name, values := range f.Header {
		if Forwardable(name) {
			h[http.CanonicalHeaderKey(name)] = values
		}
	}
	h.Set("Accept-Encoding", "identity")
	h["User-Agent"] = []string{"chaperone"}
	if f.Session != "" {
		h.Set("Mcp-Session-Id", f.Session)
	}
	if err := inject(&u, h, f); err != nil {
		return nil, err
	}
	req := (&http.Request{
		Method: f.Method, URL: &u, Host: u.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if len(f.Body) > 0 {
		req.Body = io.NopCloser(bytes.NewReader(f.Body))
		req.ContentLength = int64(len(f.Body))
		// With GetBody the transport may send a POST again, but only where it knows that the server saw nothing of it (a kept
		// connection that was closed before a byte was written, an HTTP/2 stream that was refused): an effect is not doubled.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(f.Body)), nil }
	}
	echo := l.echoOf(f.Injection)
	resp, err := l.transport.RoundTrip(req)
	if err != nil {
		return nil, unreachable(ctx, f.Server.Name, quiet(err, echo))
	}
	x, err := c.exchange(cancel, f, resp, echo)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return x, nil
}

// inject puts the credential into the request, at its place and towards its own server only.
func inject(u *url.URL, h http.Header, f Forward) error {
	in := f.Injection
	if in.IsZero() {
		return nil
	}
	if in.Server != f.Server.Name {
		return fault.New(fault.Internal, "upstream.inject", "injection_foreign", "the secret of one server was about to go to another")
	}
	if err := in.Check(); err != nil {
		return err
	}
	switch in.Place {
	case secret.Bearer:
		h.Set("Authorization", "Bearer "+in.Value.Reveal())
	case secret.Basic:
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(in.User+":"+in.Value.Reveal())))
	case secret.Header:
		h.Set(in.Name, in.Value.Reveal())
	case secret.Query:
		u.RawQuery = in.Name + "=" + url.QueryEscape(in.Value.Reveal())
	}
	return nil
}

func (c *Client) exchange(cancel context.CancelFunc, f Forward, resp *http.Response, echo *secret.Echo) (*Exchange, error) {
	name := f.Server.Name
	bad := func(code, format string, args ...any) error {
		return fault.New(fault.Unavailable, "upstream.Forward", code, format, args...).
			WithFix("tell the operator of server %s; other servers are not affected", name)
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return nil, bad("upstream_redirect", "the server %s answered with a redirect, which is never followed", name)
	}
	if resp.StatusCode < 200 {
		return nil, bad("upstream_bad_message", "the server %s switched protocols", name)
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return nil, bad("upstream_encoding", "the server %s encoded its answer although it was told not to", name)
	}
	x := &Exchange{Status: resp.StatusCode, Header: http.Header{}, cancel: cancel, body: resp.Body}
	for _, k := range []string{"Content-Type", "Cache-Control", "Retry-After", "Allow"} {
		if v := resp.Header.Get(k); v != "" {
			x.Header.Set(k, echo.Text(v))
		}
	}
	if s := resp.Header.Get("Mcp-Session-Id"); s != "" {
		if len(s) > 1024 || !visible(s) {
			return nil, bad("upstream_bad_message", "the server %s gave a session id that is not visible ASCII", name)
		}
		x.Session = echo.Text(s)
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	ok := resp.StatusCode < 300
	switch {
	case kind == "text/event-stream" && ok:
		x.Stream = true
		x.next = c.stream(x, f, resp.Body, echo)
	case kind == "application/json" && resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusNoContent:
		x.next = c.single(x, name, resp.Body, echo)
	case ok:
		// 202 for a notification, 200 or 204 for a DELETE: whatever body there is is not MCP's.
		x.next = func() (Message, error) { return Message{}, io.EOF }
	case resp.StatusCode == http.StatusMethodNotAllowed && f.Method != http.MethodPost:
		x.next = func() (Message, error) { return Message{}, io.EOF }
	default:
		x.next = func() (Message, error) {
			return Message{}, bad("upstream_status", "the server %s answered with status %d and no message", name, resp.StatusCode)
		}
	}
	return x, nil
}

func visible(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x21 || c > 0x7e {
			return false
		}
	}
	return true
}

// single reads the one message of an application/json answer.
func (c *Client) single(x *Exchange, server string, body io.Reader, echo *secret.Echo) func() (Message, error) {
	done := false
	return func() (Message, error) {
		if done {
			return Message{}, io.EOF
		}
		done = true
		w := watch(c.cfg.Idle, x.cancel)
		b, err := io.ReadAll(&patient{r: io.LimitReader(body, int64(c.cfg.Message)+1), w: w})
		switch {
		case w.stop():
			return Message{}, silent(server)
		case err != nil:
			return Message{}, broken(server, quiet(err, echo))
		case len(b) > c.cfg.Message:
			return Message{}, tooLarge(server, c.cfg.Message)
		case len(b) == 0 && x.Status >= 400:
			return Message{}, fault.New(fault.Unavailable, "upstream.Next", "upstream_status", "the server %s answered with status %d and no message", server, x.Status)
		}
		return c.message(server, b, echo)
	}
}

// stream reads the events of a text/event-stream answer. Silence longer than Config.Idle ends the answer to a POST.
func (c *Client) stream(x *Exchange, f Forward, body io.Reader, echo *secret.Echo) func() (Message, error) {
	var ended error
	var p *patient
	if f.Method == http.MethodPost {
		p = &patient{r: body}
		body = p
	}
	r := sse.NewReader(body, c.cfg.Message)
	opened := f.Method != http.MethodGet
	return func() (Message, error) {
		if ended != nil {
			return Message{}, ended
		}
		if !opened {
			// The caller of a GET waits for the header of a stream that may say nothing for hours.
			opened = true
			return Message{}, nil
		}
		fell := false
		if p != nil {
			p.w = watch(c.cfg.Idle, x.cancel)
		}
		m, err := c.event(r, f.Server.Name, echo)
		if p != nil {
			fell = p.w.stop()
		}
		if err != nil && fell {
			err = silent(f.Server.Name)
		}
		ended = err
		return m, err
	}
}

// watcher ends an exchange whose server says nothing for a time.
type watcher struct {
	after time.Duration
	timer *time.Timer
	fired atomic.Bool
}

func watch(after time.Duration, give func()) *watcher {
	w := &watcher{after: after}
	w.timer = time.AfterFunc(after, func() { w.fired.Store(true); give() })
	return w
}

// stop ends the watch and reports whether it had to act.
func (w *watcher) stop() bool {
	w.timer.Stop()
	return w.fired.Load()
}

// patient starts the watch anew with every byte that comes.
type patient struct {
	r io.Reader
	w *watcher
}

func (p *patient) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		p.w.timer.Reset(p.w.after)
	}
	return n, err
}

func (c *Client) event(r *sse.Reader, server string, echo *secret.Echo) (Message, error) {
	e, err := r.Next()
	switch {
	case errors.Is(err, io.EOF):
		return Message{}, io.EOF
	case fault.CodeOf(err) == "event_too_large":
		return Message{}, tooLarge(server, c.cfg.Message)
	case err != nil:
		return Message{}, broken(server, quiet(err, echo))
	}
	m := Message{}
	if len(bytes.TrimSpace(e.Data)) > 0 {
		if m, err = c.message(server, e.Data, echo); err != nil {
			return Message{}, err
		}
	}
	m.EventID, m.Event, m.Retry = echo.Text(e.ID), echo.Text(e.Name), echo.Text(e.Retry)
	return m, nil
}

// message checks that the bytes are one JSON object and takes the credential's echo out of them.
func (c *Client) message(server string, raw []byte, echo *secret.Echo) (Message, error) {
	lim := canon.Limits{Bytes: c.cfg.Message, Depth: c.cfg.Depth}
	doc, err := canon.Parse(raw, lim)
	if err == nil && doc.Kind != canon.Object {
		err = fault.New(fault.Invalid, "upstream.message", "json_type", "a message must be an object")
	}
	if err != nil {
		return Message{}, fault.New(fault.Unavailable, "upstream.Next", "upstream_bad_message", "the server %s sent a message that cannot be read: %s", server, fault.CodeOf(err)).
			WithFix("tell the operator of server %s; other servers are not affected", server)
	}
	clean, n := echo.Message(raw, doc)
	if n > 0 {
		if doc, err = canon.Parse(clean, lim); err != nil {
			return Message{}, fault.New(fault.Internal, "upstream.Next", "redaction", "a message could not be redacted")
		}
	}
	return Message{Raw: clean, Doc: doc, Redacted: n}, nil
}

func tooLarge(server string, most int) error {
	return fault.New(fault.Limited, "upstream.Next", "upstream_too_large", "the server %s sent a message of more than %d bytes", server, most).
		WithFix("ask the server for less at a time")
}

func silent(server string) error {
	return fault.New(fault.Unavailable, "upstream.Next", "upstream_unavailable", "the server %s fell silent", server).
		WithFix("try again later; other servers are not affected")
}

func broken(server string, err error) error {
	return fault.New(fault.Unavailable, "upstream.Next", "upstream_unavailable", "the server %s broke off its answer", server).
		WithFix("try again later; other servers are not affected").WithCause(err)
}

// quiet returns the error with its text cleared of the credential, which the URL in it could hold. Faults, and what is asked of
// the error below, survive.
func quiet(err error, echo *secret.Echo) error {
	return &quietError{text: echo.Text(err.Error()), err: err}
}

type quietError struct {
	text string
	err  error
}

func (q *quietError) Error() string { return q.text }

// Unwrap keeps errors.Is and errors.As working; the text of the cause is not shown by anything that prints this one.
func (q *quietError) Unwrap() error { return q.err }

func asFault(err error) (*fault.Error, bool) { return errors.AsType[*fault.Error](err) }

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return true
	}
	_, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok
}
