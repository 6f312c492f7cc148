// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"slices"
	"strings"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/policy"
	"chaperone/internal/store"
)

// Lives of an agent's registration.
const (
	DefaultAgentLife = 90 * 24 * time.Hour
	MaxAgentLife     = 366 * 24 * time.Hour
)

type agentData struct {
	Name         string             `json:"name"`
	Type         string             `json:"type"`
	Kind         identity.AgentKind `json:"kind,omitempty"`
	Owner        string             `json:"owner,omitempty"`
	Purpose      string             `json:"purpose,omitempty"`
	Environment  string             `json:"environment,omitempty"`
	Orchestrator bool               `json:"orchestrator,omitempty"`
	ExpiresAt    time.Time          `json:"expires_at,omitzero"`
	Rules        []audit.Rule       `json:"rules,omitempty"`
}

type typeData struct {
	Name   string       `json:"name"`
	Reads  []string     `json:"reads,omitempty"`
	Writes []string     `json:"writes,omitempty"`
	Before *typeData    `json:"before,omitempty"`
	Rules  []audit.Rule `json:"rules,omitempty"`
}

// Types lists agent types in order of name.
func (r *Road) Types(ctx context.Context, c Caller) (out []identity.Type, err error) {
	if _, err := r.allow(ctx, c, ActTypeList, policy.Resource{Kind: "type"}); err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) (err error) { out, err = collect(tx.Registry().Types(), 0); return err })
	return out, err
}

// PutType makes or replaces an agent type. Whoever lets a type reach a tool is an author of what enables its calls, and may
// not approve them for a day. The codes are those of identity.Type.Check.
func (r *Road) PutType(ctx context.Context, c Caller, t identity.Type) (identity.Type, error) {
	a, err := r.allow(ctx, c, ActTypePut, policy.Resource{Kind: "type", ID: t.Name})
	if err != nil {
		return identity.Type{}, err
	}
	if err := t.Check(); err != nil {
		return identity.Type{}, err
	}
	t.Author, t.UpdatedAt = a.name(), a.at
	data := typeData{Name: t.Name, Rules: a.rules}
	var before identity.Type
	err = r.view(ctx, func(tx store.Tx) (err error) { before, err = tx.Registry().Type(t.Name); return err })
	switch {
	case err == nil:
		data.Before = &typeData{Name: before.Name, Reads: head(before.Reads), Writes: head(before.Writes)}
	case !fault.Is(err, fault.NotFound):
		return identity.Type{}, err
	}
	data.Reads, data.Writes = head(t.Reads), head(t.Writes)
	ev := r.event(a, audit.TypeApplied, "type:"+t.Name, data)
	ev.AgentType = t.Name
	err = r.change(ctx, a, ev, func(tx store.Tx) error {
		for _, w := range reached(before, t) {
			w.Person, w.What, w.At = a.name(), "type", a.at
			if err := tx.Pins().AddAuthor(w); err != nil {
				return err
			}
		}
		return tx.Registry().PutType(t)
	})
	if err != nil {
		return identity.Type{}, err
	}
	return t, nil
}

// reached names the tools that the type can reach after the change and could not before, or could only read; "server/*" is
// the whole server.
func reached(before, after identity.Type) (out []catalog.Authorship) {
	fresh := slices.DeleteFunc(slices.Clone(after.Reads), func(p string) bool {
		return slices.Contains(before.Reads, p) || slices.Contains(before.Writes, p) || slices.Contains(after.Writes, p)
	})
	for _, p := range after.Writes {
		if !slices.Contains(before.Writes, p) {
			fresh = append(fresh, p)
		}
	}
	for _, p := range fresh {
		server, tool, _ := strings.Cut(p, "/")
		if tool == "*" {
			out = append(out, catalog.Authorship{Server: server, Kind: catalog.KindServer})
		} else {
			out = append(out, catalog.Authorship{Server: server, Kind: catalog.KindTool, Name: tool})
		}
	}
	return out
}

// head keeps a list in a leaf short; the database has the whole.
func head(list []string) []string {
	const most = 40
	if len(list) > most {
		return append(append([]string{}, list[:most]...), "...")
	}
	return list
}

// Agents lists agents in order of name.
func (r *Road) Agents(ctx context.Context, c Caller) (out []identity.Agent, err error) {
	if _, err := r.allow(ctx, c, ActAgentList, policy.Resource{Kind: "agent"}); err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) (err error) { out, err = collect(tx.Registry().Agents(), 0); return err })
	return out, err
}

// Agent returns one agent by name or identifier.
func (r *Road) Agent(ctx context.Context, c Caller, name string) (identity.Agent, error) {
	_, g, err := r.allowAgent(ctx, c, ActAgentRead, name)
	return g, err
}

// allowAgent finds the agent, decides, and only then says that there is none.
func (r *Road) allowAgent(ctx context.Context, c Caller, action, name string) (allowed, identity.Agent, error) {
	g, absent := r.agent(ctx, name)
	res := policy.Resource{Kind: "agent", ID: name}
	if absent == nil {
		res.ID, res.Owner = g.Name, g.Owner
	}
	a, err := r.allow(ctx, c, action, res)
	if err == nil {
		err = absent
	}
	return a, g, err
}

func (r *Road) agent(ctx context.Context, name string) (g identity.Agent, err error) {
	err = r.view(ctx, func(tx store.Tx) (err error) { g, err = tx.Registry().Agent(name); return err })
	return g, err
}

// Register registers an agent. Its owner must be a person who may act, its type must exist. in.Kind defaults to agent, in.ExpiresAt
// to 90 days from now, at most 366. Errors: the codes of identity.Agent.Check, "owner_unknown", "type_unknown", "name_taken".
func (r *Road) Register(ctx context.Context, c Caller, in identity.Agent) (identity.Agent, error) {
	const op = "govern.Register"
	a, err := r.allow(ctx, c, ActAgentRegister, policy.Resource{Kind: "agent", ID: in.Name, Owner: in.Owner})
	if err != nil {
		return identity.Agent{}, err
	}
	g := identity.Agent{
		ID: id.NewAgent(a.at), Name: in.Name, Type: in.Type, Kind: in.Kind, Owner: in.Owner, Purpose: in.Purpose,
		Environment: in.Environment, Orchestrator: in.Orchestrator, State: identity.Registered, CreatedAt: a.at, ExpiresAt: milli(in.ExpiresAt),
	}
	if g.Kind == "" {
		g.Kind = identity.KindAgent
	}
	if in.ExpiresAt.IsZero() {
		g.ExpiresAt = a.at.Add(DefaultAgentLife)
	}
	if err := g.Check(); err != nil {
		return identity.Agent{}, err
	}
	if g.ExpiresAt.Sub(a.at) > MaxAgentLife {
		return identity.Agent{}, fault.New(fault.Invalid, op, "bad_expiry", "an agent is registered for at most 366 days").
			WithFix("choose an earlier end; the registration can be renewed")
	}
	ev := r.event(a, audit.AgentRegistered, "agent:"+g.Name, agentData{
		Name: g.Name, Type: g.Type, Kind: g.Kind, Owner: g.Owner, Purpose: short(g.Purpose), Environment: g.Environment, Orchestrator: g.Orchestrator,
		ExpiresAt: g.ExpiresAt, Rules: a.rules,
	})
	ev.Agent, ev.AgentName, ev.AgentType = g.ID, g.Name, g.Type
	err = r.change(ctx, a, ev, func(tx store.Tx) error {
		owner, err := tx.People().Person(g.Owner)
		if fault.Is(err, fault.NotFound) || err == nil && (owner.Suspended || owner.Name != g.Owner) {
			return fault.New(fault.Invalid, op, "owner_unknown", "the owner %q is not a person who can act here", g.Owner).
				WithFix("name a person of chaperone person list")
		} else if err != nil {
			return err
		}
		if _, err := tx.Registry().Type(g.Type); fault.Is(err, fault.NotFound) {
			return fault.New(fault.Invalid, op, "type_unknown", "there is no agent type %q", g.Type).WithFix("make it first: chaperone type put %s", g.Type)
		} else if err != nil {
			return err
		}
		return tx.Registry().PutAgent(g)
	})
	if err != nil {
		return identity.Agent{}, err
	}
	return r.agent(ctx, g.ID.String())
}

// JoinCode is a single-use code in the clear with which one new instance enrols. It is returned once and not kept.
type JoinCode struct {
	Agent     string
	Code      string
	ExpiresAt time.Time
}

type codeData struct {
	Agent     string       `json:"agent"`
	ExpiresAt time.Time    `json:"expires_at"`
	Rules     []audit.Rule `json:"rules,omitempty"`
}

// JoinCode makes a join code for an agent that may act or has not yet enrolled.
func (r *Road) JoinCode(ctx context.Context, c Caller, name string) (JoinCode, error) {
	a, g, err := r.allowAgent(ctx, c, ActAgentJoinCode, name)
	if err != nil {
		return JoinCode{}, err
	}
	if err := g.MayAct(a.at); err != nil && fault.CodeOf(err) != "agent_not_enrolled" {
		return JoinCode{}, err
	}
	plain, code := identity.NewJoinCode(g.ID, a.name(), a.at, 0)
	ev := r.event(a, audit.AgentJoinCodeMade, "agent:"+g.Name, codeData{Agent: g.Name, ExpiresAt: milli(code.ExpiresAt), Rules: a.rules})
	ev.Agent, ev.AgentName, ev.AgentType = g.ID, g.Name, g.Type
	if err := r.change(ctx, a, ev, func(tx store.Tx) error { return tx.Once().PutJoinCode(code) }); err != nil {
		return JoinCode{}, err
	}
	return JoinCode{Agent: g.Name, Code: plain, ExpiresAt: code.ExpiresAt}, nil
}

// SuspendAgent stops an agent with its runs, credentials and grants at once.
func (r *Road) SuspendAgent(ctx context.Context, c Caller, name, reason string) (identity.Agent, error) {
	return r.moveAgent(ctx, c, ActAgentSuspend, name, reason, Credentials.SuspendAgent)
}

// ResumeAgent lets a suspended agent act again.
func (r *Road) ResumeAgent(ctx context.Context, c Caller, name, reason string) (identity.Agent, error) {
	return r.moveAgent(ctx, c, ActAgentResume, name, reason, Credentials.ResumeAgent)
}

// RetireAgent ends an agent for good.
func (r *Road) RetireAgent(ctx context.Context, c Caller, name, reason string) (identity.Agent, error) {
	return r.moveAgent(ctx, c, ActAgentRetire, name, reason, Credentials.RetireAgent)
}

type agentMove func(Credentials, context.Context, audit.Actor, id.Agent, string) error

func (r *Road) moveAgent(ctx context.Context, c Caller, action, name, reason string, move agentMove) (identity.Agent, error) {
	a, g, err := r.allowAgent(ctx, c, action, name)
	if err != nil {
		return identity.Agent{}, err
	}
	if err := checkText("govern.moveAgent", reason); err != nil {
		return identity.Agent{}, err
	}
	if r.Credentials == nil {
		return identity.Agent{}, unavailable("the road of credentials")
	}
	if err := move(r.Credentials, ctx, a.actor, g.ID, reason); err != nil {
		return identity.Agent{}, err
	}
	return r.agent(ctx, g.ID.String())
}

// Instances lists the enrolled copies of an agent.
func (r *Road) Instances(ctx context.Context, c Caller, name string) (out []identity.Instance, err error) {
	_, g, err := r.allowAgent(ctx, c, ActAgentRead, name)
	if err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) (err error) { out, err = collect(tx.Instances().ByAgent(g.ID), 0); return err })
	return out, err
}

// RevokeInstance ends one enrolled copy for good.
func (r *Road) RevokeInstance(ctx context.Context, c Caller, instance id.Instance, reason string) (identity.Instance, error) {
	var in identity.Instance
	var g identity.Agent
	absent := r.view(ctx, func(tx store.Tx) (err error) {
		if in, err = tx.Instances().Instance(instance); err != nil {
			return err
		}
		g, err = tx.Registry().Agent(in.Agent.String())
		return err
	})
	a, err := r.allow(ctx, c, ActInstanceEnd, policy.Resource{Kind: "instance", ID: instance.String(), Owner: g.Owner})
	if err != nil {
		return identity.Instance{}, err
	}
	if absent != nil {
		return identity.Instance{}, absent
	}
	if err := checkText("govern.RevokeInstance", reason); err != nil {
		return identity.Instance{}, err
	}
	if r.Credentials == nil {
		return identity.Instance{}, unavailable("the road of credentials")
	}
	if err := r.Credentials.RevokeInstance(ctx, a.actor, instance, reason); err != nil {
		return identity.Instance{}, err
	}
	err = r.view(ctx, func(tx store.Tx) (err error) { in, err = tx.Instances().Instance(instance); return err })
	return in, err
}
