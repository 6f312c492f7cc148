// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// stub is an issuer and an API on one server. The API's own behaviour is tested in package api, against the real door; here
// are answers that a healthy server does not give.
type stub struct {
	*httptest.Server
	fetched, asked atomic.Int64
	api            func(n int64, w http.ResponseWriter, r *http.Request)
}

func start(t *testing.T, api func(n int64, w http.ResponseWriter, r *http.Request)) (*stub, *Client) {
	t.Helper()
	s := &stub{api: api}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("client_assertion") == "" || r.Header.Get("DPoP") == "" {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": strings.Repeat("a", int(s.fetched.Add(1))), "expires_in": 300})
	})
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) { s.api(s.asked.Add(1), w, r) })
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return s, New(s.URL+"/", Holder{Key: key, ClientID: "spiffe://chaperone.internal/person/ada", Issuer: s.URL}, Config{})
}

func refuse(w http.ResponseWriter, status int, kind fault.Kind, code string) {
	w.Header().Set("Content-Type", "application/problem+json")
	if kind == fault.Unauthenticated {
		word := "invalid_token"
		if code == "use_dpop_nonce" {
			word = code
		}
		w.Header().Set("WWW-Authenticate", `DPoP algs="ES256", error="`+word+`"`)
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Problem{Type: ProblemType + kind.String(), Status: status, Code: code, Detail: "no", Fix: "do"})
}

func wantCode(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind || fault.CodeOf(err) != code {
		t.Fatalf("got %v, want %s %s", err, kind, code)
	}
}

func TestOneCredentialServesMany(t *testing.T) {
	s, c := start(t, func(_ int64, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "DPoP a" || r.Header.Get("DPoP") == "" {
			t.Errorf("%v", r.Header)
		}
		_, _ = w.Write([]byte(`{}`))
	})
	for range 3 {
		if _, err := c.Whoami(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.fetched.Load() != 1 {
		t.Fatalf("%d credentials fetched", s.fetched.Load())
	}
}

func TestRenewsOnce(t *testing.T) {
	s, c := start(t, func(n int64, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			refuse(w, http.StatusUnauthorized, fault.Unauthenticated, "credential_expired")
			return
		}
		_, _ = w.Write([]byte(`{"name":"ada"}`))
	})
	me, err := c.Whoami(t.Context())
	if err != nil || me.Name != "ada" || s.fetched.Load() != 2 {
		t.Fatalf("%+v %v after %d credentials", me, err, s.fetched.Load())
	}
	s, c = start(t, func(_ int64, w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusUnauthorized, fault.Unauthenticated, "bad_credential")
	})
	_, err = c.Whoami(t.Context())
	wantCode(t, err, fault.Unauthenticated, "bad_credential")
	if s.asked.Load() != 2 {
		t.Fatalf("asked %d times", s.asked.Load())
	}
}

func TestNonceIsTriedAgainButNotForEver(t *testing.T) {
	s, c := start(t, func(n int64, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("DPoP-Nonce", "n")
		refuse(w, http.StatusUnauthorized, fault.Unauthenticated, "use_dpop_nonce")
	})
	_, err := c.Whoami(t.Context())
	wantCode(t, err, fault.Unauthenticated, "use_dpop_nonce")
	if s.asked.Load() != 2 {
		t.Fatalf("asked %d times", s.asked.Load())
	}
}

func TestOddAnswers(t *testing.T) {
	rows := []struct {
		name string
		api  func(w http.ResponseWriter)
		kind fault.Kind
		code string
	}{
		{"kept kind", func(w http.ResponseWriter) { refuse(w, 403, fault.Suspended, "agent_suspended") }, fault.Suspended, "agent_suspended"},
		{"kind it does not know", func(w http.ResponseWriter) {
			w.WriteHeader(409)
			_, _ = w.Write([]byte(`{"type":"urn:other","code":"moved","detail":"x"}`))
		}, fault.Conflict, "moved"},
		{"a proxy's page", func(w http.ResponseWriter) { http.Error(w, "<html>", http.StatusBadGateway) }, fault.Unavailable, "http_status"},
		{"not JSON", func(w http.ResponseWriter) { _, _ = w.Write([]byte("hello")) }, fault.Unavailable, "bad_answer"},
		{"too large", func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, maxAnswer+1)) }, fault.Limited, "answer_too_large"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			_, c := start(t, func(_ int64, w http.ResponseWriter, _ *http.Request) { r.api(w) })
			_, err := c.Whoami(t.Context())
			wantCode(t, err, r.kind, r.code)
		})
	}
}

// TestRedirectsAreNotFollowed: a credential and its proof go nowhere else.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var called atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Add(1) }))
	defer other.Close()
	_, c := start(t, func(_ int64, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	_, err := c.Whoami(t.Context())
	if err == nil || called.Load() != 0 {
		t.Fatalf("%v, %d calls", err, called.Load())
	}
}

func TestUnreachable(t *testing.T) {
	s, c := start(t, nil)
	s.Close()
	_, err := c.Whoami(t.Context())
	wantCode(t, err, fault.Unavailable, "chaperone_unreachable")
	_, err = New("::not a url", Holder{Key: c.source.holder.Key, Issuer: "::"}, Config{}).Whoami(t.Context())
	wantCode(t, err, fault.Invalid, "bad_url")
	_, err = Login(t.Context(), s.URL, c.source.holder.Key, "lc_x", "p", Config{})
	wantCode(t, err, fault.Unavailable, "chaperone_unreachable")
}

func TestPathsAreEscaped(t *testing.T) {
	_, c := start(t, func(_ int64, w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/api/agents/a%2Fb%3Fc%23d" {
			t.Errorf("%s", r.URL.EscapedPath())
		}
		_, _ = w.Write([]byte(`{}`))
	})
	if _, err := c.Agent(t.Context(), "a/b?c#d"); err != nil {
		t.Fatal(err)
	}
}
