// SPDX-License-Identifier: Apache-2.0

package issuer_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/admit"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/issuer"
	"chaperone/internal/people"
	"chaperone/internal/revocation"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

const domain = "chaperone.internal"

// house is a deployment behind real HTTP, on a real database.
type house struct {
	t     *testing.T
	url   string
	key   *identity.Key
	road  *admit.Road
	store store.Store
	agent identity.Agent
	ada   people.Person
}

func newHouse(t *testing.T) *house {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(t.TempDir(), "c.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	now := time.Now().UTC()
	h := &house{t: t, url: srv.URL, key: key(t), store: db}
	h.road = admit.New(admit.Deps{
		Store: db, Index: revocation.NewIndex(), Nonces: identity.NewNonces([]byte("a boot secret of thirty-two bytes"), time.Minute, 1000),
		TokenKeys: func() (*identity.Key, []identity.PublicKey) { return h.key, []identity.PublicKey{h.key.Public()} },
	}, admit.Config{Issuer: h.url, TrustDomain: domain})
	issuer.New(issuer.Deps{Road: h.road, Keys: func() []identity.PublicKey { return []identity.PublicKey{h.key.Public()} }},
		issuer.Config{Issuer: h.url, TrustDomain: domain, LogOrigin: domain + "/log", LogKey: "log+key"}).Routes(mux)
	h.agent = identity.Agent{
		ID: id.NewAgent(now), Name: "mailer", Type: "office", Kind: identity.KindAgent, Owner: "ada", Purpose: "tests", State: identity.Registered,
		CreatedAt: now, ExpiresAt: now.Add(time.Hour), Version: 1,
	}
	h.ada = people.Person{ID: id.NewPerson(now), Name: "ada", Roles: []people.Role{people.Operator}, CreatedAt: now, Version: 1}
	h.update(func(tx store.Tx) error {
		return errors.Join(tx.Registry().PutType(identity.Type{Name: "office"}), tx.Registry().PutAgent(h.agent), tx.People().PutPerson(h.ada))
	})
	return h
}

func key(t *testing.T) *identity.Key {
	t.Helper()
	k, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (h *house) update(fn func(store.Tx) error) {
	h.t.Helper()
	if err := h.store.Update(h.t.Context(), fn); err != nil {
		h.t.Fatal(err)
	}
}

type answer struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (a answer) code() string { s, _ := a.body["code"].(string); return s }
func (a answer) err() string  { s, _ := a.body["error"].(string); return s }

func (h *house) do(req *http.Request) answer {
	h.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	out := answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &out.body)
	if got := resp.Header.Get("Cache-Control"); got != "no-store" && resp.StatusCode != http.StatusMethodNotAllowed && resp.StatusCode != http.StatusNotFound {
		h.t.Errorf("%s: Cache-Control %q", req.URL.Path, got)
	}
	return out
}

func (h *house) request(method, path, media, body string, k *identity.Key) *http.Request {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	if k != nil {
		proof, err := identity.MintProof(k, method, h.url+path, h.road.Nonce(), "", time.Now())
		if err != nil {
			h.t.Fatal(err)
		}
		req.Header.Set("DPoP", proof)
	}
	return req
}

func (h *house) post(path string, k *identity.Key, body string) answer {
	h.t.Helper()
	return h.do(h.request("POST", path, "application/json", body, k))
}

func (h *house) joinCode() string {
	h.t.Helper()
	plain, code := identity.NewJoinCode(h.agent.ID, "ada", time.Now(), 0)
	h.update(func(tx store.Tx) error { return tx.Once().PutJoinCode(code) })
	return plain
}

// enrolled returns a key with its client_id.
func (h *house) enrolled() (*identity.Key, string) {
	h.t.Helper()
	k := key(h.t)
	got := h.post("/enroll", k, `{"code":"`+h.joinCode()+`"}`)
	if got.status != http.StatusCreated {
		h.t.Fatal(got)
	}
	return k, got.body["client_id"].(string)
}

const form = "application/x-www-form-urlencoded"

func (h *house) tokenForm(k *identity.Key, client string) url.Values {
	h.t.Helper()
	assertion, err := identity.MintAssertion(k, client, h.url, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	return url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"resource":              {h.url + "/mcp/office"}, "authorization_details": {`[{"type":"chaperone_run","purpose":"answer the mail"}]`},
	}
}

func TestEnrolAndToken(t *testing.T) {
	h := newHouse(t)
	k := key(t)
	got := h.post("/enroll", k, `{"code":"`+h.joinCode()+`"}`)
	if got.status != http.StatusCreated {
		t.Fatal(got)
	}
	client := got.body["client_id"].(string)
	want := map[string]any{
		"client_id": client, "instance": client[strings.LastIndex(client, "/")+1:], "agent": h.agent.ID.String(), "agent_name": "mailer", "agent_type": "office",
		"issuer": h.url, "trust_domain": domain, "log_origin": domain + "/log", "log_key": "log+key",
	}
	if diff := cmp.Diff(want, got.body); diff != "" {
		t.Errorf("enrolment:\n%s", diff)
	}
	got = h.do(h.request("POST", "/token", form, h.tokenForm(k, client).Encode(), k))
	if got.status != http.StatusOK || got.body["token_type"] != "DPoP" || got.body["expires_in"] != 300.0 || got.header.Get("DPoP-Nonce") == "" {
		t.Fatalf("%d %s", got.status, got.raw)
	}
	details := got.body["authorization_details"].([]any)[0].(map[string]any)
	if details["type"] != "chaperone_run" || details["opener"] != "agent" || !strings.HasPrefix(details["run"].(string), "run_") {
		t.Errorf("details %v", details)
	}
	raw := got.body["access_token"].(string)
	c, err := identity.VerifyAccess([]identity.PublicKey{h.key.Public()}, raw, h.url, h.url+"/mcp/office", time.Now())
	if err != nil || c.JKT != k.JKT() || c.Run.String() != details["run"] {
		t.Errorf("%+v, %v", c, err)
	}
	// A second time, continuing, with the metadata's endpoints.
	f := h.tokenForm(k, client)
	f.Set("authorization_details", `[{"type":"chaperone_run","run":"`+c.Run.String()+`"}]`)
	if got = h.do(h.request("POST", "/token", form, f.Encode(), k)); got.status != http.StatusOK {
		t.Errorf("%d %s", got.status, got.raw)
	}
	// And given back.
	f = h.tokenForm(k, client)
	if got = h.do(h.request("POST", "/revoke", form, url.Values{
		"token": {raw}, "client_assertion": f["client_assertion"], "client_assertion_type": f["client_assertion_type"], "token_type_hint": {"access_token"},
	}.Encode(), nil)); got.status != http.StatusOK {
		t.Errorf("%d %s", got.status, got.raw)
	}
	f = h.tokenForm(k, client)
	if got = h.do(h.request("POST", "/revoke", form, url.Values{
		"token": {"unknown"}, "client_assertion": f["client_assertion"], "client_assertion_type": f["client_assertion_type"],
	}.Encode(), nil)); got.status != http.StatusOK {
		t.Errorf("unknown token: %d %s", got.status, got.raw)
	}
}

func TestLogin(t *testing.T) {
	h := newHouse(t)
	plain, code := people.NewLoginCode(h.ada.ID, "setup", time.Now(), 0)
	h.update(func(tx store.Tx) error { return tx.People().PutCode(code) })
	k := key(t)
	got := h.post("/login", k, `{"code":"`+plain+`","profile":"laptop"}`)
	if got.status != http.StatusCreated || got.body["client_id"] != identity.PersonSPIFFE(domain, "ada") || got.body["profile"] != "laptop" || got.body["name"] != "ada" {
		t.Fatalf("%d %s", got.status, got.raw)
	}
	f := h.tokenForm(k, identity.PersonSPIFFE(domain, "ada"))
	f.Del("authorization_details")
	f.Set("resource", h.url+"/api")
	got = h.do(h.request("POST", "/token", form, f.Encode(), k))
	if got.status != http.StatusOK || got.body["authorization_details"] != nil {
		t.Fatalf("%d %s", got.status, got.raw)
	}
}

// TestNonceChallenge: without a nonce the answer is 400 use_dpop_nonce with one, and nothing is spent.
func TestNonceChallenge(t *testing.T) {
	h := newHouse(t)
	k, client := h.enrolled()
	f := h.tokenForm(k, client)
	req := h.request("POST", "/token", form, f.Encode(), nil)
	proof, err := identity.MintProof(k, "POST", h.url+"/token", "", "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("DPoP", proof)
	got := h.do(req)
	if got.status != http.StatusBadRequest || got.err() != "use_dpop_nonce" || got.header.Get("DPoP-Nonce") == "" {
		t.Fatalf("%d %s", got.status, got.raw)
	}
	req = h.request("POST", "/token", form, f.Encode(), nil)
	proof, err = identity.MintProof(k, "POST", h.url+"/token", got.header.Get("DPoP-Nonce"), "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("DPoP", proof)
	if got = h.do(req); got.status != http.StatusOK { // the same assertion
		t.Errorf("%d %s", got.status, got.raw)
	}
}

func TestTokenRefusals(t *testing.T) {
	h := newHouse(t)
	k, client := h.enrolled()
	stranger := key(t)
	set := func(name string, values ...string) func(url.Values) {
		return func(f url.Values) {
			if f[name] = values; len(values) == 0 {
				f.Del(name)
			}
		}
	}
	details := func(s string) func(url.Values) { return set("authorization_details", s) }
	tests := map[string]struct {
		form   func(url.Values)
		req    func(*http.Request)
		status int
		err    string
		code   string
	}{
		"no grant type":             {set("grant_type"), nil, 400, "unsupported_grant_type", "unsupported_grant_type"},
		"password":                  {set("grant_type", "password"), nil, 400, "unsupported_grant_type", "unsupported_grant_type"},
		"code":                      {set("grant_type", "authorization_code"), nil, 400, "unsupported_grant_type", "unsupported_grant_type"},
		"scope":                     {set("scope", "admin"), nil, 400, "invalid_scope", "invalid_scope"},
		"grant type twice":          {set("grant_type", "client_credentials", "password"), nil, 400, "invalid_request", "duplicate_parameter"},
		"assertion twice":           {func(f url.Values) { f["client_assertion"] = append(f["client_assertion"], "x") }, nil, 400, "invalid_request", "duplicate_parameter"},
		"details twice":             {set("authorization_details", "[]", "[]"), nil, 400, "invalid_request", "duplicate_parameter"},
		"an unknown one twice":      {set("x", "1", "2"), nil, 400, "invalid_request", "duplicate_parameter"},
		"two resources":             {set("resource", h.url+"/api", h.url+"/mcp/office"), nil, 400, "invalid_target", "one_audience"},
		"no resource":               {set("resource"), nil, 400, "invalid_target", "one_audience"},
		"foreign resource":          {set("resource", "https://attacker.example/"), nil, 400, "invalid_target", "unknown_audience"},
		"no assertion":              {set("client_assertion"), nil, 401, "invalid_client", "no_assertion"},
		"assertion of another type": {set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"), nil, 401, "invalid_client", "no_assertion"},
		"client secret":             {set("client_secret", "x"), nil, 401, "invalid_client", "client_secret"},
		"basic authentication":      {nil, func(r *http.Request) { r.SetBasicAuth("a", "b") }, 401, "invalid_client", "authorization_header"},
		"a bearer header":           {nil, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 401, "invalid_client", "authorization_header"},
		"another client_id":         {set("client_id", client+"x"), nil, 401, "invalid_client", "bad_assertion"},
		"garbage assertion":         {set("client_assertion", "x"), nil, 401, "invalid_client", "bad_assertion"},
		"no proof":                  {nil, func(r *http.Request) { r.Header.Del("DPoP") }, 400, "invalid_dpop_proof", "no_proof"},
		"two proofs":                {nil, func(r *http.Request) { r.Header.Add("DPoP", r.Header.Get("DPoP")) }, 400, "invalid_dpop_proof", "dpop_header_twice"},
		"stranger's proof": {nil, func(r *http.Request) {
			r.Header.Set("DPoP", h.request("POST", "/token", "", "", stranger).Header.Get("DPoP"))
		}, 400, "invalid_dpop_proof", "key_mismatch"},
		"proof of another endpoint": {nil, func(r *http.Request) {
			r.Header.Set("DPoP", h.request("POST", "/revoke", "", "", k).Header.Get("DPoP"))
		}, 400, "invalid_dpop_proof", "bad_proof"},
		"no details":                 {set("authorization_details"), nil, 400, "invalid_authorization_details", "run_required"},
		"details not json":           {details(`[`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details an object":          {details(`{"type":"chaperone_run"}`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details empty":              {details(`[]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"two details":                {details(`[{"type":"chaperone_run"},{"type":"chaperone_run"}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details of another type":    {details(`[{"type":"payment"}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, unknown member":    {details(`[{"type":"chaperone_run","clears":true}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, opener":            {details(`[{"type":"chaperone_run","opener":{"kind":"person"}}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, another case":      {details(`[{"type":"chaperone_run","Purpose":"x"}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, duplicate member":  {details(`[{"type":"chaperone_run","purpose":"a","purpose":"b"}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, null run":          {details(`[{"type":"chaperone_run","run":null}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, empty run":         {details(`[{"type":"chaperone_run","run":""}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, bad run":           {details(`[{"type":"chaperone_run","run":"run_x"}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, run and purpose":   {details(`[{"type":"chaperone_run","run":"` + id.NewRun(time.Now()).String() + `","purpose":"x"}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, budget a float":    {details(`[{"type":"chaperone_run","budgets":{"steps":1.5}}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, unknown budget":    {details(`[{"type":"chaperone_run","budgets":{"money":1}}]`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"details, negative budget":   {details(`[{"type":"chaperone_run","budgets":{"steps":-1}}]`), nil, 400, "invalid_authorization_details", "bad_budget"},
		"details, purpose too long":  {details(`[{"type":"chaperone_run","purpose":"` + strings.Repeat("x", 4097) + `"}]`), nil, 400, "invalid_authorization_details", "bad_purpose"},
		"details, trailing data":     {details(`[{"type":"chaperone_run"}] []`), nil, 400, "invalid_authorization_details", "bad_authorization_details"},
		"unknown run":                {details(`[{"type":"chaperone_run","run":"` + id.NewRun(time.Now()).String() + `"}]`), nil, 400, "invalid_grant", "run_unknown"},
		"body over the cap":          {set("x", strings.Repeat("x", 65<<10)), nil, 413, "invalid_request", "body_too_large"},
		"parameters in the URL":      {nil, func(r *http.Request) { r.URL.RawQuery = "grant_type=client_credentials" }, 400, "invalid_request", "query_parameters"},
		"json":                       {nil, func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 400, "invalid_request", "bad_content_type"},
		"no content type":            {nil, func(r *http.Request) { r.Header.Del("Content-Type") }, 400, "invalid_request", "bad_content_type"},
		"another charset":            {nil, func(r *http.Request) { r.Header.Set("Content-Type", form+"; charset=utf-16") }, 400, "invalid_request", "bad_content_type"},
		"gzip":                       {nil, func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, 400, "invalid_request", "bad_content_type"},
		"malformed form":             {nil, func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("a=%zz")), 5 }, 400, "invalid_request", "bad_form"},
		"semicolons":                 {nil, func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("a=1;b=2")), 7 }, 400, "invalid_request", "bad_form"},
		"not UTF-8":                  {set("resource", "\xff"), nil, 400, "invalid_request", "bad_form"},
		"foreign host":               {nil, func(r *http.Request) { r.Host = "attacker.example" }, 403, "invalid_request", "host_not_allowed"},
		"foreign page":               {nil, func(r *http.Request) { r.Header.Set("Origin", "https://attacker.example") }, 403, "invalid_request", "origin_not_allowed"},
		"a page without an origin":   {nil, func(r *http.Request) { r.Header.Set("Origin", "null") }, 403, "invalid_request", "origin_not_allowed"},
		"a good page and a bad page": {nil, func(r *http.Request) { r.Header["Origin"] = []string{h.url, "https://attacker.example"} }, 403, "invalid_request", "origin_not_allowed"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f := h.tokenForm(k, client)
			if tc.form != nil {
				tc.form(f)
			}
			req := h.request("POST", "/token", form, f.Encode(), k)
			if tc.req != nil {
				tc.req(req)
			}
			got := h.do(req)
			if got.status != tc.status || got.err() != tc.err || got.code() != tc.code {
				t.Errorf("%d %s, want %d %s %s", got.status, got.raw, tc.status, tc.err, tc.code)
			}
			for _, c := range []byte(got.body["error_description"].(string)) {
				if c < ' ' || c > '~' || c == '"' || c == '\\' {
					t.Errorf("the description holds %q (RFC 6749 5.2)", c)
				}
			}
			if got.status == http.StatusUnauthorized && got.header.Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		})
	}
}

func TestStoppedAgentIsTold(t *testing.T) {
	h := newHouse(t)
	k, client := h.enrolled()
	h.update(func(tx store.Tx) error {
		a, err := tx.Registry().Agent("mailer")
		if err == nil {
			if a, err = a.Move(identity.Suspended, "odd"); err == nil {
				err = tx.Registry().PutAgent(a)
			}
		}
		return err
	})
	got := h.do(h.request("POST", "/token", form, h.tokenForm(k, client).Encode(), k))
	if got.status != http.StatusBadRequest || got.err() != "unauthorized_client" || got.code() != "agent_suspended" {
		t.Errorf("%d %s", got.status, got.raw)
	}
}

func TestBindRefusals(t *testing.T) {
	h := newHouse(t)
	k := key(t)
	for name, tc := range map[string]struct {
		path, body string
		status     int
		err, code  string
	}{
		"wrong join code":    {"/enroll", `{"code":"jc_x"}`, 400, "invalid_grant", "join_code"},
		"no code":            {"/enroll", `{}`, 400, "invalid_grant", "join_code"},
		"unknown member":     {"/enroll", `{"code":"x","agent":"root"}`, 400, "invalid_request", "json_unknown_member"},
		"duplicate member":   {"/enroll", `{"code":"x","code":"y"}`, 400, "invalid_request", "json_duplicate_key"},
		"not an object":      {"/enroll", `["x"]`, 400, "invalid_request", "json_type"},
		"code a number":      {"/enroll", `{"code":1}`, 400, "invalid_request", "json_type"},
		"wrong login code":   {"/login", `{"code":"lc_x","profile":"p"}`, 400, "invalid_grant", "login_code"},
		"bad profile":        {"/login", `{"code":"lc_x","profile":"a b"}`, 400, "invalid_request", "bad_profile"},
		"join code at login": {"/login", `{"code":"` + h.joinCode() + `"}`, 400, "invalid_grant", "login_code"},
	} {
		got := h.post(tc.path, k, tc.body)
		if got.status != tc.status || got.err() != tc.err || got.code() != tc.code {
			t.Errorf("%s: %d %s, want %d %s %s", name, got.status, got.raw, tc.status, tc.err, tc.code)
		}
	}
	if got := h.do(h.request("POST", "/enroll", "application/json", `{"code":"x"}`, nil)); got.code() != "no_proof" {
		t.Errorf("without a proof: %d %s", got.status, got.raw)
	}
	if got := h.do(h.request("GET", "/token", "", "", nil)); got.status != http.StatusMethodNotAllowed {
		t.Errorf("GET /token: %d", got.status)
	}
}

func TestMetadataAndKeys(t *testing.T) {
	h := newHouse(t)
	got := h.do(h.request("GET", "/.well-known/oauth-authorization-server", "", "", nil))
	want := map[string]any{
		"issuer": h.url, "token_endpoint": h.url + "/token", "revocation_endpoint": h.url + "/revoke", "jwks_uri": h.url + "/jwks",
		"response_types_supported": []any{}, "grant_types_supported": []any{"client_credentials"},
		"token_endpoint_auth_methods_supported":                 []any{"private_key_jwt"},
		"token_endpoint_auth_signing_alg_values_supported":      []any{"ES256"},
		"revocation_endpoint_auth_methods_supported":            []any{"private_key_jwt"},
		"revocation_endpoint_auth_signing_alg_values_supported": []any{"ES256"},
		"dpop_signing_alg_values_supported":                     []any{"ES256"},
		"authorization_details_types_supported":                 []any{"chaperone_run"},
		"resource_indicators_supported":                         true,
		"chaperone_enrollment_endpoint":                         h.url + "/enroll", "chaperone_login_endpoint": h.url + "/login",
	}
	if diff := cmp.Diff(want, got.body); diff != "" || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("metadata:\n%s", diff)
	}
	got = h.do(h.request("GET", "/jwks", "", "", nil))
	if !bytes.Contains([]byte(got.raw), []byte(h.key.JKT())) || strings.Contains(got.raw, `"d"`) || got.header.Get("Content-Type") != "application/jwk-set+json" {
		t.Errorf("keys %s", got.raw)
	}
}

// TestUnderAPath: an issuer whose URL has a path keeps its metadata where RFC 8414 §3.1 wants it, and proofs name the public URL.
func TestUnderAPath(t *testing.T) {
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	defer srv.Close()
	at := srv.URL + "/gate"
	issuer.New(issuer.Deps{Road: newHouse(t).road, Keys: func() []identity.PublicKey { return nil }}, issuer.Config{Issuer: at, TrustDomain: domain}).Routes(mux)
	resp, err := http.Get(srv.URL + "/.well-known/oauth-authorization-server/gate")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(raw), `"token_endpoint":"`+at+`/token"`) {
		t.Errorf("%d %s %v", resp.StatusCode, raw, err)
	}
	resp, err = http.Post(at+"/enroll", "application/json", strings.NewReader(`{"code":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("%d", resp.StatusCode)
	}
}
