// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type ctx = context.Context

// TestAnEffectIsSentAgainOnlyAfterARefusal: the gateway wants a nonce, or a new credential, before it looks at what is asked; nothing else makes
// the bridge send a call twice.
func TestAnEffectIsSentAgainOnlyAfterARefusal(t *testing.T) {
	challenge := func(w http.ResponseWriter, m seen, attributes, code string) {
		w.Header().Set("WWW-Authenticate", `DPoP algs="ES256", `+attributes)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+m.id+`,"error":{"code":-32010,"message":"no","data":{"code":"`+code+`"}}}`)
	}
	nonce := func(w http.ResponseWriter, m seen) {
		w.Header().Set("DPoP-Nonce", "n-1")
		challenge(w, m, `error="use_dpop_nonce"`, "use_dpop_nonce")
	}
	expired := func(w http.ResponseWriter, m seen) {
		challenge(w, m, `error="invalid_token", error_description="credential_expired: it is old"`, "credential_expired")
	}
	done := func(w http.ResponseWriter, m seen) { result(w, m, `{}`) }
	rows := []struct {
		name    string
		answers []func(w http.ResponseWriter, m seen)
		code    string // "" = done
		fetched int
	}{
		{"nonce", []func(http.ResponseWriter, seen){nonce, done}, "", 1},
		{"expired", []func(http.ResponseWriter, seen){expired, done}, "", 2},
		{"both", []func(http.ResponseWriter, seen){nonce, expired, done}, "", 2},
		{"a nonce twice", []func(http.ResponseWriter, seen){nonce, nonce}, "use_dpop_nonce", 1},
		{"expired twice", []func(http.ResponseWriter, seen){expired, expired}, "credential_expired", 2},
		{"a stolen key", []func(http.ResponseWriter, seen){func(w http.ResponseWriter, m seen) { challenge(w, m, `error="invalid_dpop_proof"`, "key_mismatch") }}, "key_mismatch", 1},
		{"broken off", []func(http.ResponseWriter, seen){func(w http.ResponseWriter, m seen) { cut(t, w) }}, "answer_lost", 1},
		{"overloaded", []func(http.ResponseWriter, seen){func(w http.ResponseWriter, m seen) { w.WriteHeader(503) }}, "answer_lost", 1},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			var n atomic.Int64
			g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) {
				i := int(n.Add(1))
				if i > len(r.answers) {
					t.Errorf("sent for the %dth time", i)
					i = len(r.answers)
				}
				r.answers[i-1](w, m)
			})
			b, _ := g.bridge(nil)
			k := talk(t, b)
			k.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}`)
			if _, code := k.code(); code != r.code {
				t.Errorf("code %q, want %q", code, r.code)
			}
			k.ends()
			if int(n.Load()) != len(r.answers) || len(g.orders) != r.fetched {
				t.Errorf("sent %d times with %d credentials, want %d and %d", n.Load(), len(g.orders), len(r.answers), r.fetched)
			}
		})
	}
}

func TestCredentialIsRenewedBeforeItsEnd(t *testing.T) {
	var later atomic.Int64
	began := time.Now()
	g := newGate(t, func(w http.ResponseWriter, _ *http.Request, m seen) { result(w, m, `{}`) })
	g.now = func() time.Time { return began.Add(time.Duration(later.Load())) }
	b, _ := g.bridge(func(c *Config) { c.Now = g.now })
	k := talk(t, b)
	say := func() string {
		k.say(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		k.hear()
		return g.last("ping").header.Get("Authorization")
	}
	if got := say(); got != "DPoP credential-1" {
		t.Fatal(got)
	}
	later.Store(int64(4*time.Minute + 29*time.Second))
	if got := say(); got != "DPoP credential-1" {
		t.Errorf("with 31 s to live: %s", got)
	}
	later.Store(int64(4*time.Minute + 31*time.Second))
	if got := say(); got != "DPoP credential-2" {
		t.Errorf("with 29 s to live: %s", got)
	}
	k.ends()
	if d := cmp.Diff([]string{`[{"type":"chaperone_run","purpose":"tests"}]`, `[{"type":"chaperone_run","run":"run_1"}]`}, g.orders); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestParametersAreLearnt from lists that pass by, or looked up when the gateway misses them.
func TestParametersAreLearnt(t *testing.T) {
	const tools = `{"tools":[{"name":"pay","inputSchema":{"properties":{"to":{"type":"string","x-mcp-header":"To"}}}}],"resultType":"complete"}`
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"to":"ana"},` + meta26 + `}}`
	pages := 0
	serve := func(streamed bool) func(w http.ResponseWriter, _ *http.Request, m seen) {
		return func(w http.ResponseWriter, _ *http.Request, m seen) {
			switch {
			case m.method == "tools/list":
				body := tools
				if !strings.Contains(m.body, `"cursor":"next"`) && pages > 0 {
					body = `{"tools":[{"name":"other"}],"nextCursor":"next"}`
				}
				if streamed {
					stream(w)(`{"jsonrpc":"2.0","id":` + m.id + `,"result":` + body + `}`)
					return
				}
				result(w, m, body)
			case m.header.Get("Mcp-Param-To") != "ana":
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"no","data":{"code":"header_mismatch"}}}`)
			default:
				result(w, m, `{}`)
			}
		}
	}
	want := `{"jsonrpc":"2.0","id":1,"result":{}}`
	for _, streamed := range []bool{false, true} {
		t.Run(fmt.Sprint("from a list that passes by, streamed ", streamed), func(t *testing.T) {
			g := newGate(t, serve(streamed))
			b, _ := g.bridge(nil)
			k := talk(t, b)
			k.say(`{"jsonrpc":"2.0","id":0,"method":"tools/list","params":{` + meta26 + `}}`)
			k.hear()
			k.say(call)
			if got := k.hear(); got != want {
				t.Error(got)
			}
			k.ends()
			if d := cmp.Diff([]string{"tools/list", "tools/call"}, g.methods()); d != "" {
				t.Error(d)
			}
			url := listening(t, b)
			_, list := knock{body: `{"jsonrpc":"2.0","id":0,"method":"tools/list","params":{` + meta26 + `}}`}.ask(t, url)
			_, got := knock{body: call}.ask(t, url)
			if got != want || !strings.Contains(list, `"x-mcp-header"`) {
				t.Errorf("%s, then %s", list, got)
			}
		})
	}
	t.Run("looked up", func(t *testing.T) {
		pages = 1
		g := newGate(t, serve(true))
		b, _ := g.bridge(nil)
		k := talk(t, b)
		k.say(call)
		if got := k.hear(); got != want {
			t.Error(got)
		}
		k.ends()
		if d := cmp.Diff([]string{"tools/call", "tools/list", "tools/list", "tools/call"}, g.methods()); d != "" {
			t.Error(d)
		}
		if h := g.last("tools/list").header; h.Get("Mcp-Method") != "tools/list" || h.Get("Mcp-Protocol-Version") != "2026-07-28" || h.Get("Mcp-Name") != "" {
			t.Errorf("%v", h)
		}
	})
	t.Run("a mismatch that stays is told once", func(t *testing.T) {
		pages = 0
		g := newGate(t, serve(false))
		b, _ := g.bridge(nil)
		k := talk(t, b)
		other := strings.Replace(call, `"ana"`, `"bob"`, 1)
		for range 2 {
			k.say(other)
			if _, code := k.code(); code != "header_mismatch" {
				t.Error(code)
			}
		}
		k.ends()
		if d := cmp.Diff([]string{"tools/call", "tools/list", "tools/call", "tools/call"}, g.methods()); d != "" {
			t.Error(d)
		}
	})
	t.Run("not in sessions", func(t *testing.T) {
		g := newGate(t, serve(false))
		b, _ := g.bridge(nil)
		k := talk(t, b)
		k.say(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}`)
		k.code()
		k.ends()
		if d := cmp.Diff([]string{"tools/call"}, g.methods()); d != "" {
			t.Error(d)
		}
	})
}
