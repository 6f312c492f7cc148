// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/run"
	"chaperone/internal/secret"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
	"chaperone/internal/upstream"
)

const publicURL = "http://gateway.test"

var (
	start    = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	stateKey = []byte("0123456789abcdef0123456789abcdef")
)

// house is a whole small deployment around the road: a real store, real policies, a real client towards a real MCP server. Only who
// is calling is told by the test.
type house struct {
	t      testing.TB
	db     *sqlstore.DB
	store  store.Store
	office *office
	lib    *enforce.Library
	engine *enforce.Engine
	config enforce.Config
	far    enforce.Upstream
	path   string // of the database

	mu     sync.Mutex
	at     time.Time
	lag    time.Duration
	age    time.Duration
	trace  []string
	agent  identity.Agent
	inst   identity.Instance
	run    run.Run
	people map[string]people.Person
}

// Authenticate tells that the caller holds a good credential for the run named in the token.
func (h *house) Authenticate(_ context.Context, p identity.Presented, audience string) (identity.Credential, error) {
	if audience != publicURL+"/mcp/office" {
		return identity.Credential{}, fault.New(fault.Unauthenticated, "test", "wrong_audience", "not for this server")
	}
	if p.Token == "" {
		return identity.Credential{}, fault.New(fault.Unauthenticated, "test", "no_credential", "no credential")
	}
	if stolen, ok := strings.CutPrefix(p.Token, "stolen "); ok {
		r, err := id.ParseRun(stolen)
		h.must(err)
		return identity.Credential{}, &identity.Refused{Credential: h.credential(r), Err: fault.New(fault.Unauthenticated, "test", "key_mismatch", "another key")}
	}
	r, err := id.ParseRun(p.Token)
	if err != nil {
		return identity.Credential{}, fault.New(fault.Unauthenticated, "test", "bad_credential", "bad credential")
	}
	return h.credential(r), nil
}

func (h *house) credential(r id.Run) identity.Credential {
	return identity.Credential{Agent: h.agent.ID, AgentName: h.agent.Name, Instance: h.inst.ID, Run: r, JKT: h.inst.JKT}
}

func (h *house) Injection(context.Context, string) (secret.Injection, error) {
	return secret.Injection{Server: "office", Place: secret.Bearer, Value: secret.NewValue(upstreamSecret), Version: 1}, nil
}

func (h *house) Lag(time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lag
}

func (h *house) Age(time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.age
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = h.at.Add(d)
}

func (h *house) note(s string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trace = append(h.trace, s)
}

const upstreamSecret = "office-secret-0123456789"

func newHouse(t testing.TB, change ...func(*house)) *house {
	t.Helper()
	h := &house{t: t, at: start, people: map[string]people.Person{}, path: filepath.Join(t.TempDir(), "db")}
	h.office = newOffice(t, h)
	h.config = enforce.Config{PublicURL: publicURL, StateKey: stateKey}
	h.far = farSide{Client: upstream.New(upstream.Deps{}, upstream.Config{})}
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: h.path, Trace: func(string) { h.note("commit") }})
	h.must(err)
	t.Cleanup(func() { db.Close() })
	h.db, h.store = db, db
	for _, f := range change {
		f(h)
	}
	h.seed()
	h.build()
	return h
}

// build puts the road together on what the database holds.
func (h *house) build() {
	h.lib = enforce.NewLibrary(h.store, nil)
	if err := h.lib.Refresh(context.Background()); err != nil {
		panic(err)
	}
	if h.far == nil {
		h.far = farSide{Client: upstream.New(upstream.Deps{}, upstream.Config{})}
	}
	h.engine = enforce.New(enforce.Deps{
		Auth: h, Store: h.store, Snapshots: h.lib, Upstream: h.far, Secrets: h, Record: h, Revocations: h, Now: h.now,
		Link: func(a id.Approval) string { return "http://people.test/approvals/" + a.String() },
	}, h.config)
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) update(fn func(store.Tx) error) {
	h.t.Helper()
	h.must(h.db.Update(context.Background(), fn))
}

func (h *house) view(fn func(store.Tx) error) {
	h.t.Helper()
	h.must(h.db.View(context.Background(), fn))
}

var trusted = map[string]string{"source": "operator", "effect": "operator"}

func entries() []catalog.Entry {
	mail := label.Label{Integrity: label.Untrusted, Sources: []string{"office/read_mail"}, Level: label.Internal}
	tool := func(name string, effect catalog.Effect, source label.Label, stakes []catalog.Stake, sinks ...catalog.Sink) catalog.Entry {
		return catalog.Entry{Server: "office", Kind: catalog.KindTool, Name: name, Effect: effect, Source: source, Stakes: stakes, Sinks: sinks, Known: true, Origin: trusted}
	}
	to := catalog.Sink{Argument: "to", Type: "email"}
	return []catalog.Entry{
		tool("read_mail", catalog.Read, mail, nil),
		tool("list_files", catalog.Read, label.Label{Level: label.Internal}, nil),
		tool("other_files", catalog.Read, label.Label{Level: label.Confidential}, nil),
		tool("hidden", catalog.Read, label.Label{}, nil),
		tool("note", catalog.Write, label.Label{}, nil),
		tool("send_mail", catalog.Write, label.Label{}, []catalog.Stake{catalog.ExternalCommunication}, to),
		tool("pay", catalog.Irreversible, label.Label{}, []catalog.Stake{catalog.Money}, catalog.Sink{Argument: "iban", Type: "iban"}),
		{Server: "office", Kind: catalog.KindPrompt, Name: "greet", Effect: catalog.Read, Known: true, Origin: trusted},
		{Server: "office", Kind: catalog.KindResource, Name: "file:///a.txt", Effect: catalog.Read, Known: true, Origin: trusted},
		{Server: "office", Kind: catalog.KindTemplate, Name: "file:///dir/{name}", Effect: catalog.Read, Known: true, Origin: trusted},
	}
}

const purpose = "Pay the invoice to DE89370400440532013000 and write to bob@example.org."

func (h *house) seed() {
	srv := catalog.Server{ID: id.NewServer(start), Name: "office", URL: h.office.URL, AllowLoopback: true, Mode: "enforce", Author: "olga", UpdatedAt: start}
	client := upstream.New(upstream.Deps{}, upstream.Config{})
	in, _ := h.Injection(h.t.Context(), "office")
	defs, err := farSide{Client: client}.Definitions(h.t.Context(), srv, in)
	h.must(err)
	files := policy.DefaultFiles()
	sum, err := policy.DigestFiles(files)
	h.must(err)
	for _, p := range []people.Person{
		{Name: "olga", Roles: []people.Role{people.Operator}}, {Name: "ada", Roles: []people.Role{people.Approver}},
		{Name: "pia", Roles: []people.Role{people.Approver}}, {Name: "tom", Roles: []people.Role{people.Approver}},
	} {
		p.ID, p.CreatedAt, p.CreatedBy = id.NewPerson(start), start, "seed"
		h.people[p.Name] = p
	}
	h.agent = identity.Agent{
		ID: id.NewAgent(start), Name: "mailer", Type: "assistant", Kind: identity.KindAgent, Owner: "olga", Purpose: "mail", State: identity.Active,
		CreatedAt: start, ExpiresAt: start.Add(1000 * time.Hour),
	}
	h.inst = identity.Instance{ID: id.NewInstance(start), Agent: h.agent.ID, JKT: "jkt-one", PublicJWK: "{}", EnrolledAt: start, EnrolledBy: "olga"}
	h.update(func(tx store.Tx) error {
		for _, p := range h.people {
			h.must(tx.People().PutPerson(p))
		}
		h.must(tx.Registry().PutType(identity.Type{
			Name: "assistant", UpdatedAt: start,
			Reads:  []string{"office/read_mail", "office/list_files", "office/other_files", "office/prompt:greet", "office/resource:file:///a.txt", "office/resource:file:///dir/{name}"},
			Writes: []string{"office/note", "office/send_mail", "office/pay"},
		}))
		h.must(tx.Registry().PutAgent(h.agent))
		h.must(tx.Instances().PutInstance(h.inst))
		h.must(tx.Policies().Insert(policy.Bundle{ID: id.NewBundle(start), Version: 1, Digest: sum, Files: files, Author: "olga", At: start.Add(-100 * time.Hour)}))
		h.must(tx.Catalog().PutServer(srv))
		for _, e := range entries() {
			h.must(tx.Catalog().PutEntry(e))
		}
		for _, d := range defs {
			h.must(tx.Pins().Put(pinOf(d)))
		}
		return nil
	})
	h.view(func(tx store.Tx) (err error) {
		h.agent, err = tx.Registry().Agent("mailer")
		h.must(err)
		for name := range h.people {
			h.people[name], err = tx.People().Person(name)
			h.must(err)
		}
		return nil
	})
	h.run = h.open(run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "ada-key"}, purpose)
}

func pinOf(d enforce.Definition) catalog.Pin {
	sum, err := catalog.DefinitionDigest(d.Raw)
	if err != nil {
		panic(err)
	}
	return catalog.Pin{Server: "office", Kind: d.Kind, Name: d.Name, Digest: sum, Raw: d.Raw, State: catalog.Pinned, By: "olga", At: start}
}

// open opens a run for the agent's instance, the way the road of credentials does.
func (h *house) open(by run.Opener, purpose string, change ...func(*run.Order)) run.Run {
	h.t.Helper()
	o := run.Order{
		Agent: h.agent.ID, AgentName: h.agent.Name, AgentType: h.agent.Type, Instance: h.inst.ID, Opener: by, Purpose: purpose,
	}
	if by.Kind == run.ByAgent {
		h.view(func(tx store.Tx) error {
			in, err := tx.Instances().Instance(h.inst.ID)
			o.Start = in.Carried
			return err
		})
	}
	for _, f := range change {
		f(&o)
	}
	r, err := run.Open(o, h.now())
	h.must(err)
	h.update(func(tx store.Tx) error { return tx.Runs().Insert(r) })
	return r
}

func (h *house) stored(r id.Run) (out run.Run) {
	h.t.Helper()
	h.view(func(tx store.Tx) (err error) {
		out, err = tx.Runs().Run(r)
		return err
	})
	return out
}

// sink collects what was released.
type sink struct {
	h        *house
	messages []enforce.Message
	fail     error
}

func (s *sink) Release(m enforce.Message) error {
	s.h.note("release")
	if s.fail != nil {
		return s.fail
	}
	s.messages = append(s.messages, m)
	return nil
}

func (s *sink) text() string {
	var b strings.Builder
	for _, m := range s.messages {
		b.Write(m.Raw)
	}
	return b.String()
}

// answer is everything a call came to.
type answer struct {
	enforce.Outcome
	err error
	out *sink
}

func rpc(method, params string) []byte {
	return []byte(`{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":` + params + `}`)
}

func (h *house) tool(name, args string, change ...func(*enforce.Request)) enforce.Request {
	req := enforce.Request{
		Presented: identity.Presented{Scheme: "DPoP", Token: h.run.ID.String()}, Server: "office", Era: "2025-11-25", Method: enforce.MethodCall,
		Kind: catalog.KindTool, Name: name, Arguments: json.RawMessage(args), ID: "7", HTTPMethod: "POST", Remote: "127.0.0.1",
		Body:   rpc("tools/call", `{"name":"`+name+`","arguments":`+args+`}`),
		Header: map[string][]string{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}},
	}
	for _, f := range change {
		f(&req)
	}
	return req
}

func (h *house) method(name string, change ...func(*enforce.Request)) enforce.Request {
	req := h.tool("", "{}")
	req.Method, req.Kind, req.Name, req.Arguments, req.Body = name, "", "", nil, rpc(name, "{}")
	for _, f := range change {
		f(&req)
	}
	return req
}

func in(r run.Run) func(*enforce.Request) {
	return func(req *enforce.Request) { req.Presented.Token = r.ID.String() }
}

func (h *house) do(req enforce.Request) answer {
	out := &sink{h: h}
	o, err := h.engine.Call(h.t.Context(), req, out)
	return answer{o, err, out}
}

func (h *house) call(name, args string, change ...func(*enforce.Request)) answer {
	h.t.Helper()
	return h.do(h.tool(name, args, change...))
}

// want asserts how a call ended.
func (h *house) want(a answer, v enforce.Verdict, code string) {
	h.t.Helper()
	if a.Verdict != v || a.Code != code {
		h.t.Fatalf("verdict %s, code %q, rule %q, reason %q, error %v; want %s, %q", a.Verdict, a.Code, a.Rule, a.Reason, a.err, v, code)
	}
	if (a.err != nil) != (v == enforce.Failed) {
		h.t.Fatalf("error = %v with verdict %s", a.err, v)
	}
	if v != enforce.Released && !a.Begun && len(a.out.messages) > 0 {
		h.t.Fatalf("something was released: %s", a.out.text())
	}
}

// wantRule asserts that a rule of the policies, by its id, has denied the call.
func (h *house) wantRule(a answer, rule string) {
	h.t.Helper()
	if a.Verdict != enforce.Denied || a.Code != "denied" || a.Rule != rule {
		h.t.Fatalf("verdict %s, code %q, rule %q, error %v; want denied by the rule %q", a.Verdict, a.Code, a.Rule, a.err, rule)
	}
	h.want(a, enforce.Denied, "denied")
	if a.Reason == "" || !a.Listed {
		h.t.Fatalf("the caller is not told why: %+v", a.Outcome)
	}
}

// wantHidden asserts that a call got the one answer of what may not be seen, and that its true reason is on the record.
func (h *house) wantHidden(a answer, code string) {
	h.t.Helper()
	if a.Verdict != enforce.Denied || a.Code != enforce.CodeNotListed {
		h.t.Fatalf("verdict %s, code %q, error %v; want denied, %q, for the reason %q", a.Verdict, a.Code, a.err, enforce.CodeNotListed, code)
	}
	h.want(a, enforce.Denied, enforce.CodeNotListed)
	h.recorded(a.Run, audit.CallRefused, code)
}

// because asserts why consent that was given earlier did not serve.
func (h *house) because(code string) {
	h.t.Helper()
	rows := h.events(h.run.ID, audit.CallDecided)
	if got := rows[len(rows)-1].Data.Decided; got == nil || got.Code != code {
		h.t.Fatalf("the reason on the record is %+v, want %q", got, code)
	}
}

// row is an event of a call, read back from its leaf.
type row struct {
	audit.View
	Data audit.Call
}

// events are the events of a run's record with call data, oldest first; kinds narrows them.
func (h *house) events(r id.Run, kinds ...string) (out []row) {
	h.t.Helper()
	h.view(func(tx store.Tx) error {
		for rec, err := range tx.Events().Records(audit.Filter{After: -1, Run: r}) {
			h.must(err)
			v, err := audit.ParseLeaf(rec.Leaf)
			h.must(err)
			if len(kinds) > 0 && !slices.Contains(kinds, v.Type) {
				continue
			}
			x := row{View: v}
			if strings.HasPrefix(v.Type, "call.") && v.Data != nil {
				if x.Data, err = v.Call(); err != nil {
					var d audit.Decided
					h.must(canon.Decode(v.Data, canon.Limits{}, &d))
					x.Data.Decided = &d
				}
			}
			out = append(out, x)
		}
		return nil
	})
	return out
}

// recorded asserts that the last event of these kinds in the run has the code.
func (h *house) recorded(r id.Run, kind, code string) row {
	h.t.Helper()
	rows := h.events(r, kind)
	if len(rows) == 0 {
		h.t.Fatalf("no %s is on the record, want one with the code %q", kind, code)
	}
	last := rows[len(rows)-1]
	if last.Data.Code != code {
		h.t.Fatalf("%s has code %q on the record, want %q", kind, last.Data.Code, code)
	}
	return last
}

// decide is a person's word on an approval.
func (h *house) decide(a id.Approval, who string, v approval.Verdict) error {
	return h.db.Update(context.Background(), func(tx store.Tx) error {
		stored, err := tx.Approvals().Approval(a)
		if err != nil {
			return err
		}
		p := h.people[who]
		groups := slices.Clone(p.Groups)
		for _, r := range p.Roles {
			groups = append(groups, string(r))
		}
		done, err := approval.Decide(stored, approval.Decision{Verdict: v, BindingDigest: stored.BindingDigest, Channel: "cli", Reason: "because"},
			approval.Decider{ID: p.ID, Name: p.Name, Groups: groups, Suspended: p.Suspended}, h.now())
		if err != nil {
			return err
		}
		if err := tx.Approvals().Update(done); err != nil {
			return err
		}
		s, err := audit.Seal(audit.Event{ID: id.NewEvent(h.now()), Stream: audit.People, Type: audit.ApprovalDecided, At: h.now(),
			Actor: audit.Actor{Kind: audit.ActorPerson, Name: who}, Approval: a, Run: stored.Call.Run}, audit.RandomSalt)
		if err != nil {
			return err
		}
		return tx.Events().Append(s)
	})
}

// asked makes the call pending and has pia say yes.
func (h *house) approved(name, args string, change ...func(*enforce.Request)) id.Approval {
	h.t.Helper()
	a := h.call(name, args, change...)
	h.want(a, enforce.Pending, "approval_pending")
	h.must(h.decide(a.Approval.ID, "pia", approval.Yes))
	return a.Approval.ID
}

func (h *house) grants(r id.Run) (out []grant.Grant) {
	h.view(func(tx store.Tx) error {
		for g, err := range tx.Grants().Grants(grant.Filter{Run: r}) {
			h.must(err)
			out = append(out, g)
		}
		return nil
	})
	return out
}

// pays is a payment that the purpose clears and people must allow.
const pays = `{"iban":"DE89 3704 0044 0532 0130 00","amount":5}`
