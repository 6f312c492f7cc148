// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"chaperone/internal/admit"
	"chaperone/internal/approval"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/gateway"
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
	"chaperone/internal/upstream"
)

// place is the door with everything real behind it: credentials, road, policies, database, and the official MCP server as upstream.
type place struct {
	t      *testing.T
	base   string
	db     *sqlstore.DB
	admit  *admit.Road
	token  *identity.Key
	agent  identity.Agent
	inst   identity.Instance
	key    *identity.Key // the instance's
	run    run.Run
	person people.Person
	server *catalog.Server

	mu     sync.Mutex
	bodies []string // of tools/call, as the upstream got them
	auth   []string
}

const canary = "sk-upstream-Zx81Qm0pLr7TtVbN"

func (p *place) Injection(context.Context, string) (secret.Injection, error) {
	return secret.Injection{Server: "office", Place: secret.Bearer, Value: secret.NewValue(canary), Version: 1}, nil
}
func (p *place) Lag(time.Time) time.Duration { return 0 }

func officeServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "office", Version: "1"}, &mcp.ServerOptions{Instructions: "be kind"})
	for _, name := range []string{"list_files", "read_mail", "hidden", "note", "pay", "send_mail", "echo_secret"} {
		s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object","properties":{"to":{"type":"string"},"iban":{"type":"string"},"region":{"type":"string","x-mcp-header":"Region"},"amount":{"type":"integer"}}}`)},
			func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				text := "done " + name
				if name == "echo_secret" {
					h := r.Extra.Header.Get("Authorization")
					text = h + " " + base64.StdEncoding.EncodeToString([]byte(h)) + fmt.Sprintf(" %x", h)
				}
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil
			})
	}
	return s
}

func newPlace(t *testing.T, stateless bool) *place {
	t.Helper()
	p := &place{t: t}
	srv := officeServer()
	h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return srv }, &mcp.StreamableHTTPOptions{Stateless: stateless})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		if strings.Contains(string(b), `"tools/call"`) {
			p.bodies = append(p.bodies, string(b))
		}
		p.auth = append(p.auth, r.Header.Get("Authorization")+r.Header.Get("DPoP"))
		p.mu.Unlock()
		r.Body = io.NopCloser(strings.NewReader(string(b)))
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(up.Close)

	now := time.Now()
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(t.TempDir(), "db")})
	p.must(err)
	t.Cleanup(func() { db.Close() })
	p.db = db
	p.token, p.key = p.newKey(), p.newKey()
	mux := http.NewServeMux()
	door := httptest.NewServer(mux)
	t.Cleanup(door.Close)
	p.base = door.URL
	boot := make([]byte, 32)
	rand.Read(boot)
	nonces := identity.NewNonces(boot, 5*time.Minute, 10_000)
	index := revocation.NewIndex()
	p.admit = admit.New(admit.Deps{Store: db, Index: index, Nonces: nonces, TokenKeys: func() (*identity.Key, []identity.PublicKey) {
		return p.token, []identity.PublicKey{p.token.Public()}
	}}, admit.Config{Issuer: p.base, TrustDomain: "chaperone.internal"})
	client := upstream.New(upstream.Deps{}, upstream.Config{})
	t.Cleanup(client.Close)
	p.server = &catalog.Server{ID: id.NewServer(now), Name: "office", URL: up.URL + "/mcp", AllowLoopback: true, Mode: "enforce", Author: "olga", UpdatedAt: now}
	p.seed(client, now)
	p.must(p.admit.Refresh(t.Context()))
	lib := enforce.NewLibrary(db, nil)
	p.must(lib.Refresh(t.Context()))
	engine := enforce.New(enforce.Deps{
		Auth: p.admit, Store: db, Snapshots: lib, Upstream: far{client}, Secrets: p, Record: p, Revocations: index,
		Link: func(a id.Approval) string { return "http://people.test/approvals/" + a.String() },
	}, enforce.Config{PublicURL: p.base, StateKey: []byte("0123456789abcdef0123456789abcdef")})
	gateway.New(gateway.Deps{Engine: engine, Nonce: func() string { return nonces.Mint(time.Now()) }},
		gateway.Config{PublicURL: p.base, SessionKey: []byte("0123456789abcdef0123456789abcdef"), Wait: -1}).Routes(mux)
	return p
}

// far fits the upstream's client to the road's port, as the program does.
type far struct{ c *upstream.Client }

func (f far) Forward(ctx context.Context, o enforce.Outgoing) (enforce.Exchange, error) {
	x, err := f.c.Forward(ctx, upstream.Forward{Server: o.Server, Injection: o.Injection, Method: o.Method, Header: o.Header, Session: o.Session, Body: o.Body})
	if err != nil {
		return nil, err
	}
	return farExchange{x}, nil
}

func (f far) Definitions(ctx context.Context, s catalog.Server, in secret.Injection) ([]enforce.Definition, error) {
	d, err := f.c.Definitions(ctx, s, in)
	if err != nil {
		return nil, err
	}
	self, err := d.Server()
	if err != nil {
		return nil, err
	}
	out := []enforce.Definition{{Kind: catalog.KindServer, Raw: self}}
	for _, i := range d.Items {
		out = append(out, enforce.Definition{Kind: i.Kind, Name: i.Name, Raw: i.Raw})
	}
	return out, nil
}

type farExchange struct{ *upstream.Exchange }

func (x farExchange) Answer() enforce.Answer {
	return enforce.Answer{Status: x.Status, Stream: x.Stream, Session: x.Session, Header: x.Header}
}

func (x farExchange) Next() (enforce.Incoming, error) {
	m, err := x.Exchange.Next()
	return enforce.Incoming{Raw: m.Raw, Doc: m.Doc, EventID: m.EventID, Event: m.Event, Retry: m.Retry, Redacted: m.Redacted}, err
}

func (p *place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) newKey() *identity.Key {
	p.t.Helper()
	k, err := identity.NewKey()
	p.must(err)
	return k
}

func (p *place) seed(client *upstream.Client, now time.Time) {
	p.t.Helper()
	tool := func(name string, effect catalog.Effect, source label.Label, sinks ...catalog.Sink) catalog.Entry {
		return catalog.Entry{Server: "office", Kind: catalog.KindTool, Name: name, Effect: effect, Source: source, Sinks: sinks, Known: true,
			Origin: map[string]string{"source": "operator", "effect": "operator"}}
	}
	in, _ := p.Injection(p.t.Context(), "office")
	defs, err := far{client}.Definitions(p.t.Context(), *p.server, in)
	p.must(err)
	files := policy.DefaultFiles()
	sum, err := policy.DigestFiles(files)
	p.must(err)
	p.person = people.Person{ID: id.NewPerson(now), Name: "pia", Roles: []people.Role{people.Approver}, CreatedAt: now, CreatedBy: "seed"}
	p.agent = identity.Agent{ID: id.NewAgent(now), Name: "mailer", Type: "assistant", Kind: identity.KindAgent, Owner: "olga", Purpose: "mail",
		State: identity.Active, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}
	jwk := p.key.Public()
	p.inst = identity.Instance{ID: id.NewInstance(now), Agent: p.agent.ID, JKT: jwk.JKT(), PublicJWK: "{}", EnrolledAt: now, EnrolledBy: "olga"}
	p.must(p.db.Update(p.t.Context(), func(tx store.Tx) error {
		p.must(tx.People().PutPerson(p.person))
		p.must(tx.Registry().PutType(identity.Type{Name: "assistant", UpdatedAt: now,
			Reads: []string{"office/list_files", "office/read_mail", "office/echo_secret"}, Writes: []string{"office/note", "office/pay", "office/send_mail"}}))
		p.must(tx.Registry().PutAgent(p.agent))
		p.must(tx.Instances().PutInstance(p.inst))
		p.must(tx.Policies().Insert(policy.Bundle{ID: id.NewBundle(now), Version: 1, Digest: sum, Files: files, Author: "olga", At: now.Add(-100 * time.Hour)}))
		p.must(tx.Catalog().PutServer(*p.server))
		for _, e := range []catalog.Entry{
			tool("list_files", catalog.Read, label.Label{}), tool("hidden", catalog.Read, label.Label{}), tool("echo_secret", catalog.Read, label.Label{}),
			tool("read_mail", catalog.Read, label.Label{Integrity: label.Untrusted, Sources: []string{"office/read_mail"}}),
			tool("note", catalog.Write, label.Label{}), tool("pay", catalog.Irreversible, label.Label{}),
			tool("send_mail", catalog.Write, label.Label{}, catalog.Sink{Argument: "to", Type: "email"}),
		} {
			p.must(tx.Catalog().PutEntry(e))
		}
		for _, d := range defs {
			digest, err := catalog.DefinitionDigest(d.Raw)
			p.must(err)
			p.must(tx.Pins().Put(catalog.Pin{Server: "office", Kind: d.Kind, Name: d.Name, Digest: digest, Raw: d.Raw, State: catalog.Pinned, By: "olga", At: now}))
		}
		return nil
	}))
	p.run = p.open()
}

func (p *place) open() run.Run {
	p.t.Helper()
	r, err := run.Open(run.Order{Agent: p.agent.ID, AgentName: p.agent.Name, AgentType: p.agent.Type, Instance: p.inst.ID,
		Opener: run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "ada-key"}, Purpose: "tidy up"}, time.Now())
	p.must(err)
	p.must(p.db.Update(p.t.Context(), func(tx store.Tx) error { return tx.Runs().Insert(r) }))
	return r
}

func (p *place) credential(change func(*identity.Credential)) string {
	p.t.Helper()
	c := identity.Credential{
		JTI: rand.Text(), Issuer: p.base, Subject: identity.AgentSPIFFE("chaperone.internal", p.agent.Name), Audience: p.base + "/mcp/office",
		ClientID: identity.InstanceSPIFFE("chaperone.internal", p.agent.Name, p.inst.ID), JKT: p.inst.JKT, Agent: p.agent.ID, AgentName: p.agent.Name,
		Instance: p.inst.ID, Run: p.run.ID, IssuedAt: time.Now().Add(-time.Second), ExpiresAt: time.Now().Add(4 * time.Minute),
	}
	if change != nil {
		change(&c)
	}
	raw, err := identity.MintAccess(p.token, c)
	p.must(err)
	return raw
}

// proving adds the credential and a proof to every request, and repeats it once with the gateway's nonce.
type proving struct {
	p          *place
	credential string
	mu         sync.Mutex
	nonce      string
	rounds     int
}

func (v *proving) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	for {
		v.mu.Lock()
		nonce := v.nonce
		v.mu.Unlock()
		url := *r.URL
		url.RawQuery = ""
		proof, err := identity.MintProof(v.p.key, r.Method, url.String(), nonce, v.credential, time.Now())
		if err != nil {
			return nil, err
		}
		again := r.Clone(r.Context())
		if body != nil {
			again.Body = io.NopCloser(strings.NewReader(string(body)))
		}
		again.Header.Set("Authorization", "DPoP "+v.credential)
		again.Header.Set("DPoP", proof)
		resp, err := http.DefaultTransport.RoundTrip(again)
		if err != nil {
			return nil, err
		}
		fresh := resp.Header.Get("DPoP-Nonce")
		v.mu.Lock()
		v.nonce = fresh
		v.rounds++
		v.mu.Unlock()
		if resp.StatusCode == 401 && strings.Contains(resp.Header.Get("WWW-Authenticate"), `error="use_dpop_nonce"`) && nonce != fresh {
			resp.Body.Close()
			continue
		}
		return resp, nil
	}
}

func (p *place) connect(opts *mcp.ClientOptions) *mcp.ClientSession {
	p.t.Helper()
	c := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, opts)
	s, err := c.Connect(p.t.Context(), &mcp.StreamableClientTransport{Endpoint: p.base + "/mcp/office", HTTPClient: &http.Client{Transport: &proving{p: p, credential: p.credential(nil)}}}, nil)
	p.must(err)
	p.t.Cleanup(func() { s.Close() })
	return s
}

func text(r *mcp.CallToolResult) string {
	if r == nil || len(r.Content) == 0 {
		return ""
	}
	return r.Content[0].(*mcp.TextContent).Text
}

func (p *place) approve() {
	p.t.Helper()
	p.must(p.db.Update(p.t.Context(), func(tx store.Tx) error {
		for a, err := range tx.Approvals().Approvals(approval.Filter{State: approval.Pending}) {
			p.must(err)
			a, err = approval.Decide(a, approval.Decision{Verdict: approval.Yes, BindingDigest: a.BindingDigest, Channel: "cli"},
				approval.Decider{ID: p.person.ID, Name: p.person.Name, Groups: []string{"approver"}}, time.Now())
			p.must(err)
			p.must(tx.Approvals().Update(a))
		}
		return nil
	}))
}

// TestRealRoad drives the official client through door, road and far side in both eras.
func TestRealRoad(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		t.Run(fmt.Sprintf("stateless %v", stateless), func(t *testing.T) {
			p := newPlace(t, stateless)
			asked := 0
			opts := &mcp.ClientOptions{}
			if stateless {
				opts.Capabilities = &mcp.ClientCapabilities{Elicitation: &mcp.ElicitationCapabilities{URL: &mcp.URLElicitationCapabilities{}}}
				opts.ElicitationHandler = func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
					asked++
					if r.Params.Mode != "url" || !strings.HasPrefix(r.Params.URL, "http://people.test/approvals/apr_") {
						t.Errorf("asked %+v", r.Params)
					}
					p.approve()
					return &mcp.ElicitResult{Action: "accept"}, nil
				}
			}
			s := p.connect(opts)
			ctx := t.Context()

			tools, err := s.ListTools(ctx, nil)
			p.must(err)
			var names []string
			for _, x := range tools.Tools {
				names = append(names, x.Name)
			}
			slices.Sort(names)
			if want := []string{"echo_secret", "list_files", "note", "pay", "read_mail", "send_mail"}; !slices.Equal(names, want) {
				t.Errorf("listed %v, want %v", names, want)
			}
			if stateless && tools.CacheScope != "private" {
				t.Errorf("cacheScope %q", tools.CacheScope)
			}
			res, err := s.CallTool(ctx, &mcp.CallToolParams{Name: "list_files", Arguments: map[string]any{}})
			if err != nil || res.IsError || text(res) != "done list_files" {
				t.Fatal(text(res), err)
			}
			_, hidden := s.CallTool(ctx, &mcp.CallToolParams{Name: "hidden", Arguments: map[string]any{}})
			_, absent := s.CallTool(ctx, &mcp.CallToolParams{Name: "absent", Arguments: map[string]any{}})
			if hidden == nil || absent == nil || hidden.Error() != absent.Error() {
				t.Errorf("hidden: %v; absent: %v", hidden, absent)
			}
			res, err = s.CallTool(ctx, &mcp.CallToolParams{Name: "echo_secret", Arguments: map[string]any{}})
			if err != nil || strings.Contains(text(res), canary[:8]) || strings.Count(text(res), "[redacted]") != 3 {
				t.Errorf("%q %v", text(res), err)
			}
			if res, err = s.CallTool(ctx, &mcp.CallToolParams{Name: "note", Arguments: map[string]any{}}); err != nil || text(res) != "done note" {
				t.Error(text(res), err)
			}
			pay := &mcp.CallToolParams{Name: "pay", Arguments: map[string]any{"amount": 5}}
			res, err = s.CallTool(ctx, pay)
			if !stateless {
				if err != nil || !res.IsError || !strings.Contains(text(res), "Waiting for approval apr_") || !strings.Contains(text(res), "http://people.test/approvals/apr_") {
					t.Fatal(text(res), err)
				}
				p.approve()
				res, err = s.CallTool(ctx, pay)
			} else if asked != 1 {
				t.Errorf("the client was asked %d times", asked)
			}
			if err != nil || res.IsError || text(res) != "done pay" {
				t.Fatal(text(res), err)
			}
			p.mu.Lock()
			last := p.bodies[len(p.bodies)-1]
			p.mu.Unlock()
			if strings.Contains(last, "requestState") || strings.Contains(last, "inputResponses") {
				t.Errorf("the upstream got what it never asked for: %s", last)
			}
			// Poison, then an outward effect that nobody cleared.
			if res, err = s.CallTool(ctx, &mcp.CallToolParams{Name: "read_mail", Arguments: map[string]any{}}); err != nil || res.IsError {
				t.Fatal(text(res), err)
			}
			res, err = s.CallTool(ctx, &mcp.CallToolParams{Name: "send_mail", Arguments: map[string]any{"to": "mallory@example.net"}})
			if err != nil || !res.IsError || !strings.Contains(text(res), "untrusted-sink") || !strings.Contains(text(res), "dec_") {
				t.Errorf("%q %v", text(res), err)
			}
			if m, ok := res.Meta["chaperone/outcome"].(map[string]any); !ok || m["rule"] != "untrusted-sink" || m["verdict"] != "denied" {
				t.Errorf("_meta %v", res.Meta)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, a := range p.auth {
				if a != "Bearer "+canary {
					t.Errorf("the upstream was sent %q", a)
				}
			}
		})
	}
}

func (p *place) raw(v http.RoundTripper, method, body string, header map[string]string) (*http.Response, string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, p.base+"/mcp/office", strings.NewReader(body))
	p.must(err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	for k, x := range header {
		r.Header.Set(k, x)
	}
	resp, err := v.RoundTrip(r)
	p.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	p.must(err)
	return resp, string(b)
}

const listCall = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"list_files","arguments":{}}}`

// TestProofsAtTheDoor is the part of the enforcement matrix that the door shows: each refusal with its named reason, on the wire.
func TestProofsAtTheDoor(t *testing.T) {
	p := newPlace(t, true)
	good := p.credential(nil)
	warm := &proving{p: p, credential: good}
	if resp, body := p.raw(warm, "POST", listCall, nil); resp.StatusCode != 200 || !strings.Contains(body, "done list_files") {
		t.Fatal(resp.StatusCode, body)
	}
	prove := func(k *identity.Key, method, url, nonce, credential string) string {
		raw, err := identity.MintProof(k, method, url, nonce, credential, time.Now())
		p.must(err)
		return raw
	}
	here := p.base + "/mcp/office"
	stranger := p.newKey()
	used := prove(p.key, "POST", here, warm.nonce, good)
	if resp, body := p.raw(http.DefaultTransport, "POST", listCall, map[string]string{"Authorization": "DPoP " + good, "DPoP": used}); resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode, body)
	}
	other := p.credential(func(c *identity.Credential) { c.Audience = p.base + "/mcp/bank" })
	late := p.credential(func(c *identity.Credential) {
		c.IssuedAt, c.ExpiresAt = time.Now().Add(-10*time.Minute), time.Now().Add(-6*time.Minute)
	})
	tests := []struct {
		name, auth, proof, code, errorAttr string
	}{
		{"no credential", "", "", "no_credential", ""},
		{"bearer", "Bearer " + good, "", "bad_credential", "invalid_token"},
		{"stolen, with another key", "DPoP " + good, prove(stranger, "POST", here, warm.nonce, good), "key_mismatch", "invalid_dpop_proof"},
		{"replayed proof", "DPoP " + good, used, "proof_replayed", "invalid_dpop_proof"},
		{"no nonce", "DPoP " + good, prove(p.key, "POST", here, "", good), "use_dpop_nonce", "use_dpop_nonce"},
		{"old nonce", "DPoP " + good, prove(p.key, "POST", here, "AAAA", good), "use_dpop_nonce", "use_dpop_nonce"},
		{"proof for another URL", "DPoP " + good, prove(p.key, "POST", p.base+"/mcp/bank", warm.nonce, good), "bad_proof", "invalid_dpop_proof"},
		{"proof for another method", "DPoP " + good, prove(p.key, "GET", here, warm.nonce, good), "bad_proof", "invalid_dpop_proof"},
		{"wrong audience", "DPoP " + other, prove(p.key, "POST", here, warm.nonce, other), "wrong_audience", "invalid_token"},
		{"expired", "DPoP " + late, prove(p.key, "POST", here, warm.nonce, late), "credential_expired", "invalid_token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := map[string]string{}
			if tt.auth != "" {
				h["Authorization"] = tt.auth
			}
			if tt.proof != "" {
				h["DPoP"] = tt.proof
			}
			resp, body := p.raw(http.DefaultTransport, "POST", listCall, h)
			challenge := resp.Header.Get("WWW-Authenticate")
			if resp.StatusCode != 401 || !strings.Contains(body, `"code":"`+tt.code+`"`) || !strings.HasPrefix(challenge, "DPoP ") {
				t.Errorf("%d %s %s", resp.StatusCode, challenge, body)
			}
			if (tt.errorAttr == "") == strings.Contains(challenge, "error=") || !strings.Contains(challenge, tt.errorAttr) {
				t.Errorf("challenge %s", challenge)
			}
		})
	}
}

func TestSessionAndParameterHeadersOnTheRealRoad(t *testing.T) {
	p := newPlace(t, false)
	v := &proving{p: p, credential: p.credential(nil)}
	resp, body := p.raw(v, "POST", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`, nil)
	session := resp.Header.Get("Mcp-Session-Id")
	if session == "" {
		t.Fatal(resp.StatusCode, body)
	}
	h := map[string]string{"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
	if resp, body := p.raw(v, "POST", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, h); resp.StatusCode != 202 || body != "" {
		t.Error(resp.StatusCode, body)
	}
	if resp, body := p.raw(v, "POST", listCall, h); resp.StatusCode != 200 || !strings.Contains(body, "done list_files") {
		t.Error(resp.StatusCode, body)
	}
	mine := p.run
	p.run = p.open()
	another := &proving{p: p, credential: p.credential(nil)}
	if resp, body := p.raw(another, "POST", listCall, h); resp.StatusCode != 404 || !strings.Contains(body, `"code":"session_of_another_run"`) {
		t.Error(resp.StatusCode, body)
	}
	p.run = mine
	if resp, body := p.raw(v, "DELETE", "", map[string]string{"Mcp-Session-Id": session}); resp.StatusCode != 204 {
		t.Error(resp.StatusCode, body)
	}

	p = newPlace(t, true)
	v = &proving{p: p, credential: p.credential(nil)}
	call := func(tool, args string, kv ...string) (*http.Response, string) {
		h := map[string]string{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool}
		for i := 0; i < len(kv); i += 2 {
			h[kv[i]] = kv[i+1]
		}
		return p.raw(v, "POST", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"`+tool+`","arguments":`+args+
			`,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, h)
	}
	if resp, body := call("list_files", `{"region":"eu"}`, "Mcp-Param-Region", "eu"); resp.StatusCode != 200 || !strings.Contains(body, "done list_files") {
		t.Error(resp.StatusCode, body)
	}
	for _, kv := range [][]string{nil, {"Mcp-Param-Region", "us"}} {
		if resp, body := call("list_files", `{"region":"eu"}`, kv...); resp.StatusCode != 400 || !strings.Contains(body, `"code":-32020`) || !strings.Contains(body, "header_mismatch") {
			t.Error(resp.StatusCode, body)
		}
	}
	if resp, body := call("list_files", `{"Region":"eu"}`); resp.StatusCode != 400 || !strings.Contains(body, "argument_case") {
		t.Error(resp.StatusCode, body)
	}
	// What a caller may not see does not show through its parameters either.
	_, hidden := call("hidden", `{"region":"eu"}`)
	_, absent := call("absent", `{"region":"eu"}`)
	if hidden != absent || !strings.Contains(hidden, "unknown tool") {
		t.Errorf("%s\n%s", hidden, absent)
	}
	if n := len(p.bodies); n != 1 {
		t.Errorf("%d calls went upstream, want 1", n)
	}
}
