// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/approval"
	"chaperone/internal/identity"
)

// The points where a call is killed, in the order it comes by them: the twelve steps of the road, the commits (durable, and nobody
// has heard of it yet), and the first byte that leaves the house on either side.
const (
	crashUpstream = "first byte upstream"
	crashClient   = "first byte at the client"
)

var (
	crashEffect = []string{"receive", "authenticate", "open", "describe", "decide", "approve", "commit 1", "grant", "inject",
		crashUpstream, "forward", "inspect", "commit 2", "record", "release", crashClient}
	crashLook = []string{"receive", "authenticate", "open", "describe", "decide", "approve", "grant", "inject",
		crashUpstream, "forward", "inspect", "commit 1", "record", "release", crashClient}
	crashAsking = []string{"receive", "authenticate", "open", "describe", "decide", "commit 1", "approve", "commit 2"}
)

// TestCrashAtEveryStep kills the program at every point of a read, of an effect, and of an effect that people have approved, and at
// every point of asking them, starts it again on the same data, and looks at what is left: nothing has left the house, on either side,
// that is not on the record; nothing that was told is lost; what was approved runs once or not at all.
func TestCrashAtEveryStep(t *testing.T) {
	c := crashStage(t)
	kinds := []struct {
		name, tool string
		points     []string
		approved   bool
	}{
		{"read", "look", crashLook, false},
		{"effect", "note", crashEffect, false},
		{"approved effect", "pay", crashEffect, true},
	}
	for _, k := range kinds {
		for _, point := range k.points {
			t.Run(k.name+"/"+point, func(t *testing.T) { c.killCall(t, k.tool, point, k.points, k.approved) })
		}
		t.Run(k.name+"/account", func(t *testing.T) { c.account(t) })
	}
	for _, point := range crashAsking {
		t.Run("asking/"+point, func(t *testing.T) { c.killAsking(t, point) })
	}
	t.Run("deciding", c.killDeciding)
	t.Run("issuing", c.killIssuing)
	t.Run("account", c.account)
}

// fire makes the call that is to be killed at the point, waits until the process is gone, and starts it again.
func (c *crashed) fire(t *testing.T, tool, text, point string) crashReply {
	t.Helper()
	kill := func() { _ = c.proc.Cmd.Process.Kill() }
	var first func()
	switch point {
	case crashUpstream:
		c.arm(t, "nothing")
		c.far.mu.Lock()
		c.far.first = kill
		c.far.mu.Unlock()
	case crashClient:
		c.arm(t, "nothing")
		first = kill
	default:
		c.arm(t, point)
	}
	r := c.do(t.Context(), tool, text, first)
	c.gone(t)
	c.start(t)
	c.ready(t)
	return r
}

func (c *crashed) killCall(t *testing.T, tool, point string, points []string, approved bool) {
	text := c.text(tool)
	consumed := ""
	if approved {
		consumed = c.mustAsk(t, tool, text)
		must(t, c.approve(t.Context(), consumed))
	}
	r := c.fire(t, tool, text, point)

	// What must be so, from which point on. A read has the one commit that records it; an effect has its intent in the first.
	from := func(p string) bool { return slices.Index(points, point) >= slices.Index(points, p) }
	effect := slices.Contains(points, "commit 2")
	forwarded, told := from(crashUpstream), from("release")
	var intended, recorded bool
	if effect {
		intended, recorded = from("commit 1"), from("commit 2")
	} else {
		recorded = from("commit 1")
	}
	count := map[bool]int{true: 1}
	got := crashTrailOf(c.recent(t), text)
	if got.intents != count[intended] || got.outcomes != count[effect && recorded] || got.whole != count[!effect && recorded] || got.consumed != count[approved && intended] {
		t.Errorf("killed at %s: the record has %+v", point, got)
	}
	// At its first byte the far server may have heard nothing else of the call.
	if heard := c.far.heard(text); heard > count[forwarded] || heard == 0 && from("forward") {
		t.Errorf("killed at %s: the server heard of it %d times", point, heard)
	}
	if r.done(text) != told || !told && r.body != "" {
		t.Errorf("killed at %s: the client got %q (HTTP %d, %v)", point, r.body, r.status, r.err)
	}

	// Again, as a client would that has heard nothing.
	heard := c.far.heard(text)
	switch {
	case !approved:
		c.mustDo(t, tool, text)
	case !intended: // the approval was not used, so it still is good, once
		c.mustDo(t, tool, text)
		c.spent(t, tool, text, consumed)
	default:
		c.spent(t, tool, text, consumed)
		if now := c.far.heard(text); now != heard {
			t.Errorf("killed at %s: what was approved once ran again", point)
		}
	}
}

// spent demands that the approval has been used and that the same call asks anew.
func (c *crashed) spent(t *testing.T, tool, text, used string) {
	t.Helper()
	if again := c.mustAsk(t, tool, text); again == used {
		t.Errorf("the call hangs on approval %s, which was used", used)
	}
	a, err := c.ada.Approval(t.Context(), used)
	must(t, err)
	if a.State != approval.Consumed {
		t.Errorf("approval %s is %s", used, a.State)
	}
	if err := c.approve(t.Context(), used); err == nil {
		t.Error("a used approval could be approved once more")
	}
}

// killAsking kills the program while it files a question. There is one question afterwards, however often the call is repeated.
func (c *crashed) killAsking(t *testing.T, point string) {
	text := c.text("pay")
	r := c.fire(t, "pay", text, point)
	if r.body != "" {
		t.Errorf("the client got %q", r.body)
	}
	which := c.mustAsk(t, "pay", text)
	if again := c.mustAsk(t, "pay", text); again != which {
		t.Errorf("asked twice: %s and %s", which, again)
	}
	must(t, c.approve(t.Context(), which))
	c.mustDo(t, "pay", text)
	c.spent(t, "pay", text, which)
	if n := c.far.heard(text); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

// killDeciding kills the program when a person's word is durable and the person has not heard so.
func (c *crashed) killDeciding(t *testing.T) {
	text := c.text("pay")
	which := c.mustAsk(t, "pay", text)
	shown, err := c.ada.Approval(t.Context(), which)
	must(t, err)
	c.arm(t, "commit 1")
	yes := client.Decide{Verdict: approval.Yes, BindingDigest: shown.BindingDigest, Channel: "api"}
	if _, err := c.ada.Decide(t.Context(), which, yes); err == nil {
		t.Error("the person was told something")
	}
	c.gone(t)
	c.start(t)
	c.ready(t)
	a, err := c.ada.Approval(t.Context(), which)
	must(t, err)
	if a.State != approval.Approved || len(a.Decisions) != 1 {
		t.Errorf("the approval is %s with %d decisions", a.State, len(a.Decisions))
	}
	c.mustDo(t, "pay", text)
	c.spent(t, "pay", text, which)
}

// killIssuing kills the program when a credential is on the record and nobody has it. The assertion it was asked with is used.
func (c *crashed) killIssuing(t *testing.T) {
	h := c.agent
	assertion, err := identity.MintAssertion(h.key, h.clientID, h.issuer, time.Now())
	must(t, err)
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {h.clientID}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "resource": {c.s.Public + "/mcp/far"},
		"authorization_details": {`[{"type":"chaperone_run","run":"` + c.run + `"}]`}}.Encode()
	issued := func() (n int) {
		for _, e := range c.recent(t) {
			if e.Type == "credential.issued" {
				n++
			}
		}
		return n
	}
	before := issued()
	c.arm(t, "commit 1")
	post := func() (*http.Response, error) {
		at := c.s.Public + "/token"
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, strings.NewReader(form))
		must(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("DPoP", h.prove(h.key, http.MethodPost, at, h.nonce(at), ""))
		return c.http.Do(req)
	}
	if resp, err := post(); err == nil {
		resp.Body.Close()
		t.Errorf("HTTP %d came back", resp.StatusCode)
	}
	c.gone(t)
	c.start(t)
	c.ready(t)
	if n := issued() - before; n != 2 { // the one that nobody has, and the one since
		t.Errorf("%d credentials are on the record, want 2", n)
	}
	resp, err := post()
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		t.Error("an assertion that was used before the kill was taken again")
	}
}

// TestCrashUnderLoad kills the program from outside, at random moments while eight callers read, write and pay. CHAPERONE_CRASH_ROUNDS
// says how often [2].
func TestCrashUnderLoad(t *testing.T) {
	rounds := 2
	if n, err := strconv.Atoi(os.Getenv("CHAPERONE_CRASH_ROUNDS")); err == nil {
		rounds = n
	}
	c := crashStage(t)
	for range rounds {
		c.arm(t, "nothing")
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				tool := []string{"look", "note", "note", "pay"}[i%4]
				for {
					select {
					case <-stop:
						return
					default:
					}
					text := c.text(tool)
					r := c.do(t.Context(), tool, text, nil)
					if r.at.Approval.ID != "" && c.approve(t.Context(), r.at.Approval.ID) == nil {
						r = c.do(t.Context(), tool, text, nil)
					}
					if r.err != nil {
						return // it is dead
					}
				}
			})
		}
		time.Sleep(time.Duration(50+rand.IntN(500)) * time.Millisecond)
		_ = c.proc.Cmd.Process.Kill()
		c.gone(t)
		close(stop)
		wg.Wait()
		c.start(t)
		c.ready(t)
	}
	c.account(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.acked) < 10*rounds {
		t.Errorf("only %d calls went through", len(c.acked))
	}
	t.Logf("%d calls were answered in %d rounds, and all are on the record", len(c.acked), rounds)
}
