// SPDX-License-Identifier: Apache-2.0

package api

import (
	"chaperone/internal/api/client"
	"chaperone/internal/approval"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/run"
)

func (d *Door) runs(r *request) (any, error) {
	q, err := r.params("agent", "state", "after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.Runs(r.Context(), r.caller, q["agent"], run.State(q["state"]), maxPage)
	if err != nil {
		return nil, err
	}
	return page(q, all, func(v run.Run) string { return v.ID.String() })
}

func (d *Door) run(r *request) (any, error) {
	which, err := id.ParseRun(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return d.Govern.ReadRun(r.Context(), r.caller, which)
}

func (d *Door) openRun(r *request) (any, error) {
	var in client.OpenRun
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	o := govern.Opening{Agent: in.Agent, Purpose: in.Purpose, Plan: in.Plan, Budgets: in.Budgets}
	if in.Parent != "" {
		parent, err := id.ParseRun(in.Parent)
		if err != nil {
			return nil, err
		}
		o.Parent = parent
	}
	got, err := d.Govern.OpenRun(r.Context(), r.caller, o)
	if err != nil {
		return nil, err
	}
	return created{got}, nil
}

func (d *Door) endRun(r *request) (any, error) {
	which, err := id.ParseRun(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	reason, err := r.reason()
	if err != nil {
		return nil, err
	}
	return d.Govern.EndRun(r.Context(), r.caller, which, reason)
}

func grantID(g grant.Grant) string { return g.ID.String() }

func (d *Door) grants(r *request) (any, error) {
	q, err := r.params("run", "agent", "state", "after", "limit")
	if err != nil {
		return nil, err
	}
	f := grant.Filter{State: grant.State(q["state"])}
	if q["run"] != "" {
		if f.Run, err = id.ParseRun(q["run"]); err != nil {
			return nil, err
		}
	}
	all, err := d.Govern.ListGrants(r.Context(), r.caller, f, q["agent"])
	if err != nil {
		return nil, err
	}
	return page(q, all, grantID)
}

func (d *Door) runGrants(r *request) (any, error) {
	q, err := r.params("after", "limit")
	if err != nil {
		return nil, err
	}
	which, err := id.ParseRun(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.ListGrants(r.Context(), r.caller, grant.Filter{Run: which}, "")
	if err != nil {
		return nil, err
	}
	return page(q, all, grantID)
}

func (d *Door) askGrant(r *request) (any, error) {
	which, err := id.ParseRun(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	var in client.AskGrant
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	got, err := d.Govern.AskGrant(r.Context(), r.caller, govern.Asking{Run: which, Server: in.Server, Tool: in.Tool, Arguments: in.Arguments})
	if err != nil {
		return nil, err
	}
	if got.Denied && got.Code == "not_listed" { // one answer for what is hidden and what is not there; the record knows which
		return nil, fault.New(fault.Denied, "api", got.Code, "there is no such tool in this run's list").WithFix("list the server's tools and use a name from the list")
	}
	if got.Denied {
		return nil, fault.New(fault.Denied, "api", got.Code, "%s", got.Reason).WithFix("chaperone explain %s", got.Decision).
			WithCause(&govern.Denial{Rule: got.Rule, Reason: got.Reason, Decision: got.Decision})
	}
	out := client.GrantAnswer{State: string(got.Grant.State), Grant: &got.Grant, Decision: got.Decision.String(), Reason: got.Reason}
	if got.Approval.ID.IsZero() {
		return created{out}, nil
	}
	out.Approval = &client.PendingApproval{ID: got.Approval.ID, Link: got.Approval.Link, State: got.Approval.State, NotAfter: got.Approval.NotAfter}
	return accepted{out}, nil
}

func (d *Door) revokeGrant(r *request) (any, error) {
	which, err := id.ParseGrant(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	reason, err := r.reason()
	if err != nil {
		return nil, err
	}
	return d.Govern.RevokeGrant(r.Context(), r.caller, which, reason)
}

func approvalView(v govern.ApprovalView) client.Approval {
	out := client.Approval{Approval: v.Approval, Link: v.Link, May: v.Not == nil}
	if v.Not != nil {
		out.WhyNot = fault.CodeOf(v.Not)
		out.Why = wordsOf(v.Not)
	}
	return out
}

func (d *Door) approvals(r *request) (any, error) {
	q, err := r.params("state", "after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.Approvals(r.Context(), r.caller, approval.State(q["state"]), maxPage)
	if err != nil {
		return nil, err
	}
	return page(q, each(all, approvalView), func(a client.Approval) string { return a.ID.String() })
}

func (d *Door) approval(r *request) (any, error) {
	which, err := id.ParseApproval(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	v, err := d.Govern.Approval(r.Context(), r.caller, which)
	if err != nil {
		return nil, err
	}
	return approvalView(v), nil
}

func (d *Door) decide(r *request) (any, error) {
	which, err := id.ParseApproval(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	var in client.Decide
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	v, err := d.Govern.DecideApproval(r.Context(), r.caller, which, approval.Decision{
		Verdict: in.Verdict, BindingDigest: in.BindingDigest, Reason: in.Reason, Channel: in.Channel,
	})
	if err != nil {
		return nil, err
	}
	return approvalView(v), nil
}
