// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"

	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// Step 2, authenticate. The credential names an agent, an instance and a run, for this one server; it opens nothing.
func (c *call) authenticate(ctx context.Context) *refusal {
	defer c.passed("authenticate")
	cred, err := c.Auth.Authenticate(ctx, c.req.Presented, c.cfg.PublicURL+"/mcp/"+c.req.Server)
	if err != nil {
		if r, ok := errors.AsType[*identity.Refused](err); ok {
			c.cred = r.Credential // whose it was, for the record alone
		}
		return fail(err)
	}
	c.proven = true
	if cred.IsPerson() || cred.Agent.IsZero() || cred.Instance.IsZero() || cred.Run.IsZero() {
		return fail(fault.New(fault.Unauthenticated, "enforce.authenticate", "bad_credential", "only an agent's credential, bound to a run, opens this door").
			WithFix("enrol the agent and connect with chaperone connect"))
	}
	c.cred = cred
	return nil
}
