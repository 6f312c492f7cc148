// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// desk is an issuer and a resource that a test bends.
type desk struct {
	*httptest.Server
	mu      sync.Mutex
	forms   []string // authorization_details of each request for a credential
	life    int
	fetched atomic.Int64
	token   func(w http.ResponseWriter, r *http.Request) bool // true = answered
	serve   http.HandlerFunc
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{life: 300}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.forms = append(d.forms, r.FormValue("resource")+" "+r.FormValue("authorization_details"))
		d.mu.Unlock()
		if d.token != nil && d.token(w, r) {
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprint("a", d.fetched.Add(1)), "expires_in": d.life,
			"authorization_details": []any{map[string]string{"type": "chaperone_run", "run": "run_1"}}})
	})
	mux.HandleFunc("/thing", func(w http.ResponseWriter, r *http.Request) { d.serve(w, r) })
	d.Server = httptest.NewServer(mux)
	t.Cleanup(d.Close)
	return d
}

func (d *desk) source(t *testing.T, details *Details, cfg Config) *Source {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return NewSource(Holder{Key: key, ClientID: "spiffe://chaperone.internal/agent/clerk/1", Issuer: d.URL}, d.URL+"/mcp/office", details, cfg)
}

func (d *desk) post(ctx context.Context, s *Source) (*http.Response, error) {
	return s.Do(ctx, func() (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodPost, d.URL+"/thing", strings.NewReader("{}"))
	})
}

func challenge(w http.ResponseWriter, word string) {
	w.Header().Set("WWW-Authenticate", `DPoP algs="ES256", error="`+word+`"`)
	w.WriteHeader(http.StatusUnauthorized)
}

func TestARunIsOpenedOnceAndContinued(t *testing.T) {
	d := newDesk(t)
	now := time.Now()
	d.serve = func(http.ResponseWriter, *http.Request) {}
	s := d.source(t, OpenDetails(""), Config{Now: func() time.Time { return now }})
	for _, later := range []time.Duration{0, time.Minute, 4 * time.Minute} {
		now = now.Add(later)
		if _, err := d.post(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	at := d.URL + "/mcp/office "
	want := []string{at + `[{"type":"chaperone_run","purpose":""}]`, at + `[{"type":"chaperone_run","run":"run_1"}]`}
	if diff := cmp.Diff(want, d.forms); diff != "" || s.Run() != "run_1" {
		t.Errorf("run %q; the credential of 5 minutes is renewed 30 s before its end, for the same run (-want +got):\n%s", s.Run(), diff)
	}
}

func TestOneFetchServesAllWhoWait(t *testing.T) {
	d := newDesk(t)
	d.serve = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "DPoP a1" {
			challenge(w, "invalid_token")
		}
	}
	s := d.source(t, OpenDetails("p"), Config{})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if resp, err := d.post(t.Context(), s); err != nil || resp.StatusCode != 200 {
				t.Errorf("%v %v", resp, err)
			}
		})
	}
	all.Wait()
	if n := d.fetched.Load(); n != 2 {
		t.Errorf("%d credentials fetched, want the first and one in its place", n)
	}
}

func TestWaitingForACredentialEndsWithItsContext(t *testing.T) {
	d := newDesk(t)
	hold := make(chan struct{})
	d.token = func(_ http.ResponseWriter, r *http.Request) bool { <-hold; return true }
	s := d.source(t, OpenDetails("p"), Config{})
	first, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Ready(first) }()
	for len(s.turn) == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wantCode(t, s.Ready(ctx), fault.Unavailable, "chaperone_unreachable")
	stop()
	wantCode(t, <-done, fault.Unavailable, "chaperone_unreachable")
	close(hold)
}

// TestNothingIsSentTwice: the same request goes out again only when the server has said that it did not look at it.
func TestNothingIsSentTwice(t *testing.T) {
	breakOff := func(w http.ResponseWriter) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			c.Close()
		}
	}
	rows := []struct {
		name   string
		method string
		serve  func(n int64, w http.ResponseWriter)
		asked  int64
		status int
		code   string
	}{
		{"nonce once", "POST", func(n int64, w http.ResponseWriter) {
			w.Header().Set("DPoP-Nonce", "n")
			challenge(w, "use_dpop_nonce")
		}, 2, 401, ""},
		{"no nonce given", "POST", func(n int64, w http.ResponseWriter) { challenge(w, "use_dpop_nonce") }, 1, 401, ""},
		{"credential once", "POST", func(n int64, w http.ResponseWriter) { challenge(w, "invalid_token") }, 2, 401, ""},
		{"proof refused", "POST", func(n int64, w http.ResponseWriter) { challenge(w, "invalid_dpop_proof") }, 1, 401, ""},
		{"both, then done", "POST", func(n int64, w http.ResponseWriter) {
			switch n {
			case 1:
				w.Header().Set("DPoP-Nonce", "n")
				challenge(w, "use_dpop_nonce")
			case 2:
				challenge(w, "invalid_token")
			}
		}, 3, 200, ""},
		{"overloaded", "POST", func(n int64, w http.ResponseWriter) { w.WriteHeader(503) }, 1, 503, ""},
		{"broken off", "POST", func(n int64, w http.ResponseWriter) { breakOff(w) }, 1, 0, "answer_lost"},
		{"broken off while reading", "GET", func(n int64, w http.ResponseWriter) { breakOff(w) }, 0, 0, "chaperone_unreachable"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			d := newDesk(t)
			var asked atomic.Int64
			d.serve = func(w http.ResponseWriter, _ *http.Request) { r.serve(asked.Add(1), w) }
			s := d.source(t, OpenDetails("p"), Config{})
			resp, err := s.Do(t.Context(), func() (*http.Request, error) {
				return http.NewRequestWithContext(t.Context(), r.method, d.URL+"/thing", nil)
			})
			if r.code != "" {
				wantCode(t, err, fault.Unavailable, r.code)
			} else if err != nil || resp.StatusCode != r.status {
				t.Errorf("%v %v", resp, err)
			}
			if r.asked > 0 && asked.Load() != r.asked { // a GET may be repeated by anybody
				t.Errorf("asked %d times, want %d", asked.Load(), r.asked)
			}
		})
	}
}

// TestLostOrUnreachable: a request that was never sent may be repeated, one that may have arrived may not.
func TestLostOrUnreachable(t *testing.T) {
	d := newDesk(t)
	d.serve = func(http.ResponseWriter, *http.Request) {}
	s := d.source(t, OpenDetails("p"), Config{})
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.Close()
	_, err := d.post(t.Context(), s)
	wantCode(t, err, fault.Unavailable, "chaperone_unreachable")
}

func TestIssuersRefusals(t *testing.T) {
	rows := []struct {
		name   string
		status int
		body   string
		kind   fault.Kind
		code   string
	}{
		{"our own", 400, `{"error":"invalid_grant","code":"run_ended","error_description":"the run has ended","fix":"open a new one"}`, fault.Unauthenticated, "run_ended"},
		{"suspended", 400, `{"error":"unauthorized_client","code":"agent_suspended"}`, fault.Suspended, "agent_suspended"},
		{"another issuer's", 400, `{"error":"invalid_target"}`, fault.Invalid, "invalid_target"},
		{"busy", 503, `{"error":"temporarily_unavailable","code":"clock_stepped_back"}`, fault.Unavailable, "clock_stepped_back"},
		{"a proxy", 502, `<html>`, fault.Unavailable, "http_status"},
		{"no credential in it", 200, `{}`, fault.Unavailable, "bad_answer"},
		{"no run in it", 200, `{"access_token":"a","expires_in":300}`, fault.Unavailable, "bad_answer"},
		{"not JSON", 200, `hello`, fault.Unavailable, "bad_answer"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			d := newDesk(t)
			d.token = func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(r.status)
				_, _ = w.Write([]byte(r.body))
				return true
			}
			wantCode(t, d.source(t, OpenDetails("p"), Config{}).Ready(t.Context()), r.kind, r.code)
		})
	}
}
