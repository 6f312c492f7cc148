// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

const (
	orderedTime = 30 * time.Second // for a message on which later ones wait, initialize excepted
	mostFlying  = 1024             // messages under way; a client that sends more waits
)

// pipe is one stdio client: lines of JSON-RPC in, lines out.
type pipe struct {
	b      *Bridge
	params paramHeaders
	slots  chan struct{}
	work   sync.WaitGroup // messages under way
	stream sync.WaitGroup // the session's GET streams

	outMu sync.Mutex
	out   io.Writer

	mu       sync.Mutex
	closed   bool
	session  string        // Mcp-Session-Id, in the eras that have sessions
	version  string        // negotiated by initialize
	spoken   string        // of the last request that named a version itself
	tail     chan struct{} // closed once the last message on which others wait has been sent
	flying   map[string]*flight
	unlisten context.CancelFunc
}

// flight is a request under way.
type flight struct {
	stop      context.CancelFunc
	cancelled bool // the client does not want the answer any more
}

// Stdio bridges a client that speaks MCP over standard input and output until in ends or ctx does. Each message is written as
// soon as it is released, on one line. Only a fault of the input is an error: what becomes of a message is the client's to hear.
func (b *Bridge) Stdio(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &pipe{b: b, out: out, flying: map[string]*flight{}, slots: make(chan struct{}, mostFlying), tail: make(chan struct{})}
	close(p.tail)
	p.stream.Go(func() { b.watch.run(ctx) })
	ended := make(chan error, 1)
	go func() { ended <- p.read(ctx, in) }() // if ctx ends first, it stays behind: nobody can interrupt a read
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	p.close(ctx, cancel)
	return err
}

func (p *pipe) read(ctx context.Context, in io.Reader) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := readLine(lines)
		if line = bytes.TrimSpace(line); len(line) > 0 {
			p.take(ctx, line)
		}
		switch {
		case fault.CodeOf(err) == "message_too_large":
			p.write(failure(nil, err)) // what follows it cannot be told apart from it
			return err
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fault.New(fault.Invalid, "connect.Stdio", "input_broken", "the client's input broke").WithCause(err)
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxBody+1 {
			return nil, fault.New(fault.Limited, "connect.Stdio", "message_too_large", "a message is larger than %d bytes", maxBody).
				WithFix("send smaller messages, each on a line of its own")
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// close ends everything: the client is gone, so what is in flight has nobody to read it. It is given a moment and then ended. A client
// that neither reads nor goes away cannot keep the bridge.
func (p *pipe) close(ctx context.Context, cancel context.CancelFunc) {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	done := make(chan struct{})
	go func() { p.work.Wait(); close(done) }()
	waitUntil(done, p.b.cfg.Grace)
	p.goodbye(ctx)
	cancel()
	waitUntil(done, p.b.cfg.Grace)
	streams := make(chan struct{})
	go func() { p.stream.Wait(); close(streams) }()
	waitUntil(streams, p.b.cfg.Grace)
	p.b.cfg.HTTP.CloseIdleConnections()
}

func waitUntil(done <-chan struct{}, most time.Duration) {
	select {
	case <-done:
	case <-time.After(most):
	}
}

// take starts one message. Initialize and notifications come before all that follows them; answers wait for nothing, since a server may
// want one before it goes on; other requests run side by side.
func (p *pipe) take(ctx context.Context, line []byte) {
	m, err := readMessage(line)
	if err != nil {
		p.b.cfg.Log.Warn("message_refused", "error", err)
		p.write(failure(nil, err))
		return
	}
	if m.method == "notifications/cancelled" && p.cancel(m) {
		return
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.work.Add(1)
	before, after := p.tail, make(chan struct{})
	switch {
	case m.kind == answer:
		before = nil
	case m.kind == notification || m.method == "initialize":
		p.tail = after
	}
	f := &flight{}
	ctx, f.stop = context.WithCancel(ctx)
	if m.kind == request {
		if m.version != "" {
			p.spoken = m.version
		}
		p.flying[m.key] = f
	}
	p.mu.Unlock()
	go func() {
		defer p.work.Done()
		defer func() { <-p.slots }()
		defer close(after)
		defer p.landed(m, f)
		if before != nil {
			select {
			case <-before:
			case <-ctx.Done():
			}
		}
		p.send(ctx, m, f)
	}()
}

func (p *pipe) landed(m letter, f *flight) {
	f.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flying[m.key] == f {
		delete(p.flying, m.key)
	}
}

// cancel marks the request whose answer the client does not want, and says whether that is all. Where there are no sessions, a request is
// cancelled by closing its stream; otherwise the server is told.
func (p *pipe) cancel(m letter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	stateless := p.version == "" && p.spoken >= statelessEra
	if f := p.flying[m.cancels]; f != nil {
		f.cancelled = true
		if stateless {
			f.stop()
		}
	}
	return stateless
}

func (p *pipe) header(m letter) http.Header {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	switch {
	case m.version != "" || m.method == "initialize": // it says itself what it speaks, and belongs to no session
	case p.version != "":
		h.Set("Mcp-Protocol-Version", p.version)
		if p.session != "" {
			h.Set("Mcp-Session-Id", p.session)
		}
	case m.kind != request && p.spoken != "": // notifications name no version
		h.Set("Mcp-Protocol-Version", p.spoken)
	}
	return h
}

func (p *pipe) send(ctx context.Context, m letter, f *flight) {
	if m.kind != request {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, orderedTime)
		defer cancel()
	}
	resp, err := p.b.post(ctx, m, p.header(m), &p.params)
	if err != nil {
		p.fail(ctx, m, f, err)
		return
	}
	defer resp.Body.Close()
	answered, err := p.relay(resp, m)
	switch {
	case m.kind != request:
		if resp.StatusCode >= 400 || err != nil {
			p.b.cfg.Log.Warn("message_refused", "method", m.method, "status", resp.StatusCode, "error", err)
		} else if m.method == "notifications/initialized" {
			p.openStream(ctx)
		}
	case answered:
	case err != nil:
		p.fail(ctx, m, f, lost("the answer broke off", err))
	default:
		p.fail(ctx, m, f, lost("the gateway's answer ended", nil))
	}
}

// fail answers a request that could not be carried, if the client still wants to know.
func (p *pipe) fail(ctx context.Context, m letter, f *flight, err error) {
	p.mu.Lock()
	unwanted := f.cancelled || m.kind != request
	p.mu.Unlock()
	p.b.cfg.Log.WarnContext(ctx, "message_failed", "method", m.method, "error", err)
	if !unwanted && ctx.Err() == nil {
		p.write(failure(m.id, err))
	}
}

// relay writes the messages of an answer to the client, as they come, and reports whether the one that m asks for was among them. What
// the gateway says to a notification or an answer is not for the client, which never asked.
func (p *pipe) relay(resp *http.Response, m letter) (answered bool, err error) {
	session := resp.Header.Get("Mcp-Session-Id")
	err = messages(resp, func(raw []byte) {
		out, doc, ours := m.reply(raw)
		if doc == nil {
			p.b.cfg.Log.Warn("message_dropped", "reason", "it is not a JSON object") // it would break the client's framing
			return
		}
		if ours {
			answered = true
			p.note(m, doc.Get("result"), session)
		}
		if ours || doc.Get("method") != nil || m.kind == 0 {
			p.write(out)
		}
	})
	return answered, err
}

// note keeps what later messages need: the session and its version, and which arguments are mirrored in headers.
func (p *pipe) note(m letter, result *canon.Node, session string) {
	switch m.method {
	case "initialize":
		if v, ok := result.Get("protocolVersion").String(); ok {
			p.mu.Lock()
			p.version, p.session = v, session
			p.mu.Unlock()
		}
	case "tools/list":
		p.params.learn(result)
	}
}

// write puts one message on one line. Line breaks in JSON are white space only, so replacing them changes nothing that is said.
func (p *pipe) write(raw []byte) {
	line := make([]byte, 0, len(raw)+1)
	for _, c := range bytes.TrimSpace(raw) {
		if c == '\n' || c == '\r' {
			c = ' '
		}
		line = append(line, c)
	}
	p.outMu.Lock()
	defer p.outMu.Unlock()
	_, _ = p.out.Write(append(line, '\n')) // a client that no longer reads ends its input too
}
