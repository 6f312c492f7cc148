// SPDX-License-Identifier: Apache-2.0

package e2e

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

	"chaperone/examples/demo"
)

// wire is a deployment with one server that counts, and an agent that signs by hand.
type wire struct {
	s        *demo.Stage
	up       *demo.Proc
	far      *digester
	h        *hand
	endpoint string
	run      string
	access   string
	moved    atomic.Bool // the server called "other" answers calls with a redirect to the first one
}

const readCall26 = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"look","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{s: open(t, "info"), far: &digester{}}
	w.up = settle(t, w.s)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.moved.Load() && r.URL.Path == "/other" {
			http.Redirect(rw, r, "/mcp", http.StatusTemporaryRedirect)
			return
		}
		w.far.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	catalogue := `version: 1
servers:
  %s:
    tools:
      look: {effect: read, source: {integrity: trusted}}
      write: {effect: irreversible, source: {integrity: trusted}}
`
	enlist(t, w.s, "counter", srv.URL+"/mcp", fmt.Sprintf(catalogue, "counter"))
	enlist(t, w.s, "other", srv.URL+"/other", fmt.Sprintf(catalogue, "other"))
	must(t, w.s.Do(t.Context(), "nora", "", nil, "type", "put", "scribe", "--reads", "counter/look,other/look", "--writes", "counter/write"))
	w.h = enrolHand(t, w.s, join(t, w.s, "scribe", "scribe"))
	w.endpoint = w.s.Public + "/mcp/counter"
	w.run = openRun(t, w.s, "scribe", "look and write")
	w.access, _ = w.h.credential(t.Context(), w.endpoint, map[string]string{"run": w.run})
	return w
}

func (w *wire) look(ctx context.Context, access string) answer {
	return w.h.send(ctx, letter{url: w.endpoint, access: access, body: readCall26, header: headers26("tools/call", "look")})
}

// mustRefuse demands a status and a named reason.
func (w *wire) mustRefuse(t *testing.T, a answer, status int, code string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, `"code":"`+code+`"`) {
		t.Errorf("got HTTP %d %s, want %d with the code %s", a.status, a.body, status, code)
	}
}

// TestWire sends what an attacker would, to the real binary from outside. Each refusal has its name, and none reaches the server.
func TestWire(t *testing.T) {
	ctx := within(t, 90*time.Second)
	w := newWire(t)
	h, call26 := w.h, headers26("tools/call", "look")
	if a := w.look(ctx, w.access); a.status != http.StatusOK || !strings.Contains(a.body, "sha256") {
		t.Fatalf("the honest call: %d %s", a.status, a.body)
	}
	permitted := 1
	stranger := freshKey(t)
	apiURL := w.s.API + "/api/runs/" + w.run
	apiAccess, _ := h.credential(ctx, w.s.Public+"/api", map[string]string{"run": w.run})
	otherAccess, _ := h.credential(ctx, w.s.Public+"/mcp/other", map[string]string{"run": w.run})
	if a := h.send(ctx, letter{method: http.MethodGet, url: apiURL, access: apiAccess}); a.status != http.StatusOK {
		t.Fatalf("the honest question at the people's door: %d %s", a.status, a.body)
	}
	gate := func(l letter) letter {
		l.url, l.body, l.header = w.endpoint, readCall26, call26
		return l
	}
	people := func(l letter) letter {
		l.method, l.url = http.MethodGet, apiURL
		return l
	}
	fresh := func(url string) string { return h.nonce(url) }

	t.Run("credentials and proofs", func(t *testing.T) {
		used := h.prove(h.key, http.MethodPost, w.endpoint, fresh(w.endpoint), w.access)
		if a := h.send(ctx, gate(letter{access: w.access, proof: used})); a.status != http.StatusOK {
			t.Fatalf("the first use of the proof: %d %s", a.status, a.body)
		}
		permitted++
		usedAPI := h.prove(h.key, http.MethodGet, apiURL, fresh(apiURL), apiAccess)
		if a := h.send(ctx, people(letter{access: apiAccess, proof: usedAPI})); a.status != http.StatusOK {
			t.Fatalf("the first use of the proof: %d %s", a.status, a.body)
		}
		forged := w.access[:len(w.access)-4] + "AAAA"
		for name, tt := range map[string]struct {
			l    letter
			code string
		}{
			"stolen, with another key":     {gate(letter{access: w.access, proof: h.prove(stranger, http.MethodPost, w.endpoint, fresh(w.endpoint), w.access)}), "key_mismatch"},
			"stolen, at the people's door": {people(letter{access: apiAccess, proof: h.prove(stranger, http.MethodGet, apiURL, fresh(apiURL), apiAccess)}), "key_mismatch"},
			"replayed proof":               {gate(letter{access: w.access, proof: used}), "proof_replayed"},
			"replayed at the people's":     {people(letter{access: apiAccess, proof: usedAPI}), "proof_replayed"},
			"no proof":                     {gate(letter{access: w.access, proof: "-"}), "no_proof"},
			"no credential":                {gate(letter{proof: "-"}), "no_credential"},
			"no nonce":                     {gate(letter{access: w.access, proof: h.prove(h.key, http.MethodPost, w.endpoint, "", w.access)}), "use_dpop_nonce"},
			"a nonce made up":              {gate(letter{access: w.access, proof: h.prove(h.key, http.MethodPost, w.endpoint, "AAAA", w.access)}), "use_dpop_nonce"},
			"proof for another URL":        {gate(letter{access: w.access, proof: h.prove(h.key, http.MethodPost, w.s.Public+"/mcp/other", fresh(w.endpoint), w.access)}), "bad_proof"},
			"proof for another method":     {gate(letter{access: w.access, proof: h.prove(h.key, http.MethodGet, w.endpoint, fresh(w.endpoint), w.access)}), "bad_proof"},
			"proof of another credential":  {gate(letter{access: w.access, proof: h.prove(h.key, http.MethodPost, w.endpoint, fresh(w.endpoint), otherAccess)}), "bad_proof"},
			"of another server":            {gate(letter{access: otherAccess}), "wrong_audience"},
			"of the people's door":         {gate(letter{access: apiAccess}), "wrong_audience"},
			"of the agents' door":          {people(letter{access: w.access}), "wrong_audience"},
			"with a signature of nobody":   {gate(letter{access: forged}), "bad_credential"},
		} {
			t.Run(name, func(t *testing.T) { w.mustRefuse(t, h.send(ctx, tt.l), http.StatusUnauthorized, tt.code) })
		}
	})

	t.Run("bodies", func(t *testing.T) {
		twice := strings.Replace(readCall26, `"name":"look"`, `"name":"look","name":"write"`, 1)
		escaped := strings.Replace(readCall26, `"name":"look"`, `"name":"look","n\u0061me":"write"`, 1)
		deep := strings.Replace(readCall26, `"arguments":{}`, `"arguments":{"a":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}`, 1)
		header := func(change map[string]string) map[string]string {
			out := headers26("tools/call", "look")
			for k, v := range change {
				out[k] = v
			}
			return out
		}
		bare := headers26("tools/call", "look")
		delete(bare, "Mcp-Method")
		for name, tt := range map[string]struct {
			body   string
			header map[string]string
			code   string
		}{
			"a key twice":                {twice, call26, "json_duplicate_key"},
			"a key twice, once escaped":  {escaped, call26, "json_duplicate_key"},
			"a key in another case":      {strings.Replace(readCall26, `"name"`, `"Name"`, 1), call26, "json_case"},
			"not UTF-8":                  {strings.Replace(readCall26, `"id":7`, "\"id\":\"\xff\"", 1), call26, "json_invalid_utf8"},
			"data behind it":             {readCall26 + `{}`, call26, "json_trailing_data"},
			"nested too deep":            {deep, call26, "json_too_deep"},
			"a batch":                    {`[` + readCall26 + `]`, call26, "batch"},
			"another name in the header": {readCall26, header(map[string]string{"Mcp-Name": "write"}), "header_mismatch"},
			"another method":             {readCall26, header(map[string]string{"Mcp-Method": "tools/list"}), "header_mismatch"},
			"another version":            {readCall26, header(map[string]string{"MCP-Protocol-Version": "2025-11-25"}), "header_mismatch"},
			"no method in the header":    {readCall26, bare, "header_mismatch"},
		} {
			t.Run(name, func(t *testing.T) {
				w.mustRefuse(t, h.send(ctx, letter{url: w.endpoint, access: w.access, body: tt.body, header: tt.header}), http.StatusBadRequest, tt.code)
			})
		}
		nora := personHand(t, w.s, "nora")
		noras, _ := nora.credential(ctx, w.s.Public+"/api", nil)
		for body, code := range map[string]string{
			`{"name":"eve","roles":["auditor"],"roles":["operator"]}`: "json_duplicate_key",
			`{"name":"eve","Roles":["operator"]}`:                     "json_unknown_member",
		} {
			w.mustRefuse(t, nora.send(ctx, letter{url: w.s.API + "/api/people", access: noras, body: body, header: map[string]string{"Content-Type": "application/json"}}), http.StatusBadRequest, code)
		}
		details := `[{"type":"chaperone_run","purpose":"a","purpose":"b"}]`
		a := h.send(ctx, letter{url: w.s.Public + "/token", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
			body: "grant_type=client_credentials&client_id=x&client_assertion=y&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&resource=z&authorization_details=" + details})
		w.mustRefuse(t, a, http.StatusBadRequest, "bad_authorization_details")
	})

	t.Run("hosts and origins", func(t *testing.T) {
		doors := map[string]letter{
			"gateway":        {url: w.endpoint, access: w.access, body: readCall26, header: call26},
			"gateway's word": {method: http.MethodGet, url: w.s.Public + "/.well-known/oauth-protected-resource/mcp/counter", proof: "-"},
			"issuer":         {url: w.s.Public + "/token", body: "grant_type=client_credentials", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
			"issuer's keys":  {method: http.MethodGet, url: w.s.Public + "/jwks", proof: "-"},
			"enrolment":      {url: w.s.Public + "/enroll", body: `{"code":"x"}`, header: map[string]string{"Content-Type": "application/json"}},
			"API":            {method: http.MethodGet, url: apiURL, access: apiAccess},
		}
		for name, door := range doors {
			t.Run(name, func(t *testing.T) {
				foreign := door
				foreign.host = "rebound.example"
				w.mustRefuse(t, h.send(ctx, foreign), http.StatusForbidden, "host_not_allowed")
				foreign = door
				foreign.header = map[string]string{"Origin": "https://evil.example"}
				for k, v := range door.header {
					foreign.header[k] = v
				}
				w.mustRefuse(t, h.send(ctx, foreign), http.StatusForbidden, "origin_not_allowed")
			})
		}
	})

	t.Run("what belongs to others", func(t *testing.T) {
		second := openRun(t, w.s, "scribe", "another task")
		theirs, _ := h.credential(ctx, w.endpoint, map[string]string{"run": second})
		start := h.send(ctx, letter{url: w.endpoint, access: w.access, header: headers25(""),
			body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"h","version":"1"}}}`})
		session := start.header.Get("Mcp-Session-Id")
		if start.status != http.StatusOK || session == "" {
			t.Fatalf("initialize: %d %s", start.status, start.body)
		}
		call25 := `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"look","arguments":{}}}`
		if a := h.send(ctx, letter{url: w.endpoint, access: w.access, header: headers25(session), body: call25}); a.status != http.StatusOK {
			t.Fatalf("the session's own run: %d %s", a.status, a.body)
		}
		permitted++
		w.mustRefuse(t, h.send(ctx, letter{url: w.endpoint, access: theirs, header: headers25(session), body: call25}), http.StatusNotFound, "session_of_another_run")
		w.mustRefuse(t, h.send(ctx, letter{url: w.endpoint, access: theirs, header: headers25("made-up"), body: call25}), http.StatusNotFound, "session_unknown")

		// A pending call of 2026-07-28 comes back with a state; another run must not continue it.
		effect := `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{%s"name":"write","arguments":{"s":"x"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}}}}}}`
		ask := func(access, state string) answer {
			return h.send(ctx, letter{url: w.endpoint, access: access, header: headers26("tools/call", "write"), body: fmt.Sprintf(effect, state)})
		}
		pending := ask(w.access, "")
		var got struct {
			Result struct {
				ResultType   string
				RequestState string
			}
		}
		must(t, json.Unmarshal([]byte(pending.body), &got))
		if got.Result.ResultType != "input_required" || got.Result.RequestState == "" {
			t.Fatalf("the effect did not wait: %d %s", pending.status, pending.body)
		}
		state := fmt.Sprintf(`"requestState":%q,"inputResponses":{"approval":{"action":"accept"}},`, got.Result.RequestState)
		w.mustRefuse(t, ask(theirs, state), http.StatusBadRequest, "request_state_foreign")
		other := enrolHand(t, w.s, join(t, w.s, "other-scribe", "scribe"))
		foreign, _ := other.credential(ctx, w.endpoint, map[string]string{"run": openRun(t, w.s, "other-scribe", "a task")})
		w.mustRefuse(t, other.send(ctx, letter{url: w.endpoint, access: foreign, header: headers26("tools/call", "write"), body: fmt.Sprintf(effect, state)}),
			http.StatusBadRequest, "request_state_foreign")
		if a := ask(w.access, state); !strings.Contains(a.body, "input_required") {
			t.Errorf("the caller's own state, before anybody decided: %d %s", a.status, a.body)
		}
	})

	t.Run("a redirect", func(t *testing.T) {
		other := w.s.Public + "/mcp/other"
		if a := h.send(ctx, letter{url: other, access: otherAccess, header: call26, body: readCall26}); a.status != http.StatusOK || !strings.Contains(a.body, "sha256") {
			t.Fatalf("the honest call: %d %s", a.status, a.body)
		}
		permitted++
		w.moved.Store(true)
		defer w.moved.Store(false)
		w.mustRefuse(t, h.send(ctx, letter{url: other, access: otherAccess, header: call26, body: readCall26}), http.StatusOK, "upstream_redirect")
	})

	t.Run("fifty uses of one grant", func(t *testing.T) {
		args := `{"s":"once"}`
		body := `{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"write","arguments":` + args +
			`,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}}}}}}`
		a := h.send(ctx, letter{url: apiURL + "/grants", access: apiAccess, header: map[string]string{"Content-Type": "application/json"},
			body: `{"server":"counter","tool":"write","arguments":` + args + `}`})
		var asked struct{ Approval struct{ ID string } }
		must(t, json.Unmarshal([]byte(a.body), &asked))
		var q struct {
			BindingDigest string `json:"binding_digest"`
		}
		must(t, w.s.Do(ctx, "ada", "", &q, "approval", "show", asked.Approval.ID))
		must(t, w.s.Do(ctx, "ada", "", nil, "approval", "approve", asked.Approval.ID, "--binding", q.BindingDigest))
		var all sync.WaitGroup
		var ran, asks atomic.Int32
		for range 50 {
			all.Go(func() {
				switch a := h.send(ctx, letter{url: w.endpoint, access: w.access, header: headers26("tools/call", "write"), body: body}); {
				case strings.Contains(a.body, "sha256"):
					ran.Add(1)
				case strings.Contains(a.body, "input_required"):
					asks.Add(1)
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
			})
		}
		all.Wait()
		permitted++
		if ran.Load() != 1 || asks.Load() != 49 {
			t.Errorf("one grant served %d of fifty calls, and %d were asked about", ran.Load(), asks.Load())
		}
	})

	t.Run("an old nonce after a restart", func(t *testing.T) {
		old := fresh(w.endpoint)
		w.up.Stop()
		up, _, err := w.s.Up(context.WithoutCancel(ctx))
		must(t, err)
		w.up = up
		w.mustRefuse(t, h.send(ctx, gate(letter{access: w.access, proof: h.prove(h.key, http.MethodPost, w.endpoint, old, w.access)})), http.StatusUnauthorized, "use_dpop_nonce")
		if a := w.look(ctx, w.access); a.status != http.StatusOK {
			t.Errorf("the credential does not outlive the restart: %d %s", a.status, a.body)
		}
		permitted++
	})

	t.Run("what was ended", func(t *testing.T) {
		select { // credentials say when they were issued in whole seconds; this one has to be older than the stop
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(time.Second):
		}
		must(t, w.s.Do(ctx, "nora", "", nil, "agent", "suspend", "scribe", "--reason", "a test"))
		w.mustRefuse(t, w.look(ctx, w.access), http.StatusForbidden, "agent_suspended")
		must(t, w.s.Do(ctx, "nora", "", nil, "agent", "resume", "scribe", "--reason", "a test"))
		w.mustRefuse(t, w.look(ctx, w.access), http.StatusUnauthorized, "credential_revoked")
		again, _ := h.credential(ctx, w.endpoint, map[string]string{"run": w.run})
		if a := w.look(ctx, again); a.status != http.StatusOK {
			t.Errorf("a resumed agent with a new credential: %d %s", a.status, a.body)
		}
		permitted++
		must(t, w.s.Do(ctx, "olaf", "", nil, "run", "end", w.run, "--reason", "a test"))
		w.mustRefuse(t, w.look(ctx, again), http.StatusForbidden, "run_ended")
	})
	if n := w.far.calls(); n != permitted {
		t.Errorf("%d calls went upstream, %d were permitted", n, permitted)
	}
}
