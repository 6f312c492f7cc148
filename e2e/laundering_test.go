// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chaperone/internal/admit"
	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/secret"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

// TestNoRunIsLaundered is a random walk over everything that opens, continues, branches, restarts and re-enrols, on the real
// roads of credentials and calls, the real policies and a real database; only the upstream is made up. The model beside it is
// written from invariant 5 of the architecture alone and knows nothing of how labels are kept:
//
//   - what a run reads marks it, and a child has all its ancestors' marks at every step;
//   - a run that the agent's own key opened starts with the marks of that instance's earlier runs;
//   - a purpose clears a value only if a person's key stated it, for the run they stated it for;
//   - a newly enrolled instance starts clean.
//
// In a marked run an outward effect with an uncleared value must be refused by the rule untrusted-sink, as a call and as a grant asked
// ahead, whatever was granted or approved before the mark; a cleared value must never be; and no mark is ever lost.
func TestNoRunIsLaundered(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f != nil && f.Value.String() == f.DefValue { // a walk is long; -rapid.checks asks for more of them
		if err := flag.Set("rapid.checks", "50"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = flag.Set("rapid.checks", f.DefValue) }()
	}
	d := newDeployment(t)
	steps := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := d.walk(t)
		w.enrol(0)
		w.open(w.bridges[0], nil)
		acts := map[string]func(*rapid.T){
			"open by agent":      func(t *rapid.T) { w.open(w.bridge(t), nil) },
			"child":              func(t *rapid.T) { w.open(w.bridge(t), w.any(t)) },
			"open by person":     func(t *rapid.T) { w.openByPerson(w.agent(t), nil) },
			"child by person":    func(t *rapid.T) { w.openByPerson(w.agent(t), w.any(t)) },
			"continue":           func(t *rapid.T) { w.take(w.bridge(t), w.any(t)) },
			"second bridge":      func(t *rapid.T) { w.bridges = append(w.bridges, w.bridge(t)) },
			"re-enrolment":       func(t *rapid.T) { w.enrol(w.agent(t)) },
			"restart":            func(t *rapid.T) { d.restart(t) },
			"read something":     func(t *rapid.T) { w.read(w.any(t)) },
			"grant ahead":        func(t *rapid.T) { w.ask(w.any(t), w.value(t)) },
			"approve everything": func(t *rapid.T) { w.approve() },
			"send":               func(t *rapid.T) { w.send(w.any(t), w.value(t)) },
			"end":                func(t *rapid.T) { w.end(w.any(t)) },
			"":                   func(t *rapid.T) { w.check() },
		}
		counted := map[string]func(*rapid.T){}
		for name, act := range acts {
			counted[name] = func(t *rapid.T) { w.t = t; act(t); steps[name]++ }
		}
		t.Repeat(counted)
	})
	t.Logf("steps: %v; sends refused by untrusted-sink %d, cleared and let pass or asked %d, in clean runs %d", steps, d.refused, d.cleared, d.clean)
	if d.refused == 0 || d.cleared == 0 || d.clean == 0 {
		t.Error("the walk never met one of the three cases")
	}
}

const (
	public = "http://gateway.test"
	trust  = "chaperone.internal"
)

// The values that a mail may go to. Nobody but an attacker ever wants the last.
var values = []string{"bob@example.org", "carol@example.org", "eve@evil.example"}

// deployment is shared by all walks; each walks with agents of its own.
type deployment struct {
	t      *testing.T
	store  store.Store
	lib    *enforce.Library
	now    time.Time
	key    *identity.Key
	ada    *identity.Key
	person identity.Credential
	boots  int
	names  int

	road   *admit.Road
	engine *enforce.Engine

	refused, cleared, clean int
}

func newDeployment(t *testing.T) *deployment {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(t.TempDir(), "c.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	d := &deployment{t: t, store: db, now: time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC), key: newKey(t), ada: newKey(t)}
	ada := people.Person{ID: id.NewPerson(d.now), Name: "ada", Roles: []people.Role{people.Operator}, CreatedAt: d.now, Version: 1,
		Keys: []people.Key{{JKT: d.ada.JKT(), PublicJWK: d.ada.PublicJWK(), BoundAt: d.now}}}
	pia := people.Person{ID: id.NewPerson(d.now), Name: "pia", Roles: []people.Role{people.Approver}, CreatedAt: d.now, Version: 1}
	d.person = identity.Credential{Person: ada.ID, JKT: d.ada.JKT(), ClientID: identity.PersonSPIFFE(trust, "ada")}
	files := policy.DefaultFiles()
	digest, err := policy.DigestFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	before := d.now.Add(-100 * time.Hour) // nobody approves what they changed within a day
	d.must(t, db.Update(t.Context(), func(tx store.Tx) error {
		errs := []error{
			tx.People().PutPerson(ada), tx.People().PutPerson(pia),
			tx.Registry().PutType(identity.Type{Name: "assistant", UpdatedAt: d.now, Reads: []string{"office/read_mail"}, Writes: []string{"office/send_mail"}}),
			tx.Policies().Insert(policy.Bundle{ID: id.NewBundle(d.now), Version: 1, Digest: digest, Files: files, Author: "ada", At: before}),
			tx.Catalog().PutServer(catalog.Server{ID: id.NewServer(d.now), Name: "office", URL: "http://office.test", AllowLoopback: true, Mode: "enforce", Author: "ada", UpdatedAt: before}),
		}
		origin := map[string]string{"effect": "operator", "source": "operator"}
		mail := label.Label{Integrity: label.Untrusted, Sources: []string{"office/read_mail"}}
		for _, e := range []catalog.Entry{
			{Server: "office", Kind: catalog.KindTool, Name: "read_mail", Effect: catalog.Read, Source: mail, Known: true, Origin: origin},
			{Server: "office", Kind: catalog.KindTool, Name: "send_mail", Effect: catalog.Write, Stakes: []catalog.Stake{catalog.ExternalCommunication},
				Sinks: []catalog.Sink{{Argument: "to", Type: "email"}}, Known: true, Origin: origin},
		} {
			errs = append(errs, tx.Catalog().PutEntry(e))
		}
		for _, def := range definitions() {
			sum, err := catalog.DefinitionDigest(def.Raw)
			errs = append(errs, err, tx.Pins().Put(catalog.Pin{Server: "office", Kind: def.Kind, Name: def.Name, Digest: sum, Raw: def.Raw, State: catalog.Pinned, By: "ada", At: before}))
		}
		return errors.Join(errs...)
	}))
	d.lib = enforce.NewLibrary(db, nil)
	d.must(t, d.lib.Refresh(t.Context()))
	d.restart(t)
	return d
}

// restart is a new process on the same database.
func (d *deployment) restart(t failer) {
	d.boots++
	index := revocation.NewIndex()
	nonces := identity.NewNonces(fmt.Appendf(nil, "boot %026d", d.boots), 5*time.Minute, 1<<20)
	now := func() time.Time { return d.now }
	d.road = admit.New(admit.Deps{
		Store: d.store, Index: index, Nonces: nonces, Now: now,
		TokenKeys: func() (*identity.Key, []identity.PublicKey) { return d.key, []identity.PublicKey{d.key.Public()} },
	}, admit.Config{Issuer: public, TrustDomain: trust})
	d.must(t, d.road.Refresh(d.t.Context()))
	d.engine = enforce.New(enforce.Deps{
		Auth: d.road, Store: d.store, Snapshots: d.lib, Upstream: office{}, Secrets: office{}, Record: office{}, Revocations: index, Now: now,
	}, enforce.Config{PublicURL: public, StateKey: []byte("0123456789abcdef0123456789abcdef")})
}

type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func (d *deployment) must(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t failer) *identity.Key {
	t.Helper()
	k, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// office is the far side: it has two tools and answers every call.
type office struct{}

func definitions() []enforce.Definition {
	out := []enforce.Definition{{Kind: catalog.KindServer, Raw: json.RawMessage(`{"endpoint":"http://office.test","instructions":"","serverInfo":null}`)}}
	for _, name := range []string{"read_mail", "send_mail"} {
		out = append(out, enforce.Definition{Kind: catalog.KindTool, Name: name,
			Raw: json.RawMessage(`{"name":"` + name + `","inputSchema":{"type":"object","properties":{"to":{"type":"string"}}}}`)})
	}
	return out
}

func (office) Definitions(context.Context, catalog.Server, secret.Injection) ([]enforce.Definition, error) {
	return definitions(), nil
}

func (office) Forward(context.Context, enforce.Outgoing) (enforce.Exchange, error) {
	raw := []byte(`{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"done"}]}}`)
	doc, err := canon.Parse(raw, canon.Limits{})
	return &exchange{enforce.Incoming{Raw: raw, Doc: doc}, false}, err
}

func (office) Injection(context.Context, string) (secret.Injection, error) {
	return secret.Injection{}, nil
}

func (office) Lag(time.Time) time.Duration { return 0 }

type exchange struct {
	message enforce.Incoming
	done    bool
}

func (x *exchange) Answer() enforce.Answer { return enforce.Answer{Status: 200} }
func (x *exchange) Close() error           { return nil }
func (x *exchange) Next() (enforce.Incoming, error) {
	if x.done {
		return enforce.Incoming{}, io.EOF
	}
	x.done = true
	return x.message, nil
}

type sink struct{}

func (sink) Release(enforce.Message) error { return nil }

// The model, in invariant 5's words.

// modelRun is a run: who stated what, where it hangs, in whose hands it is, what was read in it and what it started with.
type modelRun struct {
	id      id.Run
	agent   int
	person  bool // a person's key opened it
	stated  []string
	parent  *modelRun
	holder  *bridge // of the instance that has it; nil until somebody takes it up
	started bool    // with a mark
	read    bool
	ended   bool
	was     bool // marked when it ended
}

func (r *modelRun) marked() bool {
	if r.ended {
		return r.was
	}
	return r.started || r.read || r.parent != nil && r.parent.marked()
}

func (r *modelRun) clears(value string) bool { return r.person && slices.Contains(r.stated, value) }

// bridge is one instance's key in one process; two bridges may share it.
type bridge struct {
	agent    int
	key      *identity.Key
	client   string
	instance id.Instance
}

// walk is one random walk: some agents of one type, their bridges, and every run, in the model and by identifier.
type walk struct {
	*deployment
	t       *rapid.T
	agents  []identity.Agent
	bridges []*bridge
	runs    []*modelRun
	seen    map[id.Run]bool // marks that were seen on the real run
}

func (d *deployment) walk(t *rapid.T) *walk {
	w := &walk{deployment: d, t: t, seen: map[id.Run]bool{}}
	for range 2 {
		d.names++
		a := identity.Agent{
			ID: id.NewAgent(d.now), Name: fmt.Sprintf("agent-%d", d.names), Type: "assistant", Kind: identity.KindAgent, Owner: "ada", Purpose: "mail",
			State: identity.Registered, CreatedAt: d.now, ExpiresAt: d.now.Add(1000 * time.Hour), Version: 1,
		}
		d.must(t, d.store.Update(d.t.Context(), func(tx store.Tx) error { return tx.Registry().PutAgent(a) }))
		w.agents = append(w.agents, a)
	}
	return w
}

func (w *walk) ctx() context.Context { return w.deployment.t.Context() }

func (w *walk) bridge(t *rapid.T) *bridge { return rapid.SampledFrom(w.bridges).Draw(t, "bridge") }
func (w *walk) any(t *rapid.T) *modelRun {
	live := slices.DeleteFunc(slices.Clone(w.runs), func(r *modelRun) bool { return r.ended })
	return rapid.SampledFrom(live).Draw(t, "run")
}
func (w *walk) value(t *rapid.T) string { return rapid.SampledFrom(values).Draw(t, "value") }
func (w *walk) agent(t *rapid.T) int    { return rapid.IntRange(0, len(w.agents)-1).Draw(t, "agent") }
func (w *walk) earlier(b *bridge) (is bool) {
	for _, r := range w.runs {
		is = is || r.holder != nil && r.holder.instance == b.instance && r.marked()
	}
	return is
}

// enrol is an operator's doing: a code, and a new instance that binds a new key with it.
func (w *walk) enrol(agent int) {
	plain, code := identity.NewJoinCode(w.agents[agent].ID, "ada", w.now, 0)
	w.must(w.t, w.store.Update(w.ctx(), func(tx store.Tx) error { return tx.Once().PutJoinCode(code) }))
	k := newKey(w.t)
	in, a, err := w.road.Enrol(w.ctx(), plain, identity.Presented{Method: "POST", URL: public + "/enroll", Proof: w.proof(k, public+"/enroll", "")})
	w.must(w.t, err)
	w.bridges = append(w.bridges, &bridge{agent: agent, key: k, client: identity.InstanceSPIFFE(trust, a.Name, in.ID), instance: in.ID})
}

func (w *walk) proof(k *identity.Key, url, credential string) string {
	raw, err := identity.MintProof(k, "POST", url, w.road.Nonce(), credential, w.now)
	w.must(w.t, err)
	return raw
}

func (w *walk) token(b *bridge, audience string, order *admit.RunOrder) (admit.TokenAnswer, error) {
	assertion, err := identity.MintAssertion(b.key, b.client, public, w.now)
	w.must(w.t, err)
	return w.road.Token(w.ctx(), admit.TokenRequest{
		Assertion: assertion, Audience: audience, Run: order,
		Presented: identity.Presented{Method: "POST", URL: public + "/token", Proof: w.proof(b.key, public+"/token", "")},
	})
}

const atOffice = public + "/mcp/office"

// open is the agent's own key opening a run, stating whatever it likes.
func (w *walk) open(b *bridge, parent *modelRun) {
	stated := rapid.SliceOfN(rapid.SampledFrom(values), 0, 3).Draw(w.t, "stated")
	order := &admit.RunOrder{Purpose: fmt.Sprintf("write to %v", stated)}
	for i, v := range stated {
		if i == 0 {
			order.Plan = []run.PlanStep{{Tool: "office/send_mail", Sinks: map[string][]string{"to": {v}}}}
		}
	}
	if parent != nil {
		order.Parent = parent.id
	}
	started := w.earlier(b)
	out, err := w.token(b, atOffice, order)
	if err != nil {
		w.mayRefuse(err)
		return
	}
	w.runs = append(w.runs, &modelRun{id: out.Run.ID, agent: b.agent, stated: stated, parent: parent, holder: b, started: started})
}

// openByPerson is a person's key opening a run for an agent.
func (w *walk) openByPerson(agent int, parent *modelRun) {
	stated := rapid.SliceOfNDistinct(rapid.SampledFrom(values[:2]), 0, 2, rapid.ID).Draw(w.t, "stated")
	in := admit.Opening{Agent: w.agents[agent].Name, Purpose: fmt.Sprintf("write to %v", stated)}
	if parent != nil {
		in.Parent = parent.id
	}
	out, err := w.road.OpenRun(w.ctx(), w.person, in)
	if err != nil {
		w.mayRefuse(err)
		return
	}
	r := &modelRun{id: out.ID, agent: agent, person: true, stated: stated, parent: parent}
	w.runs = append(w.runs, r)
	// Mostly the agent takes it up and does what it was told; what else may come between is drawn elsewhere.
	for _, b := range w.bridges {
		if b.agent == agent && rapid.Bool().Draw(w.t, "taken up") {
			w.take(b, r)
			for _, v := range stated {
				w.send(r, v)
			}
			return
		}
	}
}

// take continues a run, whosoever it is.
func (w *walk) take(b *bridge, r *modelRun) {
	_, err := w.token(b, atOffice, &admit.RunOrder{Continue: r.id})
	mine := r.agent == b.agent && (r.holder == nil || r.holder.instance == b.instance)
	if (err == nil) != mine {
		w.t.Fatalf("a run of agent %d was continued by agent %d: %v", r.agent, b.agent, err)
	}
	if mine && r.holder == nil {
		r.holder = b
	}
}

// mayRefuse holds what may keep a run from being opened; nothing else may.
func (w *walk) mayRefuse(err error) {
	switch fault.CodeOf(err) {
	case "too_deep", "wider_than_parent", "run_of_another_agent", "run_of_another_instance":
		return
	}
	w.t.Fatal(err)
}

// end ends a run with all below it; a new one takes its place if none is left.
func (w *walk) end(r *modelRun) {
	w.must(w.t, w.road.EndRun(w.ctx(), audit.Actor{Kind: audit.ActorPerson, Name: "ada"}, r.id, "done"))
	for _, one := range w.runs { // parents come before their children
		if one == r || one.parent != nil && one.parent.ended {
			one.was, one.ended = one.marked(), true
		}
	}
	if !slices.ContainsFunc(w.runs, func(one *modelRun) bool { return !one.ended }) {
		w.open(w.bridges[0], nil)
	}
}

// call makes a tool call in a run by the instance that has it.
func (w *walk) call(r *modelRun, tool, args string) (enforce.Outcome, bool) {
	if r.holder == nil {
		return enforce.Outcome{}, false
	}
	out, err := w.token(r.holder, atOffice, &admit.RunOrder{Continue: r.id})
	w.must(w.t, err)
	o, err := w.engine.Call(w.ctx(), enforce.Request{
		Presented: identity.Presented{Scheme: "DPoP", Token: out.Token, Method: "POST", URL: atOffice, Proof: w.proof(r.holder.key, atOffice, out.Token)},
		Server:    "office", Era: "2025-11-25", Method: enforce.MethodCall, Kind: catalog.KindTool, Name: tool, Arguments: json.RawMessage(args),
		ID: "7", HTTPMethod: "POST", Remote: "127.0.0.1", Body: []byte(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"` + tool + `","arguments":` + args + `}}`),
	}, sink{})
	if err != nil {
		w.t.Fatalf("%s in %s: %v", tool, r.id, err)
	}
	return o, true
}

// read takes in a stranger's words.
func (w *walk) read(r *modelRun) {
	o, ok := w.call(r, "read_mail", `{}`)
	if !ok {
		return
	}
	if o.Verdict != enforce.Released {
		w.t.Fatalf("read_mail: %+v", o)
	}
	r.read = true
}

// send tries to get a value out, and holds the outcome against the model.
func (w *walk) send(r *modelRun, value string) {
	if o, ok := w.call(r, "send_mail", `{"to":"`+value+`"}`); ok {
		w.judge("send", r, value, o)
	}
}

// ask asks for the same ahead, on an API credential of the run.
func (w *walk) ask(r *modelRun, value string) {
	if r.holder == nil {
		return
	}
	out, err := w.token(r.holder, public+"/api", &admit.RunOrder{Continue: r.id})
	w.must(w.t, err)
	g, err := w.engine.AskGrant(w.ctx(), enforce.Ask{
		Credential: out.Credential, Run: r.id, Server: "office", Tool: "send_mail", Arguments: json.RawMessage(`{"to":"` + value + `"}`), Remote: "127.0.0.1",
	})
	if err != nil {
		w.t.Fatalf("asking ahead: %v", err)
	}
	w.judge("grant ahead", r, value, g.Outcome)
}

func (w *walk) judge(what string, r *modelRun, value string, o enforce.Outcome) {
	stopped := o.Verdict == enforce.Denied && o.Rule == "untrusted-sink"
	switch {
	case r.clears(value) && stopped:
		w.t.Fatalf("%s to %s in a run for which a person stated it: %+v", what, value, o)
	case r.clears(value):
		w.cleared++
	case r.marked() && !stopped:
		w.t.Fatalf("%s to %s in a marked run (by person %v, stated %v): %+v", what, value, r.person, r.stated, o)
	case stopped:
		w.refused++
	default:
		w.clean++
	}
}

// approve has the approver say yes to whatever waits.
func (w *walk) approve() {
	w.must(w.t, w.store.Update(w.ctx(), func(tx store.Tx) error {
		pia, err := tx.People().Person("pia")
		if err != nil {
			return err
		}
		var open []approval.Approval
		for _, r := range w.runs {
			for a, err := range tx.Approvals().Approvals(approval.Filter{State: approval.Pending, Run: r.id}) {
				if err != nil {
					return err
				}
				open = append(open, a)
			}
		}
		for _, a := range open {
			done, err := approval.Decide(a, approval.Decision{Verdict: approval.Yes, BindingDigest: a.BindingDigest, Channel: "cli"},
				approval.Decider{ID: pia.ID, Name: pia.Name, Groups: pia.Standing()}, w.now)
			if err != nil {
				return err
			}
			if err := tx.Approvals().Update(done); err != nil {
				return err
			}
		}
		return nil
	}))
}

// check compares every run's real label with the model: no mark is missing, and none that was seen is gone.
func (w *walk) check() {
	w.must(w.t, w.store.View(w.ctx(), func(tx store.Tx) error {
		for _, m := range w.runs {
			r, err := tx.Runs().Run(m.id)
			if err != nil {
				return err
			}
			var above []run.Run
			for at := r; !at.Parent.IsZero(); {
				if at, err = tx.Runs().Run(at.Parent); err != nil {
					return err
				}
				above = append(above, at)
			}
			var carried label.Label
			if !r.Instance.IsZero() {
				in, err := tx.Instances().Instance(r.Instance)
				if err != nil {
					return err
				}
				carried = in.Carried
			}
			is := run.Effective(r, above, carried).IsUntrusted()
			if m.marked() && !is {
				return fmt.Errorf("run %s (by person %v) lacks its mark", m.id, m.person)
			}
			if w.seen[m.id] && !is {
				return fmt.Errorf("run %s lost its mark", m.id)
			}
			w.seen[m.id] = is
			if r.Clears() != m.person {
				return fmt.Errorf("run %s clears %v, opened by a person %v", m.id, r.Clears(), m.person)
			}
		}
		return nil
	}))
}
