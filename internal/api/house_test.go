// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chaperone/internal/admit"
	"chaperone/internal/api/client"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/identity"
	"chaperone/internal/issuer"
	"chaperone/internal/keyring"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

// house is a deployment behind real sockets: the door and the issuer, the real roads, store, policies and keys. Only what an upstream
// offers, the road of calls, the log's files and the checks are what the test says.
type house struct {
	t       *testing.T
	db      *sqlstore.DB
	road    *govern.Road
	api     string
	issuer  string
	log     bytes.Buffer
	logMu   sync.Mutex
	offer   []govern.Definition
	asked   govern.Asked
	checks  []client.Check
	export  func(io.Writer) error
	olga    *client.Client
	olgaKey *identity.Key
}

func (h *house) Write(b []byte) (int, error) {
	h.logMu.Lock()
	defer h.logMu.Unlock()
	return h.log.Write(b)
}

func (h *house) Definitions(context.Context, catalog.Server) ([]govern.Definition, error) {
	return h.offer, nil
}
func (h *house) AskGrant(context.Context, identity.Credential, string, govern.Asking) (govern.Asked, error) {
	return h.asked, nil
}
func (h *house) Check(context.Context) []client.Check { return h.checks }

// The log in small.
func (h *house) Read(path string) ([]byte, error) {
	if path == "checkpoint" || path == "tile/0/000.p/1" {
		return []byte(path), nil
	}
	return nil, fault.New(fault.NotFound, "test", "no_such_file", "there is no %s", path)
}
func (h *house) Lag(time.Time) time.Duration                 { return 0 }
func (h *house) Size() uint64                                { return 1 }
func (h *house) Checkpoint() ([]byte, error)                 { return []byte("checkpoint"), nil }
func (h *house) Export(_ context.Context, w io.Writer) error { return h.export(w) }
func (h *house) logText() string                             { h.logMu.Lock(); defer h.logMu.Unlock(); return h.log.String() }

// rules is the policy library behind its port, as app has it.
type rules struct {
	*enforce.Library
	db store.Store
}

func (r rules) Current() (*policy.Set, int64, error) {
	s, err := r.Library.Current()
	if err != nil {
		return nil, 0, err
	}
	return s.Policy, s.PolicyVersion, nil
}

func (r rules) Compile(ctx context.Context, files map[string]string) (*policy.Set, []policy.Problem, error) {
	var cat *catalog.Snapshot
	if err := r.db.View(ctx, func(tx store.Tx) (err error) { cat, err = enforce.LoadCatalog(tx); return err }); err != nil {
		return nil, nil, err
	}
	set, problems := policy.Compile(files, enforce.ToolsOf(cat))
	return set, problems, nil
}

func (r rules) Fits(context.Context, *catalog.Snapshot) ([]policy.Problem, error) { return nil, nil }

type credentials struct{ *admit.Road }

func (c credentials) OpenRun(ctx context.Context, opener identity.Credential, in govern.Opening) (run.Run, error) {
	return c.Road.OpenRun(ctx, opener, admit.Opening(in))
}

// serve starts a server whose URL is known before its handler is made.
func serve(t *testing.T) (string, *http.ServeMux) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, mux
}

// open starts everything and logs the first operator, olga, in.
func open(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, export: func(w io.Writer) error { _, err := io.WriteString(w, "tar"); return err }}
	var err error
	if h.db, err = sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(t.TempDir(), "db")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.db.Close() })
	ring, err := keyring.Open(filepath.Join(t.TempDir(), "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	var agents, peoples *http.ServeMux
	h.issuer, agents = serve(t)
	h.api, peoples = serve(t)
	nonces := identity.NewNonces([]byte("thirty-two bytes of boot secret!"), 5*time.Minute, 1000)
	index := revocation.NewIndex()
	road := admit.New(admit.Deps{Store: h.db, Index: index, Nonces: nonces, TokenKeys: ring.TokenKeys}, admit.Config{Issuer: h.issuer, TrustDomain: "chaperone.internal"})
	if err := road.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	issuer.New(issuer.Deps{Road: road, Keys: func() []identity.PublicKey { _, p := ring.TokenKeys(); return p }},
		issuer.Config{Issuer: h.issuer, TrustDomain: "chaperone.internal", LogOrigin: "chaperone.internal/log", LogKey: "k"}).Routes(agents)
	lib := enforce.NewLibrary(h.db, nil)
	h.road = govern.New(govern.Deps{
		Store: h.db, Rules: rules{lib, h.db}, Credentials: credentials{road}, Grants: h, Upstream: h, Seal: ring, Record: h, Notices: index,
	}, govern.Config{TrustDomain: "chaperone.internal", PublicURL: h.issuer, APIURL: h.api, Version: "test"})
	New(Deps{Govern: h.road, Auth: road, Nonces: nonces, Log: h, Checks: h, Logger: slog.New(slog.NewTextHandler(h, nil))},
		Config{PublicURL: h.issuer, APIURL: h.api, TrustDomain: "chaperone.internal", Version: "test", MaxBody: 64 << 10}).Routes(peoples)
	first, err := h.road.Bootstrap(t.Context(), "olga")
	if err != nil {
		t.Fatal(err)
	}
	if err := lib.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.olga, h.olgaKey = h.login(first.Code)
	return h
}

// login binds a new key with the code, over HTTP, and returns a client that speaks with it.
func (h *house) login(code string) (*client.Client, *identity.Key) {
	h.t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		h.t.Fatal(err)
	}
	in, err := client.Login(h.t.Context(), h.issuer, key, code, "test", client.Config{})
	if err != nil {
		h.t.Fatal(err)
	}
	return client.New(h.api, client.Holder{Key: key, ClientID: in.ClientID, Issuer: in.Issuer}, client.Config{}), key
}

// add adds a person and logs them in.
func (h *house) add(name string, groups []string, roles ...people.Role) *client.Client {
	h.t.Helper()
	code, err := h.olga.AddPerson(h.t.Context(), client.AddPerson{Name: name, Roles: roles, Groups: groups})
	if err != nil {
		h.t.Fatal(err)
	}
	c, _ := h.login(code.Code)
	return c
}

// raw sends a request as it stands and returns the answer with its body.
func (h *house) raw(method, path string, body string, header http.Header) (*http.Response, []byte) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.api+path, bytes.NewReader([]byte(body)))
	if err != nil {
		h.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
		req.Header.Del("Host")
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		h.t.Fatal(err)
	}
	return resp, b
}

func problemOf(t *testing.T, resp *http.Response, b []byte) client.Problem {
	t.Helper()
	var p client.Problem
	if err := json.Unmarshal(b, &p); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("not a problem document: %s %s", resp.Header.Get("Content-Type"), b)
	}
	if p.Status != resp.StatusCode || p.Code == "" || p.Title == "" {
		t.Fatalf("%d %+v", resp.StatusCode, p)
	}
	return p
}

func wantCode(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind || fault.CodeOf(err) != code {
		t.Fatalf("got %v, want %s %s", err, kind, code)
	}
}

// recorder is a ResponseRecorder that reads its answer as a problem.
type recorder struct{ *httptest.ResponseRecorder }

func newRecorder() recorder { return recorder{httptest.NewRecorder()} }

func (r recorder) request(path string) *http.Request { return httptest.NewRequest("GET", path, nil) }
func (r recorder) text() string                      { return r.Body.String() }

func (r recorder) problem(t *testing.T) client.Problem {
	t.Helper()
	return problemOf(t, r.Result(), r.Body.Bytes())
}
