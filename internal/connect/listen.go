// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/sse"
)

// passed are the client's headers that go to the gateway; everything else stays here. The routing headers are written anew from
// the body.
var passed = [...]string{"Accept", "Content-Type", "Mcp-Protocol-Version", "Mcp-Session-Id", "Last-Event-Id", "Prefer"}

// returned are the gateway's headers that go back to the client.
var returned = [...]string{"Content-Type", "Mcp-Session-Id", "Cache-Control", "Allow", "Retry-After"}

// Listen bridges clients that speak MCP over HTTP. It serves on a loopback address under an unguessable path, says the whole URL to
// ready, and returns when ctx ends.
func (b *Bridge) Listen(ctx context.Context, addr string, ready func(url string)) error {
	l, err := loopbackListener(ctx, addr)
	if err != nil {
		return err
	}
	d := &loopback{b: b, path: "/" + strings.ToLower(rand.Text()) + "/mcp", host: l.Addr().String()}
	srv := &http.Server{Handler: d, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	background.Go(func() { b.watch.run(ctx) })
	stopped := make(chan error, 1)
	background.Go(func() { stopped <- srv.Serve(l) })
	ready("http://" + d.host + d.path)
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	drain, done := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.Grace)
	defer done()
	if err := srv.Shutdown(drain); err != nil {
		srv.Close()
	}
	b.cfg.HTTP.CloseIdleConnections()
	if err := <-stopped; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// loopbackListener listens on a loopback address and on nothing else, whatever a name resolves to.
func loopbackListener(ctx context.Context, addr string) (net.Listener, error) {
	refused := func(err error) error {
		return fault.New(fault.Invalid, "connect.Listen", "listen_address", "%q is not a loopback host:port", addr).
			WithFix("use --listen 127.0.0.1:0; the bridge speaks for an agent, so nothing but this machine may reach it").WithCause(err)
	}
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, refused(err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "connect.Listen", "listen", "cannot listen on %s", addr).
			WithFix("use port 0 for any free port").WithCause(err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		l.Close()
		return nil, refused(nil)
	}
	return l, nil
}

type loopback struct {
	b      *Bridge
	path   string
	host   string
	params paramHeaders
}

func (d *loopback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.URL.Path), []byte(d.path)) != 1 {
		http.NotFound(w, r)
		return
	}
	// A web page can reach loopback; its browser names the page's origin, and a rebound name shows in Host.
	origins := r.Header.Values("Origin")
	if r.Host != d.host || len(origins) > 1 || len(origins) == 1 && origins[0] != "http://"+d.host {
		http.Error(w, "this bridge answers programs on this machine only", http.StatusForbidden)
		return
	}
	h := http.Header{}
	for _, name := range passed {
		if v := r.Header.Values(name); len(v) > 0 {
			h[http.CanonicalHeaderKey(name)] = slices.Clone(v)
		}
	}
	if r.Method != http.MethodPost {
		resp, err := d.b.exchange(r.Context(), r.Method, h, nil)
		d.respond(w, r, letter{}, resp, err)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, fault.New(fault.Limited, "connect.Listen", "message_too_large", "the message is larger than %d bytes, or broke off", maxBody))
		return
	}
	m, err := readMessage(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	resp, err := d.b.post(r.Context(), m, h, &d.params)
	d.respond(w, r, m, resp, err)
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(failure(nil, err)) // a client that is gone needs no answer
}

// respond passes an answer on, each message the moment it comes. A request always gets an answer, if only that its own was lost.
func (d *loopback) respond(w http.ResponseWriter, r *http.Request, m letter, resp *http.Response, err error) {
	if err != nil {
		d.b.cfg.Log.Warn("message_failed", "method", m.method, "error", err)
		if m.kind == request { // clients throw the body of a 5xx away, and with it the words that say what to do
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(failure(m.id, err)) // as in refuse
			return
		}
		refuse(w, http.StatusBadGateway, err)
		return
	}
	defer resp.Body.Close()
	out := &relayed{w: w, stream: strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")}
	for _, name := range returned {
		if v := resp.Header.Values(name); len(v) > 0 {
			w.Header()[http.CanonicalHeaderKey(name)] = v
		}
	}
	status := resp.StatusCode
	if status == http.StatusUnauthorized {
		// A client would look for a credential of its own, which it cannot have: the bridge holds the only one.
		if status = http.StatusForbidden; m.kind == request {
			status = http.StatusOK
		}
	}
	if out.stream {
		w.WriteHeader(status)
		out.flush()
	}
	answered := false
	err = messages(resp, func(raw []byte) {
		mine, doc, ours := m.reply(raw)
		if doc == nil {
			return
		}
		if ours {
			answered = true
			if m.method == "tools/list" {
				d.params.learn(doc.Get("result"))
			}
		}
		out.write(status, mine)
	})
	if m.kind == request && !answered && r.Context().Err() == nil {
		if err == nil {
			err = errors.New("it ended")
		}
		err = lost("the answer broke off", err)
		d.b.cfg.Log.Warn("message_failed", "method", m.method, "error", err)
		out.write(http.StatusOK, failure(m.id, err))
	}
	if !out.begun && !out.stream {
		w.WriteHeader(status)
	}
}

// relayed writes messages in the form that the gateway's answer has.
type relayed struct {
	w      http.ResponseWriter
	stream bool
	begun  bool
}

func (o *relayed) write(status int, raw []byte) {
	if o.stream {
		_, _ = o.w.Write(sse.Append(nil, sse.Event{Name: "message", Data: raw})) // a client that is gone ends its own context
		o.flush()
		return
	}
	if !o.begun {
		o.begun = true
		o.w.Header().Set("Content-Type", "application/json")
		o.w.WriteHeader(status)
		_, _ = o.w.Write(raw) // as above
	}
}

func (o *relayed) flush() {
	_ = http.NewResponseController(o.w).Flush() // an unflushable writer still delivers at the end
}
