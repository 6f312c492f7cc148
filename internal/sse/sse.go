// SPDX-License-Identifier: Apache-2.0

// Package sse reads and writes server-sent events (WHATWG HTML, "Server-sent events"), the framing of MCP's streams. It decides
// where one event ends and bounds its size; it never looks into the data.
package sse

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"chaperone/internal/fault"
)

// Event is one dispatched event. Data holds the data lines joined by newlines, without the final one.
type Event struct {
	Name  string // "" = message
	ID    string
	HasID bool
	Retry string
	Data  []byte
}

// Reader yields events one at a time. It is for one goroutine.
type Reader struct {
	r   *bufio.Reader
	max int
}

// NewReader reads events of at most max bytes of data each (and lines of at most max+64 bytes).
func NewReader(r io.Reader, max int) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 16<<10), max: max}
}

// Next returns the next event that has data, an id or a retry time; comments and empty events are passed over. At the end of the
// stream it returns io.EOF; an event that the stream cut off is dropped, as the standard says. Too much data is Limited, "event_too_large".
func (r *Reader) Next() (Event, error) {
	var e Event
	var data bytes.Buffer
	var seen, hasData bool
	for {
		line, err := r.line()
		if err != nil {
			return Event{}, err
		}
		if len(line) == 0 {
			if !seen {
				continue
			}
			if hasData {
				e.Data = data.Bytes()
			}
			return e, nil
		}
		if line[0] == ':' {
			continue
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(name) {
		case "data":
			if hasData {
				data.WriteByte('\n')
			}
			data.Write(value)
			hasData, seen = true, true
			if data.Len() > r.max {
				return Event{}, tooLarge(r.max)
			}
		case "event":
			e.Name = string(value)
		case "id":
			if !bytes.ContainsRune(value, 0) {
				e.ID, e.HasID, seen = string(value), true, true
			}
		case "retry":
			e.Retry, seen = string(value), true
		}
	}
}

// line reads up to LF, CRLF or CR. A final line without an end is not a line.
func (r *Reader) line() ([]byte, error) {
	var out []byte
	for {
		b, err := r.r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && len(out) > 0 {
				return nil, io.EOF
			}
			return nil, err
		}
		switch b {
		case '\n':
			return out, nil
		case '\r':
			if next, err := r.r.Peek(1); err == nil && next[0] == '\n' {
				r.r.Discard(1)
			}
			return out, nil
		}
		if out = append(out, b); len(out) > r.max+64 {
			return nil, tooLarge(r.max)
		}
	}
}

func tooLarge(max int) error {
	return fault.New(fault.Limited, "sse.Next", "event_too_large", "an event is larger than %d bytes", max).
		WithFix("raise limits.message_bytes if the server is meant to send messages of this size")
}

// Append adds one event to b in wire form. Data is split at its newlines.
func Append(b []byte, e Event) []byte {
	if e.Name != "" {
		b = append(append(append(b, "event: "...), e.Name...), '\n')
	}
	if e.HasID {
		b = append(append(append(b, "id: "...), e.ID...), '\n')
	}
	if e.Retry != "" {
		b = append(append(append(b, "retry: "...), e.Retry...), '\n')
	}
	if e.Data != nil {
		for line := range bytes.SplitSeq(e.Data, []byte{'\n'}) {
			b = append(append(append(b, "data: "...), line...), '\n')
		}
	}
	return append(b, '\n')
}
