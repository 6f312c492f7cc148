// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"

	"chaperone/internal/fault"
)

// Step 8, inject. The credential of this server is opened, by the grant and for this server only; an effect without a used grant gets
// none. The agent never holds it, and the far side checks once more that it does not go elsewhere.
func (c *call) inject(ctx context.Context) *refusal {
	defer c.passed("inject")
	if c.isEffect() && (c.grant == nil || c.grant.Server != c.req.Server || c.grant.CallDigest != c.callDigest) {
		return fail(fault.New(fault.Internal, "enforce.inject", "no_grant", "an effect came this far without a grant"))
	}
	in, err := c.Secrets.Injection(ctx, c.req.Server)
	if err != nil {
		return fail(err)
	}
	if !in.IsZero() && in.Server != c.server.Name {
		return fail(fault.New(fault.Internal, "enforce.inject", "injection_foreign", "the secret of one server was about to go to another"))
	}
	c.injection = in
	return nil
}
