// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/config"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// ResetOperators makes a fresh operator on a stopped deployment. It needs the sealing key. One that runs is refused, "log_in_use".
func ResetOperators(ctx context.Context, conf config.Config, log *slog.Logger, name string, opts Options) (govern.First, error) {
	if err := present(conf); err != nil {
		return govern.First{}, err
	}
	a, err := New(ctx, conf, log, opts)
	if err != nil {
		return govern.First{}, err
	}
	defer a.Close()
	first, err := a.govern.ResetOperators(ctx, name)
	return first, fault.Wrap("app.ResetOperators", err)
}

// present refuses to make a deployment where one was to be mended.
func present(conf config.Config) error {
	if _, err := os.Stat(databasePath(conf)); err != nil {
		return fault.New(fault.NotFound, "app.offline", "no_deployment", "there is no database at %s", databasePath(conf)).
			WithFix("set data (and keys) as for `chaperone up`, or put the database back").WithCause(err)
	}
	return nil
}

// Restore accepts a database that is behind its log (a restored backup). The log is not cut: the next event names the lost range, and
// in the same transaction every active run ends with its grants, every open approval is cancelled, and every credential that was
// issued before is dead. It returns what was done, in words.
func Restore(ctx context.Context, conf config.Config, log *slog.Logger, opts Options) (string, error) {
	if err := present(conf); err != nil {
		return "", err
	}
	opts.accept = true
	a, err := New(ctx, conf, log, opts)
	if err != nil {
		return "", err
	}
	defer a.Close()
	now := a.opts.Now().UTC().Truncate(time.Millisecond)
	var runs, approvals, holders int
	seal := func(lost audit.Restored) (audit.Sealed, error) {
		return audit.Seal(audit.Event{ID: id.NewEvent(now), Stream: audit.People, Type: audit.RestoreAccepted, At: now,
			Actor: audit.Actor{Kind: audit.ActorSystem, Name: "restore"}, Subject: "record", Data: lost}, audit.RandomSalt)
	}
	lost, err := a.tree.Accept(ctx, a.db, seal, func(tx store.Tx) (err error) {
		if runs, err = endRuns(tx, now); err != nil {
			return err
		}
		if approvals, err = cancelApprovals(tx, now); err != nil {
			return err
		}
		holders, err = killCredentials(tx, now)
		return err
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("records %d to %d are lost and named so; ended %d runs with their grants, cancelled %d approvals, killed the credentials of %d holders. "+
		"What was decided in the lost range (suspensions, policies, people) is undone: look it up in an older export and do it again.",
		lost.From, lost.To, runs, approvals, holders), nil
}

const restored = "the database was restored from a backup"

func endRuns(tx store.Tx, now time.Time) (int, error) {
	var all []run.Run
	for _, state := range []run.State{run.Active, run.Suspended} {
		for r, err := range tx.Runs().Runs(run.Filter{State: state, Limit: everything}) {
			if err != nil {
				return 0, err
			}
			all = append(all, r)
		}
	}
	for _, r := range all {
		r.State, r.EndReason, r.EndedAt = run.Ended, restored, now
		if err := tx.Runs().Update(r); err != nil {
			return 0, err
		}
		if _, err := tx.Grants().EndRun(r.ID, now, restored); err != nil {
			return 0, err
		}
		if err := tx.Revocations().Put(revocation.Notice{Kind: revocation.Run, ID: r.ID.String(), Dead: true, Final: true, Reason: restored, At: now}); err != nil {
			return 0, err
		}
	}
	return len(all), nil
}

func cancelApprovals(tx store.Tx, now time.Time) (int, error) {
	var all []approval.Approval
	for _, state := range []approval.State{approval.Pending, approval.Approved} {
		for x, err := range tx.Approvals().Approvals(approval.Filter{State: state, Limit: everything}) {
			if err != nil {
				return 0, err
			}
			all = append(all, x)
		}
	}
	for _, x := range all {
		x.State, x.Reason, x.ClosedAt = approval.Cancelled, restored, now
		if err := tx.Approvals().Update(x); err != nil {
			return 0, err
		}
	}
	return len(all), nil
}

// killCredentials stops what every person and instance was issued before now; they may ask anew.
func killCredentials(tx store.Tx, now time.Time) (int, error) {
	var notices []revocation.Notice
	for p, err := range tx.People().People() {
		if err != nil {
			return 0, err
		}
		notices = append(notices, revocation.Notice{Kind: revocation.Person, ID: p.ID.String(), Dead: p.Suspended, Reason: restored, At: now})
	}
	for a, err := range tx.Registry().Agents() {
		if err != nil {
			return 0, err
		}
		dead := a.State == identity.Suspended || a.State == identity.Retired
		notices = append(notices, revocation.Notice{Kind: revocation.Agent, ID: a.ID.String(), Dead: dead, Final: a.State == identity.Retired, Reason: restored, At: now})
	}
	for _, n := range notices {
		if err := tx.Revocations().Put(n); err != nil {
			return 0, err
		}
	}
	return len(notices), nil
}

// everything asks for lists without an end that matters.
const everything = 1 << 30
