// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
)

func (d *Door) whoami(r *request) (any, error) {
	self, err := d.Govern.Whoami(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	c := r.caller.Credential
	return client.Whoami{
		Kind: self.Kind, Name: self.Name, ID: self.ID, Subject: c.Subject, Roles: self.Person.Roles, Groups: self.Person.Groups,
		Run: c.Run.String(), JKT: c.JKT, ExpiresAt: c.ExpiresAt,
	}, nil
}

func (d *Door) status(r *request) (any, error) {
	o, err := d.Govern.Status(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	ready := d.ready(r.Context())
	return client.Status{
		Version: d.cfg.Version, TrustDomain: d.cfg.TrustDomain, PublicURL: d.cfg.PublicURL, PolicyVersion: o.Policy.Version,
		PolicyDigest: o.Policy.Digest, CatalogVersion: o.CatalogVersion, LogSize: o.LogSize, Events: o.Events, Agents: o.Agents,
		ActiveRuns: o.ActiveRuns, Pending: o.Pending, Ready: ready.Ready, Checks: ready.Checks,
	}, nil
}

func (d *Door) doctor(r *request) (any, error) {
	found, err := d.Govern.Doctor(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	out := client.Doctor{OK: true, Items: []client.Finding{}}
	for _, f := range found {
		out.OK = out.OK && f.Severity != govern.Error
		out.Items = append(out.Items, client.Finding{Code: f.Code, Severity: f.Severity, Subject: f.Subject, Message: f.Message, Fix: f.Fix})
	}
	return out, nil
}

func person(p people.Person) client.Person {
	out := client.Person{
		ID: p.ID, Name: p.Name, Email: p.Email, Roles: p.Roles, Groups: p.Groups, Suspended: p.Suspended, Keys: []client.PersonKey{},
		CreatedAt: p.CreatedAt, CreatedBy: p.CreatedBy,
	}
	for _, k := range p.Keys {
		out.Keys = append(out.Keys, client.PersonKey{JKT: k.JKT, Profile: k.Profile, BoundAt: k.BoundAt})
	}
	return out
}

func (d *Door) people(r *request) (any, error) {
	q, err := r.params("after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.People(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	return page(q, each(all, person), func(p client.Person) string { return p.Name })
}

func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

func (d *Door) addPerson(r *request) (any, error) {
	var in client.AddPerson
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	got, err := d.Govern.AddPerson(r.Context(), r.caller, people.Person{Name: in.Name, Email: in.Email, Roles: in.Roles, Groups: in.Groups})
	if err != nil {
		return nil, err
	}
	return created{client.PersonCode{Person: person(got.Person), Code: got.Code, ExpiresAt: got.ExpiresAt}}, nil
}

// reason reads the optional body of suspend, resume, retire, revoke and end.
func (r *request) reason() (string, error) {
	var in client.Reason
	err := r.decode(&in, true)
	return in.Reason, err
}

func (d *Door) suspendPerson(r *request) (any, error) {
	return d.movePerson(r, d.Govern.SuspendPerson)
}
func (d *Door) resumePerson(r *request) (any, error) { return d.movePerson(r, d.Govern.ResumePerson) }

func (d *Door) movePerson(r *request, move func(context.Context, govern.Caller, string, string) (people.Person, error)) (any, error) {
	reason, err := r.reason()
	if err != nil {
		return nil, err
	}
	p, err := move(r.Context(), r.caller, r.PathValue("name"), reason)
	if err != nil {
		return nil, err
	}
	return person(p), nil
}

func (d *Door) personCode(r *request) (any, error) {
	if err := r.decode(&struct{}{}, true); err != nil {
		return nil, err
	}
	got, err := d.Govern.LoginCode(r.Context(), r.caller, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return created{client.PersonCode{Person: person(got.Person), Code: got.Code, ExpiresAt: got.ExpiresAt}}, nil
}

func (d *Door) types(r *request) (any, error) {
	q, err := r.params("after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.Types(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	return page(q, all, func(t identity.Type) string { return t.Name })
}

func (d *Door) putType(r *request) (any, error) {
	var in client.PutType
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	return d.Govern.PutType(r.Context(), r.caller, identity.Type{Name: r.PathValue("name"), Description: in.Description, Reads: in.Reads, Writes: in.Writes})
}

func (d *Door) agents(r *request) (any, error) {
	q, err := r.params("after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.Agents(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	return page(q, all, func(g identity.Agent) string { return g.Name })
}

func (d *Door) agent(r *request) (any, error) {
	return d.Govern.Agent(r.Context(), r.caller, r.PathValue("name"))
}

func (d *Door) register(r *request) (any, error) {
	var in client.Register
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	end := in.ExpiresAt
	if in.ExpiresIn != 0 {
		if !end.IsZero() || in.ExpiresIn < 0 || in.ExpiresIn > int64(govern.MaxAgentLife/time.Second) {
			return nil, fault.New(fault.Invalid, "api", "bad_expiry", "the end is given twice, or is not within 366 days").WithFix("give expires_in in seconds, or expires_at, or neither")
		}
		end = d.Now().Add(time.Duration(in.ExpiresIn) * time.Second)
	}
	got, err := d.Govern.Register(r.Context(), r.caller, identity.Agent{
		Name: in.Name, Type: in.Type, Kind: in.Kind, Owner: in.Owner, Purpose: in.Purpose, Environment: in.Environment,
		Orchestrator: in.Orchestrator, ExpiresAt: end,
	})
	if err != nil {
		return nil, err
	}
	return created{got}, nil
}

func (d *Door) moveAgent(move func(*govern.Road, context.Context, govern.Caller, string, string) (identity.Agent, error)) handler {
	return func(r *request) (any, error) {
		reason, err := r.reason()
		if err != nil {
			return nil, err
		}
		return move(d.Govern, r.Context(), r.caller, r.PathValue("name"), reason)
	}
}

func (d *Door) joinCode(r *request) (any, error) {
	if err := r.decode(&struct{}{}, true); err != nil {
		return nil, err
	}
	got, err := d.Govern.JoinCode(r.Context(), r.caller, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return created{client.JoinCode{Agent: got.Agent, Code: got.Code, ExpiresAt: got.ExpiresAt}}, nil
}

func (d *Door) instances(r *request) (any, error) {
	q, err := r.params("after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.Instances(r.Context(), r.caller, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return page(q, all, func(i identity.Instance) string { return i.ID.String() })
}

func (d *Door) revokeInstance(r *request) (any, error) {
	which, err := id.ParseInstance(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	reason, err := r.reason()
	if err != nil {
		return nil, err
	}
	return d.Govern.RevokeInstance(r.Context(), r.caller, which, reason)
}
