// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"

	"chaperone/internal/admit"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/identity"
	"chaperone/internal/policy"
	"chaperone/internal/run"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

// rules lets govern use the library of enforce.
type rules struct {
	library *enforce.Library
	db      *sqlstore.DB
}

func (r rules) Current() (*policy.Set, int64, error) {
	s, err := r.library.Current()
	if err != nil {
		return nil, 0, err
	}
	return s.Policy, s.PolicyVersion, nil
}

func (r rules) Refresh(ctx context.Context) error { return r.library.Refresh(ctx) }

// Compile compiles against the catalogue as the database holds it now.
func (r rules) Compile(ctx context.Context, files map[string]string) (*policy.Set, []policy.Problem, error) {
	var cat *catalog.Snapshot
	err := r.db.View(ctx, func(tx store.Tx) (err error) { cat, err = enforce.LoadCatalog(tx); return err })
	if err != nil {
		return nil, nil, err
	}
	set, problems := policy.Compile(files, enforce.ToolsOf(cat))
	if len(problems) > 0 {
		return nil, problems, nil
	}
	return set, nil, nil
}

// Fits compiles the policies in force against a catalogue that does not stand yet.
func (r rules) Fits(ctx context.Context, cat *catalog.Snapshot) ([]policy.Problem, error) {
	var b policy.Bundle
	err := r.db.View(ctx, func(tx store.Tx) (err error) { b, err = tx.Policies().Active(); return err })
	if fault.Is(err, fault.NotFound) {
		return nil, nil // there is nothing to break
	}
	if err != nil {
		return nil, err
	}
	_, problems := policy.Compile(b.Files, enforce.ToolsOf(cat))
	return problems, nil
}

// credentials lets govern open and stop through admit.
type credentials struct{ *admit.Road }

func (c credentials) OpenRun(ctx context.Context, opener identity.Credential, in govern.Opening) (run.Run, error) {
	return c.Road.OpenRun(ctx, opener, admit.Opening{Agent: in.Agent, Purpose: in.Purpose, Plan: in.Plan, Budgets: in.Budgets, Parent: in.Parent})
}

// grants lets govern ask ahead through the road of calls.
type grants struct{ engine *enforce.Engine }

func (g grants) AskGrant(ctx context.Context, who identity.Credential, network string, in govern.Asking) (govern.Asked, error) {
	got, err := g.engine.AskGrant(ctx, enforce.Ask{Credential: who, Run: in.Run, Server: in.Server, Tool: in.Tool, Arguments: in.Arguments, Remote: network})
	if err != nil {
		return govern.Asked{}, err
	}
	o := got.Outcome
	out := govern.Asked{Grant: got.Grant, Decision: o.Decision, Denied: o.Verdict == enforce.Denied, Code: o.Code, Rule: o.Rule, Reason: o.Reason}
	if w := o.Approval; w != nil {
		out.Approval = govern.Waiting{ID: w.ID, Link: w.Link, State: w.State, NotAfter: w.NotAfter}
	}
	return out, nil
}

// offers lets govern see what a server offers now.
type offers struct {
	far     FarSide
	secrets *secrets
}

func (o offers) Definitions(ctx context.Context, s catalog.Server) ([]govern.Definition, error) {
	in, err := o.secrets.Injection(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	defs, err := o.far.Definitions(ctx, s, in)
	if err != nil {
		return nil, err
	}
	out := make([]govern.Definition, len(defs))
	for i, d := range defs {
		out[i] = govern.Definition{Kind: d.Kind, Name: d.Name, Raw: d.Raw}
	}
	return out, nil
}
