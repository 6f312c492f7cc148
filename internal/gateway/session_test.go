// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chaperone/internal/id"
)

func TestSessions(t *testing.T) {
	s := newSessions([]byte("0123456789abcdef0123456789abcdef"))
	other := newSessions([]byte("another-key-0123456789abcdef0123"))
	run := id.NewRun(time.Now())
	name := s.seal("upstream-session", "office", run)
	if name != s.seal("upstream-session", "office", run) {
		t.Error("one session has two names")
	}
	if up, owner, ok := s.open(name, "office"); !ok || up != "upstream-session" || owner != run {
		t.Error(up, owner, ok)
	}
	if b, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(name, sessionPrefix)); strings.Contains(string(b), "upstream") || strings.Contains(string(b), run.String()) {
		t.Error("the name tells what it is for")
	}
	for why, bad := range map[string]string{
		"nothing": "", "another form": "upstream-session", "no base64": sessionPrefix + "@@@", "short": sessionPrefix + "AAAA", "cut": name[:len(name)-1], "longer": name + "A", "a line end": name + "\n",
	} {
		if _, _, ok := s.open(bad, "office"); ok {
			t.Errorf("%s was opened", why)
		}
	}
	if _, _, ok := s.open(name, "bank"); ok {
		t.Error("opened for another server")
	}
	if _, _, ok := other.open(name, "office"); ok {
		t.Error("opened with another key")
	}
}

func TestSessionsWithoutAKey(t *testing.T) {
	run := id.NewRun(time.Now())
	a, b := newSessions(nil), newSessions(nil)
	name := a.seal("up", "office", run)
	if _, _, ok := a.open(name, "office"); !ok {
		t.Error("not opened")
	}
	if _, _, ok := b.open(name, "office"); ok {
		t.Error("two doors without a key share one")
	}
}

func TestSessionsProperty(t *testing.T) {
	s := newSessions([]byte("0123456789abcdef0123456789abcdef"))
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		up := rapid.StringN(1, 40, -1).Draw(t, "session")
		run := id.NewRun(now)
		name := s.seal(up, "office", run)
		if got, owner, ok := s.open(name, "office"); !ok || got != up || owner != run {
			t.Fatal(got, owner, ok)
		}
		b := []byte(name)
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		b[i] ^= byte(rapid.IntRange(1, 127).Draw(t, "bit"))
		if got, owner, ok := s.open(string(b), "office"); ok && (got != up || owner != run) {
			t.Fatalf("a changed name was opened as %q of %s", got, owner)
		}
	})
}

func FuzzSessionOpen(f *testing.F) {
	s := newSessions([]byte("0123456789abcdef0123456789abcdef"))
	f.Add(s.seal("up", "office", id.NewRun(time.Now())))
	f.Add("s1.AAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, name string) {
		if up, run, ok := s.open(name, "office"); ok && s.seal(up, "office", run) != name {
			t.Fatalf("%q was opened but not made here", name)
		}
	})
}
