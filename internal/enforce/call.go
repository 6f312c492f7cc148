// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/guard"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/policy"
	"chaperone/internal/run"
	"chaperone/internal/secret"
)

// call is one request under way: what each step found out, for the steps after it. It belongs to one goroutine.
type call struct {
	*Engine
	req   Request
	out   Sink
	began time.Time
	now   time.Time // of the present try
	tries int
	turn  func() // gives back the run's turn

	// 1 receive
	step   id.Step
	method method
	args   json.RawMessage // never empty

	// 2 authenticate
	cred   identity.Credential
	proven bool // the caller holds the credential's key, and nobody in it is stopped

	// 3 open
	agent     identity.Agent
	agentType identity.Type
	instance  identity.Instance
	run       run.Run
	ancestors []run.Run // nearest first
	label     label.Label
	snap      *Snapshot
	basis     basis

	// 4 describe
	server     catalog.Server
	entry      catalog.Entry
	pin        catalog.Pin
	tool       string // as the catalogue, grants and the record name it: "pay", "prompt:greet", "resource:<uri>", "method:tools/list"
	values     []guard.Value
	stated     guard.Stated
	argKeys    []string
	argsDigest string
	callDigest string // effects only
	exact      approval.Call
	state      State // of a verified requestState

	credentialRef string // which stored secret would be injected, by version

	// 5 decide
	decision id.Decision
	asked    policy.Request
	decided  policy.Decision
	consents consents

	// 6 approve
	approval *approval.Approval // is consumed by this call; nil where a grant asked ahead has consumed it
	lifts    id.Approval        // the approval that lifted rules for this call
	filed    bool               // this call made the pending approval
	origin   grant.Origin       // who asks for a grant ahead
	waiting  *Waiting
	earlier  string    // why consent given earlier does not serve: approval_consumed, grant_used, ...
	patience time.Time // until when an approval is waited for

	// 7 grant
	grant    *grant.Grant
	intended bool // commit 1 is durable
	noted    bool // decision and source label are durable

	// 8 and 9
	injection secret.Injection
	exchange  Exchange
	answered  Answer

	// 10 to 12
	bytesOut int64
	unspent  int64 // bytes of the answer not yet taken from the budget
	begun    bool  // something was released
	finished bool  // the outcome is durable
	outcome_ string
	echoes   int
	dropped  map[string]bool // notifications that were not passed on
}

// refusal is why a call does not go on. It is no error: most of them are decisions.
type refusal struct {
	verdict Verdict
	code    string // the named reason, always on the record
	public  string // what the caller is told instead, "" = code
	rule    string
	reason  string
	fix     string
	listed  bool
	free    bool  // takes no step from the budget
	err     error // with Failed
}

// fail refuses because something does not work or is not allowed at all. The error's code is the named reason.
func fail(err error) *refusal {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		f, _ = errors.AsType[*fault.Error](fault.Wrap("enforce.Call", err))
	}
	return &refusal{verdict: Failed, code: f.Code, reason: f.Msg, fix: f.Fix, err: f}
}

// storeDown refuses because the database does not answer: nothing can be decided, and nothing recorded.
func storeDown(err error) *refusal {
	return fail(fault.New(fault.Unavailable, "enforce.Call", "store_unavailable", "the record cannot be written or read").
		WithFix("try again later; chaperone doctor says more").WithCause(err))
}

// orStore is fail for the named reasons that a transaction may return, and storeDown for the rest.
func orStore(err error) *refusal {
	switch fault.KindOf(err) {
	case fault.Internal, fault.Unavailable:
		return storeDown(err)
	case fault.Limited:
		f, _ := errors.AsType[*fault.Error](err)
		return deny(f.Code, f.Msg, f.Fix)
	}
	return fail(err)
}

// hide refuses with the one answer for what the caller may not see and for what does not exist. code is the true reason.
func hide(code string) *refusal {
	return &refusal{verdict: Denied, code: code, public: CodeNotListed}
}

// deny refuses something that the caller may know of.
func deny(code, reason, fix string) *refusal {
	return &refusal{verdict: Denied, code: code, reason: reason, fix: fix, listed: true}
}

// refuse ends the call: the reason goes on the record, then to the caller.
func (c *call) refuse(ctx context.Context, no *refusal) (Outcome, error) {
	if worse := c.recordRefusal(context.WithoutCancel(ctx), no); worse != nil {
		no = worse
	}
	o := c.outcome(no.verdict)
	o.Code, o.Listed = no.code, no.listed
	if no.public != "" {
		o.Code = no.public
	}
	if o.Code == CodeNotListed {
		o.Decision = id.Decision{} // there is one only for what exists
	} else {
		o.Rule, o.Reason, o.Fix = no.rule, no.reason, no.fix
	}
	if no.verdict == Pending {
		o.Approval = c.waiting
		o.RequestState = c.mintState("")
	}
	return o, no.err
}

func (c *call) outcome(v Verdict) Outcome {
	return Outcome{Verdict: v, Decision: c.decision, Run: c.cred.Run, Step: c.step, Begun: c.begun}
}

// scope is the one call that a grant for this call would be for.
func (c *call) scope() grant.Scope {
	return grant.Scope{
		Run: c.run.ID, Agent: c.agent.ID, Server: c.req.Server, Tool: c.tool, CallDigest: c.callDigest, RunEnds: c.run.ExpiresAt,
	}
}

// isEffect reports whether the call changes or reaches anything, and so needs commit 1.
func (c *call) isEffect() bool { return c.entry.IsEffect() }

// counts reports whether the call is a step of the run. Protocol traffic is not, unless it is refused.
func (c *call) counts() bool { return c.req.Kind != "" || c.isEffect() }

// action is the name that policy knows the call by.
func (c *call) action() string { return c.req.Server + "/" + c.tool }

// digest is the SHA-256 of JSON in canonical form, or of its bytes where it has none.
func digest(raw []byte) string {
	if b, err := canon.JCS(raw); err == nil {
		return canon.Sum(b)
	}
	return canon.Sum(raw)
}

func messageOf(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Msg
	}
	return "internal error"
}

func fixOf(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Fix
	}
	return ""
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
