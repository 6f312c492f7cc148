// SPDX-License-Identifier: Apache-2.0

package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/keyring"
	"chaperone/internal/ledger"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

const origin = "chaperone.internal/log"

func TestMain(m *testing.M) {
	ledger.LibraryLog(slog.New(slog.DiscardHandler))
	if dir := os.Getenv("LEDGER_TEST_CHILD"); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// house is a directory with a database, a log and keys, as a deployment has them.
type house struct {
	dir   string
	store *sqlstore.DB
	ring  *keyring.Ring
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{dir: t.TempDir()}
	var err error
	if h.ring, err = keyring.Open(filepath.Join(h.dir, "keys"), true); err != nil {
		t.Fatal(err)
	}
	h.openStore(t)
	return h
}

func (h *house) openStore(t testing.TB) {
	t.Helper()
	var err error
	if h.store, err = sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(h.dir, "db", "chaperone.db")}); err != nil {
		t.Fatal(err)
	}
	db := h.store
	t.Cleanup(func() { _ = db.Close() })
}

func (h *house) log() string { return filepath.Join(h.dir, "log") }

func (h *house) config(t testing.TB) ledger.Config {
	t.Helper()
	signer, err := h.ring.LogSigner(origin)
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.ring.LogVerifierKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	return ledger.Config{Signer: signer, Key: key, Interval: 100 * time.Millisecond, Gather: time.Millisecond, Poll: 100 * time.Millisecond}
}

func (h *house) open(t testing.TB) *ledger.Log {
	t.Helper()
	l, err := ledger.Open(t.Context(), h.log(), h.config(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// follow opens the log and runs its follower; stop ends it, closes the log and returns what Run returned.
func (h *house) follow(t testing.TB) (l *ledger.Log, stop func() error) {
	t.Helper()
	l = h.open(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, h.store) }()
	var result error
	ended := false
	stop = func() error {
		if !ended {
			ended = true
			cancel()
			result = errors.Join(<-done, l.Close())
		}
		return result
	}
	t.Cleanup(func() { _ = stop() })
	return l, stop
}

// made returns a sealed event with a part.
func made(t testing.TB, subject string) audit.Sealed {
	now := time.Now()
	s, err := audit.Seal(audit.Event{
		ID: id.NewEvent(now), Stream: audit.People, Type: audit.ServerPut, At: now, Actor: audit.Actor{Kind: audit.ActorPerson, Name: "ann"},
		Subject: subject, Data: struct{}{}, Parts: map[string][]byte{"request": []byte(subject)},
	}, audit.RandomSalt)
	if err != nil {
		t.Error(err)
	}
	return s
}

func (h *house) append(t testing.TB, n int) {
	t.Helper()
	must(t, h.tryAppend(t, n))
}

// tryAppend is append for goroutines.
func (h *house) tryAppend(t testing.TB, n int) error {
	for n > 0 {
		some := make([]audit.Sealed, min(200, n))
		for i := range some {
			some[i] = made(t, fmt.Sprintf("server:%d", n-i))
		}
		n -= len(some)
		err := h.store.Update(context.Background(), func(tx store.Tx) error {
			for _, s := range some {
				if err := tx.Events().Append(s); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *house) next(t testing.TB) (next int64) {
	t.Helper()
	err := h.store.View(t.Context(), func(tx store.Tx) (err error) {
		next, err = tx.Events().Next()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// settled waits until the log has published a checkpoint of size records, and returns it.
func settled(t testing.TB, l *ledger.Log, h *house, size int64) audit.Checkpoint {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		raw, err := l.Checkpoint()
		if err == nil {
			cp, err := audit.OpenCheckpoint(raw, h.config(t).Key)
			if err != nil {
				t.Fatal(err)
			}
			if cp.Size > size {
				t.Fatalf("the checkpoint covers %d records, %d exist", cp.Size, size)
			}
			if cp.Size == size {
				return cp
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no checkpoint of %d records: %v, tree has %d", size, err, l.Size())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// accepted runs tessera's own verifier over a log directory.
func accepted(t testing.TB, dir, key string) {
	t.Helper()
	v, err := note.NewVerifier(strings.TrimSpace(key))
	if err != nil {
		t.Fatal(err)
	}
	hasher := func(bundle []byte) (out [][]byte, _ error) {
		var b api.EntryBundle
		if err := b.UnmarshalText(bundle); err != nil {
			return nil, err
		}
		for _, e := range b.Entries {
			h := tlog.RecordHash(e)
			out = append(out, h[:])
		}
		return out, nil
	}
	if err := fsck.New(origin, v, client.FileFetcher{Root: dir}, hasher, fsck.Opts{N: 1}).Check(t.Context()); err != nil {
		t.Errorf("fsck: %v", err)
	}
}

// verified exports the record and verifies the export with a second implementation.
func (h *house) verified(t testing.TB, l *ledger.Log, pinned []byte) audit.Report {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "export")
	if err := l.Export(t.Context(), h.store, dir); err != nil {
		t.Fatal(err)
	}
	r, err := audit.Verify(os.DirFS(dir), audit.Options{Key: h.config(t).Key, PinnedCheckpoint: pinned})
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, dir, h.config(t).Key)
	return r
}

// ran is what Run returns at once; one that goes on is stopped, and returns nil.
func ran(t testing.TB, l *ledger.Log, st store.Store) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return l.Run(ctx, st)
}

func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Code != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	if f.Fix == "" {
		t.Errorf("%s names no next step", code)
	}
}

func TestLogFollowsTheTable(t *testing.T) {
	h := newHouse(t)
	h.append(t, 3)
	l, stop := h.follow(t)
	settled(t, l, h, 3)
	h.append(t, 600) // over two bundles
	cp := settled(t, l, h, 603)
	if l.Size() != 603 || cp.Origin != origin {
		t.Errorf("size %d, origin %s", l.Size(), cp.Origin)
	}
	raw, _ := l.Checkpoint()
	if r := h.verified(t, l, raw); !r.OK() || r.Records != 603 || r.Parts != 603 {
		t.Errorf("%s", r)
	}
	accepted(t, h.log(), h.config(t).Key)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	accepted(t, h.log(), h.config(t).Key)
}

func TestEmptyTable(t *testing.T) {
	h := newHouse(t)
	l, stop := h.follow(t)
	settled(t, l, h, 0)
	if r := h.verified(t, l, nil); !r.OK() || r.Size != 0 {
		t.Errorf("%s", r)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestStopsAndResumes(t *testing.T) {
	h := newHouse(t)
	var size int64
	var pinned []byte
	for range 6 {
		l, stop := h.follow(t)
		h.append(t, 97)
		size += 97
		// What was handed over before the stop is published; what was not comes after the restart.
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if int64(l.Size()) > size {
			t.Fatalf("size %d of %d", l.Size(), size)
		}
	}
	l, stop := h.follow(t)
	settled(t, l, h, size)
	pinned, _ = l.Checkpoint()
	if r := h.verified(t, l, pinned); !r.OK() || r.Records != size {
		t.Errorf("%s", r)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// A log directory that was lost is made again from the table, to the same root, and no smaller checkpoint is shown on the way.
func TestLostLogIsMadeAgain(t *testing.T) {
	h := newHouse(t)
	h.append(t, 1300)
	l, stop := h.follow(t)
	before := settled(t, l, h, 1300)
	raw, _ := l.Checkpoint()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, lost := range []string{".", ".state", "tile", "checkpoint"} {
		if err := os.RemoveAll(filepath.Join(h.log(), lost)); err != nil {
			t.Fatal(err)
		}
		if lost == "tile" {
			_, err := ledger.Open(t.Context(), h.log(), h.config(t))
			wantCode(t, err, "log_damaged")
			must(t, os.RemoveAll(h.log()))
		}
		l, stop := h.follow(t)
		after := settled(t, l, h, 1300) // fails on a checkpoint of more; one of fewer is withheld:
		if after.Root != before.Root {
			t.Errorf("without %s: root %s, was %s", lost, after.Root, before.Root)
		}
		if r := h.verified(t, l, raw); !r.OK() {
			t.Errorf("without %s: %s", lost, r)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoSmallerCheckpointIsShown(t *testing.T) {
	h := newHouse(t)
	h.append(t, 2000)
	l, _ := h.follow(t)
	for {
		raw, err := l.Checkpoint()
		if err != nil {
			if c := fault.CodeOf(err); c != "log_catching_up" && c != "log_empty" {
				t.Fatal(err)
			}
			continue
		}
		cp, err := audit.OpenCheckpoint(raw, h.config(t).Key)
		if err != nil || cp.Size < 2000 && l.Size() > 0 {
			t.Fatalf("a checkpoint of %d of 2000 records was shown: %v", cp.Size, err)
		}
		if cp.Size == 2000 {
			return
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	h := newHouse(t)
	h.append(t, 300)
	l, stop := h.follow(t)
	settled(t, l, h, 300)
	_, err := ledger.Open(t.Context(), h.log(), h.config(t))
	wantCode(t, err, "log_in_use")
	wantCode(t, ran(t, l, h.store), "log_in_use")
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	other := newHouse(t)
	_, err = ledger.Open(t.Context(), h.log(), other.config(t))
	wantCode(t, err, "log_origin")
	moved := h.config(t)
	moved.Signer, err = h.ring.LogSigner("elsewhere.example/log")
	must(t, err)
	moved.Key, err = h.ring.LogVerifierKey("elsewhere.example/log")
	must(t, err)
	_, err = ledger.Open(t.Context(), h.log(), moved)
	wantCode(t, err, "log_origin")

	for _, name := range []string{"tile/0/001.p/44", "tile/1/000.p/1", ".state/treeState", "checkpoint"} {
		path := filepath.Join(h.log(), name)
		b, err := os.ReadFile(path)
		must(t, err)
		bad := append([]byte(nil), b...)
		bad[len(bad)/2] ^= 1
		must(t, os.WriteFile(path, bad, 0o600))
		_, err = ledger.Open(t.Context(), h.log(), h.config(t))
		if name == "checkpoint" {
			wantCode(t, err, "log_origin")
		} else {
			wantCode(t, err, "log_damaged")
		}
		must(t, os.WriteFile(path, b, 0o600))
	}
	l2, err := ledger.Open(t.Context(), h.log(), h.config(t))
	must(t, err)
	must(t, l2.Close())
}

func TestReadGivesPublicFilesOnly(t *testing.T) {
	h := newHouse(t)
	h.append(t, 300)
	l, _ := h.follow(t)
	settled(t, l, h, 300)
	must(t, os.WriteFile(filepath.Join(h.dir, "outside"), []byte("x"), 0o600))
	must(t, os.WriteFile(filepath.Join(h.log(), "private"), []byte("x"), 0o600))
	for _, path := range []string{"checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"} {
		if b, err := l.Read(path); err != nil || len(b) == 0 {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{
		"", ".", "..", "/", "/etc/passwd", "../outside", "tile/../../outside", "tile/0/../../private", "private", ".lock", ".state/treeState",
		".state", "tile", "tile/0", "tile/entries/000", "tile/entries/001.p/44", "tile/0/entries/000", "tile/-1/000", "tile/00/000", "tile/0/0",
		"tile/0/000/", "tile//0/000", "./checkpoint", "checkpoint/", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/x000/000",
		"tile/0/001.p/44/..", "tile\\0\\000", "tile/0/000\x00", "tile/0/%2e%2e/000", "tile/0/1000", "tile/9/000", "tile/0/002",
	} {
		_, err := l.Read(path)
		if fault.CodeOf(err) != "log_no_file" || !fault.Is(err, fault.NotFound) {
			t.Errorf("%q: %v", path, err)
		}
	}
	must(t, os.Remove(filepath.Join(h.log(), "tile/0/001.p/44")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(h.log(), "tile/0/001.p/44")))
	if b, err := l.Read("tile/0/001.p/44"); err == nil {
		t.Errorf("a link out of the directory was followed: %q", b)
	}
}

// Whoever keeps a checkpoint sees through the public files that the log only grew.
func TestPublicFilesProveConsistency(t *testing.T) {
	h := newHouse(t)
	l, _ := h.follow(t)
	key := h.config(t).Key
	var kept []byte
	var size int64
	for _, n := range []int{1, 2, 250, 3, 1, 300, 7} {
		h.append(t, n)
		size += int64(n)
		settled(t, l, h, size)
		fresh, err := l.Read("checkpoint")
		must(t, err)
		newer, err := audit.CheckConsistency(key, kept, fresh, l.Read)
		if err != nil || !newer {
			t.Fatalf("at %d: %t %v", size, newer, err)
		}
		kept = fresh
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
