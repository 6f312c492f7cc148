// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

const (
	progress = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`
	done     = `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"streamed"}]}}`
)

// traced is the order of commits, forwarded bytes and released messages of one call.
func (h *house) traced(a func() answer) (answer, []string) {
	h.mu.Lock()
	h.trace = nil
	h.mu.Unlock()
	out := a()
	h.mu.Lock()
	defer h.mu.Unlock()
	return out, slices.Clone(h.trace)
}

// No byte goes upstream before commit 1 has returned, and none to the client before commit 2 has.
func TestTrace(t *testing.T) {
	for name, c := range map[string]struct {
		tool    string
		streams bool
		want    []string
	}{
		"read":             {"list_files", false, []string{"upstream", "commit", "release"}},
		"effect":           {"note", false, []string{"commit", "upstream", "commit", "release"}},
		"streaming read":   {"read_mail", true, []string{"upstream", "commit", "release", "release", "commit", "release"}},
		"streaming effect": {"note", true, []string{"commit", "upstream", "release", "release", "commit", "release"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.call("other_files", `{}`) // the first call checks the definitions
			if c.streams {
				h.office.streams(c.tool, progress, progress, done)
			}
			a, trace := h.traced(func() answer { return h.call(c.tool, `{}`) })
			h.want(a, enforce.Released, "")
			if !slices.Equal(trace, c.want) {
				t.Errorf("trace = %v, want %v", trace, c.want)
			}
		})
	}
}

func TestLabelBeforeTheFirstMessage(t *testing.T) {
	h := newHouse(t)
	h.office.set(func() {
		h.office.on["read_mail"] = func(w http.ResponseWriter, id json.RawMessage) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "data: %s\n\n", progress)
			w.(http.Flusher).Flush()
			for range 500 { // until it was released
				if r := h.stored(h.run.ID); r.Label.IsUntrusted() {
					break
				}
				time.Sleep(time.Millisecond)
			}
			fmt.Fprintf(w, "data: %s\n\n", strings.ReplaceAll(done, "%s", string(id)))
		}
	})
	a := h.call("read_mail", `{}`)
	h.want(a, enforce.Released, "")
	if len(a.out.messages) != 2 || !h.stored(h.run.ID).Label.IsUntrusted() {
		t.Errorf("%d messages", len(a.out.messages))
	}
	var types []string
	for _, r := range h.events(h.run.ID) {
		types = append(types, r.Type)
	}
	if want := []string{audit.CallDecided, audit.LabelJoined, audit.CallOutcome}; !slices.Equal(types, want) {
		t.Errorf("events = %v, want %v", types, want)
	}
}

// A run that ends in the middle of a stream gets nothing more.
func TestStreamStopsWithTheRun(t *testing.T) {
	h := newHouse(t)
	h.office.set(func() {
		h.office.on["note"] = func(w http.ResponseWriter, id json.RawMessage) {
			w.Header().Set("Content-Type", "text/event-stream")
			h.end(h.run.ID)
			fmt.Fprintf(w, "data: %s\n\ndata: %s\n\n", progress, strings.ReplaceAll(done, "%s", string(id)))
		}
	})
	h.want(h.call("note", `{}`), enforce.Failed, "run_ended")
}

func TestOriginalBytesAreForwarded(t *testing.T) {
	h := newHouse(t)
	body := "{ \"params\" : {\"arguments\":{\"n\":1.50e0,\"text\":\"\\u00e9\\/ <>\"},\"name\":\"list_files\",\"_meta\":{\"x\":12345678901234567890123, \"y\":1E400}},\n\"method\":\"tools/call\",\"jsonrpc\":\"2.0\",\"id\":7,\"odd\":[ ]}"
	a := h.call("list_files", `{"n":1.50e0,"text":"\u00e9\/ <>"}`, func(r *enforce.Request) {
		r.Body = []byte(body)
		r.Header["Authorization"] = []string{"DPoP stolen"}
		r.Header["DPoP"] = []string{"proof"}
		r.Header["Cookie"] = []string{"c=1"}
		r.Header["Last-Event-Id"] = []string{"1"}
	})
	h.want(a, enforce.Released, "")
	if got := h.office.calls(); len(got) != 1 || got[0] != body {
		t.Errorf("forwarded %q", got)
	}
	sent := h.office.headers[0]
	if got := sent.Get("Authorization"); got != "Bearer "+upstreamSecret {
		t.Errorf("Authorization = %q", got)
	}
	for _, name := range []string{"DPoP", "Cookie", "Last-Event-Id"} {
		if sent.Get(name) != "" {
			t.Errorf("%s went to the upstream", name)
		}
	}
}

func TestEchoIsRedactedAndRecorded(t *testing.T) {
	h := newHouse(t)
	h.office.streams("note", `{"jsonrpc":"2.0","id":%s,"result":{"content":"your key is `+upstreamSecret+`"}}`)
	a := h.call("note", `{}`)
	h.want(a, enforce.Released, "")
	if strings.Contains(a.out.text(), upstreamSecret) {
		t.Error("the credential came back")
	}
	if len(h.events(h.run.ID, audit.SecretEchoed)) != 1 {
		t.Error("it is not on the record")
	}
}

func TestWaitOnTheSocket(t *testing.T) {
	h := newHouse(t)
	go func() {
		for range 2000 {
			time.Sleep(time.Millisecond)
			var pending []approval.Approval
			_ = h.db.View(context.Background(), func(tx store.Tx) error {
				for a, err := range tx.Approvals().Approvals(approval.Filter{State: approval.Pending}) {
					if err != nil {
						return err
					}
					pending = append(pending, a)
				}
				return nil
			})
			if len(pending) > 0 {
				_ = h.decide(pending[0].ID, "pia", approval.Yes)
				return
			}
		}
	}()
	a := h.call("pay", pays, func(r *enforce.Request) { r.Wait = 10 * time.Second })
	h.want(a, enforce.Released, "")
	if n := len(h.events(h.run.ID, audit.ApprovalRequested)); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if got := h.stored(h.run.ID).Spent; got.Steps != 1 || got.Calls["money"] != 1 {
		t.Errorf("spent %+v", got)
	}
	b := h.call("pay", strings.Replace(pays, "5", "6", 1), func(r *enforce.Request) { r.Wait = 20 * time.Millisecond })
	h.want(b, enforce.Pending, "approval_pending")
}

func TestOneQuestionForOneCall(t *testing.T) {
	h := newHouse(t)
	answers := make(chan answer, 10)
	for range 10 {
		go func() { answers <- h.call("pay", pays) }()
	}
	seen := map[string]bool{}
	for range 10 {
		a := <-answers
		h.want(a, enforce.Pending, "approval_pending")
		seen[a.Approval.ID.String()] = true
	}
	if len(seen) != 1 || len(h.events(h.run.ID, audit.ApprovalRequested)) != 1 {
		t.Errorf("%d approvals were asked", len(seen))
	}
	if got := h.stored(h.run.ID).Spent.Steps; got != 1 {
		t.Errorf("asking took %d steps", got)
	}
}

func TestDeadUpstream(t *testing.T) {
	h := newHouse(t)
	h.want(h.call("note", `{}`), enforce.Released, "")
	h.office.set(func() { h.office.down = true })
	a := h.call("note", `{}`)
	h.want(a, enforce.Failed, "upstream_unavailable")
	if !strings.Contains(fault.CodeOf(a.err)+a.Reason, "office") {
		t.Errorf("the error does not name the server: %v", a.err)
	}
	got := h.recorded(h.run.ID, audit.CallOutcome, "upstream_unavailable")
	if got.Data.Outcome != audit.OutcomeUnknown {
		t.Errorf("outcome = %s", got.Data.Outcome)
	}
	h.want(h.call("list_files", `{}`), enforce.Failed, "upstream_unavailable")
	h.pass(time.Minute) // and what was verified is no longer so
	a = h.call("note", `{}`)
	h.want(a, enforce.Failed, "upstream_unavailable")
	h.recorded(h.run.ID, audit.CallRefused, "upstream_unavailable")
	h.want(h.call("no_such_tool", `{}`), enforce.Failed, "upstream_unavailable") // no telling what exists by that
	h.office.set(func() { h.office.down = false })
	h.pass(3 * time.Second)
	h.want(h.call("note", `{}`), enforce.Released, "")
}

// failing makes the nth Update from now fail.
type failing struct {
	store.Store
	n atomic.Int64
}

func (f *failing) Update(ctx context.Context, fn func(store.Tx) error) error {
	if f.n.Add(-1) == 0 {
		return fault.New(fault.Unavailable, "test", "store_commit", "the disk is full")
	}
	return f.Store.Update(ctx, fn)
}

func TestCommitFails(t *testing.T) {
	for name, c := range map[string]struct {
		tool      string
		streams   bool
		nth       int64
		forwarded int
		released  int
	}{
		"commit 1 of an effect":     {"note", false, 1, 0, 0},
		"commit 2 of an effect":     {"note", false, 2, 1, 0},
		"commit 2 of a read":        {"list_files", false, 1, 1, 0},
		"note of a streaming read":  {"list_files", true, 1, 1, 0},
		"end of a streaming effect": {"note", true, 2, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := &failing{}
			h := newHouse(t, func(h *house) { f.Store, h.store = h.db, f })
			h.want(h.call("other_files", `{}`), enforce.Released, "")
			n := len(h.office.calls())
			if c.streams {
				h.office.streams(c.tool, progress, progress, done)
			}
			f.n.Store(c.nth)
			a := h.call(c.tool, `{}`)
			h.want(a, enforce.Failed, "store_unavailable")
			if got := len(h.office.calls()) - n; got != c.forwarded {
				t.Errorf("forwarded %d, want %d", got, c.forwarded)
			}
			if got := len(a.out.messages); got != c.released {
				t.Errorf("released %d, want %d", got, c.released)
			}
		})
	}
}

func TestFailpointsFollowTheSteps(t *testing.T) {
	var steps []string
	h := newHouse(t, func(h *house) { h.config.Failpoint = func(s string) { steps = append(steps, s) } })
	h.want(h.call("note", `{}`), enforce.Released, "")
	want := []string{"receive", "authenticate", "open", "describe", "decide", "approve", "grant", "inject", "forward", "inspect", "record", "release"}
	if !slices.Equal(steps, want) {
		t.Errorf("steps = %v, want %v", steps, want)
	}
}

func TestCallerGone(t *testing.T) {
	h := newHouse(t)
	out := &sink{h: h, fail: errors.New("gone")}
	o, err := h.engine.Call(t.Context(), h.tool("note", `{}`), out)
	if o.Verdict != enforce.Failed || fault.CodeOf(err) != "caller_gone" {
		t.Errorf("%+v %v", o, err)
	}
	rows := h.events(h.run.ID, audit.CallOutcome)
	if len(rows) != 1 || rows[0].Data.Outcome != audit.OutcomeOK {
		t.Errorf("outcomes = %+v", rows)
	}
}

func TestGrantAskedAhead(t *testing.T) {
	h := newHouse(t)
	asking := enforce.Ask{Credential: h.credential(h.run.ID), Run: h.run.ID, Server: "office", Tool: "note", Arguments: json.RawMessage(`{"text":"x"}`)}
	g, err := h.engine.AskGrant(t.Context(), asking)
	h.must(err)
	if g.Outcome.Verdict != enforce.Released || g.Grant.State != "active" || !g.Grant.Ahead {
		t.Fatalf("%+v", g)
	}
	again, err := h.engine.AskGrant(t.Context(), asking)
	h.must(err)
	if again.Grant.ID != g.Grant.ID {
		t.Error("asking twice made two grants")
	}
	h.want(h.call("note", `{"text":"y"}`), enforce.Released, "") // another call has a grant of its own
	h.want(h.call("note", ` { "text" : "x" } `), enforce.Released, "")
	states := map[string]int{}
	for _, g := range h.grants(h.run.ID) {
		states[fmt.Sprint(g.Ahead, g.State)]++
	}
	if states["truereleased"] != 1 || states["falsereleased"] != 1 || len(states) != 2 {
		t.Errorf("grants = %v", states)
	}
	asking.Tool, asking.Arguments = "hidden", nil
	g, err = h.engine.AskGrant(t.Context(), asking)
	if err != nil || g.Outcome.Verdict != enforce.Denied || g.Outcome.Code != enforce.CodeNotListed {
		t.Errorf("%+v %v", g, err)
	}
	asking.Run = h.open(run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "k"}, "").ID
	if _, err = h.engine.AskGrant(t.Context(), asking); fault.CodeOf(err) != "run_not_found" {
		t.Errorf("asked for another run: %v", err)
	}
	h.end(h.run.ID)
	asking.Run = h.run.ID
	if _, err = h.engine.AskGrant(t.Context(), asking); fault.CodeOf(err) != "run_ended" {
		t.Errorf("asked for an ended run: %v", err)
	}
}

func TestGrantDiesWithTheRun(t *testing.T) {
	h := newHouse(t)
	_, err := h.engine.AskGrant(t.Context(), enforce.Ask{Credential: h.credential(h.run.ID), Run: h.run.ID, Server: "office", Tool: "note"})
	h.must(err)
	h.end(h.run.ID)
	for _, g := range h.grants(h.run.ID) {
		if g.State != "revoked" {
			t.Errorf("grant is %s", g.State)
		}
	}
	h.want(h.call("note", `{}`), enforce.Failed, "run_ended")
}

func TestGrantAskedByTheOpener(t *testing.T) {
	h := newHouse(t)
	ada := h.people["ada"]
	asking := enforce.Ask{Run: h.run.ID, Server: "office", Tool: "note", Arguments: json.RawMessage(`{"text":"x"}`)}
	asking.Credential.Person, asking.Credential.Subject = ada.ID, "ada"
	g, err := h.engine.AskGrant(t.Context(), asking)
	if err != nil || g.Grant.State != "active" || g.Grant.Origin != "opener" {
		t.Fatalf("%+v %v", g, err)
	}
	asking.Credential.Person = h.people["tom"].ID
	if _, err = h.engine.AskGrant(t.Context(), asking); fault.CodeOf(err) != "run_not_found" {
		t.Errorf("somebody else asked: %v", err)
	}
	h.want(h.call("note", `{"text":"x"}`), enforce.Released, "")
}
