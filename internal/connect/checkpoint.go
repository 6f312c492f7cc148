// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
)

// watcher keeps the last checkpoint of the record that this instance has seen and demands that every later one extends it, so
// that a record that was rewritten or cut off does not go unnoticed by those who acted under it.
type watcher struct {
	state *State
	api   string
	http  *http.Client
	log   *slog.Logger
}

// run checks every minute until ctx ends. A break is logged loudly; the calls themselves go on, since refusing them is the
// gateway's decision and the proof of the break is kept beside the last good checkpoint.
func (w *watcher) run(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := w.check(ctx); err != nil && ctx.Err() == nil {
				w.log.Error("checkpoint_refused", "error", err)
			}
		}
	}
}

// check fetches the checkpoint, verifies its signature and its consistency with the kept one, and keeps it. An unreachable log is
// not an error; a log that contradicts itself is Invalid, "log_inconsistent".
func (w *watcher) check(ctx context.Context) error {
	if w.api == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	fresh, err := w.fetch(ctx, "checkpoint")
	if err != nil {
		w.log.Debug("checkpoint_unreachable", "error", err)
		return nil
	}
	path := filepath.Join(w.state.Dir, checkpointFile)
	unlock, err := lock(filepath.Join(w.state.Dir, "lock"))
	if err != nil {
		return unreadable(w.state.Dir, err)
	}
	defer unlock()
	kept, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return unreadable(w.state.Dir, err)
	}
	newer, err := audit.CheckConsistency(w.state.Enrolled.LogKey, kept, fresh, func(tile string) ([]byte, error) { return w.fetch(ctx, tile) })
	if err != nil {
		if fault.KindOf(err) == fault.Unavailable {
			return nil
		}
		proof := filepath.Join(w.state.Dir, fmt.Sprintf("checkpoint.refused-%d", time.Now().Unix()))
		_ = writeFile(proof, fresh) // best effort: the error below is what matters
		return err
	}
	if !newer {
		return nil
	}
	return writeFile(path, fresh)
}

func (w *watcher) fetch(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.api+"/log/"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return nil, unreachable(w.api, err)
	}
	defer drain(resp)
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.Unavailable, "connect.checkpoint", "log_unreachable", "the log answered HTTP %d for %s", resp.StatusCode, path)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}
