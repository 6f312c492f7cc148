// SPDX-License-Identifier: Apache-2.0

package ledger_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/ledger"
	"chaperone/internal/store"
)

// backup copies the database, which nobody uses meanwhile.
func (h *house) backup(t testing.TB) (restore func()) {
	t.Helper()
	must(t, h.store.Close())
	kept := filepath.Join(t.TempDir(), "db")
	must(t, os.CopyFS(kept, os.DirFS(filepath.Join(h.dir, "db"))))
	h.openStore(t)
	return func() {
		must(t, h.store.Close())
		must(t, os.RemoveAll(filepath.Join(h.dir, "db")))
		must(t, os.CopyFS(filepath.Join(h.dir, "db"), os.DirFS(kept)))
		h.openStore(t)
	}
}

func sealRestored(lost audit.Restored) (audit.Sealed, error) {
	now := time.Now()
	return audit.Seal(audit.Event{
		ID: id.NewEvent(now), Stream: audit.People, Type: audit.RestoreAccepted, At: now,
		Actor: audit.Actor{Kind: audit.ActorSystem, Name: "restore"}, Data: lost,
	}, audit.RandomSalt)
}

// A restored database stops the start. Accepting it cuts nothing: the log goes on at its size, and its next record names the lost ones.
func TestLogAheadOfARestoredDatabase(t *testing.T) {
	h := newHouse(t)
	h.append(t, 10)
	restore := h.backup(t)
	h.append(t, 5)
	l, stop := h.follow(t)
	cp := settled(t, l, h, 15)
	pinned, _ := l.Checkpoint()
	must(t, stop())

	restore()
	l = h.open(t)
	err := ran(t, l, h.store)
	wantCode(t, err, "log_ahead")
	if f, _ := errors.AsType[*fault.Error](err); !strings.Contains(f.Fix, "restore --accept") || !strings.Contains(f.Fix, "records 10 to 14") {
		t.Errorf("fix: %s", f.Fix)
	}
	must(t, l.Close())
	// Accepting comes before anything else is written: records that the log knows otherwise cannot be accepted.
	again := h.backup(t)
	h.append(t, 2)
	l = h.open(t)
	_, err = l.Accept(t.Context(), h.store, sealRestored, func(store.Tx) error { return nil })
	wantCode(t, err, "log_diverged")
	again()

	revoked := false
	lost, err := l.Accept(t.Context(), h.store, sealRestored, func(tx store.Tx) error { revoked = true; return tx.Meta().Set("revoked", "all") })
	must(t, err)
	if want := (audit.Restored{From: 10, To: 14, TreeSize: 15, Root: cp.Root.String()}); lost != want || !revoked {
		t.Errorf("lost %+v, want %+v", lost, want)
	}
	if next := h.next(t); next != 16 {
		t.Errorf("next is %d", next)
	}
	_, err = l.Accept(t.Context(), h.store, sealRestored, func(store.Tx) error { return nil })
	wantCode(t, err, "log_not_ahead")
	must(t, l.Close())
	l, stop = h.follow(t)
	settled(t, l, h, 16)
	if r := h.verified(t, l, pinned); !r.OK() {
		t.Errorf("%s", r)
	}
	must(t, stop())
}

func TestAcceptedRestoreGoesOn(t *testing.T) {
	h := newHouse(t)
	h.append(t, 300)
	restore := h.backup(t)
	h.append(t, 20)
	l, stop := h.follow(t)
	settled(t, l, h, 320)
	pinned, _ := l.Checkpoint()
	must(t, stop())

	restore()
	l = h.open(t)
	_, err := l.Accept(t.Context(), h.store, sealRestored, func(store.Tx) error { return errors.New("revoking failed") })
	if err == nil || h.next(t) != 300 {
		t.Fatalf("a failed acceptance left a trace: %v, next %d", err, h.next(t))
	}
	_, err = l.Accept(t.Context(), h.store, sealRestored, func(store.Tx) error { return nil })
	must(t, err)
	must(t, l.Close())
	for range 2 { // and once more after a restart
		l, stop = h.follow(t)
		h.append(t, 5)
		settled(t, l, h, h.next(t))
		r := h.verified(t, l, pinned)
		if !r.OK() || !strings.Contains(r.String(), "records 300 to 319 were lost when a restored database was accepted (record 320 says so)") {
			t.Errorf("%s", r)
		}
		must(t, stop())
	}
	// The lost records are in the log only: it cannot be made again from the table.
	must(t, os.RemoveAll(h.log()))
	l = h.open(t)
	wantCode(t, ran(t, l, h.store), "log_gap")
}

// A table that differs from what is in the log is refused, at the start and when a lost log is made again.
func TestTableThatDiffersFromTheLog(t *testing.T) {
	h, other := newHouse(t), newHouse(t)
	h.append(t, 40)
	other.append(t, 40)
	l, stop := h.follow(t)
	settled(t, l, h, 40)
	must(t, stop())
	l = h.open(t)
	wantCode(t, ran(t, l, other.store), "log_diverged")
	must(t, l.Close())
	// Without the tree's state it is made again, until it meets the checkpoint that was published.
	must(t, os.RemoveAll(filepath.Join(h.log(), ".state")))
	l = h.open(t)
	wantCode(t, ran(t, l, other.store), "log_diverged")
}

func TestExportWhileTheLogGrows(t *testing.T) {
	h := newHouse(t)
	h.append(t, 200)
	l, stop := h.follow(t)
	settled(t, l, h, 200)
	done := make(chan error, 1)
	go func() {
		for range 20 {
			if err := h.tryAppend(t, 30); err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	exports := 0
	for running := true; running; exports++ {
		select {
		case err := <-done:
			must(t, err)
			running = false
		default:
		}
		pinned, err := l.Checkpoint()
		must(t, err)
		if r := h.verified(t, l, pinned); !r.OK() {
			t.Fatalf("%s", r)
		}
	}
	t.Logf("%d exports", exports)
	must(t, stop())
}

func TestExportRefusesAndStops(t *testing.T) {
	h := newHouse(t)
	h.append(t, 3)
	l := h.open(t)
	wantCode(t, l.Export(t.Context(), h.store, t.TempDir()), "log_empty")
	must(t, l.Close())
	l, _ = h.follow(t)
	settled(t, l, h, 3)
	full := t.TempDir()
	must(t, os.WriteFile(filepath.Join(full, "x"), nil, 0o600))
	wantCode(t, l.Export(t.Context(), h.store, full), "export_dir")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Export(gone, h.store, filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("an export that was called off said nothing")
	}
}

func TestTar(t *testing.T) {
	h := newHouse(t)
	h.append(t, 30)
	l, _ := h.follow(t)
	settled(t, l, h, 30)
	var b bytes.Buffer
	must(t, ledger.Record{Log: l, Store: h.store}.Export(t.Context(), &b))
	dir := t.TempDir()
	r := tar.NewReader(&b)
	for {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if head.Typeflag == tar.TypeDir {
			continue
		}
		path := filepath.Join(dir, head.Name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		content, err := io.ReadAll(r)
		must(t, err)
		must(t, os.WriteFile(path, content, 0o600))
	}
	report, err := audit.Verify(os.DirFS(dir), audit.Options{Key: h.config(t).Key})
	if err != nil || !report.OK() || report.Records != 30 {
		t.Errorf("%v %s", err, report)
	}
	accepted(t, dir, h.config(t).Key)
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "chaperone-export-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
