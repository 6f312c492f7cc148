// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/keyring"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

// house is a whole deployment without doors: the real store, policy engine, keyring and shipped pack, a clock that the test
// sets, and a server that offers what the test says.
type house struct {
	t     *testing.T
	road  *Road
	store *sqlstore.DB
	rules *inForce
	offer []Definition
	index *revocation.Index
	clock time.Time
	mu    sync.Mutex
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.clock
}

func (h *house) wait(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock = h.clock.Add(d)
}

// inForce is the policy library in small: what enforce.Library does for the whole product.
type inForce struct {
	store   store.Store
	mu      sync.Mutex
	set     *policy.Set
	files   map[string]string
	version int64
	fail    error
}

func tools(cat *catalog.Snapshot) (out []policy.Tool) {
	for _, d := range cat.Items() {
		var def struct {
			InputSchema json.RawMessage `json:"inputSchema"`
		}
		_ = json.Unmarshal(d.Pin.Raw, &def)
		out = append(out, policy.Tool{Server: d.Entry.Server, Name: d.Entry.Name, Kind: string(d.Entry.Kind), InputSchema: def.InputSchema,
			Groups: policy.GroupsOf(string(d.Entry.Effect), nil, len(d.Entry.Sinks) > 0)})
	}
	return out
}

func (l *inForce) Fits(_ context.Context, cat *catalog.Snapshot) ([]policy.Problem, error) {
	_, problems := policy.Compile(l.files, tools(cat))
	return problems, nil
}

func (l *inForce) Compile(ctx context.Context, files map[string]string) (*policy.Set, []policy.Problem, error) {
	var cat *catalog.Snapshot
	if err := l.store.View(ctx, func(tx store.Tx) (err error) { cat, err = snapshot(tx); return err }); err != nil {
		return nil, nil, err
	}
	set, problems := policy.Compile(files, tools(cat))
	return set, problems, nil
}

func (l *inForce) Refresh(ctx context.Context) error {
	if l.fail != nil {
		return l.fail
	}
	var b policy.Bundle
	if err := l.store.View(ctx, func(tx store.Tx) (err error) { b, err = tx.Policies().Active(); return err }); err != nil {
		return err
	}
	set, problems, err := l.Compile(ctx, b.Files)
	if err != nil || len(problems) > 0 {
		return errors.Join(err, errors.New("problems"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set, l.version, l.files = set, b.Version, b.Files
	return nil
}

func (l *inForce) Current() (*policy.Set, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set == nil {
		return nil, 0, errors.New("nothing loaded")
	}
	return l.set, l.version, nil
}

func (h *house) Definitions(context.Context, catalog.Server) ([]Definition, error) {
	return h.offer, nil
}

// build makes an empty house; open adds the shipped policies and the operator olga, logged in.
func build(t *testing.T) *house {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	ring, err := keyring.Open(filepath.Join(t.TempDir(), "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, store: db, rules: &inForce{store: db}, index: revocation.NewIndex(), clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	h.road = New(Deps{Store: db, Rules: h.rules, Upstream: h, Seal: ring, Notices: h.index, Now: h.now},
		Config{TrustDomain: "chaperone.internal", PublicURL: "http://127.0.0.1:7400", APIURL: "http://127.0.0.1:7401"})
	return h
}

func open(t *testing.T) *house {
	t.Helper()
	h := build(t)
	first, err := h.road.Bootstrap(t.Context(), "olga")
	if err != nil {
		t.Fatal(err)
	}
	if !first.Seeded || first.Code == "" {
		t.Fatalf("first start: %+v", first)
	}
	h.login("olga")
	if err := h.rules.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// login binds a key to the person, as admit does.
func (h *house) login(name string) {
	h.t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		h.t.Fatal(err)
	}
	err = h.store.Update(h.t.Context(), func(tx store.Tx) error {
		p, err := tx.People().Person(name)
		if err != nil {
			return err
		}
		p.Keys = append(slices.Clone(p.Keys), people.Key{JKT: key.JKT(), PublicJWK: key.PublicJWK(), BoundAt: h.now()})
		return tx.People().PutPerson(p)
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// as is the caller of a person's name.
func (h *house) as(name string) Caller {
	h.t.Helper()
	p, err := h.road.person(h.t.Context(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	c := Caller{Credential: identity.Credential{Person: p.ID, Audience: "http://127.0.0.1:7400/api"}, Network: "127.0.0.1"}
	if len(p.Keys) > 0 {
		c.Credential.JKT = p.Keys[0].JKT
	}
	return c
}

// add adds a person who has logged in.
func (h *house) add(name string, roles []people.Role, groups ...string) {
	h.t.Helper()
	if _, err := h.road.AddPerson(h.t.Context(), h.as("olga"), people.Person{Name: name, Roles: roles, Groups: groups}); err != nil {
		h.t.Fatal(err)
	}
	h.login(name)
}

// agent registers an agent of the type clerk and returns it.
func (h *house) agent(name, owner string) identity.Agent {
	h.t.Helper()
	if _, err := h.road.PutType(h.t.Context(), h.as("olga"), identity.Type{Name: "clerk", Reads: []string{"office/*"}}); err != nil {
		h.t.Fatal(err)
	}
	g, err := h.road.Register(h.t.Context(), h.as("olga"), identity.Agent{Name: name, Type: "clerk", Owner: owner, Purpose: "files letters"})
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

// events returns the record, oldest first, of one type ("" = all).
func (h *house) events(typ string) (out []audit.View, records []audit.Record) {
	h.t.Helper()
	err := h.store.View(h.t.Context(), func(tx store.Tx) (err error) {
		records, err = every(tx.Events().Records(audit.Filter{After: -1, Type: typ}))
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range records {
		v, err := audit.ParseLeaf(r.Leaf)
		if err != nil {
			h.t.Fatal(err)
		}
		out = append(out, v)
	}
	return out, records
}

// last returns the newest event and demands its type.
func (h *house) last(typ string) audit.View {
	h.t.Helper()
	all, _ := h.events("")
	v := all[len(all)-1]
	if v.Type != typ {
		h.t.Fatalf("the newest event is %s, not %s", v.Type, typ)
	}
	return v
}

func wantCode(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind || fault.CodeOf(err) != code {
		t.Fatalf("got %v, want %s %s", err, kind, code)
	}
}

// wantDenied demands a denial by the rule, and that it is on the record with its whole request.
func (h *house) wantDenied(t *testing.T, err error, rule string) {
	t.Helper()
	wantCode(t, err, fault.Denied, "access_denied")
	no, ok := errors.AsType[*Denial](err)
	if !ok || no.Rule != rule {
		t.Fatalf("denied by %+v, want rule %s", no, rule)
	}
	v := h.last(audit.AccessDenied)
	if v.Decision != no.Decision {
		t.Fatalf("the denial %s is not the newest on the record (%s)", no.Decision, v.Decision)
	}
	if _, ok := v.Parts["request"]; !ok {
		t.Fatal("the denial was recorded without its request")
	}
}

func resource(kind, id string) policy.Resource { return policy.Resource{Kind: kind, ID: id} }
