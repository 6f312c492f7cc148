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
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// passed are the client's headers that go to the gateway; everything else stays here. The routing headers are written anew from
// the body.
var passed = [...]string{"Accept", "Content-Type", "Mcp-Protocol-Version", "Mcp-Session-Id", "Last-Event-Id"}

// returned are the gateway's headers that go back to the client.
var returned = [...]string{"Content-Type", "Mcp-Session-Id", "Cache-Control", "Allow", "Retry-After"}

// Listen bridges clients that speak MCP over HTTP. It serves on a loopback address under an unguessable path, says the whole URL to
// ready, and returns when ctx ends.
func (b *Bridge) Listen(ctx context.Context, addr string, ready func(url string)) error {
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fault.New(fault.Invalid, "connect.Listen", "listen_address", "%q is not a loopback host:port", addr).
			WithFix("use --listen 127.0.0.1:0; the bridge speaks for an agent, so nothing but this machine may reach it")
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fault.New(fault.Unavailable, "connect.Listen", "listen_address", "cannot listen on %s", addr).WithCause(err)
	}
	path := "/" + strings.ToLower(rand.Text()) + "/mcp"
	d := &loopback{b: b, path: path, host: l.Addr().String()}
	srv := &http.Server{Handler: d, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	go b.watch.run(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Serve(l) }()
	ready("http://" + d.host + path)
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := srv.Shutdown(drainCtx); err != nil {
		srv.Close()
	}
	if err := <-stopped; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
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
	if r.Host != d.host || r.Header.Get("Origin") != "" && r.Header.Get("Origin") != "http://"+d.host {
		http.Error(w, "this bridge answers programs on this machine only", http.StatusForbidden)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the message is larger than 4 MiB", http.StatusRequestEntityTooLarge)
		return
	}
	h := http.Header{}
	for _, name := range passed {
		if v := r.Header.Values(name); len(v) > 0 {
			h[http.CanonicalHeaderKey(name)] = slices.Clone(v)
		}
	}
	var m message
	if r.Method == http.MethodPost {
		if m, err = readMessage(body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		m.routing(h, &d.params)
	} else {
		body = nil
	}
	resp, err := d.b.exchange(r.Context(), r.Method, h, body)
	if err != nil {
		d.b.cfg.Log.Warn("message_failed", "error", err)
		http.Error(w, fault.CodeOf(err), http.StatusBadGateway)
		return
	}
	defer drain(resp)
	for _, name := range returned {
		if v := resp.Header.Values(name); len(v) > 0 {
			w.Header()[http.CanonicalHeaderKey(name)] = v
		}
	}
	w.WriteHeader(resp.StatusCode)
	if m.method == "tools/list" && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
		if err != nil {
			return
		}
		if n, err := canon.Parse(raw, canon.Limits{Bytes: 64 << 20, Depth: 256}); err == nil {
			d.params.learn(n.Get("result"))
		}
		_, _ = w.Write(raw) // a client that is gone needs no answer
		return
	}
	flush(w, resp.Body)
}

// flush copies a stream and sends each part on at once.
func flush(w http.ResponseWriter, from io.Reader) {
	rc := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
			_ = rc.Flush() // an unflushable writer still delivers at the end
		}
		if err != nil {
			return
		}
	}
}
