// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// Severities of a finding.
const (
	Error   = "error"   // something does not work, or a guard is open
	Warning = "warning" // something will not work, or is weaker than it looks
	Note    = "note"    // meant, and good to know
)

// Finding is one thing that doctor noticed.
type Finding struct {
	Code     string
	Severity string
	Subject  string
	Message  string
	Fix      string
}

// maxLag is the lag of the log behind the event table at which effects are refused.
const maxLag = 30 * time.Second

// Doctor looks at the whole deployment and reports what will not work or is dangerous, the gravest first.
func (r *Road) Doctor(ctx context.Context, c Caller) ([]Finding, error) {
	if _, err := r.allow(ctx, c, ActDoctor, policy.Resource{Kind: "system"}); err != nil {
		return nil, err
	}
	var out []Finding
	err := r.view(ctx, func(tx store.Tx) error {
		out = out[:0]
		for _, look := range []func(store.Tx) ([]Finding, error){r.lookPeople, r.lookAgents, r.lookServers, r.lookClock} {
			some, err := look(tx)
			if err != nil {
				return err
			}
			out = append(out, some...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out = append(out, r.lookLog()...)
	if r.Host != nil {
		out = append(out, r.Host.Findings(ctx)...)
	}
	order := map[string]int{Error: 0, Warning: 1, Note: 2}
	slices.SortStableFunc(out, func(a, b Finding) int { return order[a.Severity] - order[b.Severity] })
	return out, nil
}

// lookPeople asks of every rule whether the people who can act could satisfy it, and whether anybody could still operate.
func (r *Road) lookPeople(tx store.Tx) ([]Finding, error) {
	all, err := collect(tx.People().People(), 0)
	if err != nil {
		return nil, err
	}
	var able []people.Person
	var out []Finding
	for _, p := range all {
		switch {
		case p.Suspended:
		case len(p.Keys) == 0:
			out = append(out, Finding{"person_without_key", Note, "person:" + p.Name, p.Name + " has not logged in yet and cannot act",
				"send them a code: chaperone person code " + p.Name})
		default:
			able = append(able, p)
		}
	}
	set, _, err := r.Rules.Current()
	if err != nil {
		return append(out, Finding{"no_policy", Error, "policy", "no policy is in force: everything is denied", "offline: chaperone policy reset-operators"}), nil
	}
	operators := 0
	for _, p := range able {
		if r.couldApply(set, p) {
			operators++
		}
	}
	switch operators {
	case 0:
		out = append(out, Finding{"no_operator", Error, "policy", "nobody who has logged in may change the policies", "offline: chaperone policy reset-operators"})
	case 1:
		out = append(out, Finding{"one_operator", Note, "policy", "only one person may change the policies", "add a second operator: chaperone person add NAME --role operator"})
	}
	for _, rule := range set.Rules() {
		if len(rule.Require) == 0 {
			continue
		}
		trial := approval.Approval{}
		var words []string
		for _, q := range rule.Require {
			trial.Require = append(trial.Require, approval.Requirement{Group: q.Group, Number: q.Number})
			words = append(words, fmt.Sprintf("%d of %s", q.Number, q.Group))
		}
		for _, p := range able {
			trial.Decisions = append(trial.Decisions, approval.Decision{Person: p.Name, PersonID: p.ID, Groups: p.Standing(), Verdict: approval.Yes})
		}
		if !approval.Satisfied(trial) {
			out = append(out, Finding{"nobody_can_approve", Error, "rule:" + rule.ID,
				"nobody could approve what the rule " + rule.ID + " holds: it asks " + strings.Join(words, " and "),
				"add people in these groups, and have them log in: chaperone person add NAME --role approver"})
			continue
		}
		for _, p := range able {
			without := trial
			without.Decisions = slices.DeleteFunc(slices.Clone(trial.Decisions), func(d approval.Decision) bool { return d.PersonID == p.ID })
			if !approval.Satisfied(without) {
				out = append(out, Finding{"approver_irreplaceable", Warning, "rule:" + rule.ID,
					"only with " + p.Name + " can anybody approve what the rule " + rule.ID + " holds; what they ask for, own or enable themselves cannot be approved",
					"add another person in the groups: " + strings.Join(words, " and ")})
			}
		}
	}
	return out, nil
}

func (r *Road) couldApply(set *policy.Set, p people.Person) bool {
	req := policy.Request{
		Principal: policy.Principal{Kind: "Person", Name: p.Name, Groups: p.Standing()}, Action: policy.Action{Name: ActPolicyApply, Groups: []string{"people"}},
		Resource: policy.Resource{Kind: "policy"}, Credential: "dpop", Time: milli(r.Now()),
	}
	for _, role := range p.Roles {
		req.Principal.Roles = append(req.Principal.Roles, string(role))
	}
	return set.Decide(req).Effect == policy.Permit
}

func (r *Road) lookAgents(tx store.Tx) ([]Finding, error) {
	agents, err := collect(tx.Registry().Agents(), 0)
	if err != nil {
		return nil, err
	}
	var out []Finding
	now := r.Now()
	for _, g := range agents {
		subject := "agent:" + g.Name
		if g.State == identity.Retired {
			continue
		}
		switch {
		case !now.Before(g.ExpiresAt):
			out = append(out, Finding{"agent_expired", Warning, subject, g.Name + " expired on " + g.ExpiresAt.Format(time.DateOnly) + " and can do nothing", "register a successor, or retire it: chaperone agent retire " + g.Name})
		case g.ExpiresAt.Sub(now) < 14*24*time.Hour:
			out = append(out, Finding{"agent_expires_soon", Note, subject, g.Name + " expires on " + g.ExpiresAt.Format(time.DateOnly), "register a successor"})
		}
		if g.State == identity.Suspended {
			out = append(out, Finding{"agent_suspended", Note, subject, g.Name + " is suspended: " + g.StateReason, "chaperone agent resume " + g.Name})
		}
		owner, err := tx.People().Person(g.Owner)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		if err != nil || owner.Suspended {
			out = append(out, Finding{"owner_gone", Warning, subject, "the owner of " + g.Name + ", " + g.Owner + ", can no longer act", "retire the agent, or resume its owner"})
		}
		copies, err := collect(tx.Instances().ByAgent(g.ID), 0)
		if err != nil {
			return nil, err
		}
		for _, in := range copies {
			if in.RevokedAt.IsZero() && in.Carried.IsUntrusted() {
				out = append(out, Finding{"instance_carries", Note, "instance:" + in.ID.String(),
					"an instance of " + g.Name + " has read untrusted content (" + strings.Join(in.Carried.Sources, ", ") + "); runs that it opens itself start untrusted",
					"open its runs for it (chaperone run open --agent " + g.Name + "), or enrol a new instance"})
			}
		}
	}
	return out, nil
}

func (r *Road) lookServers(tx store.Tx) ([]Finding, error) {
	servers, err := collect(tx.Catalog().Servers(), 0)
	if err != nil {
		return nil, err
	}
	entries, err := collect(tx.Catalog().Entries(), 0)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, s := range servers {
		subject := "server:" + s.Name
		pins, err := pinsOf(tx, s.Name)
		if err != nil {
			return nil, err
		}
		known := 0
		for _, e := range entries {
			if e.Server == s.Name && e.Known {
				known++
			}
		}
		if len(pins) == 0 {
			out = append(out, Finding{"server_not_pinned", Warning, subject, "nothing of " + s.Name + " is pinned, so nothing of it can be called", "chaperone server pin " + s.Name})
		} else if known == 0 {
			out = append(out, Finding{"server_without_entries", Warning, subject,
				"the catalogue says nothing of " + s.Name + ": its tools count as irreversible and its answers as untrusted", "chaperone catalog apply FILE"})
		}
		var stopped []string
		for _, p := range pins {
			if p.State != catalog.Pinned {
				stopped = append(stopped, ItemName(p.Kind, p.Name))
			}
		}
		if len(stopped) > 0 {
			out = append(out, Finding{"definitions_quarantined", Warning, subject,
				fmt.Sprintf("%d definitions of %s differ from what was pinned and are refused: %s", len(stopped), s.Name, short(strings.Join(stopped, ", "))),
				"look at the differences: chaperone server pin " + s.Name})
		}
		for _, p := range pins {
			if p.Kind == catalog.KindTool && !slices.ContainsFunc(entries, func(e catalog.Entry) bool {
				return e.Server == s.Name && e.Kind == p.Kind && e.Name == p.Name && e.Known
			}) && known > 0 {
				out = append(out, Finding{"tool_without_entry", Note, subject, "the catalogue says nothing of " + s.Name + "/" + p.Name + ": it counts as irreversible and untrusted", "chaperone catalog apply FILE"})
			}
		}
	}
	return out, nil
}

func (r *Road) lookClock(tx store.Tx) ([]Finding, error) {
	last, err := tx.Events().Last()
	if err != nil {
		return nil, err
	}
	if back := last.Sub(r.Now()); back > 30*time.Second {
		return []Finding{{"clock_stepped_back", Error, "clock", fmt.Sprintf("the clock stands %s before the newest event; no credential is issued", back.Round(time.Second)), "set the clock"}}, nil
	}
	return nil, nil
}

func (r *Road) lookLog() []Finding {
	if r.Record == nil {
		return nil
	}
	var out []Finding
	if lag := r.Record.Lag(r.Now()); lag > maxLag {
		out = append(out, Finding{"record_behind", Error, "log", fmt.Sprintf("the log is %s behind the event table; effects are refused", lag.Round(time.Second)), "look at the process's log, and at the disk"})
	}
	if _, err := r.Record.Checkpoint(); err != nil {
		out = append(out, Finding{"no_checkpoint", Error, "log", "the log has no checkpoint", "look at the process's log"})
	}
	return out
}

// Overview is the state of the deployment in numbers.
type Overview struct {
	Policy         policy.Bundle // without files
	CatalogVersion int64
	Events         int64
	LogSize        int64
	Agents         int
	ActiveRuns     int
	Pending        int
}

// Status returns the overview. It needs the right to run doctor.
func (r *Road) Status(ctx context.Context, c Caller) (Overview, error) {
	if _, err := r.allow(ctx, c, ActDoctor, policy.Resource{Kind: "system"}); err != nil {
		return Overview{}, err
	}
	var o Overview
	err := r.view(ctx, func(tx store.Tx) error {
		var err error
		if o.Policy, err = tx.Policies().Active(); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		o.Policy.Files = nil
		if o.CatalogVersion, err = tx.Catalog().Version(); err != nil {
			return err
		}
		if o.Events, err = tx.Events().Next(); err != nil {
			return err
		}
		agents, err := collect(tx.Registry().Agents(), 0)
		if err != nil {
			return err
		}
		runs, err := collect(tx.Runs().Runs(run.Filter{State: run.Active}), 0)
		if err != nil {
			return err
		}
		pending, err := collect(tx.Approvals().Approvals(approval.Filter{State: approval.Pending}), 0)
		o.Agents, o.ActiveRuns, o.Pending = len(agents), len(runs), len(pending)
		return err
	})
	if r.Record != nil {
		o.LogSize = int64(r.Record.Size())
	}
	return o, err
}
