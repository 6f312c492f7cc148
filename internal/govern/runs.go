// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/policy"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// Runs lists runs, newest first. agent is a name or identifier, or "" for all.
func (r *Road) Runs(ctx context.Context, c Caller, agent string, state run.State, limit int) (out []run.Run, err error) {
	if _, err := r.allow(ctx, c, ActRunList, policy.Resource{Kind: "run"}); err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) error {
		f := run.Filter{State: state, Limit: limit}
		if agent != "" {
			g, err := tx.Registry().Agent(agent)
			if err != nil {
				return err
			}
			f.Agent = g.ID
		}
		out, err = collect(tx.Runs().Runs(f), limit)
		return err
	})
	return out, err
}

// ReadRun returns one run.
func (r *Road) ReadRun(ctx context.Context, c Caller, which id.Run) (run.Run, error) {
	_, got, err := r.allowRun(ctx, c, ActRunRead, which)
	return got, err
}

// allowRun decides on a run. Policy sees as its owner the caller, where the caller opened it, and else the owner of its agent. An
// absent run is NotFound only for those whom policy permits.
func (r *Road) allowRun(ctx context.Context, c Caller, action string, which id.Run) (allowed, run.Run, error) {
	var got run.Run
	var owner string
	absent := r.view(ctx, func(tx store.Tx) (err error) {
		if got, err = tx.Runs().Run(which); err != nil {
			return err
		}
		owner, err = r.ownerOf(tx, c, got)
		return err
	})
	a, err := r.allow(ctx, c, action, policy.Resource{Kind: "run", ID: which.String(), Owner: owner})
	if err == nil {
		err = absent
	}
	return a, got, err
}

func (r *Road) ownerOf(tx store.Tx, c Caller, of run.Run) (string, error) {
	if c.Credential.IsPerson() && of.Opener.Kind == run.ByPerson {
		p, err := tx.People().Person(c.Credential.Person.String())
		if err == nil && p.Name == of.Opener.Name {
			return p.Name, nil
		}
	}
	g, err := tx.Registry().Agent(of.Agent.String())
	return g.Owner, err
}

// OpenRun opens a run for an agent under the caller's own key: what it states counts as stated by somebody else than the agent.
func (r *Road) OpenRun(ctx context.Context, c Caller, in Opening) (run.Run, error) {
	const op = "govern.OpenRun"
	g, absent := r.agent(ctx, in.Agent)
	_, err := r.allow(ctx, c, ActRunOpen, policy.Resource{Kind: "run", ID: in.Agent, Owner: g.Owner})
	if err != nil {
		return run.Run{}, err
	}
	if fault.Is(absent, fault.NotFound) {
		return run.Run{}, fault.New(fault.NotFound, op, "agent_unknown", "there is no agent %q", in.Agent).WithFix("see chaperone agent list")
	} else if absent != nil {
		return run.Run{}, absent
	}
	if r.Credentials == nil {
		return run.Run{}, unavailable("the road of credentials")
	}
	in.Agent = g.Name
	return r.Credentials.OpenRun(ctx, c.Credential, in)
}

// EndRun ends a run with its children, and everything they had.
func (r *Road) EndRun(ctx context.Context, c Caller, which id.Run, reason string) (run.Run, error) {
	a, _, err := r.allowRun(ctx, c, ActRunEnd, which)
	if err != nil {
		return run.Run{}, err
	}
	if err := checkText("govern.EndRun", reason); err != nil {
		return run.Run{}, err
	}
	if r.Credentials == nil {
		return run.Run{}, unavailable("the road of credentials")
	}
	if err := r.Credentials.EndRun(ctx, a.actor, which, reason); err != nil {
		return run.Run{}, err
	}
	var got run.Run
	err = r.view(ctx, func(tx store.Tx) (err error) { got, err = tx.Runs().Run(which); return err })
	return got, err
}

// ListGrants lists grants, newest first. agent is a name or identifier, or "" for all.
func (r *Road) ListGrants(ctx context.Context, c Caller, f grant.Filter, agent string) (out []grant.Grant, err error) {
	if !f.Run.IsZero() {
		_, _, err = r.allowRun(ctx, c, ActGrantList, f.Run)
	} else {
		_, err = r.allow(ctx, c, ActGrantList, policy.Resource{Kind: "grant"})
	}
	if err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) error {
		if agent != "" {
			g, err := tx.Registry().Agent(agent)
			if err != nil {
				return err
			}
			f.Agent = g.ID
		}
		out, err = collect(tx.Grants().Grants(f), f.Limit)
		return err
	})
	return out, err
}

// AskGrant asks ahead for one exact call of a run. The engine decides the call itself; this decides that the caller may ask
// for this run.
func (r *Road) AskGrant(ctx context.Context, c Caller, in Asking) (Asked, error) {
	if _, _, err := r.allowRun(ctx, c, ActGrantAsk, in.Run); err != nil {
		return Asked{}, err
	}
	if r.Grants == nil {
		return Asked{}, unavailable("the road of calls")
	}
	return r.Grants.AskGrant(ctx, c.Credential, c.Network, in)
}

type grantData struct {
	Grant  id.Grant     `json:"grant"`
	From   grant.State  `json:"from"`
	Reason string       `json:"reason,omitempty"`
	Rules  []audit.Rule `json:"rules,omitempty"`
}

// RevokeGrant takes a grant back. Conflict "grant_<state>" when it is over already.
func (r *Road) RevokeGrant(ctx context.Context, c Caller, which id.Grant, reason string) (grant.Grant, error) {
	const op = "govern.RevokeGrant"
	var g grant.Grant
	var in run.Run
	var owner string
	absent := r.view(ctx, func(tx store.Tx) (err error) {
		if g, err = tx.Grants().Grant(which); err != nil {
			return err
		}
		if in, err = tx.Runs().Run(g.Run); err != nil {
			return err
		}
		owner, err = r.ownerOf(tx, c, in)
		return err
	})
	a, err := r.allow(ctx, c, ActGrantRevoke, policy.Resource{Kind: "grant", ID: which.String(), Owner: owner})
	if err != nil {
		return grant.Grant{}, err
	}
	if absent != nil {
		return grant.Grant{}, absent
	}
	if err := checkText(op, reason); err != nil {
		return grant.Grant{}, err
	}
	if g.State != grant.Requested && g.State != grant.Active && g.State != grant.Used {
		return grant.Grant{}, fault.New(fault.Conflict, op, "grant_"+string(g.State), "grant %s is %s", g.ID, g.State)
	}
	ev := r.event(a, audit.GrantRevokedByPerson, "grant:"+g.ID.String(), grantData{Grant: g.ID, From: g.State, Reason: reason, Rules: a.rules})
	ev.Agent, ev.AgentName, ev.Run, ev.Grant, ev.Server, ev.Tool = g.Agent, in.AgentName, g.Run, g.ID, g.Server, g.Tool
	err = r.change(ctx, a, ev, func(tx store.Tx) error {
		return tx.Grants().Move(g.ID, g.State, grant.Revoked, a.at, reason)
	})
	if err != nil {
		return grant.Grant{}, err
	}
	err = r.view(ctx, func(tx store.Tx) (err error) { g, err = tx.Grants().Grant(which); return err })
	return g, err
}
