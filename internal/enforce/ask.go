// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"encoding/json"
	"errors"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// Ask is the asking for a grant ahead of its call: server, tool and exact arguments. The call that uses it names no grant; the
// digest finds it. Credential was verified by the door for the API's audience; it is the run's own, or that of the person who
// opened the run.
type Ask struct {
	Credential identity.Credential
	Run        id.Run
	Server     string
	Tool       string
	Arguments  json.RawMessage
	Remote     string
}

// Granted is the answer to an asking: an active grant, or one that is requested and hangs on the approval in the Outcome (verdict
// Pending), or none and a denial.
type Granted struct {
	Outcome Outcome
	Grant   grant.Grant
}

// AskGrant decides as the call would be decided, and keeps the permission for the one call. It takes a step of the run's budget. The
// error is as in Call. A grant lives for at most grant.MaxAhead, never longer than its run or its approval.
func (e *Engine) AskGrant(ctx context.Context, a Ask) (Granted, error) {
	c := &call{Engine: e, began: e.Now(), cred: a.Credential, proven: true, origin: grant.ByCall, req: Request{
		Server: a.Server, Method: MethodCall, Kind: catalog.KindTool, Name: a.Tool, Arguments: a.Arguments, HTTPMethod: "POST", Remote: a.Remote,
	}}
	defer c.unlock()
	g, no := c.askGrant(ctx, a)
	if no != nil {
		o, err := c.refuse(ctx, no)
		return Granted{o, g}, err
	}
	return Granted{c.outcome(Released), g}, nil
}

func (c *call) askGrant(ctx context.Context, a Ask) (grant.Grant, *refusal) {
	if no := c.receive(); no != nil {
		return grant.Grant{}, no
	}
	if a.Credential.IsPerson() {
		c.cred.Run, c.origin = a.Run, grant.ByOpener
	}
	for {
		if no := c.askedBy(ctx, a); no != nil {
			return grant.Grant{}, no
		}
		again, no := c.consider(ctx)
		if no != nil {
			if no.verdict == Pending {
				return c.request(ctx, no)
			}
			return grant.Grant{}, no
		}
		if again {
			continue
		}
		if no := c.permitted(); no != nil {
			return grant.Grant{}, no
		}
		g, err := c.activate(ctx)
		switch {
		case err == nil:
			return g, nil
		case errors.Is(err, errMoved), fault.Is(err, fault.Conflict):
			if no := c.retry(ctx); no != nil {
				return grant.Grant{}, no
			}
		default:
			return grant.Grant{}, orStore(err)
		}
	}
}

// askedBy checks that the asker may ask for this run: its own agent, or the person who opened it.
func (c *call) askedBy(ctx context.Context, a Ask) *refusal {
	foreign := func() *refusal {
		return fail(fault.New(fault.NotFound, "enforce.AskGrant", "run_not_found", "there is no such run, or it is not yours"))
	}
	if !a.Credential.IsPerson() {
		if a.Credential.Run.IsZero() || a.Credential.Run != a.Run {
			return foreign()
		}
		return nil
	}
	mine := false
	err := c.Store.View(ctx, func(tx store.Tx) error {
		r, err := tx.Runs().Run(a.Run)
		if err != nil {
			return err
		}
		p, err := tx.People().Person(a.Credential.Person.String())
		if err != nil {
			return err
		}
		mine = r.Opener.Kind == run.ByPerson && r.Opener.Name == p.Name && !p.Suspended
		c.cred.Agent, c.cred.AgentName, c.cred.Instance = r.Agent, r.AgentName, r.Instance
		return nil
	})
	switch {
	case fault.Is(err, fault.NotFound), err == nil && !mine:
		return foreign()
	case err != nil:
		return orStore(err)
	case c.cred.Instance.IsZero():
		return fail(fault.New(fault.Conflict, "enforce.AskGrant", "run_not_taken_up", "no instance has taken the run up, so nobody's key can be bound").
			WithFix("ask again once the agent has continued the run"))
	}
	return nil
}

// activate makes the grant active, consuming the approval if there is one, on the same comparison as a call.
func (c *call) activate(ctx context.Context) (grant.Grant, error) {
	if g := c.consents.active; g != nil {
		return *g, nil // asked for before, and not used yet
	}
	p := &passage{call: c}
	g, err := c.ahead(grant.Active)
	if err != nil {
		return g, err
	}
	if a := c.approval; a != nil {
		used, err := approval.Consume(*a, c.now)
		if err != nil {
			return g, err
		}
		p.consumed = &used
		if g.NotAfter.After(a.Binding.NotAfter) {
			g.NotAfter = a.Binding.NotAfter
		}
		for _, d := range a.Decisions {
			p.deciders = append(p.deciders, c.consents.deciders[d.Person])
		}
		if r := c.consents.requested; r != nil && r.Approval == a.ID {
			p.asked, g = r, *r
			g.State, g.ChangedAt = grant.Active, c.now.UTC()
		}
	}
	p.grant = &g
	events, err := c.activateEvents(p)
	if err != nil {
		return g, err
	}
	err = c.Store.Update(ctx, func(tx store.Tx) error {
		if err := c.compare(tx); err != nil {
			return err
		}
		if err := p.unchanged(tx); err != nil {
			return err
		}
		if err := c.pay(tx, run.Spend{Steps: 1}); err != nil {
			return err
		}
		if p.asked != nil {
			err = tx.Grants().Move(g.ID, grant.Requested, grant.Active, g.ChangedAt, "")
		} else {
			err = tx.Grants().Insert(g)
		}
		if err != nil {
			return err
		}
		return c.finish(tx, found{}, events)
	})
	return g, err
}

// request keeps the asking beside its pending approval. Asking again finds the same grant.
func (c *call) request(ctx context.Context, no *refusal) (grant.Grant, *refusal) {
	if g := c.consents.requested; g != nil && g.Approval == c.waiting.ID {
		return *g, no
	}
	g, err := c.ahead(grant.Requested)
	if err != nil {
		return g, fail(err)
	}
	g.Approval = c.waiting.ID
	if c.waiting.NotAfter.Before(g.NotAfter) {
		g.NotAfter = c.waiting.NotAfter
	}
	ev := c.event(audit.GrantRequested, c.now)
	ev.Grant, ev.Data = g.ID, grantData(g)
	s := sealer{c: c}
	s.add(ev)
	if s.err != nil {
		return g, fail(s.err)
	}
	kept := g
	err = c.Store.Update(ctx, func(tx store.Tx) error {
		kept = g
		for other, err := range tx.Grants().Grants(grant.Filter{Run: c.run.ID, CallDigest: c.callDigest, State: grant.Requested}) {
			if err != nil {
				return err
			}
			if other.Approval == g.Approval {
				kept = other
				return nil
			}
		}
		if err := tx.Grants().Insert(g); err != nil {
			return err
		}
		return c.finish(tx, found{}, s.out)
	})
	if err != nil {
		return g, orStore(err)
	}
	return kept, no
}

// ahead forms the grant that is asked for.
func (c *call) ahead(state grant.State) (grant.Grant, error) {
	g, err := grant.New(c.scope(), c.askOrigin(), state, grant.MaxAhead, c.now)
	g.Ahead, g.Decision, g.Approval = true, c.decision, c.lifts
	return g, err
}

// askOrigin is who asks, as policy sees it: the opener, the plan of a run that clears, or the call itself.
func (c *call) askOrigin() grant.Origin {
	if c.origin == grant.ByOpener {
		return grant.ByOpener
	}
	if c.run.InPlan(c.action()) {
		return grant.ByPlan
	}
	return grant.ByCall
}

func (c *call) activateEvents(p *passage) ([]audit.Sealed, error) {
	s := sealer{c: c}
	add := func(ev audit.Event) {
		ev.Grant = p.grant.ID
		s.add(ev)
	}
	add(c.decidedEvent())
	if p.consumed != nil {
		ev := c.event(audit.ApprovalConsumed, c.now)
		ev.Data = approvalData(*p.consumed)
		add(ev)
	}
	ev := c.event(audit.GrantActivated, c.now)
	ev.Data = grantData(*p.grant)
	add(ev)
	return s.out, s.err
}
