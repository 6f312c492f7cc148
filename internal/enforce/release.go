// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"chaperone/internal/audit"
	"chaperone/internal/fault"
)

// Step 12, release. The door gets the messages, in order, after the commit that covers them.
func (c *call) release(messages []Incoming) *refusal {
	defer c.passed("release")
	x := c.answered
	for _, m := range messages {
		err := c.out.Release(Message{
			Raw: m.Raw, EventID: m.EventID, Event: m.Event, Retry: m.Retry,
			Status: x.Status, Header: x.Header, Stream: x.Stream, Session: x.Session, Run: c.run.ID,
		})
		if err != nil {
			if c.outcome_ == "" {
				c.outcome_ = audit.OutcomeUnknown
			}
			return fail(fault.New(fault.Unavailable, "enforce.release", "caller_gone", "the caller is gone").WithCause(err))
		}
		c.begun = true
	}
	return nil
}
