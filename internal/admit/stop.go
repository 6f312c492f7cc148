// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"slices"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// EndRun ends a run and every run that descends from it, with their credentials, grants and open approvals, at once. Errors: NotFound
// "run_unknown"; Conflict "illegal_transition" if it is over already.
func (r *Road) EndRun(ctx context.Context, by audit.Actor, which id.Run, reason string) error {
	var is run.Run
	err := r.deps.Store.View(ctx, func(tx store.Tx) (err error) { is, err = tx.Runs().Run(which); return err })
	if fault.Is(err, fault.NotFound) {
		return runUnknown()
	} else if err != nil {
		return err
	}
	if _, err := is.Move(run.Ended, reason, r.moment()); err != nil {
		return err
	}
	return r.halt(ctx, halting{by: by, reason: reason, to: run.Ended, roots: func(tx store.Tx) ([]run.Run, error) {
		one, err := tx.Runs().Run(which)
		return []run.Run{one}, err
	}})
}

type stoppedData struct {
	Reason string   `json:"reason,omitempty"`
	Runs   []id.Run `json:"runs,omitempty"` // that stopped or went on with it, the first 64
	Number int64    `json:"runs_number"`
}

func stoppedWith(reason string, runs []run.Run) stoppedData {
	d := stoppedData{Reason: reason, Number: int64(len(runs))}
	for _, one := range runs[:min(len(runs), 64)] {
		d.Runs = append(d.Runs, one.ID)
	}
	return d
}

// SuspendAgent stops an agent until it is resumed: its credentials die for good, its grants and open approvals with them, and its runs
// wait, with all that descend from them. Errors: NotFound "agent_unknown"; Conflict "illegal_transition".
func (r *Road) SuspendAgent(ctx context.Context, by audit.Actor, agent id.Agent, reason string) error {
	return r.stopAgent(ctx, by, agent, reason, identity.Suspended, audit.AgentSuspended, run.Suspended)
}

// RetireAgent stops an agent for good: it ends every run, and its name is never used again. Errors as SuspendAgent.
func (r *Road) RetireAgent(ctx context.Context, by audit.Actor, agent id.Agent, reason string) error {
	return r.stopAgent(ctx, by, agent, reason, identity.Retired, audit.AgentRetired, run.Ended)
}

func (r *Road) stopAgent(ctx context.Context, by audit.Actor, which id.Agent, reason string, to identity.State, kind string, runs run.State) error {
	a, err := r.agent(ctx, which)
	if err != nil {
		return err
	}
	if _, err := a.Move(to, reason); err != nil {
		return err
	}
	return r.halt(ctx, halting{
		by: by, reason: reason, to: runs,
		roots: func(tx store.Tx) ([]run.Run, error) {
			return collect(tx.Runs().Runs(run.Filter{Agent: which, Limit: everything}))
		},
		head: func(with []run.Run, at time.Time) audit.Event {
			ev := about(r.event(kind, by, at, stoppedWith(reason, with)), a, id.Instance{}, id.Run{})
			ev.Subject = "agent:" + a.Name
			return ev
		},
		change: func(tx store.Tx, at time.Time) (revocation.Notice, error) {
			n := revocation.Notice{Kind: revocation.Agent, ID: which.String(), Dead: true, Final: to == identity.Retired, Reason: reason, At: at}
			stored, err := tx.Registry().Agent(which.String())
			if err != nil {
				return n, err
			}
			next, err := stored.Move(to, reason)
			if err != nil {
				return n, err
			}
			return n, tx.Registry().PutAgent(next)
		},
	})
}

// RevokeInstance kills one running copy of an agent for good, and ends its runs. Errors: NotFound "instance_unknown"; Conflict
// "illegal_transition" if it was revoked before.
func (r *Road) RevokeInstance(ctx context.Context, by audit.Actor, which id.Instance, reason string) error {
	const op = "admit.RevokeInstance"
	var in identity.Instance
	var a identity.Agent
	err := r.deps.Store.View(ctx, func(tx store.Tx) (err error) {
		if in, err = tx.Instances().Instance(which); err != nil {
			return err
		}
		a, err = tx.Registry().Agent(in.Agent.String())
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, op, "instance_unknown", "there is no such instance").WithFix("see chaperone agent show")
	} else if err != nil {
		return err
	}
	already := func(in identity.Instance) error {
		if in.RevokedAt.IsZero() {
			return nil
		}
		return fault.New(fault.Conflict, op, "illegal_transition", "the instance was revoked before").WithFix("nothing is left to do")
	}
	if err := already(in); err != nil {
		return err
	}
	return r.halt(ctx, halting{
		by: by, reason: reason, to: run.Ended,
		roots: func(tx store.Tx) ([]run.Run, error) {
			return collect(tx.Runs().Runs(run.Filter{Instance: which, Limit: everything}))
		},
		head: func(with []run.Run, at time.Time) audit.Event {
			ev := about(r.event(audit.InstanceRevoked, by, at, stoppedWith(reason, with)), a, which, id.Run{})
			ev.Subject = "instance:" + which.String()
			return ev
		},
		change: func(tx store.Tx, at time.Time) (revocation.Notice, error) {
			n := revocation.Notice{Kind: revocation.Instance, ID: which.String(), Dead: true, Final: true, Reason: reason, At: at}
			stored, err := tx.Instances().Instance(which)
			if err != nil {
				return n, err
			}
			if err := already(stored); err != nil {
				return n, err
			}
			stored.RevokedAt = at
			return n, tx.Instances().PutInstance(stored)
		},
	})
}

// ResumeAgent lets a suspended agent act again. Runs that waited for it go on, unless they are past their end or hang on somebody who is
// still suspended. Credentials from before stay dead, grants and approvals stay gone. Errors as SuspendAgent.
func (r *Road) ResumeAgent(ctx context.Context, by audit.Actor, which id.Agent, reason string) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	a, err := r.agent(ctx, which)
	if err != nil {
		return err
	}
	if a.State != identity.Suspended {
		return fault.New(fault.Conflict, "admit.ResumeAgent", "illegal_transition", "the agent is %s, not suspended", a.State).
			WithFix("look at the agent's state first: chaperone agent show %s", a.Name)
	}
	next, err := a.Move(identity.Active, reason)
	if err != nil {
		return err
	}
	return again(func() error {
		var runs []run.Run
		err := r.deps.Store.View(ctx, func(tx store.Tx) (err error) { runs, err = waiting(tx, a, now); return err })
		if err != nil {
			return err
		}
		ev := about(r.event(audit.AgentResumed, by, now, stoppedWith(reason, runs)), a, id.Instance{}, id.Run{})
		ev.Subject = "agent:" + a.Name
		sealed, err := r.seal(ev)
		if err != nil {
			return err
		}
		notices := []revocation.Notice{{Kind: revocation.Agent, ID: which.String(), Reason: reason, At: now}}
		for _, one := range runs {
			notices = append(notices, revocation.Notice{
				Kind: revocation.Run, ID: one.ID.String(), Reason: reason, At: now, Until: one.ExpiresAt.Add(rememberFor),
			})
		}
		err = r.deps.Store.Update(ctx, func(tx store.Tx) error {
			if err := tx.Registry().PutAgent(next); err != nil {
				return err
			}
			for _, one := range runs {
				on, err := one.Move(run.Active, reason, now)
				if err != nil {
					return err
				}
				if err := tx.Runs().Update(on); err != nil {
					return err
				}
			}
			if err := put(tx, notices); err != nil {
				return err
			}
			return appendAll(tx, sealed)
		})
		if err == nil {
			r.apply(notices)
		}
		return err
	})
}

// waiting lists the suspended runs that go on when the agent does: its own and those that descend from them, parents first, as
// far as nobody else in the line is stopped.
func waiting(tx store.Tx, a identity.Agent, now time.Time) ([]run.Run, error) {
	own, err := collect(tx.Runs().Runs(run.Filter{Agent: a.ID, State: run.Suspended, Limit: everything}))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(own, func(x, y run.Run) int { return x.Depth - y.Depth })
	var out []run.Run
	on := map[id.Run]bool{}
	for _, root := range own {
		family, err := descendants(tx, root)
		if err != nil {
			return nil, err
		}
		for _, one := range append([]run.Run{root}, family...) {
			if one.State != run.Suspended || on[one.ID] || !now.Before(one.ExpiresAt) {
				continue
			}
			free, err := unhindered(tx, a, one, on)
			if err != nil {
				return nil, err
			}
			if free {
				on[one.ID] = true
				out = append(out, one)
			}
		}
	}
	return out, nil
}

// unhindered reports whether a run's agent may act once a is resumed, and whether its parent is active or goes on too.
func unhindered(tx store.Tx, a identity.Agent, of run.Run, on map[id.Run]bool) (bool, error) {
	if of.Agent != a.ID {
		other, err := tx.Registry().Agent(of.Agent.String())
		if err != nil || other.State == identity.Suspended || other.State == identity.Retired {
			return false, err
		}
	}
	if of.Parent.IsZero() || on[of.Parent] {
		return true, nil
	}
	parent, err := tx.Runs().Run(of.Parent)
	return parent.State == run.Active, err
}

func (r *Road) agent(ctx context.Context, which id.Agent) (a identity.Agent, err error) {
	err = r.deps.Store.View(ctx, func(tx store.Tx) (err error) { a, err = tx.Registry().Agent(which.String()); return err })
	if fault.Is(err, fault.NotFound) {
		return a, fault.New(fault.NotFound, "admit.agent", "agent_unknown", "there is no such agent").WithFix("see chaperone agent list")
	}
	return a, err
}
