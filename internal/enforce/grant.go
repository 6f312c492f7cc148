// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/store"
)

// Step 7, grant: commit 1, for effects and for whatever people had to allow. In one transaction the whole snapshot is compared with the
// database, the approval is consumed, the budgets are spent, the single-use grant is minted already used (or one that was asked
// ahead is used), the source label joins, and decision and intent are written. Everything that takes thought is made before:
// inside there is no policy, no crypto and no clock. It reports moved when the call must be decided again.
func (c *call) spend(ctx context.Context) (moved bool, no *refusal) {
	defer c.passed("grant")
	if no := c.permitted(); no != nil {
		return false, no
	}
	if !c.isEffect() && c.lifts.IsZero() {
		return false, nil
	}
	if no := c.fit(); no != nil {
		return false, no
	}
	p, err := c.prepare()
	if err != nil {
		return false, fail(err)
	}
	err = c.Store.Update(ctx, p.commit)
	switch {
	case err == nil:
		c.grant, c.intended, c.noted = p.grant, true, true
		c.unlock()
		return false, nil
	case errors.Is(err, errMoved), fault.Is(err, fault.Conflict):
		// A conflict is another call that was faster: it has used the grant, consumed the approval or moved the run.
		return true, nil
	}
	return false, orStore(err)
}

// permitted is the last look at the decision before anything is spent on it: whatever way a call came here, policy has said yes.
func (c *call) permitted() *refusal {
	if c.decided.Effect != policy.Permit {
		return fail(fault.New(fault.Internal, "enforce.grant", "not_permitted", "a call came this far without a permit"))
	}
	return nil
}

// fit refuses effects while the log is behind, or while it is not known who has been stopped meanwhile. Reads go on.
func (c *call) fit() *refusal {
	if c.Record.Lag(c.now) > c.cfg.MaxLag {
		return fail(fault.New(fault.Unavailable, "enforce.grant", "record_behind", "the log is too far behind the record to take another effect").
			WithFix("try again later; reads go on; chaperone doctor says more"))
	}
	if c.Revocations.Age(c.now) > c.cfg.Lease {
		return fail(fault.New(fault.Unavailable, "enforce.grant", "revocation_stale", "it is not known who has been suspended in the meantime").
			WithFix("try again later; reads go on"))
	}
	return nil
}

// passage is everything that commit 1 writes, made before it begins.
type passage struct {
	*call
	grant    *grant.Grant
	asked    *grant.Grant       // the stored grant that was asked ahead, nil when one is minted
	consumed *approval.Approval // as it is to be stored
	deciders []people.Person    // must be unchanged
	events   []audit.Sealed
}

func (c *call) prepare() (*passage, error) {
	p := &passage{call: c}
	var err error
	if c.approval != nil {
		a, err := approval.Consume(*c.approval, c.now)
		if err != nil {
			return nil, err
		}
		p.consumed = &a
	}
	if p.asked = c.consents.active; p.asked == nil {
		if g := c.consents.requested; g != nil && g.Approval == c.lifts && !c.lifts.IsZero() {
			p.asked = g
		}
	}
	if p.asked != nil {
		g := *p.asked
		g.State, g.ChangedAt = grant.Used, c.now.UTC()
		p.grant = &g
	} else {
		g, err := grant.New(c.scope(), grant.ByCall, grant.Used, 0, c.now)
		if err != nil {
			return nil, err
		}
		g.Approval, g.Decision = c.lifts, c.decision
		p.grant = &g
	}
	if a := c.consents.approval(c.lifts); a != nil {
		for _, d := range a.Decisions {
			p.deciders = append(p.deciders, c.consents.deciders[d.Person])
		}
	}
	p.events, err = c.intentEvents(p)
	return p, err
}

func (p *passage) commit(tx store.Tx) error {
	if err := p.compare(tx); err != nil {
		return err
	}
	if err := p.unchanged(tx); err != nil {
		return err
	}
	if err := p.pay(tx, p.takes()); err != nil {
		return err
	}
	if err := p.use(tx); err != nil {
		return err
	}
	if err := p.join(tx, p.sourceLabel()); err != nil {
		return err
	}
	for _, e := range p.events {
		if err := tx.Events().Append(e); err != nil {
			return err
		}
	}
	return nil
}

// unchanged consumes the approval, if those who gave it are who they were when it was verified.
func (p *passage) unchanged(tx store.Tx) error {
	for _, before := range p.deciders {
		if now, err := tx.People().Person(before.ID.String()); err != nil || now.Version != before.Version {
			return errMoved
		}
	}
	if p.consumed == nil {
		return nil
	}
	return tx.Approvals().Update(*p.consumed)
}

// use spends the grant: a stored one moves, one winner however many ask, and a minted one is stored as used.
func (p *passage) use(tx store.Tx) error {
	if p.asked == nil {
		return tx.Grants().Insert(*p.grant)
	}
	from := p.asked.State
	if from == grant.Requested {
		if err := tx.Grants().Move(p.grant.ID, grant.Requested, grant.Active, p.grant.ChangedAt, ""); err != nil {
			return err
		}
		from = grant.Active
	}
	return tx.Grants().Move(p.grant.ID, from, grant.Used, p.grant.ChangedAt, "")
}
