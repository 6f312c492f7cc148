// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"net"
	"strings"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/message"
)

// Step 9, forward. The original bytes go to the upstream. The one exception is a requestState that the road itself minted: the upstream
// gets back the one it gave, or none if it never gave any. Inbound credentials stay here; redirects are never followed.
func (c *call) forward(ctx context.Context) *refusal {
	defer c.passed("forward")
	body, no := c.outgoing()
	if no != nil {
		return no
	}
	x, err := c.Upstream.Forward(ctx, Outgoing{
		Server: c.server, Injection: c.injection, Method: c.req.HTTPMethod, Header: forwardable(c.req.Header),
		Session: c.req.Session, Body: body,
	})
	if err != nil {
		c.outcome_ = audit.OutcomeUnknown
		if neverSent(err) {
			c.outcome_ = audit.OutcomeError
		}
		return fail(err)
	}
	c.exchange, c.answered = x, x.Answer()
	return nil
}

func (c *call) outgoing() ([]byte, *refusal) {
	if c.req.RequestState == "" {
		return c.req.Body, nil
	}
	doc, err := canon.Parse(c.req.Body, canon.Limits{})
	if err != nil {
		return nil, fail(err)
	}
	body, err := message.SetRequestState(c.req.Body, doc, c.state.Upstream)
	if err != nil {
		return nil, fail(err)
	}
	return body, nil
}

// forwardable drops what proves who is calling, and what would make the upstream replay an answer that was not recorded here.
func forwardable(in map[string][]string) map[string][]string {
	out := make(map[string][]string, len(in))
	for name, values := range in {
		switch strings.ToLower(name) {
		case "authorization", "dpop", "cookie", "proxy-authorization", "last-event-id", "mcp-session-id":
		default:
			out[name] = values
		}
	}
	return out
}

// neverSent reports whether the upstream cannot have seen the request.
func neverSent(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	switch fault.CodeOf(err) {
	case "upstream_address", "injection_foreign":
		return true
	}
	return fault.Is(err, fault.Invalid)
}

// answerServer tells the upstream that a request of its own will not be answered by anybody.
func (c *call) answerServer(ctx context.Context, id, why string) {
	x, err := c.Upstream.Forward(ctx, Outgoing{
		Server: c.server, Injection: c.injection, Method: "POST", Header: forwardable(c.req.Header), Session: c.session(),
		Body: message.Refusal(id, why),
	})
	if err != nil {
		c.Log.InfoContext(ctx, "a server could not be told that its request was refused", "server", c.req.Server, "fault_code", fault.CodeOf(err))
		return
	}
	x.Close()
}

// session is the upstream's session that this answer belongs to.
func (c *call) session() string {
	if c.answered.Session != "" {
		return c.answered.Session
	}
	return c.req.Session
}

// listed says which kind of thing a list holds; "" for tasks.
func listed(list string) catalog.ItemKind {
	switch list {
	case message.Tools:
		return catalog.KindTool
	case message.Prompts:
		return catalog.KindPrompt
	case message.Resources:
		return catalog.KindResource
	case message.Templates:
		return catalog.KindTemplate
	}
	return ""
}
