// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// passes is how often a stop looks for what appeared meanwhile. The second pass finds what was committed beside the first and
// cannot grow any more; more are needed only beside other stops.
const passes = 16

// halting is one stop: of runs, and of what they hang on.
type halting struct {
	by     audit.Actor
	reason string
	to     run.State // what the runs become: ended, expired or suspended
	// roots lists runs to stop; those that are over are passed by, and those below them follow.
	roots func(store.Tx) ([]run.Run, error)
	// head forms the event of what else stops, told which runs stop with it; nil for none.
	head func(with []run.Run, at time.Time) audit.Event
	// change writes what else stops, once, and returns its notice; nil for none.
	change func(tx store.Tx, at time.Time) (revocation.Notice, error)
}

// stop is one run that stops, with what it has, as read before the transaction, and the sealed events of each.
type stop struct {
	run       run.Run
	over      bool // the run itself is over; only what it has is to be taken
	event     []audit.Sealed
	grants    map[id.Grant]audit.Sealed
	approvals map[id.Approval]audit.Sealed
}

// halt stops in one transaction: runs with all that descend from them, their grants and open approvals, notices and events. It
// does not wait for a quiet moment, so that a busy agent cannot put its end off: what appeared between reading and commit
// cannot grow any more after that commit (a stopped run opens nothing, asks nothing and is granted nothing), and a further pass
// stops it, with its events.
func (r *Road) halt(ctx context.Context, h halting) error {
	touched := map[id.Run]bool{}
	for pass := range passes {
		at := r.moment()
		list, err := r.stops(ctx, h, touched, at)
		if err != nil {
			return err
		}
		var head []audit.Sealed
		if h.head != nil && (pass == 0 || h.to == run.Suspended && len(list) > 0) {
			if head, err = r.seal(h.head(runsOf(list), at)); err != nil {
				return err
			}
		}
		if len(list) == 0 && (pass > 0 || h.change == nil) {
			return nil
		}
		var notices []revocation.Notice
		more := false
		err = r.deps.Store.Update(ctx, func(tx store.Tx) (err error) {
			notices, more, err = r.commit(tx, h, list, head, pass == 0, at)
			return err
		})
		if err != nil {
			return err
		}
		r.apply(notices)
		if !more {
			return nil
		}
	}
	return errMoved
}

func runsOf(list []stop) []run.Run {
	var out []run.Run
	for _, s := range list {
		if !s.over {
			out = append(out, s.run)
		}
	}
	return out
}

// stops reads what is to stop and seals its events. touched collects the runs met, so that a later pass finds what a stopped
// run was given last.
func (r *Road) stops(ctx context.Context, h halting, touched map[id.Run]bool, at time.Time) (list []stop, err error) {
	err = r.deps.Store.View(ctx, func(tx store.Tx) error {
		list = nil
		runs, err := standing(tx, h)
		if err != nil {
			return err
		}
		for _, one := range runs {
			s, _, err := holdings(tx, stop{run: one})
			if err != nil {
				return err
			}
			list = append(list, s)
		}
		for key := range touched {
			one, err := tx.Runs().Run(key)
			if err != nil {
				return err
			}
			if _, err := one.Move(h.to, "", at); err == nil {
				continue // it is among the others
			}
			s, some, err := holdings(tx, stop{run: one, over: true})
			if err != nil {
				return err
			}
			if some {
				list = append(list, s)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		touched[list[i].run.ID] = true
		if err := r.sealStop(&list[i], h, at); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// standing lists the runs that are still to be stopped, parents before their children.
func standing(tx store.Tx, h halting) ([]run.Run, error) {
	var out []run.Run
	seen := map[id.Run]bool{}
	roots, err := h.roots(tx)
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		family, err := descendants(tx, root)
		if err != nil {
			return nil, err
		}
		for _, one := range append([]run.Run{root}, family...) {
			if _, err := one.Move(h.to, "", time.Time{}); err == nil && !seen[one.ID] {
				seen[one.ID] = true
				out = append(out, one)
			}
		}
	}
	return out, nil
}

// holdings finds what a run has that dies with it.
func holdings(tx store.Tx, s stop) (stop, bool, error) {
	s.grants, s.approvals = map[id.Grant]audit.Sealed{}, map[id.Approval]audit.Sealed{}
	for _, state := range []grant.State{grant.Requested, grant.Active, grant.Used} {
		for g, err := range tx.Grants().Grants(grant.Filter{Run: s.run.ID, State: state, Limit: everything}) {
			if err != nil {
				return s, false, err
			}
			s.grants[g.ID] = audit.Sealed{}
		}
	}
	for _, state := range []approval.State{approval.Pending, approval.Approved} {
		for a, err := range tx.Approvals().Approvals(approval.Filter{Run: s.run.ID, State: state, Limit: everything}) {
			if err != nil {
				return s, false, err
			}
			s.approvals[a.ID] = audit.Sealed{}
		}
	}
	return s, len(s.grants)+len(s.approvals) > 0, nil
}

type endedData struct {
	State     run.State `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	Steps     int64     `json:"steps"`
	Bytes     int64     `json:"bytes"`
	Grants    int64     `json:"grants"`    // taken back with it
	Approvals int64     `json:"approvals"` // cancelled with it
}

type takenData struct {
	Reason string `json:"reason,omitempty"`
}

func (r *Road) sealStop(s *stop, h halting, at time.Time) error {
	seal := func(ev audit.Event) (audit.Sealed, error) {
		ev.Agent, ev.AgentName, ev.AgentType, ev.Instance, ev.Run = s.run.Agent, s.run.AgentName, s.run.AgentType, s.run.Instance, s.run.ID
		one, err := r.seal(ev)
		if err != nil {
			return audit.Sealed{}, err
		}
		return one[0], nil
	}
	if !s.over && h.to != run.Suspended {
		kind := audit.RunEnded
		if h.by.Kind == audit.ActorPerson {
			kind = audit.RunEndedByPerson
		}
		ev := r.event(kind, h.by, at, endedData{
			State: h.to, Reason: h.reason, Steps: s.run.Spent.Steps, Bytes: s.run.Spent.Bytes,
			Grants: int64(len(s.grants)), Approvals: int64(len(s.approvals)),
		})
		ev.Subject = "run:" + s.run.ID.String()
		one, err := seal(ev)
		if err != nil {
			return err
		}
		s.event = []audit.Sealed{one}
	}
	for g := range s.grants {
		ev := r.event(audit.GrantRevoked, h.by, at, takenData{Reason: h.reason})
		ev.Grant = g
		one, err := seal(ev)
		if err != nil {
			return err
		}
		s.grants[g] = one
	}
	for a := range s.approvals {
		ev := r.event(audit.ApprovalCancelled, h.by, at, takenData{Reason: h.reason})
		ev.Approval = a
		one, err := seal(ev)
		if err != nil {
			return err
		}
		s.approvals[a] = one
	}
	return nil
}

// commit writes a pass. Everything is read again, so that nothing that came between makes it fail; more says that something is
// left for another pass.
func (r *Road) commit(tx store.Tx, h halting, list []stop, head []audit.Sealed, first bool, at time.Time) (notices []revocation.Notice, more bool, err error) {
	if first && h.change != nil {
		n, err := h.change(tx, at)
		if err != nil {
			return nil, false, err
		}
		notices = append(notices, n)
	}
	if err := appendAll(tx, head); err != nil {
		return nil, false, err
	}
	for _, s := range list {
		n, err := s.write(tx, h, at)
		if err != nil {
			return nil, false, err
		}
		notices = append(notices, n...)
		_, left, err := holdings(tx, stop{run: s.run})
		if err != nil {
			return nil, false, err
		}
		more = more || left
	}
	left, err := standing(tx, h)
	if err != nil {
		return nil, false, err
	}
	return notices, more || len(left) > 0, put(tx, notices)
}

// put stores notices under the position of the events beside them.
func put(tx store.Tx, notices []revocation.Notice) error {
	position, err := tx.Events().Next()
	if err != nil {
		return err
	}
	for i := range notices {
		notices[i].Position = position
		if err := tx.Revocations().Put(notices[i]); err != nil {
			return err
		}
	}
	return nil
}

// apply tells this process of notices that are committed; others read them from the table.
func (r *Road) apply(notices []revocation.Notice) {
	for _, n := range notices {
		r.deps.Index.Apply(n)
	}
}

// write stops one run as it stands now, and takes what was found with it.
func (s stop) write(tx store.Tx, h halting, at time.Time) ([]revocation.Notice, error) {
	var notices []revocation.Notice
	is, err := tx.Runs().Run(s.run.ID)
	if err != nil {
		return nil, err
	}
	if next, err := is.Move(h.to, h.reason, at); err == nil && !s.over {
		if err := tx.Runs().Update(next); err != nil {
			return nil, err
		}
		if err := appendAll(tx, s.event); err != nil {
			return nil, err
		}
		n := revocation.Notice{
			Kind: revocation.Run, ID: is.ID.String(), Dead: true, Final: true, Reason: string(h.to), At: at,
			Until: at.Add(rememberFor), // no credential of the run lives longer, and none is issued any more
		}
		if h.to == run.Suspended {
			n.Final, n.Until = false, is.ExpiresAt.Add(rememberFor)
		}
		notices = append(notices, n)
	}
	for key, ev := range s.grants {
		g, err := tx.Grants().Grant(key)
		if err != nil {
			return nil, err
		}
		if !grant.Legal(g.State, grant.Revoked) {
			continue
		}
		if err := tx.Grants().Move(key, g.State, grant.Revoked, at, h.reason); err != nil {
			return nil, err
		}
		if err := tx.Events().Append(ev); err != nil {
			return nil, err
		}
	}
	for key, ev := range s.approvals {
		a, err := tx.Approvals().Approval(key)
		if err != nil {
			return nil, err
		}
		cancelled, err := approval.Cancel(a, h.reason, at)
		if fault.Is(err, fault.Conflict) {
			continue // it closed meanwhile
		} else if err != nil {
			return nil, err
		}
		if err := tx.Approvals().Update(cancelled); err != nil {
			return nil, err
		}
		if err := tx.Events().Append(ev); err != nil {
			return nil, err
		}
	}
	return notices, nil
}
