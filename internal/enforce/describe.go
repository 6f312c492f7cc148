// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"strings"

	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/guard"
	"chaperone/internal/label"
)

// Step 4, describe. What is called must be in the catalogue and pinned, and the server must still define it as it was pinned. Whatever
// is wrong here, the caller gets the one answer of hide: what it may not see and what does not exist look the same, and the true
// reason is on the record. Then the arguments are held against the pinned schema, and the values at their sinks are read.
func (c *call) describe(ctx context.Context) *refusal {
	defer c.passed("describe")
	if no := c.describeServer(ctx); no != nil {
		return no
	}
	if c.req.Kind == "" {
		return c.describeMethod(ctx)
	}
	c.tool = toolName(c.req.Kind, c.req.Name)
	d, ok := c.find(c.req.Kind, c.req.Name)
	if !ok {
		return hide("tool_unknown")
	}
	c.tool = toolName(d.Entry.Kind, d.Entry.Name)
	if !d.HasPin {
		return hide("not_pinned")
	}
	c.entry, c.pin = d.Entry, d.Pin
	if no := c.checkPin(ctx); no != nil {
		return no
	}
	if c.req.Kind == catalog.KindTool {
		var err error
		if c.req.Agree != nil {
			err = c.req.Agree(c.pin.Raw)
		}
		if err == nil {
			err = c.snap.Catalog.CheckArguments(c.pin, c.args)
		}
		if err != nil {
			return c.visible(deny(fault.CodeOf(err), messageOf(err), fixOf(err)))
		}
	}
	return c.readSinks()
}

// describeServer refuses a server that is unknown, disabled, not pinned or quarantined, and one that cannot be asked what it is.
func (c *call) describeServer(ctx context.Context) *refusal {
	s, ok := c.snap.Server(c.req.Server)
	if !ok {
		return hide("server_unknown")
	}
	c.server = s
	if s.Disabled {
		return hide("server_disabled")
	}
	pin, ok := c.snap.Pin(c.req.Server, catalog.KindServer, "")
	if !ok {
		return hide("server_not_pinned")
	}
	if pin.State != catalog.Pinned {
		return hide("definition_drifted")
	}
	live, no := c.liveDefinitions(ctx)
	if no != nil {
		return no
	}
	if !live.matches(pin) {
		return hide("definition_drifted")
	}
	return nil
}

// checkPin refuses a definition that is quarantined, or that the server no longer gives as it was pinned.
func (c *call) checkPin(ctx context.Context) *refusal {
	if c.pin.State != catalog.Pinned {
		return hide("definition_drifted")
	}
	live, no := c.liveDefinitions(ctx)
	if no != nil {
		return no
	}
	if !live.has(c.pin) {
		return hide("definition_gone")
	}
	if !live.matches(c.pin) {
		return hide("definition_drifted")
	}
	return nil
}

// describeMethod describes a protocol method: its class from the table, its label from what the server's answers may carry.
func (c *call) describeMethod(ctx context.Context) *refusal {
	c.tool = "method:" + c.req.Method
	c.entry = catalog.Entry{Server: c.req.Server, Name: c.tool, Effect: c.method.effect, Known: true}
	if c.method.words {
		c.entry.Source = c.snap.ServerLabel(c.req.Server)
	}
	c.pin = catalog.Pin{}
	if c.method.task {
		return c.checkTask(ctx)
	}
	if c.req.Method == MethodReply {
		return c.checkReply(ctx)
	}
	return nil
}

// readSinks reads the values at the sinks of the arguments, and what the opener stated that may clear them.
func (c *call) readSinks() *refusal {
	sinks := make([]guard.Sink, 0, len(c.entry.Sinks))
	for _, s := range c.entry.Sinks {
		sinks = append(sinks, guard.Sink{Argument: s.Argument, Type: s.Type})
	}
	values, err := guard.SinkValues(c.args, sinks)
	if err != nil {
		return fail(err)
	}
	c.values = values
	if len(values) > 0 {
		c.stated = guard.Read(c.run.Purpose, c.planSinks())
	}
	return nil
}

// planSinks are the values of the plan, each of the type that its tool's argument has.
func (c *call) planSinks() []guard.PlanSink {
	var out []guard.PlanSink
	for _, step := range c.run.Plan {
		server, tool, _ := strings.Cut(step.Tool, "/")
		types := map[string]string{}
		if d, ok := c.snap.Catalog.Describe(server, catalog.KindTool, tool); ok {
			for _, s := range d.Entry.Sinks {
				types[s.Argument] = s.Type
			}
		}
		for argument, values := range step.Sinks {
			for _, v := range values {
				out = append(out, guard.PlanSink{Type: types[argument], Value: v})
			}
		}
	}
	return out
}

// visible gives the refusal to a caller that may see the thing, by what its lists show, and the one hidden answer to any other: what is
// wrong with a request must not tell that there is something it could be wrong for. What does not work at all is told to everybody.
func (c *call) visible(no *refusal) *refusal {
	if fault.Is(no.err, fault.Internal) || fault.Is(no.err, fault.Unavailable) {
		return no
	}
	if c.snap.Policy.CouldPermit(c.policyRequest(c.req.Kind, c.tool, c.entry)) {
		return no
	}
	return hide(no.code)
}

// sourceLabel is what joins the run before the first message of the answer.
func (c *call) sourceLabel() label.Label { return c.entry.Source }

// toolName is how the catalogue, policy, grants and the record name a thing of a server.
func toolName(kind catalog.ItemKind, name string) string {
	switch kind {
	case catalog.KindPrompt:
		return "prompt:" + name
	case catalog.KindResource, catalog.KindTemplate:
		return "resource:" + name
	case catalog.KindTool, catalog.KindServer:
	}
	return name
}
