// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// Step 1, receive. The door has capped the body, parsed it once and compared it with its headers; here it is checked that the door
// formed a request that the road can judge. A mistake of the door must not become a permission, so nothing is filled in.
func (c *call) receive() *refusal {
	defer c.passed("receive")
	c.now = c.began
	c.step = id.NewStep(c.began)
	bad := func(what string) *refusal {
		return fail(fault.New(fault.Invalid, "enforce.receive", "bad_request", "the request cannot be judged: %s", what))
	}
	if c.req.Server == "" || c.req.Method == "" {
		return bad("it names no server or no method")
	}
	for _, f := range []struct {
		name, value string
		most        int
	}{
		{"server", c.req.Server, 63}, {"method", c.req.Method, 128}, {"name", c.req.Name, 2048}, {"task", c.req.Task, 1024},
		{"session", c.req.Session, 1024}, {"requestState", c.req.RequestState, 16 << 10}, {"reply", c.req.Reply, 256}, {"id", c.req.ID, 1024},
	} {
		if len(f.value) > f.most {
			return bad("its " + f.name + " is too long")
		}
	}
	switch c.req.HTTPMethod {
	case "POST", "GET", "DELETE":
	default:
		return bad("its HTTP method is not POST, GET or DELETE")
	}
	var known bool
	c.method, known = methodOf(c.req.Method)
	if !known {
		// Judged no further, but after the caller has proved who it is: see open.
		c.method = method{effect: catalog.Irreversible}
	}
	if c.method.called != (c.req.Kind != "") || c.method.called && c.req.Name == "" {
		return bad("what it calls and its method do not go together")
	}
	if c.method.task && c.req.Task == "" {
		return bad("it names no task")
	}
	if c.req.Method == MethodReply && c.req.Reply == "" {
		return bad("it answers nothing")
	}
	c.args = c.req.Arguments
	if len(c.args) == 0 {
		c.args = []byte("{}")
	}
	if c.req.Kind == catalog.KindResource { // what policy sees is what was decided on, not what the door thought
		uri, err := canon.Marshal(map[string]string{"uri": c.req.Name})
		if err != nil {
			return fail(err)
		}
		c.args = uri
	}
	doc, err := canon.Parse(c.args, canon.Limits{})
	if err != nil {
		return fail(err)
	}
	if doc.Kind != canon.Object {
		return bad("its arguments are not an object")
	}
	for _, m := range doc.Members {
		c.argKeys = append(c.argKeys, m.Key)
	}
	c.argsDigest = digest(c.args)
	return nil
}
