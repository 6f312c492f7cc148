// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// fill makes a path out of a pattern.
func fill(pattern string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	for _, name := range []string{"{name}", "{id}", "{server}"} {
		path = strings.ReplaceAll(path, name, "x")
	}
	return method, path
}

// TestEveryRouteAsksWho: no route answers anything to a request without a credential, and each says how to bring one.
func TestEveryRouteAsksWho(t *testing.T) {
	h := open(t)
	d := New(Deps{}, Config{})
	patterns := []string{"GET /api/audit/export", "GET /api/nothing", "POST /api/whoami"}
	for p := range d.routes() {
		patterns = append(patterns, p)
	}
	if len(patterns) < 45 {
		t.Fatalf("only %d routes", len(patterns))
	}
	for _, pattern := range patterns {
		method, path := fill(pattern)
		resp, b := h.raw(method, path, "", nil)
		p := problemOf(t, resp, b)
		if resp.StatusCode != http.StatusUnauthorized || p.Code != "no_credential" || resp.Header.Get("DPoP-Nonce") == "" ||
			!strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), `DPoP algs="ES256"`) || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s %v", pattern, resp.StatusCode, p.Code, resp.Header)
		}
	}
}

// access gets a credential of olga's and the header that proves it for one request.
func (h *house) access(method, path string, key *identity.Key) http.Header {
	h.t.Helper()
	resp, _ := h.raw("GET", "/api/whoami", "", nil)
	nonce := resp.Header.Get("DPoP-Nonce")
	token := h.token(identity.PersonSPIFFE("chaperone.internal", "olga"))
	proof, err := identity.MintProof(key, method, h.api+path, nonce, token, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	return http.Header{"Authorization": {"DPoP " + token}, "Dpop": {proof}, "Content-Type": {"application/json"}}
}

// token asks the issuer for olga's credential as a person's tool would.
func (h *house) token(clientID string) string {
	h.t.Helper()
	nonce := ""
	for range 3 {
		assertion, err := identity.MintAssertion(h.olgaKey, clientID, h.issuer, time.Now())
		if err != nil {
			h.t.Fatal(err)
		}
		proof, err := identity.MintProof(h.olgaKey, "POST", h.issuer+"/token", nonce, "", time.Now())
		if err != nil {
			h.t.Fatal(err)
		}
		form := "grant_type=client_credentials&client_id=" + clientID + "&resource=" + h.issuer + "/api" +
			"&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion=" + assertion
		req, _ := http.NewRequestWithContext(h.t.Context(), "POST", h.issuer+"/token", strings.NewReader(form))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("DPoP", proof)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			h.t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		nonce = resp.Header.Get("DPoP-Nonce")
		var out struct {
			Access string `json:"access_token"`
		}
		if json.Unmarshal(b, &out) == nil && out.Access != "" {
			return out.Access
		}
	}
	h.t.Fatal("no credential")
	return ""
}

func TestProofOfKey(t *testing.T) {
	h := open(t)
	stranger, _ := identity.NewKey()
	good := h.access("GET", "/api/people", h.olgaKey)
	if resp, b := h.raw("GET", "/api/people", "", good); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, b)
	}
	with := func(h http.Header, name string, values ...string) http.Header {
		out := h.Clone()
		out[http.CanonicalHeaderKey(name)] = values
		return out
	}
	fresh := func(path string) http.Header { return h.access("GET", path, h.olgaKey) }
	other := fresh("/api/people")
	rows := []struct {
		name   string
		header http.Header
		code   string
		oauth  string
	}{
		{"the same proof again", good, "proof_replayed", "invalid_dpop_proof"},
		{"another key's proof", h.access("GET", "/api/people", stranger), "key_mismatch", "invalid_dpop_proof"},
		{"another path's proof", fresh("/api/agents"), "bad_proof", "invalid_dpop_proof"},
		{"no proof", with(fresh("/api/people"), "DPoP"), "no_proof", "invalid_dpop_proof"},
		{"two proofs", with(other, "DPoP", other.Get("DPoP"), other.Get("DPoP")), "bad_credential", "invalid_token"},
		{"a bearer", with(other, "Authorization", "Bearer "+strings.TrimPrefix(other.Get("Authorization"), "DPoP ")), "bad_credential", "invalid_token"},
		{"nonsense", with(other, "Authorization", "DPoP a.b.c"), "bad_credential", "invalid_token"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			resp, b := h.raw("GET", "/api/people", "", r.header)
			p := problemOf(t, resp, b)
			challenge := resp.Header.Get("WWW-Authenticate")
			if resp.StatusCode != http.StatusUnauthorized || p.Code != r.code || r.oauth != "" && !strings.Contains(challenge, `error="`+r.oauth+`"`) {
				t.Fatalf("%d %s %s", resp.StatusCode, p.Code, challenge)
			}
		})
	}
	t.Run("no nonce", func(t *testing.T) {
		token := strings.TrimPrefix(other.Get("Authorization"), "DPoP ")
		proof, _ := identity.MintProof(h.olgaKey, "GET", h.api+"/api/people", "", token, time.Now())
		resp, b := h.raw("GET", "/api/people", "", with(other, "DPoP", proof))
		if p := problemOf(t, resp, b); p.Code != "use_dpop_nonce" || !strings.Contains(resp.Header.Get("WWW-Authenticate"), `error="use_dpop_nonce"`) || resp.Header.Get("DPoP-Nonce") == "" {
			t.Fatalf("%+v %v", p, resp.Header)
		}
	})
}

func TestHostAndOrigin(t *testing.T) {
	h := open(t)
	port := h.api[strings.LastIndex(h.api, ":"):]
	rows := []struct {
		name   string
		header http.Header
		code   string
	}{
		{"another host", http.Header{"Host": {"evil.example"}}, "host_not_allowed"},
		{"another port", http.Header{"Host": {"127.0.0.1:1"}}, "host_not_allowed"},
		{"another origin", http.Header{"Origin": {"https://evil.example"}}, "origin_not_allowed"},
		{"null origin", http.Header{"Origin": {"null"}}, "origin_not_allowed"},
		{"two origins", http.Header{"Origin": {h.api, "https://evil.example"}}, "origin_not_allowed"},
		{"cross-site fetch", http.Header{"Sec-Fetch-Site": {"cross-site"}}, "origin_not_allowed"},
		{"own origin", http.Header{"Origin": {h.api}}, "no_credential"},
		{"localhost", http.Header{"Host": {"localhost" + port}}, "no_credential"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			resp, b := h.raw("GET", "/api/whoami", "", r.header)
			if p := problemOf(t, resp, b); p.Code != r.code {
				t.Fatalf("%d %s", resp.StatusCode, p.Code)
			}
		})
	}
}

func TestStrictBodies(t *testing.T) {
	h := open(t)
	rows := []struct{ name, body, media, code string }{
		{"unknown member", `{"name":"eve","roles":["auditor"],"admin":true}`, "application/json", "json_unknown_member"},
		{"another case", `{"Name":"eve","roles":["auditor"]}`, "application/json", "json_unknown_member"},
		{"twice", `{"name":"eve","name":"mallory","roles":["auditor"]}`, "application/json", "json_duplicate_key"},
		{"wrong type", `{"name":7,"roles":["auditor"]}`, "application/json", "json_type"},
		{"two documents", `{"name":"eve"} {}`, "application/json", "json_trailing_data"},
		{"not UTF-8", "{\"name\":\"\xff\"}", "application/json", "json_invalid_utf8"},
		{"deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), "application/json", "json_too_deep"},
		{"nothing", ``, "application/json", "json_syntax"},
		{"a form", `name=eve`, "application/x-www-form-urlencoded", "bad_media_type"},
		{"no media type", `{"name":"eve","roles":["auditor"]}`, "", "bad_media_type"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			header := h.access("POST", "/api/people", h.olgaKey)
			header["Content-Type"] = []string{r.media}
			resp, b := h.raw("POST", "/api/people", r.body, header)
			if p := problemOf(t, resp, b); resp.StatusCode != http.StatusBadRequest || p.Code != r.code || p.Fix == "" {
				t.Fatalf("%d %+v", resp.StatusCode, p)
			}
		})
	}
	header := h.access("POST", "/api/people", h.olgaKey)
	resp, b := h.raw("POST", "/api/people", `{"name":"`+strings.Repeat("a", 70<<10)+`"}`, header)
	if p := problemOf(t, resp, b); p.Code != "body_too_large" || p.Fix == "" {
		t.Fatalf("%d %+v", resp.StatusCode, p)
	}
}

func TestStrictQueries(t *testing.T) {
	h := open(t)
	for _, q := range []string{"limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "colour=red", "after=nobody", "%zz"} {
		path := "/api/people?" + q
		resp, b := h.raw("GET", path, "", h.access("GET", "/api/people", h.olgaKey))
		if p := problemOf(t, resp, b); p.Code != "bad_query" || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %+v", q, resp.StatusCode, p)
		}
	}
	for _, q := range []string{"newest=1", "after=-2", "run=run_x", "stream=all"} {
		resp, b := h.raw("GET", "/api/audit/events?"+q, "", h.access("GET", "/api/audit/events", h.olgaKey))
		if p := problemOf(t, resp, b); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %+v", q, resp.StatusCode, p)
		}
	}
}

// TestInternalErrorsTellNothing: what went wrong inside is in the log and nowhere else.
func TestInternalErrorsTellNothing(t *testing.T) {
	h := open(t)
	h.export = func(io.Writer) error { return nil }
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	d := New(Deps{Logger: nil}, Config{APIURL: h.api})
	rec := newRecorder()
	d.problem(rec, rec.request("/api/people"), errors.New("password 4711 of the database"))
	if p := rec.problem(t); p.Status != 500 || p.Code != "internal" || strings.Contains(rec.text(), "4711") {
		t.Fatalf("%+v", p)
	}
	rec = newRecorder()
	d.problem(rec, rec.request("/api/people"), fault.Wrap("x", errors.New("password 4711")))
	if p := rec.problem(t); p.Code != "internal" || strings.Contains(rec.text(), "4711") {
		t.Fatalf("%+v", p)
	}
}

func TestStatuses(t *testing.T) {
	want := map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.NotFound: 404, fault.Exists: 409, fault.Conflict: 409, fault.Unauthenticated: 401,
		fault.Denied: 403, fault.Suspended: 403, fault.Limited: 429, fault.Unavailable: 503,
	}
	for kind, status := range want {
		if got := statuses(kind); got != status {
			t.Errorf("%s: %d", kind, got)
		}
	}
}

// TestDocs holds docs/api.md against the routes and the table of statuses.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	routes := New(Deps{}, Config{}).routes()
	routes["GET /api/audit/export"] = nil
	for pattern := range routes {
		if !strings.Contains(text, "| `"+pattern+"` |") {
			t.Errorf("docs/api.md does not tell of %s", pattern)
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if route, ok := strings.CutPrefix(line, "| `"); ok && strings.Contains(route, " /api/") {
			route, _, _ = strings.Cut(route, "`")
			if _, there := routes[route]; !there {
				t.Errorf("docs/api.md tells of %s, which is no route", route)
			}
		}
	}
}
