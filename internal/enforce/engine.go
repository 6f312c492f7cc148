// SPDX-License-Identifier: Apache-2.0

// Package enforce is the road of a request: the twelve steps that every call of an agent takes, one file a step. It decides,
// through policy, catalogue, approvals and grants, whether this one call may happen now, and sees to it that nothing goes to an
// upstream before its intent is durable and nothing comes back to the agent before its outcome is. It never reads the wire, holds
// no SQL, never permits by default, and keeps nothing between two calls but what the freshness table allows.
//
// The road is Engine.Call, below. Read it first, then the files in the order of the steps: receive, authenticate, open, describe,
// decide, approve, grant, inject, forward, inspect, record, release.
package enforce

import (
	"context"
	"log/slog"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/secret"
	"chaperone/internal/store"
)

// Authenticator proves who is calling (admit.Road). A refusal may be an *identity.Refused.
type Authenticator interface {
	Authenticate(ctx context.Context, p identity.Presented, audience string) (identity.Credential, error)
}

// Snapshots gives the policies and the catalogue in force (Library).
type Snapshots interface {
	Current() (*Snapshot, error)
	Refresh(ctx context.Context) error
}

// Secrets opens the credential of one server; the zero Injection where there is none.
type Secrets interface {
	Injection(ctx context.Context, server string) (secret.Injection, error)
}

// Record tells how far the log is behind the event table (ledger.Log).
type Record interface {
	Lag(now time.Time) time.Duration
}

// Revocations tells how old the view of who is dead is (revocation.Index).
type Revocations interface {
	Age(now time.Time) time.Duration
}

// Deps are what the road needs. All but Log are required; Now is the wall clock and Salts audit.RandomSalt where they are nil.
type Deps struct {
	Auth        Authenticator
	Store       store.Store
	Snapshots   Snapshots
	Upstream    Upstream
	Secrets     Secrets
	Record      Record
	Revocations Revocations
	Link        func(id.Approval) string // the page of an approval
	Now         func() time.Time
	Salts       func() []byte
	Log         *slog.Logger
}

// Config holds the road's numbers. A zero field takes the default in brackets.
type Config struct {
	PublicURL      string        // audiences are PublicURL + "/mcp/" + server
	StateKey       []byte        // HMAC key of requestState, at least 32 bytes
	DefinitionsTTL time.Duration // how long a check of a server's live definitions holds [30 s]
	Lease          time.Duration // age of the revocation view from which effects are refused [30 s]; everything at ten times that
	MaxLag         time.Duration // lag of the log from which effects are refused [30 s]
	MaxWait        time.Duration // longest wait for an approval on the socket [55 s]
	KeepResult     int           // bytes of a result kept in the part "result" [0 = none]
	// Failpoint, if set, is called with the step's name after every step. Tests kill the process there.
	Failpoint func(step string)
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.DefinitionsTTL, 30*time.Second)
	def(&c.Lease, 30*time.Second)
	def(&c.MaxLag, 30*time.Second)
	def(&c.MaxWait, 55*time.Second)
	c.MaxWait = min(c.MaxWait, 55*time.Second)
	if c.Failpoint == nil {
		c.Failpoint = func(string) {}
	}
	return c
}

// Engine walks requests along the road. It is safe for concurrent use.
type Engine struct {
	Deps
	cfg     Config
	live    *liveDefinitions
	turns   *turns
	held    held
	unknown *limiter // refusals of strangers
	// overdrawn are refusals of runs that have no step left.
	overdrawn *limiter
}

// New returns an engine. It starts nothing.
func New(d Deps, cfg Config) *Engine {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Salts == nil {
		d.Salts = audit.RandomSalt
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Link == nil {
		d.Link = func(a id.Approval) string { return "/approvals/" + a.String() }
	}
	return &Engine{Deps: d, cfg: cfg.withDefaults(), live: newLiveDefinitions(), turns: newTurns(), unknown: newLimiter(), overdrawn: newLimiter()}
}

// retries is how often a call is decided again because what it was decided on has moved.
const retries = 3

// Call takes one request along the road and releases the messages of its answer through out. The Outcome tells what became of it;
// an error is returned with the verdict Failed only, and is a *fault.Error whose Msg and Fix may be shown. Every outcome but
// those of the few silent protocol methods (see methodOf) is on the record before Call returns or releases anything.
func (e *Engine) Call(ctx context.Context, req Request, out Sink) (Outcome, error) {
	c := &call{Engine: e, req: req, out: out, began: e.Now()}
	defer c.unlock()
	if no := c.travel(ctx); no != nil {
		return c.refuse(ctx, no)
	}
	return c.outcome(Released), nil
}

// travel is the road. It returns nil when the whole answer was released, else the reason why not.
func (c *call) travel(ctx context.Context) *refusal {
	if no := c.receive(); no != nil { // 1
		return no
	}
	if no := c.authenticate(ctx); no != nil { // 2
		return no
	}
	if no := c.settle(ctx); no != nil { // 3 to 7
		return no
	}
	ctx, cancel := context.WithTimeout(ctx, c.run.ExpiresAt.Sub(c.now))
	defer cancel()
	if no := c.inject(ctx); no != nil { // 8
		return no
	}
	if no := c.forward(ctx); no != nil { // 9
		return no
	}
	defer c.exchange.Close()
	return c.answer(ctx) // 10, 11 and 12, message by message
}

// settle walks steps 3 to 7, again from 3 when the world has moved under the decision.
func (c *call) settle(ctx context.Context) *refusal {
	for {
		again, no := c.consider(ctx) // 3 to 6
		if no != nil {
			return no
		}
		if again { // an approval was waited for and came
			continue
		}
		moved, no := c.spend(ctx) // 7
		if no != nil || !moved {
			return no
		}
		if no := c.retry(ctx); no != nil {
			return no
		}
	}
}

// consider walks steps 3 to 6 once.
func (c *call) consider(ctx context.Context) (again bool, no *refusal) {
	if no := c.open(ctx); no != nil { // 3
		return false, no
	}
	if no := c.describe(ctx); no != nil { // 4
		return false, no
	}
	if no := c.decide(ctx); no != nil { // 5
		return false, no
	}
	return c.approve(ctx) // 6
}

// retry makes ready to decide again, with the newest policies and in turn with the other calls of the run, or gives up.
func (c *call) retry(ctx context.Context) *refusal {
	if c.tries > retries {
		return fail(fault.New(fault.Unavailable, "enforce.Call", "snapshot_moved",
			"what the decision was made on kept changing").WithFix("call again"))
	}
	if err := c.Snapshots.Refresh(ctx); err != nil {
		c.Log.WarnContext(ctx, "policies and catalogue could not be read again", "error", err)
	}
	c.lock()
	return nil
}

// passed marks the end of a step.
func (c *call) passed(step string) { c.cfg.Failpoint(step) }
