// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"strings"
	"sync"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/store"
)

// client is who asks: an instance of an agent, or a person. proved says that the client's own key signed.
type client struct {
	name      string // the client_id
	agent     identity.Agent
	instance  identity.Instance
	person    people.Person
	jkt       string
	assertion identity.Assertion
	known     bool
	proved    bool
}

func (c client) isPerson() bool { return !c.person.ID.IsZero() }

// actor is whose key caused an event; nobody's as long as the key is not proved.
func (c client) actor() audit.Actor {
	switch {
	case !c.proved:
		return system
	case c.isPerson():
		return audit.Actor{Kind: audit.ActorPerson, ID: c.person.ID.String(), Name: c.person.Name, JKT: c.jkt}
	}
	return agentActor(c.agent, c.jkt)
}

var system = audit.Actor{Kind: audit.ActorSystem}

// find looks up who a client_id names. stated is the form's client_id and may be empty. Error: Unauthenticated,
// "unknown_client", the same for a name that was never given and for one of another form.
func (r *Road) find(ctx context.Context, stated, assertion string) (client, error) {
	const op = "admit.client"
	if assertion == "" {
		return client{}, fault.New(fault.Unauthenticated, op, "no_assertion", "the request carries no client assertion").
			WithFix("send client_assertion, a private_key_jwt signed with the enrolled key")
	}
	name, err := identity.AssertedClient(assertion)
	if err != nil {
		return client{}, err
	}
	if stated != "" && stated != name {
		return client{}, fault.New(fault.Unauthenticated, op, "bad_assertion", "client_id is not the client of the assertion").
			WithFix("leave client_id out, or make both the same")
	}
	unknown := fault.New(fault.Unauthenticated, op, "unknown_client", "no such client is enrolled here").
		WithFix("enrol with a join code, or log in with a login code")
	c := client{name: name, known: true}
	agentName, instance, err := identity.ParseInstanceSPIFFE(r.cfg.TrustDomain, name)
	if err == nil {
		err = r.deps.Store.View(ctx, func(tx store.Tx) (err error) {
			if c.instance, err = tx.Instances().Instance(instance); err != nil {
				return err
			}
			c.agent, err = tx.Registry().Agent(c.instance.Agent.String())
			return err
		})
		if fault.Is(err, fault.NotFound) || err == nil && c.agent.Name != agentName {
			return client{}, unknown
		}
		return c, err
	}
	personName, err := identity.ParsePersonSPIFFE(r.cfg.TrustDomain, name)
	if err != nil || people.CheckName(personName) != nil {
		return client{}, unknown
	}
	err = r.deps.Store.View(ctx, func(tx store.Tx) (err error) { c.person, err = tx.People().Person(personName); return err })
	if fault.Is(err, fault.NotFound) {
		return client{}, unknown
	}
	return c, err
}

// prove checks that the proof and the assertion are by the client's own key, in this order: the proof itself, its key, the
// assertion, the nonce. The nonce is last, so that only the client spends the client's proofs.
func (r *Road) prove(c client, assertion string, p identity.Presented, now time.Time) (client, error) {
	proof, err := identity.VerifyProof(p.Proof, p.Method, p.URL, "", now)
	if err != nil {
		return c, err
	}
	if c.isPerson() {
		if _, ok := c.person.KeyBy(proof.Key.JKT()); !ok {
			return c, keyMismatch("the proof is not by a key of this person")
		}
	} else if !identity.SameThumbprint(proof.Key.JKT(), c.instance.JKT) {
		return c, keyMismatch("the proof is not by the key this instance enrolled with")
	}
	if c.assertion, err = identity.VerifyAssertion(proof.Key, assertion, c.name, r.cfg.Issuer, now); err != nil {
		return c, err
	}
	c.jkt, c.proved = proof.Key.JKT(), true
	return c, r.deps.Nonces.Accept(proof.Nonce, proof.Once(), r.moment())
}

// assert checks the assertion alone, by the key it names: for what needs no proof of the request.
func (r *Road) assert(c client, assertion string, now time.Time) (client, error) {
	jwks := []string{c.instance.PublicJWK}
	if c.isPerson() {
		jwks = nil
		for _, k := range c.person.Keys {
			jwks = append(jwks, k.PublicJWK)
		}
	}
	err := error(keyMismatch("no key is bound to this client"))
	for _, jwk := range jwks {
		var key identity.PublicKey
		if key, err = identity.ParsePublicKey([]byte(jwk)); err != nil {
			return c, fault.New(fault.Internal, "admit.assert", "internal", "internal error").WithCause(err)
		}
		if c.assertion, err = identity.VerifyAssertion(key, assertion, c.name, r.cfg.Issuer, now); err == nil {
			c.jkt, c.proved = key.JKT(), true
			return c, nil
		}
	}
	return c, err
}

func keyMismatch(msg string) error {
	return fault.New(fault.Unauthenticated, "admit.prove", "key_mismatch", "%s", msg).
		WithFix("sign with the key that was bound, or bind this one with a fresh code")
}

// mayAct refuses a client that is stopped. Error kind: Suspended, with the codes of identity, or "person_suspended".
func (c client) mayAct(now time.Time) error {
	if c.isPerson() {
		if c.person.Suspended {
			return fault.New(fault.Suspended, "admit.client", "person_suspended", "the person is suspended").
				WithFix("an operator can resume them: chaperone person resume %s", c.person.Name)
		}
		return nil
	}
	if err := c.instance.MayAct(); err != nil {
		return err
	}
	return c.agent.MayAct(now)
}

// spend uses the assertion up, for as long as it could be presented again.
func (c client) spend(tx store.Tx) error {
	err := tx.Once().Spend("assertion:"+c.spendKey(), c.assertion.ExpiresAt.Add(2*maxStep))
	if fault.Is(err, fault.Exists) {
		return fault.New(fault.Unauthenticated, "admit.client", "assertion_replayed", "this assertion was used before").
			WithFix("sign a fresh assertion, with a new jti, for every request")
	}
	return err
}

func (c client) spendKey() string { return canon.Sum([]byte(c.name + "\n" + c.assertion.JTI)) }

type refusedData struct {
	Code     string `json:"code"`
	ClientID string `json:"client_id"`
	Audience string `json:"audience,omitempty"`
	Run      id.Run `json:"run,omitzero"`       // the run it asked to continue, whosoever that is
	Proved   bool   `json:"proved"`             // the client's own key signed the request
	LeftOut  int64  `json:"left_out,omitempty"` // refusals that were not recorded since the last
}

// refused puts a refusal on record where it is known whose name was used, and returns the error as it was. A nonce challenge is
// no refusal, and what failed here is not the client's.
func (r *Road) refused(ctx context.Context, c client, audience string, run id.Run, err error) error {
	switch fault.KindOf(err) {
	case fault.Internal, fault.Unavailable:
		return err
	}
	code := fault.CodeOf(err)
	if !c.known || code == "use_dpop_nonce" {
		return err
	}
	at := r.moment()
	data := refusedData{Code: code, ClientID: c.name, Audience: short(audience), Run: run, Proved: c.proved}
	most := &r.strangers
	if c.proved {
		most = &r.clients
	}
	var ok bool
	if data.LeftOut, ok = most.take(at); !ok {
		return err
	}
	kind := audit.CredentialRefused
	if c.isPerson() {
		kind = audit.PersonCredentialRefused
	}
	ev := r.event(kind, c.actor(), at, data)
	if c.isPerson() {
		ev.Subject = "person:" + c.person.Name
	} else {
		ev = about(ev, c.agent, c.instance.ID, id.Run{})
	}
	r.note(ctx, ev)
	return err
}

// note puts a refusal on record. If that fails the refusal stands, and the log says so.
func (r *Road) note(ctx context.Context, ev audit.Event) {
	if err := r.record(ctx, ev); err != nil {
		r.deps.Log.ErrorContext(ctx, "a refusal could not be put on record", "type", ev.Type, "error", err)
	}
}

// short bounds what a stranger may have put on record.
func short(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), 256)], "?")
}

// How many refusals go on record in a minute. Whoever knows a client's name, which is no secret, can cause one; they must not
// be able to fill the record, and neither must a client that was stopped. What is left out is counted in the next one.
const (
	strangersPerMinute = 60
	clientsPerMinute   = 600
)

type limiter struct {
	most int

	mu     sync.Mutex
	minute int64
	used   int
	left   int64
}

// take reports whether one more may be recorded now, and how many were left out since the last that was.
func (l *limiter) take(now time.Time) (leftOut int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := now.Unix() / 60; m != l.minute {
		l.minute, l.used = m, 0
	}
	if l.used >= l.most {
		l.left++
		return 0, false
	}
	l.used++
	leftOut, l.left = l.left, 0
	return leftOut, true
}
