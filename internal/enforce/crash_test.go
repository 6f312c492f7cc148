// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/enforce"
	"chaperone/internal/run"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

// The process is killed after each step of the road, from inside and with no warning. Whatever was forwarded must be on the record as
// intended, and whatever was released as done.

const crashEnv = "ENFORCE_CRASH" // step, tool, database, office, file of what was released

func TestMain(m *testing.M) {
	if spec := os.Getenv(crashEnv); spec != "" {
		err := crash(strings.Split(spec, "\n"))
		fmt.Fprintln(os.Stderr, "not killed:", err)
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// crash makes one call in this process and kills it after the step.
func crash(spec []string) error {
	db, err := sqlstore.Open(context.Background(), sqlstore.Config{Path: spec[2]})
	if err != nil {
		return err
	}
	h := &house{db: db, store: db, at: start, config: enforce.Config{PublicURL: publicURL, StateKey: stateKey}}
	h.config.Failpoint = func(step string) {
		if step == spec[0] {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	err = db.View(context.Background(), func(tx store.Tx) error {
		if h.agent, err = tx.Registry().Agent("mailer"); err != nil {
			return err
		}
		for in, err := range tx.Instances().ByAgent(h.agent.ID) {
			if err != nil {
				return err
			}
			h.inst = in
		}
		for r, err := range tx.Runs().Runs(run.Filter{Agent: h.agent.ID}) {
			if err != nil {
				return err
			}
			h.run = r
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.build()
	o, err := h.engine.Call(context.Background(), h.tool(spec[1], `{}`), file(spec[4]))
	return fmt.Errorf("%+v %w", o, err)
}

// file is a caller who writes down what it gets, at once.
type file string

func (f file) Release(m enforce.Message) error {
	out, err := os.OpenFile(string(f), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.Write(append(m.Raw, '\n')); err != nil {
		return err
	}
	return out.Sync()
}

func TestCrashAfterEveryStep(t *testing.T) {
	steps := []string{"receive", "authenticate", "open", "describe", "decide", "approve", "grant", "inject", "forward", "inspect", "record", "release"}
	for i, step := range steps {
		for _, tool := range []string{"list_files", "note"} {
			t.Run(step+"/"+tool, func(t *testing.T) {
				h := newHouse(t)
				h.must(h.db.Close())
				got := filepath.Join(t.TempDir(), "released")
				cmd := exec.Command(os.Args[0], "-test.run=^$")
				cmd.Env = append(os.Environ(), crashEnv+"="+strings.Join([]string{step, tool, h.path, h.office.URL, got}, "\n"))
				out, err := cmd.CombinedOutput()
				if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
					t.Fatalf("%v: %s", err, out)
				}
				db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: h.path})
				h.must(err)
				t.Cleanup(func() { db.Close() })
				h.db, h.store = db, db
				forwarded := len(h.office.calls())
				_, err = os.Stat(got)
				released := err == nil
				intents := len(h.events(h.run.ID, audit.CallIntent))
				done := h.events(h.run.ID, audit.CallOutcome)
				if tool == "list_files" {
					done = h.events(h.run.ID, audit.CallDecided)
				}
				if forwarded > 0 && tool == "note" && intents != 1 {
					t.Error("forwarded, and the intent is not on the record")
				}
				if released && (len(done) != 1 || done[0].Data.Outcome != audit.OutcomeOK) {
					t.Error("released, and the outcome is not on the record")
				}
				// And each step has done what is its own, so that the test does not pass for nothing.
				want := func(what string, have, since bool) {
					if have != since {
						t.Errorf("%s: %v after %s", what, have, step)
					}
				}
				want("forwarded", forwarded > 0, i >= 8)
				want("intended", intents > 0, i >= 6 && tool == "note")
				want("recorded", len(done) > 0, i >= 10)
				want("released", released, i >= 11)
				// The restart resumes.
				h.at = start.Add(time.Second)
				h.build()
				h.want(h.call(tool, `{}`), enforce.Released, "")
			})
		}
	}
}
