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

// Step 9, forward. The original bytes go to the upstream, with two exceptions. A requestState that the road itself minted is turned
// back into the one that the upstream gave, or none if it never gave any. And from a call that people approved goes whatever in its
// _meta is not the protocol's own: they were not shown it. Inbound credentials stay here; redirects are never followed.
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
	body := c.req.Body
	change := func(how func([]byte, *canon.Node) ([]byte, error)) *refusal {
		doc, err := canon.Parse(body, canon.Limits{})
		if err == nil {
			body, err = how(body, doc)
		}
		return orNil(err)
	}
	if c.req.RequestState != "" {
		no := change(func(b []byte, doc *canon.Node) ([]byte, error) {
			return message.SetRequestState(b, doc, c.state.Upstream)
		})
		if no != nil {
			return nil, no
		}
	}
	if c.req.Kind != "" && !c.lifts.IsZero() {
		if no := change(message.PlainMeta); no != nil {
			return nil, no
		}
	}
	return body, nil
}

// unshown refuses a call that people would have to approve and that carries something they would not be shown: they approve a tool and its
// arguments. (Of a protocol method they approve the digest of the whole body.)
func (c *call) unshown() *refusal {
	if c.req.Kind == "" || len(c.req.Body) == 0 {
		return nil
	}
	body, no := c.outgoing()
	if no != nil {
		return no
	}
	doc, err := canon.Parse(body, canon.Limits{})
	if err != nil {
		return fail(err)
	}
	if names := message.Beside(doc); len(names) > 0 {
		return deny("params_unbound", "people approve the arguments of a call, and this one carries "+short(strings.Join(names, ", "))+" beside them",
			"send the same call without them")
	}
	return nil
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
