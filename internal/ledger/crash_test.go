// SPDX-License-Identifier: Apache-2.0

package ledger_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/keyring"
	"chaperone/internal/ledger"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

// child appends events and follows them until it is killed. It prints a line for each event whose commit has returned.
func child(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	ring, err := keyring.Open(filepath.Join(dir, "keys"), false)
	fail(err)
	db, err := sqlstore.Open(ctx, sqlstore.Config{Path: filepath.Join(dir, "db", "chaperone.db")})
	fail(err)
	signer, err := ring.LogSigner(origin)
	fail(err)
	key, err := ring.LogVerifierKey(origin)
	fail(err)
	l, err := ledger.Open(ctx, filepath.Join(dir, "log"), ledger.Config{Signer: signer, Key: key, Interval: 100 * time.Millisecond, Gather: time.Millisecond})
	fail(err)
	go func() { fail(l.Run(ctx, db)) }()
	for i := 0; ; i++ {
		s := made(&testing.T{}, "server:"+strconv.Itoa(i))
		fail(db.Update(ctx, func(tx store.Tx) error { return tx.Events().Append(s) }))
		fmt.Println(s.Event.ID)
	}
}

// A process that is killed at any moment loses nothing that was acknowledged, and the next one resumes: no event is missing from the log, none is
// twice in it, and the old checkpoint is extended.
func TestCrashedProcessResumes(t *testing.T) {
	h := newHouse(t)
	must(t, h.store.Close())
	acknowledged := make(map[string]bool)
	for range 6 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "LEDGER_TEST_CHILD="+h.dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		timer := time.AfterFunc(time.Duration(100+rand.IntN(400))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "error:") {
				t.Fatal(lines.Text())
			}
			if strings.HasPrefix(lines.Text(), "evt_") && len(lines.Text()) == 30 {
				acknowledged[lines.Text()] = true
			}
		}
		timer.Stop()
		_ = cmd.Wait()
	}
	if len(acknowledged) == 0 {
		t.Fatal("the child did nothing")
	}
	pinned, _ := os.ReadFile(filepath.Join(h.log(), "checkpoint"))
	h.openStore(t)
	l, stop := h.follow(t)
	next := h.next(t)
	settled(t, l, h, next)
	r := h.verified(t, l, pinned)
	if !r.OK() || r.Records != next {
		t.Errorf("%s", r)
	}
	err := h.store.View(t.Context(), func(tx store.Tx) error {
		for rec, err := range tx.Events().Records(audit.Filter{After: -1, Limit: 1 << 20, Bare: true}) {
			if err != nil {
				return err
			}
			delete(acknowledged, rec.ID.String())
		}
		return nil
	})
	must(t, err)
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged events are lost", len(acknowledged))
	}
	t.Logf("%d events over six kills", next)
	must(t, stop())
}

// What a kill leaves is a copy of the directory at some moment: each such copy resumes.
func TestCopiesTakenWhileWritingResume(t *testing.T) {
	h := newHouse(t)
	l, stop := h.follow(t)
	done := make(chan error, 1)
	go func() { done <- h.tryAppend(t, 800) }()
	var copies []string
	for i := 0; l.Size() < 700 && i < 12; i++ {
		time.Sleep(15 * time.Millisecond)
		to := filepath.Join(t.TempDir(), "log")
		if err := os.CopyFS(to, os.DirFS(h.log())); err != nil {
			continue // a file went away under the copy; a kill does not do that
		}
		copies = append(copies, to)
	}
	must(t, <-done)
	settled(t, l, h, 800)
	raw, _ := l.Checkpoint()
	must(t, stop())
	for _, dir := range copies {
		must(t, os.RemoveAll(h.log()))
		must(t, os.Rename(dir, h.log()))
		// A copy takes the files one after another, so its tree may be younger than its tiles; then it says so.
		probe, err := ledger.Open(t.Context(), h.log(), h.config(t))
		if err != nil {
			wantCode(t, err, "log_damaged")
			continue
		}
		must(t, probe.Close())
		again, stop := h.follow(t)
		settled(t, again, h, 800)
		if r := h.verified(t, again, raw); !r.OK() {
			t.Errorf("%s", r)
		}
		must(t, stop())
	}
}
