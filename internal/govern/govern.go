// SPDX-License-Identifier: Apache-2.0

// Package govern is the road of what people do, and of what agents ask for outside a call: add people and agents, open and end
// runs, ask for grants, decide approvals, change policies, servers, pins, catalogue and secrets, read the record. Every
// action is decided by the policy engine first, a denial is recorded as access.denied, and a change and its event are one
// transaction. It never decides a call (enforce does), never issues a credential (admit does), and never returns a secret.
package govern

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// maxRules bounds the determining rules that an event keeps.
const maxRules = 16

// systemName is the name under which the program itself acts; no person can have it.
const systemName = "system"

// Config is what an operator sets. The zero value is not usable: TrustDomain and APIURL are needed.
type Config struct {
	TrustDomain string
	PublicURL   string // the issuer identifier
	APIURL      string // where approval links point
	Version     string // of the program
}

// Deps are the parts that the road stands on. Store and Rules are needed, Now is the wall clock and Log silent where they are nil; a
// nil one of the others refuses the actions that need it (Unavailable, "not_available").
type Deps struct {
	Store       store.Store
	Rules       Rules
	Credentials Credentials
	Grants      Grants
	Upstream    Upstream
	Seal        Sealer
	Record      Record
	Host        Host
	Notices     Notices
	Now         func() time.Time
	Log         *slog.Logger
}

// Rules is the policy in force (enforce.Library behind an adapter in app).
type Rules interface {
	// Current returns the compiled policy in force with its version.
	Current() (*policy.Set, int64, error)
	// Compile compiles files against the catalogue in force without putting them there. The set is nil when there are problems.
	Compile(ctx context.Context, files map[string]string) (*policy.Set, []policy.Problem, error)
	// Fits compiles the policies in force against another catalogue and returns the problems: a change of the catalogue that breaks
	// a rule is refused before it is made.
	Fits(ctx context.Context, cat *catalog.Snapshot) ([]policy.Problem, error)
	// Refresh puts what the database holds in force before it returns. It is called after every change of policy or catalogue.
	Refresh(ctx context.Context) error
}

// Credentials is the road of credentials (internal/admit). Each method changes state, grants, notices and the record in one
// transaction.
type Credentials interface {
	OpenRun(ctx context.Context, opener identity.Credential, in Opening) (run.Run, error)
	EndRun(ctx context.Context, by audit.Actor, r id.Run, reason string) error
	SuspendAgent(ctx context.Context, by audit.Actor, agent id.Agent, reason string) error
	ResumeAgent(ctx context.Context, by audit.Actor, agent id.Agent, reason string) error
	RetireAgent(ctx context.Context, by audit.Actor, agent id.Agent, reason string) error
	RevokeInstance(ctx context.Context, by audit.Actor, instance id.Instance, reason string) error
}

// Opening is a run to be opened for an agent.
type Opening struct {
	Agent   string // name
	Purpose string
	Plan    []run.PlanStep
	Budgets run.Budgets
	Parent  id.Run
}

// Grants asks ahead for one exact call (internal/enforce); the engine decides it by the same policy as the call.
type Grants interface {
	AskGrant(ctx context.Context, who identity.Credential, network string, in Asking) (Asked, error)
}

// Asking names one exact call of a run.
type Asking struct {
	Run       id.Run
	Server    string
	Tool      string
	Arguments []byte // JSON
}

// Asked is what came of it: a grant that is active, or requested and waiting for its approval (Approval is set). Denied is set
// when policy said no.
type Asked struct {
	Grant    grant.Grant
	Approval Waiting
	Decision id.Decision
	Denied   bool
	Code     string
	Rule     string
	Reason   string
}

// Waiting is an approval that a grant waits for.
type Waiting struct {
	ID       id.Approval
	Link     string
	State    string
	NotAfter time.Time
}

// Upstream reads what a server offers now, as raw definitions: its tools, prompts, resources and templates, and itself.
type Upstream interface {
	Definitions(ctx context.Context, server catalog.Server) ([]Definition, error)
}

// Definition is one definition as the server sent it. For KindServer the name is empty and Raw is {"endpoint", "instructions",
// "serverInfo"}.
type Definition struct {
	Kind catalog.ItemKind
	Name string
	Raw  []byte
}

// Sealer seals secrets at rest (internal/keyring).
type Sealer interface {
	Seal(plain, ad []byte) (keyID string, blob []byte, err error)
	Unseal(keyID string, blob, ad []byte) ([]byte, error)
}

// Record is the tile log (internal/ledger).
type Record interface {
	Lag(now time.Time) time.Duration
	Size() uint64
	Checkpoint() ([]byte, error)
	Export(ctx context.Context, w io.Writer) error
}

// Host tells what only the composed program knows, for doctor: whether an agent's uid could read the keys, the clock, the
// checks of readiness.
type Host interface {
	Findings(ctx context.Context) []Finding
}

// Notices is the process's view of who is dead (revocation.Index), told at once when a person is suspended or resumed. The
// event table tells it too, a moment later.
type Notices interface{ Apply(revocation.Notice) }

// Road carries out people's actions. It is safe for concurrent use.
type Road struct {
	Deps
	cfg Config
}

// New returns the road. It does no I/O.
func New(deps Deps, cfg Config) *Road {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	return &Road{Deps: deps, cfg: cfg}
}

// tidyEvery is how often Run looks for what time has ended.
const tidyEvery = 30 * time.Second

// Run writes down what time has ended, approvals past their end, until ctx ends. Nothing hangs on it: what is past its end is
// refused and shown as expired whether or not Run has come by.
func (r *Road) Run(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := r.ExpireApprovals(ctx); err != nil && ctx.Err() == nil {
				r.Log.WarnContext(ctx, "approvals past their end were not closed", "error", err)
			}
		}
	}
}

// Caller is who asks, as verified by the door.
type Caller struct {
	Credential identity.Credential
	Network    string // remote address, no port
}

// allowed is a caller whom policy permitted one action.
type allowed struct {
	actor    audit.Actor
	person   people.Person  // zero for agents
	agent    identity.Agent // zero for people
	decision id.Decision
	request  []byte // canonical policy request
	rules    []audit.Rule
	at       time.Time
}

// system is the program acting for itself: at first start, at an offline reset, when time is up.
func (r *Road) system() allowed {
	return allowed{actor: audit.Actor{Kind: audit.ActorSystem, Name: systemName}, at: milli(r.Now())}
}

func (a allowed) name() string { return a.actor.Name }

// who loads the caller as they are now and refuses the suspended.
func (r *Road) who(tx store.Tx, c Caller) (allowed, policy.Principal, error) {
	const op = "govern.who"
	cred := c.Credential
	if cred.IsPerson() {
		p, err := tx.People().Person(cred.Person.String())
		if err != nil {
			return allowed{}, policy.Principal{}, fault.Wrap(op, err)
		}
		if p.Suspended {
			return allowed{}, policy.Principal{}, fault.New(fault.Suspended, op, "person_suspended", "%s is suspended", p.Name).
				WithFix("ask an operator: chaperone person resume %s", p.Name)
		}
		if _, bound := p.KeyBy(cred.JKT); !bound {
			return allowed{}, policy.Principal{}, fault.New(fault.Unauthenticated, op, "key_mismatch", "the key no longer speaks for %s", p.Name).
				WithFix("log in again with a fresh code: chaperone login --code CODE")
		}
		out := policy.Principal{Kind: "Person", Name: p.Name, Groups: p.Standing()}
		for _, role := range p.Roles {
			out.Roles = append(out.Roles, string(role))
		}
		return allowed{person: p, actor: audit.Actor{Kind: audit.ActorPerson, ID: p.ID.String(), Name: p.Name, JKT: cred.JKT}}, out, nil
	}
	if cred.Agent.IsZero() {
		return allowed{}, policy.Principal{}, fault.New(fault.Unauthenticated, op, "no_credential", "nobody is calling")
	}
	a, err := tx.Registry().Agent(cred.Agent.String())
	if err != nil {
		return allowed{}, policy.Principal{}, fault.Wrap(op, err)
	}
	if err := a.MayAct(r.Now()); err != nil {
		return allowed{}, policy.Principal{}, err
	}
	out := policy.Principal{Kind: "Agent", Name: a.Name, Type: a.Type, AgentKind: string(a.Kind), Owner: a.Owner, Environment: a.Environment, Orchestrator: a.Orchestrator}
	return allowed{agent: a, actor: audit.Actor{Kind: audit.ActorAgent, ID: a.ID.String(), Name: a.Name, JKT: cred.JKT}}, out, nil
}

// allow decides whether the caller may do the action to the resource. A denial is recorded before it is answered.
func (r *Road) allow(ctx context.Context, c Caller, action string, res policy.Resource) (allowed, error) {
	const op = "govern.allow"
	var a allowed
	var principal policy.Principal
	err := r.Store.View(ctx, func(tx store.Tx) (err error) {
		a, principal, err = r.who(tx, c)
		return err
	})
	if err != nil {
		return allowed{}, err
	}
	set, version, err := r.Rules.Current()
	if err != nil {
		return allowed{}, fault.New(fault.Unavailable, op, "no_policy", "no policy is in force, so nothing is allowed").
			WithFix("look at chaperone doctor; offline: chaperone policy reset-operators").WithCause(err)
	}
	a.at, a.decision = milli(r.Now()), id.NewDecision(r.Now())
	req := policy.Request{
		Principal: principal, Action: policy.Action{Name: action, Groups: []string{"people"}}, Resource: res,
		Credential: "dpop", Network: c.Network, Time: a.at,
	}
	if !c.Credential.Run.IsZero() {
		req.Run.ID = c.Credential.Run.String() // an agent's request is part of its run
	}
	if a.request, err = canon.Marshal(req); err != nil {
		return allowed{}, fault.Wrap(op, err)
	}
	d := set.Decide(req)
	for _, reason := range d.Reasons[:min(len(d.Reasons), maxRules)] {
		a.rules = append(a.rules, audit.Rule{ID: reason.Rule, Reason: reason.Text, Effect: string(reason.Effect), Digest: reason.Digest})
	}
	if d.Effect == policy.Permit {
		return a, nil
	}
	kept := audit.Decided{
		Effect: string(policy.Forbid), Code: "access_denied", Rules: a.rules, Errors: d.Errors, Action: action,
		RequestDigest: canon.Sum(a.request), PolicyVersion: version, PolicyDigest: set.Digest(),
	}
	ev := r.event(a, audit.AccessDenied, subjectOf(res), kept)
	if err := r.append(ctx, ev, nil); err != nil {
		return allowed{}, err
	}
	rule, text := policy.RuleDefaultDeny, "no rule allows it"
	if len(d.Reasons) > 0 {
		rule, text = d.Reasons[0].Rule, d.Reasons[0].Text
	}
	return allowed{}, fault.New(fault.Denied, op, "access_denied", "%s may not %s: %s (rule %s)", a.name(), action, text, rule).
		WithFix("chaperone explain %s", a.decision).WithCause(&Denial{Rule: rule, Reason: text, Decision: a.decision})
}

// Denial is the cause of an access_denied fault: the rule that decided, its reason, and the decision to explain.
type Denial struct {
	Rule     string
	Reason   string
	Decision id.Decision
}

// Error returns the reason.
func (d *Denial) Error() string { return d.Reason }

func subjectOf(res policy.Resource) string {
	if res.ID == "" {
		return res.Kind
	}
	return res.Kind + ":" + res.ID
}

// event makes an event of the caller's decision. The whole policy request lies beside it, so that explain can make the
// decision again.
func (r *Road) event(a allowed, typ, subject string, data any) audit.Event {
	stream, _ := audit.StreamOf(typ)
	ev := audit.Event{
		ID: id.NewEvent(a.at), Stream: stream, Type: typ, At: a.at, Actor: a.actor, Decision: a.decision, Subject: subject, Data: data,
	}
	if a.request != nil {
		ev.Parts = map[string][]byte{"request": a.request}
	}
	return ev
}

// append seals an event and stores it with what fn changes, in one transaction.
func (r *Road) append(ctx context.Context, ev audit.Event, fn func(store.Tx) error) error {
	sealed, err := audit.Seal(ev, audit.RandomSalt)
	if err != nil {
		return fault.Wrap("govern.append", err)
	}
	return r.Store.Update(ctx, func(tx store.Tx) error {
		if fn != nil {
			if err := fn(tx); err != nil {
				return err
			}
		}
		return tx.Events().Append(sealed)
	})
}

// change is append for a permitted action: in the transaction it refuses when the caller changed since the decision.
func (r *Road) change(ctx context.Context, a allowed, ev audit.Event, fn func(store.Tx) error) error {
	return r.append(ctx, ev, func(tx store.Tx) error {
		if err := a.still(tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

func (a allowed) still(tx store.Tx) error {
	var version, now int64
	if !a.person.ID.IsZero() {
		p, err := tx.People().Person(a.person.ID.String())
		if err != nil {
			return err
		}
		version, now = a.person.Version, p.Version
	} else if !a.agent.ID.IsZero() {
		g, err := tx.Registry().Agent(a.agent.ID.String())
		if err != nil {
			return err
		}
		version, now = a.agent.Version, g.Version
	}
	if version != now {
		return fault.New(fault.Conflict, "govern.still", "caller_changed", "the caller's own entry changed while this was decided").WithFix("try again")
	}
	return nil
}

// view reads under a decision that was already made.
func (r *Road) view(ctx context.Context, fn func(store.Tx) error) error { return r.Store.View(ctx, fn) }

// short keeps a text in a leaf short; the database has the whole.
func short(s string) string {
	const most = 256
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

func milli(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func unavailable(what string) error {
	return fault.New(fault.Unavailable, "govern", "not_available", "%s is not available in this process", what).
		WithFix("ask the process that runs all roles: chaperone up")
}

// draft describes a catalogue as it would be: servers, entries and pins that replace those of their name, and pins that go.
type draft struct {
	servers []catalog.Server
	entries []catalog.Entry
	pins    []catalog.Pin
	gone    []catalog.Pin
}

// fits refuses a catalogue with which the policies in force would no longer compile: Invalid "policy_would_break", with
// Refused as its cause.
func (r *Road) fits(ctx context.Context, op string, d draft) error {
	var version int64
	var servers []catalog.Server
	var entries []catalog.Entry
	var pins []catalog.Pin
	err := r.view(ctx, func(tx store.Tx) (err error) {
		if version, err = tx.Catalog().Version(); err != nil {
			return err
		}
		if servers, err = every(tx.Catalog().Servers()); err != nil {
			return err
		}
		if entries, err = every(tx.Catalog().Entries()); err != nil {
			return err
		}
		pins, err = every(tx.Pins().Pins())
		return err
	})
	if err != nil {
		return err
	}
	goes := func(p catalog.Pin) bool {
		return slices.ContainsFunc(d.gone, func(g catalog.Pin) bool { return g.Server == p.Server && g.Kind == p.Kind && g.Name == p.Name })
	}
	now := catalog.NewSnapshot(version, servers, entries, pins)
	pins = slices.Clone(pins)
	// A later entry of a name replaces the one before.
	next := catalog.NewSnapshot(version+1, append(servers, d.servers...), append(entries, d.entries...), append(slices.DeleteFunc(pins, goes), d.pins...))
	problems, err := r.Rules.Fits(ctx, next)
	if err != nil || len(problems) == 0 {
		return err
	}
	// What is broken already is not made worse: this change may be what mends it.
	if before, err := r.Rules.Fits(ctx, now); err != nil || len(before) > 0 {
		return err
	}
	return fault.New(fault.Invalid, op, "policy_would_break", "with this change %d rules in force would no longer be valid, so it is not made: %s", len(problems), problems[0].Msg).
		WithFix("change the policies first, then repeat this").WithCause(&Refused{problems})
}

func (r *Road) refresh(ctx context.Context) error {
	if err := r.Rules.Refresh(ctx); err != nil {
		return fault.New(fault.Unavailable, "govern.refresh", "not_in_force", "the change is stored and recorded, but is not yet in force here").
			WithFix("look at chaperone doctor").WithCause(err)
	}
	return nil
}
