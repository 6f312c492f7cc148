// SPDX-License-Identifier: Apache-2.0

package sse

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/fault"
)

func TestNext(t *testing.T) {
	in := ": hello\n\nevent: message\nid: 7\ndata: {\"a\":1}\n\ndata: x\r\ndata: y\r\n\r\ndata:  two spaces\r\rid: 8\nretry: 10\ndata:\n\ndata: cut off\n"
	r := NewReader(strings.NewReader(in), 1<<10)
	want := []Event{
		{Name: "message", ID: "7", HasID: true, Data: []byte(`{"a":1}`)},
		{Data: []byte("x\ny")},
		{Data: []byte(" two spaces")},
		{ID: "8", HasID: true, Retry: "10"},
	}
	for i, w := range want {
		got, err := r.Next()
		if err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		if len(got.Data) == 0 {
			got.Data = nil
		}
		if d := cmp.Diff(w, got); d != "" {
			t.Errorf("event %d (-want +got):\n%s", i, d)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("a cut-off event must be dropped with io.EOF, got %v", err)
	}
}

func TestNextBounds(t *testing.T) {
	for _, in := range []string{"data: " + strings.Repeat("x", 300) + "\n\n", strings.Repeat("data: 0123456789\n", 30) + "\n"} {
		if _, err := NewReader(strings.NewReader(in), 100).Next(); fault.CodeOf(err) != "event_too_large" {
			t.Errorf("code %q, want event_too_large", fault.CodeOf(err))
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("data: a\n\nid: 1\ndata: b\ndata: c\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in), 1<<10)
		for {
			e, err := r.Next()
			if err != nil {
				return
			}
			again, err := NewReader(bytes.NewReader(Append(nil, e)), 4<<10).Next()
			if e.Data != nil && (err != nil || !bytes.Equal(again.Data, e.Data)) {
				t.Fatalf("an event does not survive writing and reading: %q %v", e.Data, err)
			}
		}
	})
}
