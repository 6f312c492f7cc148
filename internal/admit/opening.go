// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

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
		return r.store(ctx, b, now, func(store.Tx) error { return nil }, sealed)
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
			// What the instance carries counts also where a person opened the run it speaks from: they vouched for what they stated
			// themselves, not for what the orchestrator has read elsewhere since.
			order.Start = run.Effective(b.ancestors[0], rest(b.ancestors), own.Carried).Join(own.Carried)
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
