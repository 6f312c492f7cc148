// SPDX-License-Identifier: Apache-2.0

// Package admit is the road of credentials: an instance or a person binds a key, a key gets a credential of minutes for one
// audience and one run, and every stop kills what it should at once. It decides who may hold a credential and when one is
// dead; it never decides what a credential may do (policy does, at every step).
package admit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/revocation"
	"chaperone/internal/store"
)

// Config is what the road needs to know of the deployment. Issuer and TrustDomain are required.
type Config struct {
	Issuer      string // the public URL, without a slash at the end; also the prefix of every audience
	TrustDomain string
	// CredentialLife is how long a credential lives; 0 = five minutes, which is also the most.
	CredentialLife time.Duration
	// MaxDepth is how deep runs may be nested below one that nobody started from another; 0 = 4.
	MaxDepth int
	// MaxAge is how old the view of who is dead may be before nobody is let in; 0 = five minutes.
	MaxAge time.Duration
	// Every is how often Follow confirms that view when nothing happens; 0 = five seconds.
	Every time.Duration
}

// Deps are the parts the road stands on. Now, Salts and Log may be nil: the wall clock, audit.RandomSalt, no log.
type Deps struct {
	Store  store.Store
	Index  *revocation.Index
	Nonces *identity.Nonces
	// TokenKeys returns the key that signs credentials and the public keys whose credentials may still be alive.
	TokenKeys func() (active *identity.Key, public []identity.PublicKey)
	Now       func() time.Time
	Salts     func() []byte
	Log       *slog.Logger
}

// Road issues and revokes credentials. It is safe for concurrent use.
type Road struct {
	deps     Deps
	cfg      Config
	verified *identity.Verified
	clock    clock

	strangers, clients limiter // of refusals on record

	reload sync.Mutex // held while the view of who is dead is read
	epoch  int64      // of the view in the index; -1 before the first reading
}

const (
	tries        = 4                // how often a change is tried whose basis moved meanwhile
	rememberFor  = 10 * time.Minute // how long after the last credential's end a stop of it is kept
	rememberMany = 4096             // credentials whose signature is remembered
)

// New returns the road. It does no I/O.
func New(deps Deps, cfg Config) *Road {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Salts == nil {
		deps.Salts = audit.RandomSalt
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.CredentialLife <= 0 || cfg.CredentialLife > identity.MaxCredentialLife {
		cfg.CredentialLife = identity.MaxCredentialLife
	}
	if cfg.MaxDepth <= 0 {
		cfg.MaxDepth = 4
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = 5 * time.Minute
	}
	if cfg.Every <= 0 {
		cfg.Every = 5 * time.Second
	}
	return &Road{
		deps: deps, cfg: cfg, verified: identity.NewVerified(rememberMany), epoch: -1,
		strangers: limiter{most: strangersPerMinute}, clients: limiter{most: clientsPerMinute},
	}
}

// Nonce mints a DPoP nonce of this process.
func (r *Road) Nonce() string { return r.deps.Nonces.Mint(r.moment()) }

// APIAudience is the audience of credentials for the people's door.
func (r *Road) APIAudience() string { return r.cfg.Issuer + "/api" }

// audience checks that an audience is one this issuer speaks for. Whether the server exists is not told here.
func (r *Road) audience(aud string) error {
	if aud == r.APIAudience() {
		return nil
	}
	prefix := r.cfg.Issuer + "/mcp/"
	if len(aud) > len(prefix) && aud[:len(prefix)] == prefix && identity.CheckName(aud[len(prefix):]) == nil {
		return nil
	}
	return fault.New(fault.Invalid, "admit.Token", "unknown_audience", "the resource is not one of this issuer").
		WithFix("ask for exactly one of %s/mcp/<server> and %s/api", r.cfg.Issuer, r.cfg.Issuer)
}

// event forms an event of the given type at a moment, with its stream.
func (r *Road) event(kind string, by audit.Actor, at time.Time, data any) audit.Event {
	stream, _ := audit.StreamOf(kind)
	return audit.Event{ID: id.NewEvent(at), Stream: stream, Type: kind, At: at.Truncate(time.Millisecond), Actor: by, Data: data}
}

// about names the agent an event is about.
func about(ev audit.Event, a identity.Agent, instance id.Instance, run id.Run) audit.Event {
	ev.Agent, ev.AgentName, ev.AgentType, ev.Instance, ev.Run = a.ID, a.Name, a.Type, instance, run
	return ev
}

// seal seals events in order. It runs before the transaction.
func (r *Road) seal(events ...audit.Event) ([]audit.Sealed, error) {
	out := make([]audit.Sealed, 0, len(events))
	for _, ev := range events {
		s, err := audit.Seal(ev, r.deps.Salts)
		if err != nil {
			return nil, fault.Wrap("admit.seal", err)
		}
		out = append(out, s)
	}
	return out, nil
}

func appendAll(tx store.Tx, events []audit.Sealed) error {
	for _, ev := range events {
		if err := tx.Events().Append(ev); err != nil {
			return err
		}
	}
	return nil
}

// record writes events that go with no change of state.
func (r *Road) record(ctx context.Context, events ...audit.Event) error {
	sealed, err := r.seal(events...)
	if err != nil {
		return err
	}
	return r.deps.Store.Update(ctx, func(tx store.Tx) error { return appendAll(tx, sealed) })
}

func agentActor(a identity.Agent, jkt string) audit.Actor {
	return audit.Actor{Kind: audit.ActorAgent, ID: a.ID.String(), Name: a.Name, JKT: jkt}
}

// errMoved says that what was read before the transaction is no longer so; the caller reads again.
var errMoved = fault.New(fault.Conflict, "admit", "snapshot_moved", "what this rests on changed meanwhile").
	WithFix("try again")

// again runs fn until it succeeds, fails for another reason than a moved basis, or has been tried often enough.
func again(fn func() error) error {
	var err error
	for range tries {
		if err = fn(); fault.CodeOf(err) != "snapshot_moved" && !moved(err) {
			return err
		}
	}
	return errMoved
}

// moved tells the store's words for a version that is not the stored one.
func moved(err error) bool {
	switch fault.CodeOf(err) {
	case "run_moved", "agent_moved", "person_moved", "instance_moved", "approval_moved":
		return true
	}
	return false
}
