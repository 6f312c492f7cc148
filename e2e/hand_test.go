// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chaperone/examples/demo"
	"chaperone/internal/api/client"
	"chaperone/internal/identity"
)

// hand is a client without SDK and without bridge: it holds a key, makes its own proofs, and sends exactly the bytes it is given. It
// notes all that it sent of credentials and all that came back, so that a test can look through them.
type hand struct {
	t        *testing.T
	key      *identity.Key
	clientID string
	issuer   string
	http     *http.Client

	mu     sync.Mutex
	nonces map[string]string // by host
	shown  []string          // credentials, assertions and proofs as they went over the wire
	got    bytes.Buffer      // headers and bodies of every answer
}

func newHand(t *testing.T, key *identity.Key, clientID, issuer string) *hand {
	tr := &http.Transport{MaxIdleConnsPerHost: 8}
	t.Cleanup(tr.CloseIdleConnections)
	return &hand{t: t, key: key, clientID: clientID, issuer: issuer, nonces: map[string]string{},
		http: &http.Client{Transport: tr, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func freshKey(t *testing.T) *identity.Key {
	t.Helper()
	k, err := identity.NewKey()
	must(t, err)
	return k
}

// enrolHand binds a key of its own with a join code.
func enrolHand(t *testing.T, s *demo.Stage, code string) *hand {
	t.Helper()
	key := freshKey(t)
	in, err := client.Enrol(t.Context(), s.Public, key, code, client.Config{})
	must(t, err)
	return newHand(t, key, in.ClientID, in.Issuer)
}

// personHand speaks with the key of a person who has logged in on this stage.
func personHand(t *testing.T, s *demo.Stage, profile string) *hand {
	t.Helper()
	dir := filepath.Join(s.Dir, "config", "chaperone", "profiles", profile)
	raw, err := os.ReadFile(filepath.Join(dir, "key.jwk"))
	must(t, err)
	key, err := identity.ParseKey(raw)
	must(t, err)
	b, err := os.ReadFile(filepath.Join(dir, "person.json"))
	must(t, err)
	var in client.LoggedIn
	must(t, json.Unmarshal(b, &in))
	return newHand(t, key, in.ClientID, in.Issuer)
}

// credential asks the issuer for a credential of one audience. details is the authorization_details object, nil for people. It
// returns the credential and the run.
func (h *hand) credential(ctx context.Context, audience string, details map[string]string) (access, run string) {
	h.t.Helper()
	assertion, err := identity.MintAssertion(h.key, h.clientID, h.issuer, time.Now())
	must(h.t, err)
	h.note(assertion)
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {h.clientID}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "resource": {audience}}
	if details != nil {
		details["type"] = "chaperone_run"
		b, err := json.Marshal([]any{details})
		must(h.t, err)
		form.Set("authorization_details", string(b))
	}
	for range 2 {
		a := h.send(ctx, letter{url: h.issuer + "/token", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, body: form.Encode()})
		if a.status == http.StatusOK {
			var got struct {
				Access  string                 `json:"access_token"`
				Details []struct{ Run string } `json:"authorization_details"`
			}
			must(h.t, json.Unmarshal([]byte(a.body), &got))
			h.note(got.Access)
			if len(got.Details) == 1 {
				run = got.Details[0].Run
			}
			return got.Access, run
		}
		if !strings.Contains(a.body, "use_dpop_nonce") {
			h.t.Fatalf("no credential for %s: %d %s", audience, a.status, a.body)
		}
		// The nonce came with the refusal; an assertion is looked at once only after the proof, so it may be sent again.
	}
	h.t.Fatalf("the issuer does not take its own nonce")
	return "", ""
}

// letter is one request. Empty fields are filled in: POST, a fresh proof by the hand's own key, the host of the URL.
type letter struct {
	method, url, body string
	access            string // "" = no credential
	proof             string // "" = a fresh one; "-" = none
	host              string
	header            map[string]string
}

type answer struct {
	status int
	header http.Header
	body   string
}

// send sends a letter, and once more if it was only the nonce that was wanted and the proof is ours to make.
func (h *hand) send(ctx context.Context, l letter) answer {
	h.t.Helper()
	for try := 0; ; try++ {
		a := h.sendOnce(ctx, l)
		challenged := strings.Contains(a.header.Get("WWW-Authenticate"), "use_dpop_nonce") || strings.Contains(a.body, `"use_dpop_nonce"`)
		if l.proof == "" && try == 0 && challenged {
			continue
		}
		return a
	}
}

func (h *hand) sendOnce(ctx context.Context, l letter) answer {
	h.t.Helper()
	if l.method == "" {
		l.method = http.MethodPost
	}
	var body io.Reader
	if l.body != "" {
		body = strings.NewReader(l.body)
	}
	r, err := http.NewRequestWithContext(ctx, l.method, l.url, body)
	must(h.t, err)
	if l.proof == "" {
		l.proof = h.prove(h.key, l.method, l.url, h.nonce(l.url), l.access)
	}
	if l.proof != "-" {
		r.Header.Set("DPoP", l.proof)
	}
	if l.access != "" {
		r.Header.Set("Authorization", "DPoP "+l.access)
	}
	for k, v := range l.header {
		r.Header.Set(k, v)
	}
	if l.host != "" {
		r.Host = l.host
	}
	resp, err := h.http.Do(r)
	must(h.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		must(h.t, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := resp.Header.Get("DPoP-Nonce"); n != "" {
		h.nonces[r.URL.Host] = n
	}
	_ = resp.Header.Write(&h.got) // a buffer takes everything
	h.got.WriteString("\n")
	h.got.Write(b)
	h.got.WriteString("\n\n")
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// prove makes a proof as of now. access "" = a proof without a credential.
func (h *hand) prove(k *identity.Key, method, rawURL, nonce, access string) string {
	h.t.Helper()
	at, _, _ := strings.Cut(rawURL, "?")
	p, err := identity.MintProof(k, method, at, nonce, access, time.Now())
	must(h.t, err)
	h.note(p)
	return p
}

func (h *hand) nonce(rawURL string) string {
	u, err := url.Parse(rawURL)
	must(h.t, err)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nonces[u.Host]
}

func (h *hand) note(secret string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shown = append(h.shown, secret)
}

// The two eras, as the headers of a call of method and name say them.
func headers26(method, name string) map[string]string {
	h := map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
	if name != "" {
		h["Mcp-Name"] = name
	}
	return h
}

func headers25(session string) map[string]string {
	h := map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
	if session != "" {
		h["Mcp-Session-Id"] = session
	}
	return h
}

// enlist registers a server, describes it, and pins what it offers.
func enlist(t *testing.T, s *demo.Stage, name, at, catalogue string) {
	t.Helper()
	ctx := t.Context()
	must(t, s.Do(ctx, "nora", "", nil, "server", "add", name, "--url", at, "--allow-loopback"))
	file := filepath.Join(s.Dir, name+".catalogue.yaml")
	must(t, os.WriteFile(file, []byte(catalogue), 0o600))
	must(t, s.Do(ctx, "nora", "", nil, "catalog", "apply", file))
	must(t, s.Do(ctx, "nora", "", nil, "server", "pin", name, "--all"))
}

// settle brings a stage to where servers can be enlisted: the deployment and its three people, without the office.
func settle(t *testing.T, s *demo.Stage) *demo.Proc {
	t.Helper()
	p, up, err := s.Up(context.WithoutCancel(t.Context()))
	must(t, err)
	must(t, s.People(t.Context(), up))
	return p
}

// join registers an agent of a type and returns a join code for it.
func join(t *testing.T, s *demo.Stage, agent, typ string) string {
	t.Helper()
	must(t, s.Do(t.Context(), "nora", "", nil, "agent", "register", agent, "--type", typ, "--owner", "nora", "--purpose", "is tested"))
	var code struct{ Code string }
	must(t, s.Do(t.Context(), "nora", "", &code, "agent", "join-code", agent))
	return code.Code
}

// openRun opens a run for an agent as olaf and returns its id.
func openRun(t *testing.T, s *demo.Stage, agent, purpose string) string {
	t.Helper()
	var r struct{ ID string }
	must(t, s.Do(t.Context(), "olaf", "", &r, "run", "open", "--agent", agent, "--purpose", purpose))
	return r.ID
}
