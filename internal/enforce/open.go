// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"strconv"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// basis is the snapshot that a decision is made on. The commit compares all of it with the database again.
type basis struct {
	run       int64
	ancestors []int64 // versions, nearest first
	carried   int64   // of the instance; compared when usesCarried
	agent     int64
	agentType time.Time
	policy    int64
	catalog   int64
	epoch     int64
	planUses  int64 // of the tool's step in the plan; compared when usesPlan

	usesCarried bool
	usesPlan    bool
}

// Step 3, open. The run, its ancestors, its agent and its instance are read on one snapshot of the database; all of them must be
// alive. The label that the call is judged by is the run's, every ancestor's and, if the agent's own key opened the run, what the
// instance carries from earlier runs (invariant 5).
func (c *call) open(ctx context.Context) *refusal {
	defer c.passed("open")
	c.tries++
	c.now = c.Now()
	snap, err := c.Snapshots.Current()
	if err != nil {
		return fail(err)
	}
	c.snap = snap
	if err := c.Store.View(ctx, c.read); err != nil {
		return orStore(err)
	}
	c.label = run.Effective(c.run, c.ancestors, c.instance.Carried)
	c.basis.policy, c.basis.catalog = snap.PolicyVersion, snap.CatalogVersion
	c.basis.usesCarried = c.run.Opener.Kind == run.ByAgent
	c.basis.usesPlan = false
	if err := c.alive(); err != nil {
		return fail(err)
	}
	if c.req.Session != "" && c.req.SessionRun != c.run.ID {
		return fail(fault.New(fault.NotFound, "enforce.open", "session_of_another_run", "the session is not one of this run").
			WithFix("initialize a new session"))
	}
	if _, known := methodOf(c.req.Method); !known {
		return &refusal{verdict: Denied, code: "method_unknown", reason: "the method is not one of MCP's", listed: true}
	}
	if c.Revocations.Age(c.now) > 10*c.cfg.Lease {
		return fail(fault.New(fault.Unavailable, "enforce.open", "revocation_stale", "it is not known who has been suspended in the meantime").
			WithFix("try again later"))
	}
	if err := c.run.Suffices(run.Spend{Steps: c.stepCost(), Bytes: int64(len(c.req.Body))}); err != nil {
		return orStore(err)
	}
	return nil
}

func (c *call) stepCost() int64 {
	if c.req.Kind != "" || c.method.effect != "read" {
		return 1
	}
	return 0
}

// read fills in what the database knows of the caller.
func (c *call) read(tx store.Tx) error {
	var err error
	if c.run, err = tx.Runs().Run(c.cred.Run); err != nil {
		return unknown(err, "run_unknown")
	}
	if c.agent, err = tx.Registry().Agent(c.cred.Agent.String()); err != nil {
		return unknown(err, "agent_unknown")
	}
	if c.instance, err = tx.Instances().Instance(c.instanceID()); err != nil {
		return unknown(err, "instance_unknown")
	}
	if c.agentType, err = tx.Registry().Type(c.agent.Type); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if c.ancestors, err = ancestorsOf(tx, c.run); err != nil {
		return err
	}
	c.basis.run, c.basis.carried = c.run.Version, c.instance.CarriedVersion
	c.basis.agent, c.basis.agentType = c.agent.Version, c.agentType.UpdatedAt
	c.basis.ancestors = nil
	for _, a := range c.ancestors {
		c.basis.ancestors = append(c.basis.ancestors, a.Version)
	}
	switch sealed, err := tx.Secrets().Secret(c.req.Server); {
	case err == nil:
		c.credentialRef = sealed.Server + "#" + strconv.FormatInt(sealed.Version, 10)
	case fault.Is(err, fault.NotFound):
		c.credentialRef = ""
	default:
		return err
	}
	c.basis.epoch, err = tx.Revocations().Epoch()
	return err
}

// instanceID is the credential's; for a grant that a person asks ahead it is the run's.
func (c *call) instanceID() id.Instance {
	if c.cred.Instance.IsZero() {
		return c.run.Instance
	}
	return c.cred.Instance
}

func ancestorsOf(tx store.Tx, r run.Run) ([]run.Run, error) {
	var out []run.Run
	for !r.Parent.IsZero() {
		if len(out) > run.MaxDepth {
			return nil, fault.New(fault.Internal, "enforce.open", "run_tree", "the tree of runs is too deep")
		}
		parent, err := tx.Runs().Run(r.Parent)
		if err != nil {
			return nil, err
		}
		out = append(out, parent)
		r = parent
	}
	return out, nil
}

func unknown(err error, code string) error {
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.Unauthenticated, "enforce.open", code, "the credential names something that is not here").
			WithFix("enrol again")
	}
	return err
}

// alive checks that everybody the call hangs on may act.
func (c *call) alive() error {
	stopped := func(code, what string) error {
		return fault.New(fault.Suspended, "enforce.open", code, "%s", what).WithFix("ask the agent's owner or an operator")
	}
	switch {
	case c.run.Agent != c.agent.ID || !c.run.Instance.IsZero() && c.run.Instance != c.instance.ID || c.instance.Agent != c.agent.ID:
		return fault.New(fault.Unauthenticated, "enforce.open", "bad_credential", "the run, the instance and the agent do not belong together")
	case c.agent.State != identity.Active:
		return stopped("agent_"+string(c.agent.State), "the agent is "+string(c.agent.State))
	case !c.agent.ExpiresAt.IsZero() && !c.now.Before(c.agent.ExpiresAt):
		return stopped("agent_expired", "the agent has expired")
	case !c.instance.RevokedAt.IsZero():
		return stopped("instance_revoked", "the instance was revoked")
	}
	for _, r := range append([]run.Run{c.run}, c.ancestors...) {
		if err := r.Check(c.now); err != nil {
			return err
		}
	}
	return nil
}

// errMoved says that what a decision was made on is no longer so.
var errMoved = errors.New("the snapshot has moved")

// compare is run inside the commit: errMoved unless the database still is what the decision was made on. It reads no clock and
// decides nothing.
func (c *call) compare(tx store.Tx) error {
	b := c.basis
	r, err := tx.Runs().Run(c.run.ID)
	if err != nil {
		return err
	}
	a, err := tx.Registry().Agent(c.agent.ID.String())
	if err != nil {
		return err
	}
	same := r.Version == b.run && r.State == run.Active && a.Version == b.agent && a.State == identity.Active
	if b.usesPlan {
		same = same && r.Spent.Calls[run.PlanKey(c.action())] == b.planUses
	}
	for i, before := range c.ancestors {
		now, err := tx.Runs().Run(before.ID)
		if err != nil {
			return err
		}
		same = same && now.Version == b.ancestors[i] && now.State == run.Active
	}
	if b.usesCarried {
		in, err := tx.Instances().Instance(c.instance.ID)
		if err != nil {
			return err
		}
		same = same && in.CarriedVersion == b.carried
	}
	t, err := tx.Registry().Type(c.agent.Type)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	same = same && t.UpdatedAt.Equal(b.agentType)
	// A version that does not exist yet is cheaper to ask for than the whole active bundle.
	if _, err := tx.Policies().Version(b.policy + 1); err == nil {
		same = false
	} else if !fault.Is(err, fault.NotFound) {
		return err
	}
	version, err := tx.Catalog().Version()
	if err != nil {
		return err
	}
	epoch, err := tx.Revocations().Epoch()
	if err != nil {
		return err
	}
	if !same || version != b.catalog || epoch != b.epoch {
		return errMoved
	}
	return nil
}

// pay takes a spend from the budgets of the run and of every run above it: what a tree of runs uses, its root uses, however many
// children share the work (invariant 4). If one of them has not enough left, nothing is taken from any.
func (c *call) pay(tx store.Tx, s run.Spend) error {
	tree := []id.Run{c.run.ID}
	for _, a := range c.ancestors {
		now, err := tx.Runs().Run(a.ID)
		if err != nil {
			return err
		}
		if err := now.Suffices(s); err != nil {
			return err
		}
		tree = append(tree, a.ID)
	}
	for _, r := range tree {
		if err := tx.Runs().Spend(r, s); err != nil {
			return err
		}
	}
	return nil
}

// join grows the label of the run, and what the instance carries. One mind reads for all its runs: every ancestor and every other
// active run in the hands of the same instance grows too, whoever opened it, or what was read in one run would be acted on in
// another that still looks clean. The whole effective label is carried, so that what an ancestor poisoned is not clean again in
// the instance's next run. Labels only grow, so what a label covered when it was read it covers now, and nothing is written for it.
func (c *call) join(tx store.Tx, l label.Label) error {
	if !c.run.Label.Covers(l) {
		if err := tx.Runs().Join(c.run.ID, l); err != nil {
			return err
		}
	}
	for _, a := range c.ancestors {
		if a.Instance == c.instance.ID && !a.Label.Covers(l) {
			if err := tx.Runs().Join(a.ID, l); err != nil {
				return err
			}
		}
	}
	if carried := c.label.Join(l); !c.instance.Carried.Covers(carried) {
		if err := tx.Instances().JoinCarried(c.instance.ID, carried); err != nil {
			return err
		}
	}
	if (label.Label{}).Covers(l) {
		return nil // nothing that another run could be marked with
	}
	var others []id.Run
	for r, err := range tx.Runs().Runs(run.Filter{Instance: c.instance.ID, State: run.Active}) {
		if err != nil {
			return err
		}
		if r.ID != c.run.ID && !r.Label.Covers(l) {
			others = append(others, r.ID)
		}
	}
	for _, r := range others {
		if err := tx.Runs().Join(r, l); err != nil {
			return err
		}
	}
	return nil
}
