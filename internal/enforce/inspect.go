// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"strings"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/message"
	"chaperone/internal/policy"
	"chaperone/internal/store"
)

// place is what is to be done with a message of the answer.
type place string

const (
	drop  place = "drop"  // nobody gets it
	part  place = "part"  // it goes on, and the answer is not over
	final place = "final" // it is the answer
)

// found is what inspection made of one message.
type found struct {
	place place
	seen  message.Seen
	raw   []byte // as it may be released
	words bool   // it carries words of the server that no label has covered yet
}

// Step 10, inspect, message by message: what it is, whether this caller may have it, and what of it. Lists are cut for the caller. What
// a server says of itself must be what was pinned. A request of the server to the client goes to policy like any other.
// (Redaction of the credential's echo has happened in upstream; detectors come with the guard.)
func (c *call) inspect(ctx context.Context, m Incoming) (found, *refusal) {
	defer c.passed("inspect")
	seen, err := message.Read(m.Doc)
	if err != nil {
		return found{}, c.badAnswer("it is " + messageOf(err))
	}
	f := found{seen: seen, raw: m.Raw}
	c.echoes += m.Redacted
	if message.Changes(seen.Method) {
		c.DefinitionsChanged(c.req.Server)
	}
	switch seen.Kind {
	case message.Notification:
		return c.inspectNotification(ctx, f, m)
	case message.Request:
		return c.inspectAsk(ctx, f)
	case message.Result, message.Error:
	}
	return c.inspectAnswer(ctx, f, m)
}

// inspectNotification decides a notification of the server. One that policy denies is dropped, and the first of its method in this
// answer goes on the record.
func (c *call) inspectNotification(ctx context.Context, f found, m Incoming) (found, *refusal) {
	f.place = part
	says := message.Says(m.Doc, c.frame())
	if c.req.Method == "subscriptions/listen" && f.seen.Method == "notifications/subscriptions/acknowledged" {
		f.words = c.worded() && says
		return f, nil // it is the answer to what was decided
	}
	f.words = c.worded() && (says || !message.Silent(f.seen.Method))
	asked, ok := c.decideAsk(f.seen.Method)
	if ok {
		return f, nil
	}
	f.place = drop
	if c.dropped[f.seen.Method] || len(c.dropped) >= mostHeld {
		return f, nil
	}
	if c.dropped == nil {
		c.dropped = map[string]bool{}
	}
	c.dropped[f.seen.Method] = true
	event, err := c.askEvent(asked, f.seen.Method, false)
	if err != nil {
		return f, fail(err)
	}
	err = c.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error { return tx.Events().Append(event) })
	if err != nil {
		return f, storeDown(err)
	}
	return f, nil
}

func (c *call) inspectAnswer(ctx context.Context, f found, m Incoming) (found, *refusal) {
	f.place = final
	if c.req.HTTPMethod == "GET" || f.seen.Kind == message.Result && (c.req.Notification || c.req.Method == MethodReply) {
		// Nobody is owed a result here. On a GET only a replay would bring one, and step 9 lets nobody ask for a replay.
		f.place = drop
		return f, nil
	}
	if c.req.ID != "" && f.seen.ID != c.req.ID && (f.seen.Kind == message.Result || f.seen.ID != "") {
		return f, c.badAnswer("it answers another request")
	}
	c.outcome_ = audit.OutcomeOK
	if f.seen.Failed {
		c.outcome_ = audit.OutcomeError
	}
	if f.seen.Kind == message.Error {
		if !c.worded() {
			return f, nil
		}
		var err error
		if f.raw, err = message.Bare(m.Raw, m.Doc); err != nil { // no label covers its words, so they stay here
			return f, c.badAnswer("it is " + messageOf(err))
		}
		return f, nil
	}
	if c.req.Method == "initialize" || c.req.Method == "server/discover" {
		if no := c.checkNames(f.seen); no != nil {
			return f, no
		}
	}
	var err error
	if c.method.list != "" {
		if f.raw, err = c.cut(ctx, f.raw, m); err != nil {
			return f, orStore(err)
		}
	}
	if f.seen.Waits {
		for _, ask := range f.seen.Asks {
			if _, ok := c.decideAsk(ask); !ok {
				c.outcome_ = audit.OutcomeUnknown
				return f, deny("server_request_denied", "the server asked for "+ask+", which policy does not permit", "ask an operator whether this server may ask that")
			}
		}
		if f.raw, err = message.SetResultState(m.Raw, m.Doc, c.mintState(f.seen.State)); err != nil {
			return f, c.badAnswer("it waits for nothing")
		}
	}
	if c.worded() && message.Says(m.Doc, c.frame()) {
		return f, c.recordPart(ctx, found{words: true}) // the label of the server's own words joins first
	}
	return f, nil
}

// frame is what an answer to a protocol method may hold without words that nobody has pinned.
func (c *call) frame() message.Frame {
	return message.Frame{
		List: c.method.list, Self: c.req.Method == "initialize" || c.req.Method == "server/discover",
		Info: func(raw []byte) bool {
			pin, ok := c.snap.Pin(c.req.Server, catalog.KindServer, "")
			doc, err := canon.Parse(pin.Raw, canon.Limits{})
			info := doc.Get("serverInfo")
			return ok && err == nil && info != nil && digest(info.Raw) == digest(raw)
		},
	}
}

// worded reports whether words of the server in this answer are covered by no label: those of a protocol method whose proper
// answer is pinned, or says nothing.
func (c *call) worded() bool { return c.req.Kind == "" && !c.method.words }

// inspectAsk decides a request that the server makes to the client. What is denied is answered with an error and goes on the record; what
// is permitted is bound to this run, so that no other run can answer it.
func (c *call) inspectAsk(ctx context.Context, f found) (found, *refusal) {
	asked, ok := c.decideAsk(f.seen.Method)
	event, err := c.askEvent(asked, f.seen.Method, ok)
	if err != nil {
		return f, fail(err)
	}
	err = c.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
		if ok {
			if err := tx.Handles().Bind(c.req.Server, "ask", c.session()+" "+f.seen.ID, c.run.ID); err != nil {
				return err
			}
		}
		return tx.Events().Append(event)
	})
	if err != nil {
		return f, storeDown(err)
	}
	if !ok {
		f.place = drop
		c.answerServer(ctx, f.seen.ID, "not permitted by the gateway's policy")
		return f, nil
	}
	f.place, f.words = part, c.worded()
	return f, nil
}

// askDecision is one decision about a request of the server.
type askDecision struct {
	id      id.Decision
	asked   policy.Request
	decided policy.Decision
}

func (c *call) decideAsk(method string) (askDecision, bool) {
	entry := catalog.Entry{Server: c.req.Server, Name: "method:" + method, Effect: catalog.Write, Known: true}
	if method == "ping" || strings.HasPrefix(method, "notifications/") {
		entry.Effect = catalog.Read
	}
	d := askDecision{id: id.NewDecision(c.now), asked: c.policyRequest("", entry.Name, entry)}
	d.decided = c.snap.Policy.Decide(d.asked)
	return d, d.decided.Effect == policy.Permit
}

// checkTask refuses a task that was made in another run, or nowhere that is known.
func (c *call) checkTask(ctx context.Context) *refusal {
	return c.owned(ctx, "task", c.req.Task, "task_of_another_run", "the task is not one of this run")
}

// checkReply refuses an answer to a request that no server has made of this run.
func (c *call) checkReply(ctx context.Context) *refusal {
	return c.owned(ctx, "ask", c.req.Session+" "+c.req.Reply, "reply_unsolicited", "no server has asked this run for that")
}

func (c *call) owned(ctx context.Context, kind, value, code, text string) *refusal {
	err := c.Store.View(ctx, func(tx store.Tx) error {
		owner, err := tx.Handles().Owner(c.req.Server, kind, value)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		if err != nil || owner != c.run.ID {
			return fault.New(fault.NotFound, "enforce.describe", code, "%s", text).WithFix("use what this run was given")
		}
		return nil
	})
	if err != nil {
		return orStore(err)
	}
	return nil
}

// checkNames holds what the server says of itself in this very answer against its pin.
func (c *call) checkNames(s message.Seen) *refusal {
	raw, err := SelfDefinition(c.server.URL, s.Instructions, s.ServerInfo)
	if err != nil {
		return c.badAnswer("what it says of itself cannot be read")
	}
	sum, err := catalog.DefinitionDigest(raw)
	if err != nil {
		return c.badAnswer("what it says of itself cannot be read")
	}
	pin, ok := c.snap.Pin(c.req.Server, catalog.KindServer, "")
	if !ok || pin.Digest != sum {
		c.DefinitionsChanged(c.req.Server)
		return hide("definition_drifted")
	}
	return nil
}

// cut leaves in a list what this caller could use, each item exactly as it was pinned; of tasks, those of this run.
func (c *call) cut(ctx context.Context, raw []byte, m Incoming) (out []byte, err error) {
	private := c.req.Era >= "2026-07-28"
	kind := listed(c.method.list)
	if kind != "" {
		return message.Keep(raw, m.Doc, c.method.list, private, func(name string, definition []byte) bool {
			return c.shows(kind, name, definition)
		})
	}
	verr := c.Store.View(ctx, func(tx store.Tx) error {
		out, err = message.Keep(raw, m.Doc, c.method.list, private, func(name string, _ []byte) bool {
			owner, err := tx.Handles().Owner(c.req.Server, "task", name)
			return err == nil && owner == c.run.ID
		})
		return err
	})
	return out, verr
}

func (c *call) shows(kind catalog.ItemKind, name string, definition []byte) bool {
	d, ok := c.snap.Catalog.Describe(c.req.Server, kind, name)
	if !ok || reserved(kind, name) || !d.HasPin || d.Pin.State != catalog.Pinned {
		return false
	}
	if sum, err := catalog.DefinitionDigest(definition); err != nil || sum != d.Pin.Digest {
		c.DefinitionsChanged(c.req.Server) // the next call finds the drift and quarantines it
		return false
	}
	return c.snap.Policy.CouldPermit(c.policyRequest(kind, toolName(kind, name), d.Entry))
}

// badAnswer refuses an answer that is not what the protocol says.
func (c *call) badAnswer(what string) *refusal {
	c.outcome_ = audit.OutcomeUnknown
	return fail(fault.New(fault.Unavailable, "enforce.inspect", "upstream_bad_message", "the server %s sent an answer that cannot be used: %s", c.req.Server, what).
		WithFix("tell the operator of server %s; other servers are not affected", c.req.Server))
}
