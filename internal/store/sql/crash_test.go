// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chaperone/internal/id"
	"chaperone/internal/store"
)

const crashEnv = "CHAPERONE_STORE_CRASH"

// TestCrashChild is the process that TestCrashKeepsWhatWasAcknowledged kills: it writes for ever and says what was acknowledged.
func TestCrashChild(t *testing.T) {
	path := os.Getenv(crashEnv)
	if path == "" {
		return // a part of TestCrashKeepsWhatWasAcknowledged, nothing by itself
	}
	db, err := Open(context.Background(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	agent := id.Agent{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				e := event(agent, id.Run{})
				var at int64
				if err := db.Update(context.Background(), func(tx store.Tx) (err error) {
					if at, err = tx.Events().Next(); err != nil {
						return err
					}
					if err := tx.Meta().Set("last", e.Event.ID.String()); err != nil {
						return err
					}
					if at%5 == 0 {
						return fmt.Errorf("every fifth fails at first, and the next caller takes its position %v", tx.Meta().Set("last", ""))
					}
					return tx.Events().Append(e)
				}); err != nil {
					if !strings.Contains(err.Error(), "every fifth") {
						t.Error(err)
						return
					}
					e := event(agent, id.Run{})
					if err := db.Update(context.Background(), func(tx store.Tx) error { return tx.Events().Append(e) }); err != nil {
						t.Error(err)
						return
					}
					continue
				}
				mu.Lock()
				fmt.Fprintf(os.Stdout, "ack %d %s\n", at, e.Event.ID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// Nothing that was acknowledged is lost at kill -9, positions stay gapless, and a restart goes on.
func TestCrashKeepsWhatWasAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chaperone.db")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	acked := map[string]int64{}
	for round := range 3 {
		cmd := exec.Command(self, "-test.run=^TestCrashChild$", "-test.v=false")
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, n := bufio.NewScanner(out), 0
		for lines.Scan() {
			var at int64
			var key string
			if _, err := fmt.Sscanf(lines.Text(), "ack %d %s", &at, &key); err != nil || len(key) != len("evt_")+26 {
				continue // the killed process's last words, or the test framework's
			}
			acked[key] = at
			if n++; n == 200*(round+1) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		if n < 200*(round+1) {
			t.Fatalf("the child ended by itself after %d lines", n)
		}
		db := openAt(t, path)
		at := checkRecord(t, db, -1)
		for key, want := range acked {
			if got, ok := at[key]; !ok || got != want {
				t.Fatalf("round %d: %s was acknowledged at %d and is at %d, %v", round, key, want, got, ok)
			}
		}
		if last := value(t, db, "last"); round > 0 && last == "" {
			t.Error("the value that is written with each event is gone")
		} else if _, ok := at[last]; last != "" && !ok {
			t.Errorf("half of a change is there: the value of %s without the event", last)
		}
		if err := db.Ready(context.Background()); err != nil {
			t.Fatal(err)
		}
		db.Close()
	}
}
