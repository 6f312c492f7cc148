// SPDX-License-Identifier: Apache-2.0

// Package policy decides a request: permit, forbid, or what is missing for a permit. Cedar lives here and nowhere else. It never
// looks anything up: every fact arrives in the Request, the catalogue's in the schema, and an error anywhere is a forbid.
package policy

import (
	"encoding/json"
	"iter"
	"time"

	"chaperone/internal/id"
)

// Effect is the outcome of a decision.
type Effect string

// The two effects.
const (
	Permit Effect = "permit"
	Forbid Effect = "forbid"
)

// Principal is who asks. Kind "Agent" uses Type, AgentKind, Owner, Environment and Orchestrator; kind "Person" uses Roles and Groups.
type Principal struct {
	Kind         string   `json:"kind"` // Agent | Person
	Name         string   `json:"name"`
	Type         string   `json:"type,omitempty"`
	AgentKind    string   `json:"agent_kind,omitempty"`
	Owner        string   `json:"owner,omitempty"`
	Environment  string   `json:"environment,omitempty"`
	Orchestrator bool     `json:"orchestrator,omitempty"`
	Roles        []string `json:"roles,omitempty"`
	Groups       []string `json:"groups,omitempty"`
}

// Action is what is asked: for agents "<server>/<tool>" (prompts as "<server>/prompt:<name>", resources as
// "<server>/resource:<uri>", other methods as "<server>/method:<method>"); for people "<noun>.<verb>". Groups are the
// action groups it stands in: "read", "write" or "irreversible"; "effects" (everything but a read without sinks);
// "outward" (has sinks); "stakes:<stake>"; "people" for people's requests.
type Action struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups"`
}

// Resource is what is acted on. For agents: an Object in a Tool in a Server. For people: Kind and ID of the thing.
type Resource struct {
	Server     string `json:"server,omitempty"`
	Tool       string `json:"tool,omitempty"`
	ObjectType string `json:"object_type,omitempty"`
	ObjectID   string `json:"object_id,omitempty"` // "" = the tool as a whole
	Kind       string `json:"kind,omitempty"`      // people's requests: agent, run, approval, policy, server, secret, person, ...
	ID         string `json:"id,omitempty"`
	Owner      string `json:"owner,omitempty"`
}

// RunFacts is context.run.
type RunFacts struct {
	ID          string `json:"id" yaml:"id"`
	Opener      string `json:"opener" yaml:"opener"` // agent | person | orchestrator
	Clears      bool   `json:"clears" yaml:"clears"`
	HasPurpose  bool   `json:"has_purpose" yaml:"has_purpose"`
	InPlan      bool   `json:"in_plan" yaml:"in_plan"`             // the plan names the tool and is not used up for it, and the plan clears
	InTypeReads bool   `json:"in_type_reads" yaml:"in_type_reads"` // the agent type lists the tool
	InTypeWrite bool   `json:"in_type_writes" yaml:"in_type_writes"`
	Steps       int64  `json:"steps" yaml:"steps"`
	Depth       int64  `json:"depth" yaml:"depth"`
}

// FlowFacts is context.flow.
type FlowFacts struct {
	Untrusted    bool     `json:"untrusted" yaml:"untrusted"`
	Sources      []string `json:"sources,omitempty" yaml:"sources"`
	Level        string   `json:"level" yaml:"level"`
	LevelRank    int64    `json:"level_rank" yaml:"level_rank"`
	Categories   []string `json:"categories,omitempty" yaml:"categories"`
	Sinks        int64    `json:"sinks" yaml:"sinks"`                     // sink values in the arguments
	Uncleared    []string `json:"uncleared,omitempty" yaml:"uncleared"`   // arguments whose value is not cleared
	HasUncleared bool     `json:"has_uncleared" yaml:"has_uncleared"`     // uncleared is not empty
	AnswerTaints bool     `json:"answer_taints" yaml:"answer_taints"`     // the answer will be untrusted
	UnknownTool  bool     `json:"unknown_tool" yaml:"unknown_tool"`       // no catalogue entry says what the tool does
	Mode         string   `json:"mode,omitempty" yaml:"mode"`             // of the server: enforce | observe
	Findings     []string `json:"findings,omitempty" yaml:"findings"`     // later: what inspection found in the arguments
	Stakes       []string `json:"stakes,omitempty" yaml:"stakes"`         // of the tool
	SinkTypes    []string `json:"sink_types,omitempty" yaml:"sink_types"` // of the sink values
}

// ApprovalFacts is context.approval: the rules that a valid approval of this exact call lifts.
type ApprovalFacts struct {
	ID        string   `json:"id"`
	Satisfies []string `json:"satisfies"` // rule ids
}

// Request is everything a decision may look at. It is kept with the decision, so any decision can be made again.
type Request struct {
	Principal  Principal       `json:"principal"`
	Action     Action          `json:"action"`
	Resource   Resource        `json:"resource"`
	Run        RunFacts        `json:"run,omitzero"`
	Flow       FlowFacts       `json:"flow,omitzero"`
	Arguments  json.RawMessage `json:"arguments,omitempty"` // the raw arguments; mapped to Cedar by the pinned schema
	Approval   *ApprovalFacts  `json:"approval,omitempty"`
	Grant      string          `json:"grant,omitempty"`      // origin of the grant this call would use: call | plan | opener | approver
	Credential string          `json:"credential,omitempty"` // how the caller proved itself: dpop
	Network    string          `json:"network,omitempty"`    // remote address, no port
	Time       time.Time       `json:"time"`
}

// Reason is one rule that determined the outcome.
type Reason struct {
	Rule   string `json:"rule"`             // @id
	Text   string `json:"text"`             // @reason
	Effect Effect `json:"effect"`           // of the rule
	Digest string `json:"digest,omitempty"` // SHA-256 of the rule's text, hex
}

// Requirement is one row of @require: number people of the group.
type Requirement struct {
	Group  string `json:"group"`
	Number int    `json:"number"`
}

// Missing says what a human could still give: the rules an approval would lift and the union of what they ask.
type Missing struct {
	Rules   []Reason      `json:"rules"` // sorted by rule id
	Require []Requirement `json:"require"`
	Tier    string        `json:"tier"`
	Expires time.Duration `json:"expires"` // the shortest @expires, at most 24 h
}

// Decision is the outcome. Effect is Permit only if no rule forbids, one permits, and nothing failed. When Effect is Forbid and
// Missing is set, an approval would turn it. When no rule permits, Reasons holds the pseudo-rule "default-deny"; when evaluation
// failed, "policy-error". Errors never leaves the process but for the record.
//
// Lifted is set on a Permit that rests on Request.Approval: the rules that forbid the call and that the approval lifted, sorted
// by id. It is what Missing.Rules was when the approval was asked, unless the policies have changed since.
type Decision struct {
	Effect  Effect   `json:"effect"`
	Reasons []Reason `json:"reasons"` // determining first
	Lifted  []Reason `json:"lifted,omitempty"`
	Missing *Missing `json:"missing,omitempty"`
	Errors  []string `json:"errors,omitempty"`
}

// Rule ids of decisions that no rule of a bundle made. RuleUnknownTool is also the id of a rule in the shipped pack: here it is the
// answer for an action that the schema does not have, whatever the bundle says.
const (
	RuleDefaultDeny = "default-deny"
	RuleError       = "policy-error"
	RuleUnknownTool = "unknown-tool"
)

// Bundle is one version of the policies, as applied. Digest is the JCS digest of Files.
type Bundle struct {
	ID      id.Bundle         `json:"id"`
	Version int64             `json:"version"`
	Digest  string            `json:"digest"`
	Files   map[string]string `json:"files"` // file name -> Cedar text
	Author  string            `json:"author"`
	At      time.Time         `json:"at"`
	Note    string            `json:"note,omitempty"`
}

// Problem is one thing wrong with a bundle, where, and how to mend it.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Rule string `json:"rule,omitempty"`
	Code string `json:"code"`
	Msg  string `json:"message"`
	Fix  string `json:"fix,omitempty"`
}

// Store keeps bundles. The active one is the one with the highest version. Insert assigns nothing: the caller sets Version to
// Active().Version+1 and a clash is Conflict, "policy_moved". Active of an empty store is NotFound.
type Store interface {
	Active() (Bundle, error)
	Insert(Bundle) error
	Version(v int64) (Bundle, error)
	Bundles() iter.Seq2[Bundle, error]
}
