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
	start, err := startOf(tx, b.instance)
	if err != nil {
		return err
	}
	if open, err := openRuns(tx, b.instance.ID, now); err != nil {
		return err
	} else if open >= maxRuns {
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
// what the instance carries as of the run's last step; an ancestor may have met more since.
func startOf(tx store.Tx, in identity.Instance) (label.Label, error) {
	out := in.Carried
	earlier, err := collect(tx.Runs().Runs(run.Filter{Instance: in.ID, State: run.Active, Limit: everything}))
	if err != nil {
		return out, err
	}
	for _, one := range earlier {
		above, err := ancestors(tx, one)
		if err != nil {
			return out, err
		}
		out = out.Join(run.Effective(one, above, in.Carried))
	}
	return out, nil
}

// openRuns counts the runs that an instance still has, so that opening one stays cheap for everybody.
func openRuns(tx store.Tx, in id.Instance, now time.Time) (n int, err error) {
	for one, err := range tx.Runs().Runs(run.Filter{Instance: in, State: run.Active, Limit: everything}) {
		if err != nil {
			return n, err
		}
		if one.Alive(now) {
			n++
		}
	}
	return n, nil
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

// parent reads the run that a new one is started from, with its ancestors, all alive. What its other descendants have used counts
// as used, so that opening children one after another does not multiply what is left.
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
	below, err := descendants(tx, p)
	if err != nil {
		return nil, err
	}
	used := run.Spent{Steps: p.Spent.Steps, Bytes: p.Spent.Bytes, Calls: map[string]int64{}}
	for stake, n := range p.Spent.Calls {
		used.Calls[stake] = n
	}
	for _, d := range below {
		used.Steps += d.Spent.Steps
		used.Bytes += d.Spent.Bytes
		for stake, n := range d.Spent.Calls {
			used.Calls[stake] += n
		}
	}
	p.Spent = used
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
			if start, err := startOf(tx, in); err != nil {
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

// Opening is a run that a person or an orchestrator opens for an agent, named by name.
type Opening struct {
	Agent   string
	Purpose string
	Plan    []run.PlanStep
	Budgets run.Budgets
	Parent  id.Run
}

// OpenRun opens a run for an agent under the opener's own key. The caller has decided by policy that the opener may; here it is
// decided what their word is worth. A person's clears, and the run starts clean but for its ancestors' labels. An orchestrator's run
// is always started from the run its credential names (a chain of authority only narrows), and clears only while that run is
// trusted: what a stranger may have dictated to it is not its own word, and is then recorded as the agent kind of opener.
//
// Errors, besides run.Open's: NotFound "agent_unknown", "run_unknown"; Denied "not_orchestrator", "orchestrator_self", "not_own_run";
// Suspended as in Token; Unauthenticated "key_mismatch" (the person's key was unbound); Unavailable "clock_stepped_back".
func (r *Road) OpenRun(ctx context.Context, opener identity.Credential, in Opening) (run.Run, error) {
	now, err := r.now(ctx)
	if err != nil {
		return run.Run{}, err
	}
	var out run.Run
	err = again(func() error {
		b, by, kind, err := r.opening(ctx, opener, in, now)
		if err != nil {
			return err
		}
		ev, err := r.opened(kind, by, b.run, now)
		if err != nil {
			return err
		}
		ev.Subject = "run:" + b.run.ID.String()
		sealed, err := r.seal(about(ev, b.agent, id.Instance{}, b.run.ID))
		if err != nil {
			return err
		}
		out = b.run
		return r.deps.Store.Update(ctx, func(tx store.Tx) error {
			if err := checkClock(tx, now); err != nil {
				return err
			}
			if err := b.compare(tx); err != nil {
				return err
			}
			if err := b.write(tx); err != nil {
				return err
			}
			return appendAll(tx, sealed)
		})
	})
	if err != nil {
		return run.Run{}, err
	}
	return out, nil
}

func (r *Road) opening(ctx context.Context, opener identity.Credential, in Opening, now time.Time) (b basis, by audit.Actor, kind string, err error) {
	const op = "admit.OpenRun"
	err = r.deps.Store.View(ctx, func(tx store.Tx) (err error) {
		b.agent, err = tx.Registry().Agent(in.Agent)
		if fault.Is(err, fault.NotFound) {
			return fault.New(fault.NotFound, op, "agent_unknown", "there is no such agent").WithFix("see chaperone agent list")
		} else if err != nil {
			return err
		}
		if err := b.agent.MayAct(now); err != nil && fault.CodeOf(err) != "agent_not_enrolled" {
			return err
		}
		order := run.Order{
			Agent: b.agent.ID, AgentName: b.agent.Name, AgentType: b.agent.Type, Purpose: in.Purpose, Plan: in.Plan, Budgets: in.Budgets,
		}
		if opener.IsPerson() {
			kind = audit.RunOpenedForAgent
			p, err := personOf(tx, opener)
			if err != nil {
				return err
			}
			b.person = p
			by = audit.Actor{Kind: audit.ActorPerson, ID: p.ID.String(), Name: p.Name, JKT: opener.JKT}
			order.Opener = run.Opener{Kind: run.ByPerson, Name: p.Name, JKT: opener.JKT}
			order.Parent, err = r.parent(tx, &b, in.Parent, now)
			if err != nil {
				return err
			}
		} else {
			kind = audit.RunOpened
			by, order.Opener, err = orchestrator(tx, opener, b.agent, now)
			if err != nil {
				return err
			}
			if !in.Parent.IsZero() && in.Parent != opener.Run {
				return fault.New(fault.Denied, op, "not_own_run", "an orchestrator starts runs from its own run").WithFix("leave the parent out")
			}
			if order.Parent, err = r.parent(tx, &b, opener.Run, now); err != nil {
				return err
			}
			own, err := tx.Instances().Instance(opener.Instance)
			if err != nil {
				return err
			}
			order.Start = run.Effective(b.ancestors[0], rest(b.ancestors), own.Carried)
			if order.Start.IsUntrusted() {
				order.Opener.Kind = run.ByAgent
			}
			b.instance, b.carried = own, true
		}
		order.Ancestors = rest(b.ancestors)
		b.opened = true
		b.run, err = run.Open(order, now)
		return r.shallow(b.run, err)
	})
	return b, by, kind, err
}

// personOf returns the person behind a credential, who may act and still has the key.
func personOf(tx store.Tx, c identity.Credential) (people.Person, error) {
	p, err := tx.People().Person(c.Person.String())
	if err != nil {
		return p, err
	}
	if _, bound := p.KeyBy(c.JKT); !bound {
		return p, keyMismatch("the key is not bound to this person any more")
	}
	return p, (client{person: p}).mayAct(time.Time{})
}

// orchestrator returns the agent behind a credential if it may open runs for the other.
func orchestrator(tx store.Tx, c identity.Credential, target identity.Agent, now time.Time) (audit.Actor, run.Opener, error) {
	const op = "admit.OpenRun"
	a, err := tx.Registry().Agent(c.Agent.String())
	if err != nil {
		return audit.Actor{}, run.Opener{}, err
	}
	in, err := tx.Instances().Instance(c.Instance)
	if err != nil {
		return audit.Actor{}, run.Opener{}, err
	}
	switch err := (client{agent: a, instance: in}).mayAct(now); {
	case err != nil:
		return audit.Actor{}, run.Opener{}, err
	case !a.Orchestrator || a.Kind != identity.KindService:
		return audit.Actor{}, run.Opener{}, fault.New(fault.Denied, op, "not_orchestrator", "the agent may not open runs for others").
			WithFix("ask a person to open it: chaperone run open --agent %s", target.Name)
	case a.ID == target.ID:
		return audit.Actor{}, run.Opener{}, fault.New(fault.Denied, op, "orchestrator_self", "nobody opens a run for themselves that clears values").
			WithFix("ask a person to open it: chaperone run open --agent %s", target.Name)
	}
	return agentActor(a, c.JKT), run.Opener{Kind: run.ByOrchestrator, Name: a.Name, JKT: c.JKT}, nil
}

func (r *Road) personNow(ctx context.Context, which id.Person) (p people.Person, err error) {
	err = r.deps.Store.View(ctx, func(tx store.Tx) (err error) { p, err = tx.People().Person(which.String()); return err })
	return p, err
}
