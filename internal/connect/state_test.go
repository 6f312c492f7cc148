// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// binds counts how often a join code was used.
type binds struct {
	n   atomic.Int64
	err error
	log string
}

func (b *binds) bind(context.Context, *identity.Key) (client.Enrolment, error) {
	b.n.Add(1)
	return client.Enrolment{ClientID: "spiffe://x/agent/a/1", Issuer: "http://127.0.0.1:1", LogKey: b.log}, b.err
}

func TestEnrolOnceAndReuse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	_, err := LoadState(dir)
	wantCode(t, err, fault.NotFound, "not_enrolled")
	var b binds
	first, err := Enrol(t.Context(), dir, false, b.bind)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Enrol(t.Context(), dir, false, b.bind)
	if err != nil {
		t.Fatal(err)
	}
	third, err := LoadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if b.n.Load() != 1 || second.key.JKT() != first.key.JKT() || third.key.JKT() != first.key.JKT() || third.Enrolled != first.Enrolled {
		t.Errorf("bound %d times: %v, %v, %v", b.n.Load(), first.key, second.key, third.key)
	}
	for name, mode := range map[string]os.FileMode{".": os.ModeDir | 0o700, keyFile: 0o600, enrolmentFile: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), mode)
		}
	}
	fresh, err := Enrol(t.Context(), dir, true, b.bind)
	if err != nil || b.n.Load() != 2 || fresh.key.JKT() == first.key.JKT() {
		t.Errorf("a new instance: %v", err)
	}
}

// TestBridgesStartedTogetherEnrolOnce: the second finds what the first has bound.
func TestBridgesStartedTogetherEnrolOnce(t *testing.T) {
	dir := t.TempDir()
	var b binds
	var all sync.WaitGroup
	var keys sync.Map
	for range 8 {
		all.Go(func() {
			s, err := Enrol(t.Context(), dir, false, func(ctx context.Context, k *identity.Key) (client.Enrolment, error) {
				time.Sleep(20 * time.Millisecond)
				return b.bind(ctx, k)
			})
			if err != nil {
				t.Error(err)
				return
			}
			keys.Store(s.key.JKT(), true)
		})
	}
	all.Wait()
	n := 0
	keys.Range(func(any, any) bool { n++; return true })
	if b.n.Load() != 1 || n != 1 {
		t.Errorf("bound %d times, %d keys", b.n.Load(), n)
	}
}

func TestARefusedCodeLeavesTheDirectoryAsItWas(t *testing.T) {
	dir := t.TempDir()
	refused := binds{err: fault.New(fault.Unauthenticated, "issuer", "join_code", "no such code")}
	_, err := Enrol(t.Context(), dir, false, refused.bind)
	wantCode(t, err, fault.Unauthenticated, "join_code")
	_, err = LoadState(dir)
	wantCode(t, err, fault.NotFound, "not_enrolled")

	var ok binds
	before, err := Enrol(t.Context(), dir, false, ok.bind)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Enrol(t.Context(), dir, true, refused.bind)
	wantCode(t, err, fault.Unauthenticated, "join_code")
	after, err := LoadState(dir)
	if err != nil || after.key.JKT() != before.key.JKT() {
		t.Errorf("a refused code took the old instance away: %v", err)
	}
}

// TestDamagedOrOpenDirectoriesAreRefused, and never enrolled over: what happened to the key is for a person to see.
func TestDamagedOrOpenDirectoriesAreRefused(t *testing.T) {
	rows := map[string]struct {
		damage func(dir string) error
		code   string
	}{
		"open to the group":  {func(dir string) error { return os.Chmod(filepath.Join(dir, keyFile), 0o640) }, "key_file_open"},
		"open to others":     {func(dir string) error { return os.Chmod(filepath.Join(dir, keyFile), 0o604) }, "key_file_open"},
		"key gone":           {func(dir string) error { return os.Remove(filepath.Join(dir, keyFile)) }, "key_file"},
		"key damaged":        {func(dir string) error { return os.WriteFile(filepath.Join(dir, keyFile), []byte("{}"), 0o600) }, "key_file"},
		"enrolment damaged":  {func(dir string) error { return os.WriteFile(filepath.Join(dir, enrolmentFile), []byte("{"), 0o600) }, "state_damaged"},
		"enrolment is empty": {func(dir string) error { return os.WriteFile(filepath.Join(dir, enrolmentFile), []byte("{}"), 0o600) }, "state_damaged"},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var b binds
			if _, err := Enrol(t.Context(), dir, false, b.bind); err != nil {
				t.Fatal(err)
			}
			if err := r.damage(dir); err != nil {
				t.Fatal(err)
			}
			_, err := LoadState(dir)
			wantCode(t, err, fault.Invalid, r.code)
			_, err = Enrol(t.Context(), dir, false, b.bind)
			wantCode(t, err, fault.Invalid, r.code)
			if b.n.Load() != 1 {
				t.Error("it was enrolled over")
			}
			if _, err := Enrol(t.Context(), dir, true, b.bind); err != nil {
				t.Errorf("a new instance may take its place: %v", err)
			}
		})
	}
}

func TestAFileForADirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var b binds
	_, err := Enrol(t.Context(), path, false, b.bind)
	wantCode(t, err, fault.Invalid, "state_dir")
	if b.n.Load() != 0 {
		t.Error("the code was used up for a directory that cannot hold the key")
	}
}

// TestAnEnrolmentThatEndsHalfwayLeavesNoMixture: the old enrolment goes first and the new one comes last, so that a directory never names one
// instance and holds the key of another.
func TestAnEnrolmentThatEndsHalfwayLeavesNoMixture(t *testing.T) {
	dir := t.TempDir()
	var b binds
	if _, err := Enrol(t.Context(), dir, false, b.bind); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, keyFile)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(key, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Enrol(t.Context(), dir, true, b.bind)
	wantCode(t, err, fault.Invalid, "state_dir")
	_, err = LoadState(dir)
	wantCode(t, err, fault.NotFound, "not_enrolled")
}

func TestAnotherLogsCheckpointIsPutAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, checkpointFile)
	one, other := binds{log: "log-1"}, binds{log: "log-2"}
	enrol := func(b *binds, want string) {
		t.Helper()
		if _, err := Enrol(t.Context(), dir, true, b.bind); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Errorf("kept %q, want %q", got, want)
		}
	}
	enrol(&one, "")
	if err := os.WriteFile(path, []byte("seen"), 0o600); err != nil {
		t.Fatal(err)
	}
	enrol(&one, "seen")
	enrol(&other, "")
	if got, _ := os.ReadFile(path + ".former"); string(got) != "seen" {
		t.Errorf("what was seen is gone: %q", got)
	}
}

func TestLockWaitsAndGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), lockFile)
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := lock(short, path); err != errBusy {
		t.Errorf("%v, want %v", err, errBusy)
	}
	got := make(chan error, 1)
	go func() {
		again, err := lock(t.Context(), path)
		if err == nil {
			again()
		}
		got <- err
	}()
	time.Sleep(20 * time.Millisecond)
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
}
