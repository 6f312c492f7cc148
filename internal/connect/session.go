// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"net/http"
	"time"

	"chaperone/internal/fault"
)

// openStream holds the session's GET stream, on which the server speaks first. There is one at a time: a client that initializes anew has
// left its old session.
func (p *pipe) openStream(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unlisten != nil {
		p.unlisten()
		p.unlisten = nil
	}
	if p.session == "" || p.closed {
		return
	}
	h := http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {p.session}, "Mcp-Protocol-Version": {p.version}}
	ctx, p.unlisten = context.WithCancel(context.WithoutCancel(ctx))
	p.stream.Go(func() { p.listen(ctx, h) })
}

const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// listen reads the stream and opens it again when it breaks, ever more slowly while that does not help. It ends when the server has no
// such stream or no longer knows the session.
func (p *pipe) listen(ctx context.Context, h http.Header) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		began := time.Now()
		resp, err := p.b.exchange(ctx, http.MethodGet, h, nil)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				resp.Body.Close()
			}
			return
		case err != nil && fault.KindOf(err) != fault.Unavailable:
			p.b.cfg.Log.WarnContext(ctx, "stream_refused", "error", err)
			return
		case err == nil && resp.StatusCode < 500 && resp.StatusCode != http.StatusOK:
			discard(resp)
			return
		case err == nil:
			_, _ = p.relay(resp, letter{}) // however it ends, it is opened again
			resp.Body.Close()
			if time.Since(began) > lastPause {
				pause = firstPause
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// goodbye ends the session at the server, if there is one.
func (p *pipe) goodbye(ctx context.Context) {
	p.mu.Lock()
	session, version := p.session, p.version
	if p.unlisten != nil {
		p.unlisten()
	}
	p.mu.Unlock()
	if session == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.b.cfg.Grace)
	defer cancel()
	h := http.Header{"Mcp-Session-Id": {session}, "Mcp-Protocol-Version": {version}}
	if resp, err := p.b.exchange(ctx, http.MethodDelete, h, nil); err == nil {
		discard(resp)
	}
}
