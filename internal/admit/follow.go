// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

const (
	sweepEvery = time.Minute
	coalesce   = 20 * time.Millisecond // of commits that follow one another
)

// Follow keeps the view of who is dead up to date until ctx ends: after every commit that appended events, and on a ticker,
// so that its age tells how long the table could not be read. Once a minute it ends runs that are past their end and forgets
// what has passed. It returns nil when ctx ends.
func (r *Road) Follow(ctx context.Context) error {
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	pause := time.NewTimer(coalesce)
	defer pause.Stop()
	for {
		changed := r.deps.Store.Committed() // before the reading, so that no commit falls between
		if err := r.Refresh(ctx); err != nil && ctx.Err() == nil {
			r.deps.Log.ErrorContext(ctx, "the revocations could not be read", "error", err)
		}
		pause.Reset(coalesce)
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		case <-sweep.C:
			if err := r.Sweep(ctx); err != nil && ctx.Err() == nil {
				r.deps.Log.ErrorContext(ctx, "what has passed could not be swept", "error", err)
			}
		}
	}
}

// Refresh reads the notices in force from the table if they changed since the last reading, and confirms the view otherwise.
func (r *Road) Refresh(ctx context.Context) error {
	r.reload.Lock()
	defer r.reload.Unlock()
	now := r.deps.Now() // before the reading: the view is no fresher than that
	var epoch, next int64
	var notices []revocation.Notice
	changed := false
	err := r.deps.Store.View(ctx, func(tx store.Tx) (err error) {
		if epoch, err = tx.Revocations().Epoch(); err != nil {
			return err
		}
		if next, err = tx.Events().Next(); err != nil {
			return err
		}
		if changed = epoch != r.epoch; changed {
			notices, err = tx.Revocations().Live(r.wall())
		}
		return err
	})
	if err != nil {
		return fault.Wrap("admit.Refresh", err)
	}
	if changed {
		r.deps.Index.Load(notices, next-1, now)
		r.epoch = epoch
	} else {
		r.deps.Index.Seen(next-1, now)
	}
	return nil
}

// fresh reads the view when nobody has for a while, and refuses when that fails and the view is too old.
func (r *Road) fresh(ctx context.Context) error {
	const lease = 30 * time.Second
	if r.deps.Index.Age(r.deps.Now()) <= lease {
		return nil
	}
	if err := r.Refresh(ctx); err != nil {
		r.deps.Log.ErrorContext(ctx, "the revocations could not be read", "error", err)
	}
	if r.deps.Index.Age(r.deps.Now()) > r.cfg.MaxAge {
		return stale()
	}
	return nil
}

func stale() error {
	return fault.New(fault.Unavailable, "admit.Authenticate", "revocation_stale", "it is not known who has been stopped in the meantime").
		WithFix("try again in a few seconds; an operator can look at chaperone doctor")
}

// Sweep ends runs that are past their end, and forgets spent assertions, codes and notices that have passed.
func (r *Road) Sweep(ctx context.Context) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	if err := r.deps.Store.Update(ctx, func(tx store.Tx) error { return tx.Once().Sweep(now.Add(-maxStep)) }); err != nil {
		return fault.Wrap("admit.Sweep", err)
	}
	return r.halt(ctx, halting{
		by: system, reason: "expired", to: run.Expired,
		roots: func(tx store.Tx) ([]run.Run, error) {
			var out []run.Run
			for _, state := range []run.State{run.Active, run.Suspended} {
				found, err := collect(tx.Runs().Runs(run.Filter{State: state, Limit: everything}))
				if err != nil {
					return nil, err
				}
				for _, f := range found {
					if !now.Before(f.ExpiresAt) {
						out = append(out, f)
					}
				}
			}
			return out, nil
		},
	})
}
