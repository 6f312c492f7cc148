// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"io"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// held bounds how many empty events of a stream are kept back until there is a message to release them with.
const mostHeld = 64

// answer walks steps 10, 11 and 12 for every message of the answer: what it is, what goes on the record, and only then to the agent.
func (c *call) answer(ctx context.Context) *refusal {
	var held []Incoming
	for {
		m, err := c.exchange.Next()
		if errors.Is(err, io.EOF) {
			return c.ended(ctx, held)
		}
		if err != nil {
			c.outcome_ = audit.OutcomeUnknown
			return c.statusOr(fail(err))
		}
		if m.Raw == nil && !c.method.stream {
			if len(held) < mostHeld {
				held = append(held, m)
			}
			continue
		}
		f := found{place: part} // an empty event of a stream that stays open: the client waits for its header
		var no *refusal
		if m.Raw != nil {
			if f, no = c.inspect(ctx, m); no != nil { // 10
				return no
			}
		}
		if f.place == drop {
			continue
		}
		c.count(f.raw)
		if f.place == final {
			no = c.record(ctx, f) // 11
		} else {
			no = c.recordPart(ctx, f)
		}
		if no != nil {
			return no
		}
		m.Raw = f.raw
		if no := c.release(append(held, m)); no != nil || f.place == final { // 12
			return no
		}
		held = nil
	}
}

func (c *call) count(raw []byte) {
	c.bytesOut += int64(len(raw))
	c.unspent += int64(len(raw))
}

// ended is the end of an answer that brought no final message: right for notifications and streams, a failure for a call.
func (c *call) ended(ctx context.Context, held []Incoming) *refusal {
	owed := c.req.HTTPMethod == "POST" && !c.req.Notification && c.req.Method != MethodReply && !c.method.stream
	if owed {
		c.outcome_ = audit.OutcomeUnknown
		return c.statusOr(fail(fault.New(fault.Unavailable, "enforce.inspect", "upstream_unavailable", "the server %s ended its answer early", c.req.Server).
			WithFix("try again later; other servers are not affected")))
	}
	c.outcome_ = audit.OutcomeOK
	if no := c.record(ctx, found{place: final}); no != nil {
		return no
	}
	if !c.begun && len(held) == 0 {
		held = []Incoming{{}} // the bare status
	}
	return c.release(held)
}

// statusOr turns the failure into session_gone where the upstream says that it no longer knows the session, so that the client opens
// another.
func (c *call) statusOr(no *refusal) *refusal {
	if c.answered.Status == 404 && c.req.Session != "" {
		return fail(fault.New(fault.NotFound, "enforce.forward", "session_gone", "the server %s no longer knows the session", c.req.Server).
			WithFix("initialize a new session"))
	}
	return no
}

// Step 11, record: commit 2, before the message that carries the answer is released. A call that has had its commit 1 (or its note, below)
// writes its outcome, gives its grant back and pays for the bytes; the run must still be alive, or nothing is released. Any other
// call writes everything here at once: decision, label and outcome, on the same comparison as commit 1.
func (c *call) record(ctx context.Context, f found) *refusal {
	defer c.passed("record")
	if c.method.quiet && !c.noted {
		c.finished = true
		return nil
	}
	for {
		c.now = c.Now()
		var err error
		if c.noted {
			err = c.commitOutcome(ctx, f)
		} else {
			err = c.commitWhole(ctx, f)
		}
		if err == nil {
			c.unspent, c.noted, c.finished = 0, true, true
			c.unlock()
			return nil
		}
		if !errors.Is(err, errMoved) {
			return withheld(err)
		}
		if no := c.again(ctx); no != nil {
			return no
		}
	}
}

// again decides a read anew whose snapshot moved while the upstream was answering. Nothing was released, and a read changes nothing.
func (c *call) again(ctx context.Context) *refusal {
	if no := c.retry(ctx); no != nil {
		return no
	}
	return c.settle(ctx)
}

// withheld is the refusal of an answer that is there and may not be released.
func withheld(err error) *refusal {
	if fault.Is(err, fault.Suspended) || fault.Is(err, fault.Conflict) {
		return fail(err)
	}
	return orStore(err)
}

func (c *call) commitWhole(ctx context.Context, f found) error {
	events, err := c.wholeEvents(f)
	if err != nil {
		return err
	}
	takes := c.takes()
	takes.Bytes += c.unspent
	source := c.sourceLabel()
	return c.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
		if err := c.compare(tx); err != nil {
			return err
		}
		if err := c.pay(tx, takes); err != nil {
			return err
		}
		if err := c.join(tx, source); err != nil {
			return err
		}
		return c.finish(tx, f, events)
	})
}

func (c *call) commitOutcome(ctx context.Context, f found) error {
	if err := c.run.Check(c.now); err != nil {
		return err
	}
	events, err := c.outcomeEvents(f)
	if err != nil {
		return err
	}
	return c.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
		if err := c.still(tx); err != nil {
			return err
		}
		if err := c.pay(tx, run.Spend{Bytes: c.unspent}); err != nil {
			return err
		}
		if c.grant != nil {
			if err := tx.Grants().Move(c.grant.ID, grant.Used, grant.Released, c.now.UTC(), ""); err != nil {
				return err
			}
		}
		return c.finish(tx, f, events)
	})
}

func (c *call) finish(tx store.Tx, f found, events []audit.Sealed) error {
	if f.seen.Task != "" {
		if err := tx.Handles().Bind(c.req.Server, "task", f.seen.Task, c.run.ID); err != nil {
			return err
		}
	}
	for _, e := range events {
		if err := tx.Events().Append(e); err != nil {
			return err
		}
	}
	return nil
}

// still refuses to release anything to a caller that was stopped while the upstream was answering.
func (c *call) still(tx store.Tx) error {
	for _, r := range append([]run.Run{c.run}, c.ancestors...) {
		now, err := tx.Runs().Run(r.ID)
		if err != nil {
			return err
		}
		if now.State != run.Active {
			return fault.New(fault.Suspended, "enforce.record", "run_"+string(now.State), "the run is %s", now.State).WithFix("open a new run")
		}
	}
	a, err := tx.Registry().Agent(c.agent.ID.String())
	if err != nil {
		return err
	}
	if a.State != identity.Active {
		return fault.New(fault.Suspended, "enforce.record", "agent_"+string(a.State), "the agent is %s", a.State)
	}
	in, err := tx.Instances().Instance(c.instance.ID)
	if err != nil {
		return err
	}
	if !in.RevokedAt.IsZero() {
		return fault.New(fault.Suspended, "enforce.record", "instance_revoked", "the instance was revoked")
	}
	return nil
}

// recordPart makes durable what must be before a message goes out that is not the end of the answer: the decision and the source label
// before the first one, and on a stream that stays open the label of the server's own words and the bytes. The caller must still be
// alive for every one.
func (c *call) recordPart(ctx context.Context, f found) *refusal {
	defer c.passed("record")
	for !c.noted {
		err := c.commitNote(ctx)
		if err == nil {
			c.noted = true
			c.unlock()
			break
		}
		if !errors.Is(err, errMoved) {
			return withheld(err)
		}
		if no := c.again(ctx); no != nil {
			return no
		}
	}
	c.now = c.Now()
	if err := c.run.Check(c.now); err != nil {
		return fail(err)
	}
	if c.run.Spent.Bytes+c.unspent > c.run.Budgets.Bytes {
		return deny("budget_bytes", "the run's budget of bytes is used up", "open a run with a larger budget")
	}
	if !c.method.stream && !f.words {
		if err := c.Store.View(ctx, c.still); err != nil {
			return withheld(err)
		}
		return nil
	}
	words := label.Label{}
	if f.words {
		words = c.snap.ServerLabel(c.req.Server)
	}
	joined, err := c.joinedEvents(words)
	if err != nil {
		return fail(err)
	}
	err = c.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
		if err := c.still(tx); err != nil {
			return err
		}
		if err := c.pay(tx, run.Spend{Bytes: c.unspent}); err != nil {
			return err
		}
		if err := c.join(tx, words); err != nil {
			return err
		}
		return c.finish(tx, found{}, joined)
	})
	if err != nil {
		return withheld(err)
	}
	c.run.Label, c.label, c.unspent = c.run.Label.Join(words), c.label.Join(words), 0
	return nil
}

// commitNote writes the decision and joins the source label before the first message of a read that streams.
func (c *call) commitNote(ctx context.Context) error {
	events, err := c.noteEvents()
	if err != nil {
		return err
	}
	takes, source := c.takes(), c.sourceLabel()
	return c.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
		if err := c.compare(tx); err != nil {
			return err
		}
		if err := c.pay(tx, takes); err != nil {
			return err
		}
		if err := c.join(tx, source); err != nil {
			return err
		}
		return c.finish(tx, found{}, events)
	})
}

// recordRefusal writes why the call does not go on. A refusal takes a step of the run's budget as far as there is one; an effect that
// was on its way gives its grant back and leaves its outcome. It returns what is worse than the refusal: that it could not be written.
func (c *call) recordRefusal(ctx context.Context, no *refusal) *refusal {
	if c.finished {
		return nil // the outcome is on the record; only the caller was gone
	}
	var held int64
	if !c.proven {
		switch no.code {
		case "no_credential", "no_proof", "use_dpop_nonce", "store_unavailable":
			return nil // a handshake, not a call; and a store that is down takes no record
		}
		var ok bool
		if ok, held = c.unknown.admit(c.now); !ok {
			return nil
		}
	} else if no.code == "budget_steps" {
		// A run that has used up its steps pays nothing for asking on, so what it may write is bounded as a stranger's is.
		var ok bool
		if ok, held = c.overdrawn.admit(c.now); !ok {
			return nil
		}
	}
	events, err := c.refusalEvents(no, held)
	if err != nil {
		c.Log.ErrorContext(ctx, "a refusal could not be sealed", "error", err)
		return storeDown(err)
	}
	steps := int64(1)
	if no.free || c.noted || c.run.ID.IsZero() {
		steps = 0
	}
	bytes := c.unspent
	if !c.noted {
		bytes += int64(len(c.req.Body))
	}
	err = c.Store.Update(ctx, func(tx store.Tx) error {
		if !c.run.ID.IsZero() {
			err := c.pay(tx, run.Spend{Steps: steps, Bytes: bytes})
			if fault.Is(err, fault.Limited) {
				err = c.pay(tx, run.Spend{Steps: steps})
			}
			if err != nil && !fault.Is(err, fault.Limited) && !fault.Is(err, fault.Suspended) {
				return err
			}
		}
		if c.intended && c.grant != nil {
			err := tx.Grants().Move(c.grant.ID, grant.Used, grant.Released, c.now.UTC(), no.code)
			if err != nil && !fault.Is(err, fault.Conflict) {
				return err
			}
		}
		return c.finish(tx, found{}, events)
	})
	if err != nil {
		return storeDown(err)
	}
	return nil
}

// kept is the result as it goes into the record, if it is to be kept at all and fits.
func (c *call) kept(raw []byte) []byte {
	if c.cfg.KeepResult <= 0 || len(raw) == 0 || len(raw) > c.cfg.KeepResult {
		return nil
	}
	return raw
}
