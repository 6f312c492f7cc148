// SPDX-License-Identifier: Apache-2.0

package admit_test

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chaperone/internal/admit"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/people"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

const (
	issuer = "http://127.0.0.1:7400"
	domain = "chaperone.internal"
	office = issuer + "/mcp/office"
	api    = issuer + "/api"
	token  = issuer + "/token"
)

// tb is what *testing.T and *rapid.T share.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// watch is a wall clock that a test sets.
type watch struct {
	mu sync.Mutex
	at time.Time
}

func (w *watch) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *watch) move(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

// world is a deployment: a real database, the road, and a few names.
type world struct {
	t     tb
	ctx   context.Context
	clock *watch
	store store.Store
	index *revocation.Index
	key   *identity.Key
	road  *admit.Road
	boot  []byte
	many  int // proofs that are remembered; 0 = 100,000
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), clock: &watch{at: time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)}}
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(t.TempDir(), "c.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w.store = db
	w.key = w.newKey()
	w.restart()
	w.update(func(tx store.Tx) error {
		return errors.Join(
			tx.Registry().PutType(identity.Type{Name: "office", UpdatedAt: w.clock.now()}),
			tx.People().PutPerson(people.Person{ID: id.NewPerson(w.clock.now()), Name: "ada", Roles: []people.Role{people.Operator}, CreatedAt: w.clock.now(), Version: 1}),
		)
	})
	return w
}

// restart is a new process on the same database: a new boot secret, an empty index, no memory.
func (w *world) restart() {
	w.boot = append([]byte("boot secret of thirty-two bytes "), byte(len(w.boot)))
	w.index = revocation.NewIndex()
	w.road = admit.New(admit.Deps{
		Store: w.store, Index: w.index, Nonces: identity.NewNonces(w.boot, 5*time.Minute, cmp.Or(w.many, 100_000)),
		TokenKeys: func() (*identity.Key, []identity.PublicKey) { return w.key, []identity.PublicKey{w.key.Public()} },
		Now:       w.clock.now,
	}, admit.Config{Issuer: issuer, TrustDomain: domain})
}

func (w *world) newKey() *identity.Key {
	w.t.Helper()
	k, err := identity.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *world) update(fn func(store.Tx) error) {
	w.t.Helper()
	if err := w.store.Update(w.ctx, fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) view(fn func(store.Tx) error) {
	w.t.Helper()
	if err := w.store.View(w.ctx, fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) register(name string, change ...func(*identity.Agent)) identity.Agent {
	w.t.Helper()
	now := w.clock.now()
	a := identity.Agent{
		ID: id.NewAgent(now), Name: name, Type: "office", Kind: identity.KindAgent, Owner: "ada", Purpose: "tests", State: identity.Registered,
		CreatedAt: now, ExpiresAt: now.Add(30 * 24 * time.Hour), Version: 1,
	}
	for _, c := range change {
		c(&a)
	}
	w.update(func(tx store.Tx) error { return tx.Registry().PutAgent(a) })
	return a
}

func (w *world) joinCode(agent id.Agent) string {
	w.t.Helper()
	plain, code := identity.NewJoinCode(agent, "ada", w.clock.now(), 0)
	w.update(func(tx store.Tx) error { return tx.Once().PutJoinCode(code) })
	return plain
}

// holder is whoever holds a key: an instance, or a person.
type holder struct {
	w        *world
	key      *identity.Key
	client   string
	agent    identity.Agent
	instance identity.Instance
	person   people.Person
}

func (w *world) proof(k *identity.Key, url, nonce, credential string) string {
	w.t.Helper()
	raw, err := identity.MintProof(k, "POST", url, nonce, credential, w.clock.now())
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *world) enrol(agent identity.Agent) *holder {
	w.t.Helper()
	k := w.newKey()
	in, a, err := w.road.Enrol(w.ctx, w.joinCode(agent.ID), identity.Presented{Proof: w.proof(k, issuer+"/enroll", w.road.Nonce(), ""), Method: "POST", URL: issuer + "/enroll"})
	if err != nil {
		w.t.Fatal(err)
	}
	return &holder{w: w, key: k, client: identity.InstanceSPIFFE(domain, a.Name, in.ID), agent: a, instance: in}
}

func (w *world) login(name string) *holder {
	w.t.Helper()
	var p people.Person
	w.view(func(tx store.Tx) (err error) { p, err = tx.People().Person(name); return err })
	plain, code := people.NewLoginCode(p.ID, "setup", w.clock.now(), 0)
	w.update(func(tx store.Tx) error { return tx.People().PutCode(code) })
	k := w.newKey()
	p, err := w.road.BindPerson(w.ctx, plain, "default", identity.Presented{Proof: w.proof(k, issuer+"/login", w.road.Nonce(), ""), Method: "POST", URL: issuer + "/login"})
	if err != nil {
		w.t.Fatal(err)
	}
	return &holder{w: w, key: k, client: identity.PersonSPIFFE(domain, p.Name), person: p}
}

// request forms a token request that is in order; change spoils it.
func (h *holder) request(audience string, order *admit.RunOrder, change ...func(*admit.TokenRequest)) admit.TokenRequest {
	h.w.t.Helper()
	assertion, err := identity.MintAssertion(h.key, h.client, issuer, h.w.clock.now())
	if err != nil {
		h.w.t.Fatal(err)
	}
	req := admit.TokenRequest{
		ClientID: h.client, Assertion: assertion, Audience: audience, Run: order,
		Presented: identity.Presented{Proof: h.w.proof(h.key, token, h.w.road.Nonce(), ""), Method: "POST", URL: token},
	}
	for _, c := range change {
		c(&req)
	}
	return req
}

func (h *holder) token(audience string, order *admit.RunOrder, change ...func(*admit.TokenRequest)) (admit.TokenAnswer, error) {
	h.w.t.Helper()
	return h.w.road.Token(h.w.ctx, h.request(audience, order, change...))
}

// must returns a credential that has to be given.
func (h *holder) must(audience string, order *admit.RunOrder) admit.TokenAnswer {
	h.w.t.Helper()
	out, err := h.token(audience, order)
	if err != nil {
		h.w.t.Fatal(err)
	}
	return out
}

func (h *holder) open(purpose string) admit.TokenAnswer {
	h.w.t.Helper()
	return h.must(office, &admit.RunOrder{Purpose: purpose})
}

// present forms what comes on the wire with a credential.
func (h *holder) present(credential, url string) identity.Presented {
	h.w.t.Helper()
	return identity.Presented{Scheme: "DPoP", Token: credential, Method: "POST", URL: url, Proof: h.w.proof(h.key, url, h.w.road.Nonce(), credential)}
}

func (h *holder) use(credential, audience string) error {
	h.w.t.Helper()
	_, err := h.w.road.Authenticate(h.w.ctx, h.present(credential, audience), audience)
	return err
}

func (w *world) run(key id.Run) run.Run {
	w.t.Helper()
	var out run.Run
	w.view(func(tx store.Tx) (err error) { out, err = tx.Runs().Run(key); return err })
	return out
}

// poison is what a call does that reads something untrusted (invariant 5).
func (w *world) poison(r id.Run, in id.Instance) {
	w.t.Helper()
	l := label.Label{Integrity: label.Untrusted, Sources: []string{"office/read_mail"}}
	w.update(func(tx store.Tx) error { return errors.Join(tx.Runs().Join(r, l), tx.Instances().JoinCarried(in, l)) })
}

// events returns the types of events on record, oldest first.
func (w *world) events() []audit.View {
	w.t.Helper()
	var out []audit.View
	w.view(func(tx store.Tx) error {
		out = nil
		for rec, err := range tx.Events().Records(audit.Filter{After: -1, Limit: 100_000}) {
			if err != nil {
				return err
			}
			v, err := audit.ParseLeaf(rec.Leaf)
			if err != nil {
				return err
			}
			out = append(out, v)
		}
		return nil
	})
	return out
}

func (w *world) types() []string {
	w.t.Helper()
	var out []string
	for _, e := range w.events() {
		out = append(out, e.Type)
	}
	return out
}

func wantCode(t tb, err error, code string) {
	t.Helper()
	switch {
	case code == "" && err != nil:
		t.Fatalf("refused: %v", err)
	case code != "" && (err == nil || fault.CodeOf(err) != code):
		t.Fatalf("got %v, want %s", err, code)
	}
}
