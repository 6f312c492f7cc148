// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"iter"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/people"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// everything is the limit of a list that must be whole.
const everything = 1 << 20

// maxRuns is how many runs one instance may have open at a time.
const maxRuns = 256

// basis is what a run is opened or continued on, as read before the transaction; compare finds what moved since.
type basis struct {
	agent     identity.Agent
	instance  identity.Instance // of the agent that asks; zero when a person opens the run
	person    people.Person     // zero when no person opens the run
	run       run.Run
	ancestors []run.Run // nearest first
	opened    bool      // run is new
	bound     bool      // run gets its instance now
	carried   bool      // what the instance carries is in the run's label
}

// basis reads who asks, and opens or continues the run for them.
func (r *Road) basis(ctx context.Context, c client, order *RunOrder, now time.Time) (basis, error) {
	const op = "admit.Token"
	var b basis
	if order == nil {
		return b, fault.New(fault.Invalid, op, "run_required", "an agent's credential is bound to a run").
			WithFix(`send authorization_details=[{"type":"chaperone_run","purpose":"..."}] or [{"type":"chaperone_run","run":"run_..."}]`)
	}
	err := r.deps.Store.View(ctx, func(tx store.Tx) (err error) {
		if b.instance, err = tx.Instances().Instance(c.instance.ID); err != nil {
			return err
		}
		if b.agent, err = tx.Registry().Agent(b.instance.Agent.String()); err != nil {
			return err
		}
		if err := (client{agent: b.agent, instance: b.instance}).mayAct(now); err != nil {
			return err
		}
		if order.Continue.IsZero() {
			return r.openOwn(tx, &b, c.jkt, order, now)
		}
		return continueRun(tx, &b, order, now)
	})
	return b, err
}

// openOwn opens a run under the agent's own key: it states nothing that clears, and starts with what the instance carries.
func (r *Road) openOwn(tx store.Tx, b *basis, jkt string, order *RunOrder, now time.Time) error {
	parent, err := r.parent(tx, b, order.Parent, now)
	if err != nil {
		return err
	}
	if parent != nil {
		if parent.Instance.IsZero() {
			return fault.New(fault.Denied, "admit.Token", "run_of_another_instance", "no instance has taken the parent run up yet").
				WithFix("continue the parent run first")
		}
		if _, err := parent.Continue(b.agent.ID, b.instance.ID); err != nil {
			return err
		}
	}
	b.opened, b.carried = true, true
	start, open, err := startOf(tx, b.instance, now)
	if err != nil {
		return err
	}
	if open >= maxRuns {
		return fault.New(fault.Limited, "admit.Token", "too_many_runs", "the instance has %d open runs", open).
			WithFix("continue one of them, or have some ended: chaperone run end")
	}
	b.run, err = run.Open(run.Order{
		Agent: b.agent.ID, AgentName: b.agent.Name, AgentType: b.agent.Type, Instance: b.instance.ID,
		Opener:  run.Opener{Kind: run.ByAgent, Name: b.agent.Name, JKT: jkt},
		Purpose: order.Purpose, Plan: order.Plan, Budgets: order.Budgets, Start: start,
		Parent: parent, Ancestors: rest(b.ancestors),
	}, now)
	return r.shallow(b.run, err)
}

// startOf is what a run starts with that an instance opens for itself: the labels of all its earlier runs (invariant 5). Each is in
// what the instance carries as of the run's last step; an ancestor may have met more since. open counts those that go on.
func startOf(tx store.Tx, in identity.Instance, now time.Time) (start label.Label, open int, err error) {
	start = in.Carried
	earlier, err := collect(tx.Runs().Runs(run.Filter{Instance: in.ID, State: run.Active, Limit: everything}))
	if err != nil {
		return start, 0, err
	}
	for _, one := range earlier {
		if one.Alive(now) {
			open++
		}
		above, err := ancestors(tx, one)
		if err != nil {
			return start, 0, err
		}
		start = start.Join(run.Effective(one, above, in.Carried))
	}
	return start, open, nil
}

func continueRun(tx store.Tx, b *basis, order *RunOrder, now time.Time) error {
	if order.Purpose != "" || len(order.Plan) > 0 || !order.Parent.IsZero() || order.Budgets.Steps != 0 || order.Budgets.Seconds != 0 ||
		order.Budgets.Bytes != 0 || len(order.Budgets.Calls) > 0 {
		return fault.New(fault.Invalid, "admit.Token", "bad_run_order", "a run that is continued takes no new purpose, plan, budgets or parent").
			WithFix("name the run alone, or open a new one")
	}
	found, err := tx.Runs().Run(order.Continue)
	if fault.Is(err, fault.NotFound) {
		return runUnknown()
	} else if err != nil {
		return err
	}
	if b.run, err = found.Continue(b.agent.ID, b.instance.ID); err != nil {
		return err
	}
	b.bound = found.Instance.IsZero()
	if b.ancestors, err = ancestors(tx, found); err != nil {
		return err
	}
	return alive(append([]run.Run{b.run}, b.ancestors...), now)
}

// parent reads the run that a new one is started from, with its ancestors, all alive. What its other descendants have used it has
// used too (enforce takes every spend from the whole line), so that opening children does not multiply what is left.
func (r *Road) parent(tx store.Tx, b *basis, which id.Run, now time.Time) (*run.Run, error) {
	if which.IsZero() {
		return nil, nil
	}
	p, err := tx.Runs().Run(which)
	if fault.Is(err, fault.NotFound) {
		return nil, runUnknown()
	} else if err != nil {
		return nil, err
	}
	above, err := ancestors(tx, p)
	if err != nil {
		return nil, err
	}
	b.ancestors = append([]run.Run{p}, above...)
	if err := alive(b.ancestors, now); err != nil {
		return nil, err
	}
	return &p, nil
}

// rest drops the parent from its list, as run.Open wants only what is above it.
func rest(ancestors []run.Run) []run.Run {
	if len(ancestors) == 0 {
		return nil
	}
	return ancestors[1:]
}

// shallow holds the deployment's bound on nesting, which may be below run.MaxDepth.
func (r *Road) shallow(opened run.Run, err error) error {
	if err == nil && opened.Depth > r.cfg.MaxDepth {
		return fault.New(fault.Invalid, "admit.Token", "too_deep", "runs may be nested %d deep", r.cfg.MaxDepth).
			WithFix("start the run from one nearer to the root")
	}
	return err
}

func runUnknown() error {
	return fault.New(fault.NotFound, "admit.Token", "run_unknown", "there is no such run").WithFix("open a new run")
}

func alive(runs []run.Run, now time.Time) error {
	for _, one := range runs {
		if err := one.Check(now); err != nil {
			return err
		}
	}
	return nil
}

// compare finds, inside the transaction, whether what was read still holds. Labels of ancestors count: they are in a new run's.
func (b basis) compare(tx store.Tx) error {
	a, err := tx.Registry().Agent(b.agent.ID.String())
	if err != nil {
		return err
	}
	if a.Version != b.agent.Version || a.State != b.agent.State {
		return errMoved
	}
	if !b.instance.ID.IsZero() {
		in, err := tx.Instances().Instance(b.instance.ID)
		if err != nil {
			return err
		}
		if !in.RevokedAt.IsZero() || b.carried && in.CarriedVersion != b.instance.CarriedVersion {
			return errMoved
		}
		if b.opened && b.run.Instance == in.ID {
			if start, _, err := startOf(tx, in, time.Time{}); err != nil {
				return err
			} else if !b.run.Label.Covers(start) {
				return errMoved
			}
		}
	}
	if !b.person.ID.IsZero() {
		p, err := tx.People().Person(b.person.ID.String())
		if err != nil {
			return err
		}
		if p.Version != b.person.Version {
			return errMoved
		}
	}
	above := b.ancestors
	if !b.opened {
		above = append([]run.Run{b.run}, above...)
	}
	for _, was := range above {
		is, err := tx.Runs().Run(was.ID)
		if err != nil {
			return err
		}
		if is.Version != was.Version || is.State != was.State {
			return errMoved
		}
	}
	return nil
}

// store commits a run that was opened or continued, if what it rests on has not moved.
func (r *Road) store(ctx context.Context, b basis, now time.Time, spend func(store.Tx) error, events []audit.Sealed) error {
	return r.deps.Store.Update(ctx, func(tx store.Tx) error {
		if err := checkClock(tx, now); err != nil {
			return err
		}
		if err := b.compare(tx); err != nil {
			return err
		}
		if err := spend(tx); err != nil {
			return err
		}
		if err := b.write(tx); err != nil {
			return err
		}
		return appendAll(tx, events)
	})
}

// write stores the run. Whoever takes a run up carries its label from then on, whether or not they take a step in it.
func (b basis) write(tx store.Tx) error {
	switch {
	case b.opened:
		if err := tx.Runs().Insert(b.run); err != nil {
			return err
		}
	case b.bound:
		if err := tx.Runs().Update(b.run); err != nil {
			return err
		}
	default:
		return nil
	}
	if b.run.Instance.IsZero() {
		return nil // nobody has taken it up yet
	}
	return tx.Instances().JoinCarried(b.run.Instance, run.Effective(b.run, b.ancestors, label.Label{}))
}

func ancestors(tx store.Tx, of run.Run) ([]run.Run, error) {
	var out []run.Run
	for !of.Parent.IsZero() {
		if len(out) > run.MaxDepth {
			return nil, fault.New(fault.Internal, "admit.ancestors", "run_tree", "the tree of runs is too deep")
		}
		parent, err := tx.Runs().Run(of.Parent)
		if err != nil {
			return nil, err
		}
		out = append(out, parent)
		of = parent
	}
	return out, nil
}

// descendants lists all runs below one, of any state, parents before their children.
func descendants(tx store.Tx, of run.Run) ([]run.Run, error) {
	var out []run.Run
	for next := []run.Run{of}; len(next) > 0; next = next[1:] {
		children, err := collect(tx.Runs().Runs(run.Filter{Parent: next[0].ID, Limit: everything}))
		if err != nil {
			return nil, err
		}
		out, next = append(out, children...), append(next, children...)
	}
	return out, nil
}

func collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var out []T
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

type openedData struct {
	Opener    run.Opener  `json:"opener"`
	Clears    bool        `json:"clears"`
	Budgets   run.Budgets `json:"budgets"`
	Parent    id.Run      `json:"parent,omitzero"`
	Depth     int64       `json:"depth"`
	Label     label.Label `json:"label"`
	PlanSteps int64       `json:"plan_steps"`
	ExpiresAt time.Time   `json:"expires_at"`
}

type continuedData struct {
	Opener run.Opener `json:"opener"`
}

// opened forms the event of a new run. What the opener stated is long and may be personal, so it lies in a part.
func (r *Road) opened(kind string, by audit.Actor, of run.Run, at time.Time) (audit.Event, error) {
	ev := r.event(kind, by, at, openedData{
		Opener: of.Opener, Clears: of.Clears(), Budgets: of.Budgets, Parent: of.Parent, Depth: int64(of.Depth), Label: of.Label,
		PlanSteps: int64(len(of.Plan)), ExpiresAt: of.ExpiresAt,
	})
	stated, err := canon.Marshal(struct {
		Purpose string         `json:"purpose"`
		Plan    []run.PlanStep `json:"plan,omitempty"`
	}{of.Purpose, of.Plan})
	if err != nil {
		return ev, fault.Wrap("admit.opened", err)
	}
	ev.Parts = map[string][]byte{"statement": stated}
	return ev, nil
}
