// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/store"
)

// maxText bounds reasons and notes, in bytes.
const maxText = 1 << 10

// personData is the data of people's events about people. An address is not in it: a leaf cannot be erased.
type personData struct {
	Person    string        `json:"person"`
	PersonID  id.Person     `json:"person_id"`
	Roles     []people.Role `json:"roles,omitempty"`
	Groups    []string      `json:"groups,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	ExpiresAt time.Time     `json:"code_expires_at,omitzero"`
	Rules     []audit.Rule  `json:"rules,omitempty"`
}

// PersonCode is a person with a login code in the clear. It is returned once and not kept.
type PersonCode struct {
	Person    people.Person
	Code      string
	ExpiresAt time.Time
}

// People lists people in order of name.
func (r *Road) People(ctx context.Context, c Caller) ([]people.Person, error) {
	if _, err := r.allow(ctx, c, ActPersonList, policy.Resource{Kind: "person"}); err != nil {
		return nil, err
	}
	var out []people.Person
	err := r.view(ctx, func(tx store.Tx) (err error) {
		out, err = collect(tx.People().People(), 0)
		return err
	})
	return out, err
}

// AddPerson adds a person and returns a single-use login code for them. Errors: the codes of people.Check, Exists "name_taken" and
// "email_taken" (two people with one address could fill two seats of a quorum).
func (r *Road) AddPerson(ctx context.Context, c Caller, p people.Person) (PersonCode, error) {
	const op = "govern.AddPerson"
	a, err := r.allow(ctx, c, ActPersonAdd, policy.Resource{Kind: "person", ID: p.Name})
	if err != nil {
		return PersonCode{}, err
	}
	p = people.Person{ID: id.NewPerson(a.at), Name: p.Name, Email: p.Email, Roles: p.Roles, Groups: p.Groups, CreatedAt: a.at, CreatedBy: a.name()}
	return r.addPerson(ctx, op, a, p)
}

func (r *Road) addPerson(ctx context.Context, op string, a allowed, p people.Person) (PersonCode, error) {
	if err := p.Check(); err != nil {
		return PersonCode{}, err
	}
	plain, code := people.NewLoginCode(p.ID, a.name(), a.at, 0)
	ev := r.event(a, audit.PersonAdded, "person:"+p.Name, personData{
		Person: p.Name, PersonID: p.ID, Roles: p.Roles, Groups: p.Groups, ExpiresAt: milli(code.ExpiresAt), Rules: a.rules,
	})
	err := r.change(ctx, a, ev, func(tx store.Tx) error {
		if err := unusedNames(tx, op, p); err != nil {
			return err
		}
		if err := tx.People().PutPerson(p); err != nil {
			return err
		}
		return tx.People().PutCode(code)
	})
	if err != nil {
		return PersonCode{}, err
	}
	return PersonCode{Person: p, Code: plain, ExpiresAt: code.ExpiresAt}, nil
}

func unusedNames(tx store.Tx, op string, p people.Person) error {
	if p.Name == systemName {
		return fault.New(fault.Exists, op, "name_taken", "%s is the name of the program itself", systemName).WithFix("choose another name")
	}
	for other, err := range tx.People().People() {
		if err != nil {
			return err
		}
		if other.Name == p.Name {
			return fault.New(fault.Exists, op, "name_taken", "there is already a person %s", p.Name).WithFix("choose another name")
		}
		if p.Email != "" && approval.SamePerson([]string{p.Email}, []string{other.Email}) {
			return fault.New(fault.Exists, op, "email_taken", "the address belongs to %s already", other.Name).
				WithFix("give each person one entry; chaperone person code %s binds another key", other.Name)
		}
	}
	return nil
}

// SuspendPerson stops a person at once: their credentials are dead and their approvals no longer count. The last operator who can
// act cannot be suspended (Conflict "last_operator").
func (r *Road) SuspendPerson(ctx context.Context, c Caller, name, reason string) (people.Person, error) {
	return r.setSuspended(ctx, c, ActPersonSuspend, name, reason, true)
}

// ResumePerson lets a suspended person act again, with the keys they had.
func (r *Road) ResumePerson(ctx context.Context, c Caller, name, reason string) (people.Person, error) {
	return r.setSuspended(ctx, c, ActPersonResume, name, reason, false)
}

func (r *Road) setSuspended(ctx context.Context, c Caller, action, name, reason string, stop bool) (people.Person, error) {
	const op = "govern.setSuspended"
	p, absent := r.person(ctx, name)
	if absent == nil {
		name = p.Name
	}
	a, err := r.allow(ctx, c, action, policy.Resource{Kind: "person", ID: name, Owner: name})
	if err != nil {
		return people.Person{}, err
	}
	if absent != nil {
		return people.Person{}, absent
	}
	if err := checkText(op, reason); err != nil {
		return people.Person{}, err
	}
	if p.Suspended == stop {
		return p, nil // what is asked holds already
	}
	typ := audit.PersonResumed
	if stop {
		typ = audit.PersonSuspended
	}
	ev := r.event(a, typ, "person:"+p.Name, personData{Person: p.Name, PersonID: p.ID, Reason: reason, Rules: a.rules})
	notice := revocation.Notice{Kind: revocation.Person, ID: p.ID.String(), Dead: stop, Reason: reason, At: a.at}
	moved := p
	moved.Suspended = stop
	err = r.change(ctx, a, ev, func(tx store.Tx) error {
		if stop {
			if err := anotherOperator(tx, op, p); err != nil {
				return err
			}
		}
		if err := tx.People().PutPerson(moved); err != nil {
			return err
		}
		at, err := tx.Events().Next()
		if err != nil {
			return err
		}
		notice.Position = at
		return tx.Revocations().Put(notice)
	})
	if err != nil {
		return people.Person{}, err
	}
	if r.Notices != nil {
		r.Notices.Apply(notice)
	}
	return r.person(ctx, p.ID.String())
}

func anotherOperator(tx store.Tx, op string, p people.Person) error {
	if !p.HasRole(people.Operator) {
		return nil
	}
	for other, err := range tx.People().People() {
		if err != nil {
			return err
		}
		if other.ID != p.ID && other.HasRole(people.Operator) && len(other.Keys) > 0 {
			return nil
		}
	}
	return fault.New(fault.Conflict, op, "last_operator", "%s is the last operator who can act", p.Name).
		WithFix("add another operator, and have them log in, first")
}

func (r *Road) person(ctx context.Context, nameOrID string) (p people.Person, err error) {
	err = r.view(ctx, func(tx store.Tx) (err error) { p, err = tx.People().Person(nameOrID); return err })
	return p, err
}

// LoginCode makes another single-use code with which the person binds one more key.
func (r *Road) LoginCode(ctx context.Context, c Caller, name string) (PersonCode, error) {
	const op = "govern.LoginCode"
	p, absent := r.person(ctx, name)
	if absent == nil {
		name = p.Name
	}
	a, err := r.allow(ctx, c, ActPersonCode, policy.Resource{Kind: "person", ID: name, Owner: name})
	if err != nil {
		return PersonCode{}, err
	}
	if absent != nil {
		return PersonCode{}, absent
	}
	if p.Suspended {
		return PersonCode{}, fault.New(fault.Conflict, op, "person_suspended", "%s is suspended", p.Name).WithFix("chaperone person resume %s", p.Name)
	}
	return r.makeCode(ctx, a, p)
}

func (r *Road) makeCode(ctx context.Context, a allowed, p people.Person) (PersonCode, error) {
	plain, code := people.NewLoginCode(p.ID, a.name(), a.at, 0)
	ev := r.event(a, audit.LoginCodeMade, "person:"+p.Name, personData{Person: p.Name, PersonID: p.ID, ExpiresAt: milli(code.ExpiresAt), Rules: a.rules})
	if err := r.change(ctx, a, ev, func(tx store.Tx) error { return tx.People().PutCode(code) }); err != nil {
		return PersonCode{}, err
	}
	return PersonCode{Person: p, Code: plain, ExpiresAt: code.ExpiresAt}, nil
}

// Self is the caller as the database knows them.
type Self struct {
	Kind   string // person | agent
	Name   string
	ID     string
	Person people.Person // zero for agents
}

// Whoami tells the caller who they are.
func (r *Road) Whoami(ctx context.Context, c Caller) (Self, error) {
	name := c.Credential.AgentName
	if c.Credential.IsPerson() {
		p, err := r.person(ctx, c.Credential.Person.String())
		if err != nil {
			return Self{}, err
		}
		name = p.Name
	}
	a, err := r.allow(ctx, c, ActSelf, policy.Resource{Kind: "self", ID: name, Owner: name})
	if err != nil {
		return Self{}, err
	}
	return Self{Kind: a.actor.Kind, Name: a.actor.Name, ID: a.actor.ID, Person: a.person}, nil
}

func checkText(op, s string) error {
	if len(s) > maxText {
		return fault.New(fault.Invalid, op, "too_long", "the text is over %d bytes", maxText).WithFix("shorten it")
	}
	return nil
}
