// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/sse"
)

// pipe is one stdio client: lines of JSON-RPC in, lines out.
type pipe struct {
	b      *Bridge
	params paramHeaders

	outMu sync.Mutex
	out   io.Writer

	mu      sync.Mutex
	session string // Mcp-Session-Id, in the eras that have sessions
	version string // negotiated by initialize
	flying  map[string]context.CancelFunc
	work    sync.WaitGroup
}

// Stdio bridges a client that speaks MCP over standard input and output until in ends. Answers are written as they are released.
func (b *Bridge) Stdio(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	p := &pipe{b: b, out: out, flying: map[string]context.CancelFunc{}}
	go b.watch.run(ctx)
	lines := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := readLine(lines)
		if len(bytes.TrimSpace(line)) > 0 {
			p.take(ctx, line)
		}
		if err != nil {
			// The client is gone: what is in flight has nobody to read it, so it is given a moment and then ended.
			done := make(chan struct{})
			go func() { p.work.Wait(); close(done) }()
			select {
			case <-done:
			case <-time.After(2 * time.Second):
			}
			p.goodbye(ctx)
			cancel()
			<-done
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxBody {
			return nil, fault.New(fault.Limited, "connect.Stdio", "message_too_large", "a message is larger than %d bytes", maxBody)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// take starts one message. Notifications and initialize are sent before the next line is read, so that order is kept where it
// matters; other requests run side by side.
func (p *pipe) take(ctx context.Context, line []byte) {
	body := bytes.TrimSpace(line)
	m, err := readMessage(body)
	if err != nil {
		p.fail(nil, -32700, err)
		return
	}
	if m.method == "notifications/cancelled" && p.stateless(m) {
		p.mu.Lock()
		if stop := p.flying[m.cancels]; stop != nil {
			stop() // in this era closing the stream is how a request is cancelled
		}
		p.mu.Unlock()
		return
	}
	if m.id == nil || m.method == "initialize" || m.method == "" {
		p.send(ctx, m, body)
		return
	}
	ctx, stop := context.WithCancel(ctx)
	p.mu.Lock()
	p.flying[string(m.id)] = stop
	p.mu.Unlock()
	p.work.Go(func() {
		defer stop()
		p.send(ctx, m, body)
		p.mu.Lock()
		delete(p.flying, string(m.id))
		p.mu.Unlock()
	})
}

// stateless reports whether the client speaks an era without sessions. Its messages say so themselves, but for notifications,
// which follow the requests that were sent before.
func (p *pipe) stateless(m message) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.version >= statelessEra || p.session == "" && p.version == ""
}

func (p *pipe) send(ctx context.Context, m message, body []byte) {
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	p.mu.Lock()
	if m.version == "" {
		if p.session != "" {
			h.Set("Mcp-Session-Id", p.session)
		}
		if p.version != "" {
			h.Set("MCP-Protocol-Version", p.version)
		}
	}
	p.mu.Unlock()
	m.routing(h, &p.params)
	resp, err := p.b.exchange(ctx, http.MethodPost, h, body)
	if err != nil {
		if ctx.Err() == nil {
			p.fail(m.id, -32603, err)
		}
		return
	}
	defer drain(resp)
	if m.method == "initialize" {
		p.mu.Lock()
		p.session = resp.Header.Get("Mcp-Session-Id")
		p.mu.Unlock()
	}
	answered, err := p.relay(resp, m)
	switch {
	case ctx.Err() != nil:
	case err != nil && m.id != nil && m.method != "":
		p.fail(m.id, -32603, fault.New(fault.Unavailable, "connect", "answer_lost", "the connection to the gateway broke before the answer; whether the call ran is not known here").
			WithFix("look at the run's record before you repeat it").WithCause(err))
	case !answered && m.id != nil && m.method != "":
		p.fail(m.id, -32603, fault.New(fault.Unavailable, "connect", "no_answer", "the gateway answered HTTP %d without a message", resp.StatusCode))
	}
	if m.method == "notifications/initialized" && resp.StatusCode < 300 && p.sessionID() != "" {
		go p.listen(ctx)
	}
}

func (p *pipe) sessionID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}

// relay writes every message of an answer to the client and reports whether the one that answers m was among them.
func (p *pipe) relay(resp *http.Response, m message) (answered bool, err error) {
	each := func(raw []byte) {
		n, err := canon.Parse(raw, canon.Limits{Bytes: 64 << 20, Depth: 256})
		if err != nil {
			return // the gateway parses what it releases; a line that is not JSON would break the client's framing
		}
		if id := n.Get("id"); id != nil && bytes.Equal(id.Raw, m.id) && n.Get("method") == nil {
			answered = true
			p.note(m, n.Get("result"))
		}
		p.write(raw)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		events := sse.NewReader(resp.Body, 64<<20)
		for {
			e, err := events.Next()
			if errors.Is(err, io.EOF) {
				return answered, nil
			}
			if err != nil {
				return answered, err
			}
			if len(e.Data) > 0 {
				each(e.Data)
			}
		}
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return false, err
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") && len(bytes.TrimSpace(raw)) > 0 {
		each(raw)
	}
	return answered, nil
}

// note keeps what later requests need: the negotiated version, and which arguments are mirrored in headers.
func (p *pipe) note(m message, result *canon.Node) {
	switch m.method {
	case "initialize":
		if v, ok := result.Get("protocolVersion").String(); ok {
			p.mu.Lock()
			p.version = v
			p.mu.Unlock()
		}
	case "tools/list":
		p.params.learn(result)
	}
}

// listen holds the session's GET stream, on which the server speaks first. A server without one answers 405, and that is fine.
func (p *pipe) listen(ctx context.Context) {
	for ctx.Err() == nil {
		h := http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {p.sessionID()}}
		p.mu.Lock()
		h.Set("MCP-Protocol-Version", p.version)
		p.mu.Unlock()
		resp, err := p.b.exchange(ctx, http.MethodGet, h, nil)
		if err != nil {
			return
		}
		if resp.StatusCode != http.StatusOK {
			drain(resp)
			return
		}
		_, _ = p.relay(resp, message{}) // a broken stream is opened again
		resp.Body.Close()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// goodbye ends the session at the server, if there is one.
func (p *pipe) goodbye(ctx context.Context) {
	if p.sessionID() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if resp, err := p.b.exchange(ctx, http.MethodDelete, http.Header{"Mcp-Session-Id": {p.sessionID()}}, nil); err == nil {
		drain(resp)
	}
}

// write puts one message on one line. Newlines in JSON are white space only, so replacing them changes nothing that is said.
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

// fail answers a request that could not be carried. Errors without an id (parse errors) are answered with a null id.
func (p *pipe) fail(id json.RawMessage, code int, err error) {
	p.b.cfg.Log.Warn("message_failed", "error", err)
	if id == nil && code != -32700 {
		return
	}
	if id == nil {
		id = json.RawMessage("null")
	}
	text := "internal error"
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind != fault.Internal {
		text = fmt.Sprintf("%s (%s)", e.Msg, e.Code)
		if e.Fix != "" {
			text += "; next: " + e.Fix
		}
	}
	raw, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": id, "error": map[string]any{"code": code, "message": text}})
	if err == nil {
		p.write(raw)
	}
}
