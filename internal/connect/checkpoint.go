// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"errors"
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
	every time.Duration
	grace time.Duration
	log   *slog.Logger
}

// run checks again and again until ctx ends, and once more then, so that what is kept covers what this bridge did. A break is logged
// loudly; the calls themselves go on, since refusing them is the gateway's decision and the proof of the break is kept beside the last
// good checkpoint.
func (w *watcher) run(ctx context.Context) {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.grace)
			defer cancel()
			w.look(last)
			return
		case <-tick.C:
			w.look(ctx)
		}
	}
}

func (w *watcher) look(ctx context.Context) {
	if err := w.check(ctx); err != nil {
		w.log.Error("checkpoint_refused", "error", err)
	}
}

// checkTime bounds one look at the log.
const checkTime = 10 * time.Second

// check fetches the checkpoint, verifies its signature and its consistency with the kept one, and keeps it. An unreachable log is
// not an error; a log that contradicts what was seen is Invalid, "log_inconsistent" (or checkpoint_invalid, when it is not signed as it
// was), and the first checkpoint that did is kept aside as proof.
func (w *watcher) check(ctx context.Context) error {
	if w.api == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	path := filepath.Join(w.state.Dir, checkpointFile)
	unlock, err := lock(ctx, filepath.Join(w.state.Dir, lockFile))
	if errors.Is(err, errBusy) {
		return nil // another bridge of this instance is looking, or the log keeps it waiting
	}
	if err != nil {
		return unusable(w.state.Dir, err)
	}
	defer unlock()
	kept, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return unusable(w.state.Dir, err)
	}
	// Fetched under the lock: what another bridge keeps meanwhile would be newer than this, and look like a log that was cut.
	fresh, err := w.fetch(ctx, "checkpoint")
	if err != nil {
		w.log.Debug("checkpoint_unreachable", "error", err)
		return nil
	}
	newer, err := audit.CheckConsistency(w.state.Enrolled.LogKey, kept, fresh, func(tile string) ([]byte, error) { return w.fetch(ctx, tile) })
	switch {
	case fault.KindOf(err) == fault.Unavailable && err != nil:
		w.log.Warn("checkpoint_unproved", "error", err) // the kept one stays, so that nothing is taken on trust
		return nil
	case err != nil:
		proof := path + ".refused"
		if _, serr := os.Stat(proof); os.IsNotExist(serr) {
			_ = writeFile(proof, fresh) // best effort: the error below is what matters
		}
		return err
	case newer:
		return writeFile(path, fresh)
	}
	return nil
}

func (w *watcher) fetch(ctx context.Context, path string) ([]byte, error) {
	gone := func(err error) error {
		return fault.New(fault.Unavailable, "connect.checkpoint", "log_unreachable", "the log at %s does not answer for %s", w.api, path).WithCause(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.api+"/log/"+path, nil)
	if err != nil {
		return nil, gone(err)
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return nil, gone(err)
	}
	defer discard(resp)
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.Unavailable, "connect.checkpoint", "log_unreachable", "the log at %s answered HTTP %d for %s", w.api, resp.StatusCode, path)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, gone(err)
	}
	return b, nil
}
