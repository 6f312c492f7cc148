// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/sse"
)

// exchange sends one request to the gateway with a fresh proof. The answer's body must be closed. While an answer to a POST is
// awaited, silence longer than Config.Silence ends it; the stream of a GET may be silent once it is there.
func (b *Bridge) exchange(ctx context.Context, method string, header http.Header, body []byte) (*http.Response, error) {
	ctx, stop := context.WithCancelCause(ctx)
	silence := time.AfterFunc(b.cfg.Silence, func() { stop(fmt.Errorf("the gateway was silent for %s", b.cfg.Silence)) })
	resp, err := b.source.Do(ctx, func() (*http.Request, error) {
		var r io.Reader
		if body != nil {
			r = bytes.NewReader(body)
		}
		req, err := http.NewRequestWithContext(ctx, method, b.endpoint(), r)
		if err != nil {
			return nil, fault.New(fault.Invalid, "connect.exchange", "bad_url", "%q is not a URL of the gateway", b.endpoint()).
				WithFix("check --server").WithCause(err)
		}
		req.Header = header.Clone()
		return req, nil
	})
	if err != nil {
		silence.Stop()
		stop(nil)
		if fault.CodeOf(err) == "answer_lost" {
			return nil, lost("the connection to the gateway broke", err)
		}
		return nil, err
	}
	w := &watched{ReadCloser: resp.Body, silence: silence, stop: stop, cause: func() error { return context.Cause(ctx) }}
	if method == http.MethodGet {
		silence.Stop()
	} else {
		w.after = b.cfg.Silence
	}
	resp.Body = w
	return resp, nil
}

// watched is an answer's body that must not be silent for long.
type watched struct {
	io.ReadCloser
	silence *time.Timer
	after   time.Duration // 0 = it may
	stop    context.CancelCauseFunc
	cause   func() error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if n > 0 && w.after > 0 {
		w.silence.Reset(w.after)
	}
	if err != nil && !errors.Is(err, io.EOF) && w.cause() != nil {
		err = w.cause()
	}
	return n, err
}

func (w *watched) Close() error {
	w.silence.Stop()
	err := w.ReadCloser.Close()
	w.stop(nil)
	return err
}

// discard closes an answer of which nothing is wanted.
func discard(resp *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection serves again; a broken one does not
	resp.Body.Close()
}

// post sends a client's message. In the era of headers the gateway refuses a call whose Mcp-Param headers are missing, before it
// looks at what is asked; if the tool's definition has not passed by, it is fetched then, and the call sent with its headers.
func (b *Bridge) post(ctx context.Context, m letter, h http.Header, params *paramHeaders) (*http.Response, error) {
	routed := h.Clone()
	if err := m.routing(routed, params); err != nil {
		return nil, err
	}
	resp, err := b.exchange(ctx, http.MethodPost, routed, m.raw)
	if err != nil || m.method != "tools/call" || resp.StatusCode != http.StatusBadRequest || m.version < statelessEra || params.knows(m.name) {
		return resp, err
	}
	refusal, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(refusal))
	doc, perr := canon.Parse(refusal, canon.Limits{})
	if err != nil || perr != nil {
		return resp, nil // it says what it says
	}
	if code, _ := doc.Get("error").Get("data").Get("code").String(); code != "header_mismatch" {
		return resp, nil
	}
	if err := b.look(ctx, m, h, params); err != nil {
		b.cfg.Log.WarnContext(ctx, "the tool's definition could not be read", "error", err)
		return resp, nil
	}
	routed = h.Clone()
	if err := m.routing(routed, params); err != nil {
		return nil, err
	}
	return b.exchange(ctx, http.MethodPost, routed, m.raw)
}

// mostPages bounds how far a list of tools is followed.
const mostPages = 50

// look reads the list of tools, as the client of m would.
func (b *Bridge) look(ctx context.Context, m letter, h http.Header, params *paramHeaders) error {
	meta := map[string]json.RawMessage{}
	for _, member := range []string{metaVersion, "io.modelcontextprotocol/clientCapabilities", "io.modelcontextprotocol/clientInfo"} {
		if v := m.meta.Get(member); v != nil {
			meta[member] = v.Raw
		}
	}
	ask := map[string]any{"_meta": meta}
	for page := range mostPages {
		body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": fmt.Sprintf("chaperone-connect-%d", page), "method": "tools/list", "params": ask})
		if err != nil {
			return fault.Wrap("connect.look", err)
		}
		list, err := readMessage(body)
		if err != nil {
			return err
		}
		routed := h.Clone()
		if err := list.routing(routed, params); err != nil {
			return err
		}
		resp, err := b.exchange(ctx, http.MethodPost, routed, body)
		if err != nil {
			return err
		}
		var result *canon.Node
		err = messages(resp, func(raw []byte) {
			if _, doc, ours := list.reply(raw); ours {
				result = doc.Get("result")
			}
		})
		resp.Body.Close()
		if err != nil {
			return err
		}
		params.learn(result)
		cursor, more := result.Get("nextCursor").String()
		if !more || params.knows(m.name) {
			return nil
		}
		ask["cursor"] = cursor
	}
	return nil
}

// messages calls f with each message of an answer, as it arrives. An answer that is neither JSON nor a stream has none.
func messages(resp *http.Response, f func(raw []byte)) error {
	media := resp.Header.Get("Content-Type")
	if strings.HasPrefix(media, "text/event-stream") {
		events := sse.NewReader(resp.Body, maxAnswer)
		for {
			e, err := events.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if len(e.Data) > 0 {
				f(e.Data)
			}
		}
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	if len(raw) > maxAnswer {
		return fault.New(fault.Limited, "connect.messages", "answer_too_large", "the answer is larger than %d bytes", maxAnswer)
	}
	if raw = bytes.TrimSpace(raw); strings.HasPrefix(media, "application/json") && len(raw) > 0 {
		f(raw)
	}
	return nil
}
