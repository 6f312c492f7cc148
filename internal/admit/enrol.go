// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/store"
)

// maxKeys is how many keys may speak for one person.
const maxKeys = 16

type enrolledData struct {
	JKT       string `json:"jkt"`
	PublicJWK string `json:"public_jwk"`
	CodeBy    string `json:"code_made_by"`
	First     bool   `json:"first"` // the agent became active by it
}

// errPeek undoes a transaction that only looked at what a code is for.
var errPeek = errors.New("only looked")

// Enrol spends a join code to bind the key that signed the proof to a new instance of the code's agent, and makes the agent
// active if it is the first. Errors: Unauthenticated "join_code" (absent, used or too old), "no_proof", "bad_proof", "use_dpop_nonce",
// "proof_replayed"; Exists "key_bound"; Suspended "agent_suspended", "agent_retired", "agent_expired"; Unavailable "clock_stepped_back".
func (r *Road) Enrol(ctx context.Context, code string, p identity.Presented) (identity.Instance, identity.Agent, error) {
	now, proof, err := r.newKey(ctx, p)
	if err != nil {
		return identity.Instance{}, identity.Agent{}, err
	}
	var instance identity.Instance
	var agent identity.Agent
	err = again(func() error {
		instance, agent, err = r.enrol(ctx, code, proof, now)
		return err
	})
	if err != nil {
		return identity.Instance{}, identity.Agent{}, r.codeRefused(ctx, audit.EnrolmentRefused, agent, "", now, err)
	}
	return instance, agent, nil
}

// newKey checks the proof of a key that nobody knows yet.
func (r *Road) newKey(ctx context.Context, p identity.Presented) (time.Time, identity.Proof, error) {
	now, err := r.now(ctx)
	if err != nil {
		return now, identity.Proof{}, err
	}
	proof, err := identity.VerifyProof(p.Proof, p.Method, p.URL, "", now)
	if err != nil {
		return now, identity.Proof{}, err
	}
	return now, proof, r.deps.Nonces.AcceptStranger(proof.Nonce, proof.Once(), r.moment())
}

func (r *Road) enrol(ctx context.Context, plain string, proof identity.Proof, now time.Time) (identity.Instance, identity.Agent, error) {
	hash := identity.HashCode(plain)
	var code identity.JoinCode
	var agent identity.Agent
	err := r.deps.Store.Update(ctx, func(tx store.Tx) (err error) {
		if code, err = tx.Once().TakeJoinCode(hash, now); err != nil {
			return badCode(err, "join_code")
		}
		if agent, err = tx.Registry().Agent(code.Agent.String()); err != nil {
			return err
		}
		return errPeek
	})
	if !errors.Is(err, errPeek) {
		return identity.Instance{}, agent, err
	}
	before := agent
	first := agent.State == identity.Registered
	if first {
		if agent, err = agent.Move(identity.Active, "enrolled"); err != nil {
			return identity.Instance{}, agent, err
		}
	}
	if err := agent.MayAct(now); err != nil {
		return identity.Instance{}, agent, err
	}
	instance := identity.Instance{
		ID: id.NewInstance(now), Agent: agent.ID, JKT: proof.Key.JKT(), PublicJWK: proof.Key.JWK(), EnrolledAt: now, EnrolledBy: code.MadeBy,
	}
	ev := r.event(audit.AgentEnrolled, agentActor(agent, instance.JKT), now, enrolledData{JKT: instance.JKT, PublicJWK: instance.PublicJWK, CodeBy: code.MadeBy, First: first})
	sealed, err := r.seal(about(ev, agent, instance.ID, id.Run{}))
	if err != nil {
		return identity.Instance{}, agent, err
	}
	err = r.deps.Store.Update(ctx, func(tx store.Tx) error {
		if err := checkClock(tx, now); err != nil {
			return err
		}
		if _, err := tx.Once().TakeJoinCode(hash, now); err != nil {
			return badCode(err, "join_code")
		}
		for other, err := range tx.Instances().ByAgent(agent.ID) {
			if err != nil {
				return err
			}
			if identity.SameThumbprint(other.JKT, instance.JKT) {
				return fault.New(fault.Exists, "admit.Enrol", "key_bound", "the key is that of another instance").
					WithFix("make a new key for the new instance")
			}
		}
		stored, err := tx.Registry().Agent(agent.ID.String())
		if err != nil {
			return err
		}
		if stored.Version != before.Version {
			return errMoved
		}
		if first {
			if err := tx.Registry().PutAgent(agent); err != nil {
				return err
			}
		}
		if err := tx.Instances().PutInstance(instance); err != nil {
			return err
		}
		return appendAll(tx, sealed)
	})
	return instance, agent, err
}

// badCode makes the store's NotFound one that tells nothing about which codes there were.
func badCode(err error, code string) error {
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.Unauthenticated, "admit", code, "the code is wrong, used or too old").WithFix("ask an operator for a fresh code")
	}
	return err
}

type boundData struct {
	JKT       string `json:"jkt"`
	PublicJWK string `json:"public_jwk"`
	Profile   string `json:"profile,omitempty"`
	CodeBy    string `json:"code_made_by"`
}

// BindPerson spends a login code to bind the key that signed the proof to the code's person. profile names the key on the person's
// machine, at most 64 bytes. Errors: Unauthenticated "login_code" and those of proofs; Exists "key_bound"; Limited "too_many_keys"; Invalid
// "bad_profile"; Suspended "person_suspended"; Unavailable "clock_stepped_back".
func (r *Road) BindPerson(ctx context.Context, code, profile string, p identity.Presented) (people.Person, error) {
	if profile != "" && (len(profile) > 64 || strings.ContainsFunc(profile, func(c rune) bool { return c <= ' ' || c > '~' })) {
		return people.Person{}, fault.New(fault.Invalid, "admit.BindPerson", "bad_profile", "the profile is not a short plain word").
			WithFix("use up to 64 printable characters without spaces")
	}
	now, proof, err := r.newKey(ctx, p)
	if err != nil {
		return people.Person{}, err
	}
	var person people.Person
	err = again(func() error {
		person, err = r.bind(ctx, code, profile, proof, now)
		return err
	})
	if err != nil {
		return people.Person{}, r.codeRefused(ctx, audit.LoginRefused, identity.Agent{}, person.Name, now, err)
	}
	return person, nil
}

func (r *Road) bind(ctx context.Context, plain, profile string, proof identity.Proof, now time.Time) (people.Person, error) {
	const op = "admit.BindPerson"
	hash := people.HashCode(plain)
	var code people.LoginCode
	var person people.Person
	err := r.deps.Store.Update(ctx, func(tx store.Tx) (err error) {
		if code, err = tx.People().TakeCode(hash, now); err != nil {
			return badCode(err, "login_code")
		}
		if person, err = tx.People().Person(code.Person.String()); err != nil {
			return err
		}
		return errPeek
	})
	if !errors.Is(err, errPeek) {
		return person, err
	}
	if err := (client{person: person}).mayAct(now); err != nil {
		return person, err
	}
	if _, bound := person.KeyBy(proof.Key.JKT()); bound {
		return person, fault.New(fault.Exists, op, "key_bound", "the key is bound already").WithFix("use it, or make a new key")
	}
	if len(person.Keys) >= maxKeys {
		return person, fault.New(fault.Limited, op, "too_many_keys", "%d keys are bound already", maxKeys).WithFix("ask an operator to remove old ones")
	}
	person.Keys = append(slices.Clone(person.Keys), people.Key{JKT: proof.Key.JKT(), PublicJWK: proof.Key.JWK(), Profile: profile, BoundAt: now})
	by := audit.Actor{Kind: audit.ActorPerson, ID: person.ID.String(), Name: person.Name, JKT: proof.Key.JKT()}
	ev := r.event(audit.PersonKeyBound, by, now, boundData{JKT: proof.Key.JKT(), PublicJWK: proof.Key.JWK(), Profile: profile, CodeBy: code.MadeBy})
	ev.Subject = "person:" + person.Name
	sealed, err := r.seal(ev)
	if err != nil {
		return person, err
	}
	err = r.deps.Store.Update(ctx, func(tx store.Tx) error {
		if err := checkClock(tx, now); err != nil {
			return err
		}
		if _, err := tx.People().TakeCode(hash, now); err != nil {
			return badCode(err, "login_code")
		}
		if err := tx.People().PutPerson(person); err != nil {
			return err
		}
		return appendAll(tx, sealed)
	})
	return person, err
}

type codeRefusedData struct {
	Code    string `json:"code"`
	LeftOut int64  `json:"left_out,omitempty"`
}

// codeRefused puts a refused code on record, within the bound for strangers, and returns the error as it was.
func (r *Road) codeRefused(ctx context.Context, kind string, agent identity.Agent, person string, at time.Time, err error) error {
	switch fault.KindOf(err) {
	case fault.Internal, fault.Unavailable:
		return err
	}
	leftOut, ok := r.strangers.take(at)
	if !ok {
		return err
	}
	ev := about(r.event(kind, system, at, codeRefusedData{Code: fault.CodeOf(err), LeftOut: leftOut}), agent, id.Instance{}, id.Run{})
	if person != "" {
		ev.Subject = "person:" + person
	}
	r.note(ctx, ev)
	return err
}
