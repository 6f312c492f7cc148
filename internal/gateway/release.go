// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"net/http"
	"time"

	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/sse"
)

// sink is step 12 of the road: it writes each message to the caller the moment it is released. It belongs to one request.
type sink struct {
	door      *Door
	w         http.ResponseWriter
	server    string
	env       envelope
	http      string // method of the request
	kind      catalog.ItemKind
	canElicit bool

	begun  bool // the header is written
	stream bool // as text/event-stream
	failed error
}

// Release writes one message. The first decides the form of the answer: what the upstream gave as one JSON message stays one, what
// it streams is streamed.
func (s *sink) Release(m enforce.Message) error {
	if s.failed != nil {
		return s.failed
	}
	switch {
	case s.begun && !s.stream:
		return s.fail("a second message in an answer that holds one")
	case s.begun:
		return s.event(m)
	}
	s.session(m)
	if m.Stream {
		return s.event(m)
	}
	if m.Raw == nil {
		return s.empty(m)
	}
	return s.plain(passable(m.Status), m.Raw)
}

func (s *sink) session(m enforce.Message) {
	if m.Session != "" && !m.Run.IsZero() && s.env.era != eraStateless {
		s.w.Header().Set("Mcp-Session-Id", s.door.sessions.seal(m.Session, s.server, m.Run))
	}
}

// passable is the status that an upstream's answer is passed on with. Its own refusals of our credential are not the caller's
// business, and would make the caller look for another credential.
func passable(status int) int {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return status
	}
	return http.StatusOK
}

// plain writes one JSON message as the whole answer.
func (s *sink) plain(status int, body []byte) error {
	s.begun = true
	s.deadline()
	s.w.Header().Set("Content-Type", "application/json")
	s.w.WriteHeader(status)
	return s.write(body)
}

// empty passes on an answer without a message.
func (s *sink) empty(m enforce.Message) error {
	s.begun = true
	status := m.Status
	switch {
	case s.http == http.MethodGet && (status == http.StatusMethodNotAllowed || status == http.StatusNotFound):
	case s.http == http.MethodDelete && (status == http.StatusMethodNotAllowed || status == http.StatusNotFound):
	case s.http == http.MethodDelete:
		status = http.StatusNoContent
	case s.http == http.MethodGet:
		status = http.StatusMethodNotAllowed // no stream is offered
	case s.env.id != nil:
		s.begun = false
		return s.unanswered()
	default:
		status = http.StatusAccepted
	}
	if status == http.StatusMethodNotAllowed {
		s.w.Header().Set("Allow", allow(s.http))
	}
	s.w.WriteHeader(status)
	return nil
}

// allow is what to use instead. The upstream's own header stays behind: it is text that no label covers.
func allow(method string) string {
	if method == http.MethodGet {
		return "POST, DELETE"
	}
	return "GET, POST"
}

// unanswered is the answer to a request that the upstream gave none to.
func (s *sink) unanswered() error {
	no := &problem{Error: fault.New(fault.Unavailable, "gateway.release", "upstream_bad_message", "the server %s gave no answer", s.server).
		WithFix("try again later; other servers are not affected")}
	return s.plain(http.StatusOK, no.message(s.env.id, s.env.era))
}

// event writes one message as a server-sent event. Ids and retry times of the upstream's events stay behind: with them a client would
// ask for a replay, which nobody offers (the road releases an answer once, to the request it belongs to).
func (s *sink) event(m enforce.Message) error {
	opening := !s.begun
	if opening {
		s.begun, s.stream = true, true
		h := s.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-store, no-transform")
		h.Set("X-Accel-Buffering", "no")
		s.deadline()
		s.w.WriteHeader(http.StatusOK)
	}
	switch {
	case !s.stream:
		return nil
	case m.Raw != nil:
		s.deadline()
		return s.write(sse.Append(nil, sse.Event{Name: "message", Data: m.Raw}))
	case opening:
		return s.write([]byte(": open\n\n")) // a comment, so that the header travels
	}
	return nil
}

func (s *sink) write(b []byte) error {
	if _, err := s.w.Write(b); err != nil {
		return s.fail("the caller is gone")
	}
	if err := http.NewResponseController(s.w).Flush(); err != nil && s.stream {
		return s.fail("the caller is gone")
	}
	return nil
}

// deadline bounds how long a slow reader may hold the road.
func (s *sink) deadline() {
	// A writer without deadlines (in tests) is one that does not block.
	_ = http.NewResponseController(s.w).SetWriteDeadline(time.Now().Add(s.door.cfg.Write))
}

func (s *sink) fail(what string) error {
	s.failed = fault.New(fault.Unavailable, "gateway.release", "caller_gone", "%s", what)
	return s.failed
}

// end closes an answer that was released whole.
func (s *sink) end() {
	if !s.begun {
		s.empty(enforce.Message{Status: http.StatusAccepted})
	}
}
