// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"time"
	"unicode/utf8"

	"chaperone/internal/label"
)

// Bounds of what one call's leaf keeps of long lists; the part "arguments" has the whole.
const (
	maxDests   = 32
	maxArgKeys = 64
	maxText    = 256 // bytes of one destination, key or resource
)

// The outcomes of a call.
const (
	OutcomeOK      = "ok"
	OutcomeError   = "error"   // the upstream said so, or broke off
	OutcomeDenied  = "denied"  // policy said no
	OutcomePending = "pending" // waits for people
	OutcomeRefused = "refused" // stopped before or beside policy; Code says why
	OutcomeUnknown = "unknown" // forwarded, and no answer tells what became of it
)

// Call is one call as an agent made it: the data of call.intent, call.outcome and call.refused, and, where a call needs one commit only,
// of call.decided. The first block is the event format of behaviour baselines; every field of it is always present.
type Call struct {
	Ordinal          int64     `json:"ordinal"` // the step's number in its run, from 0
	TS               time.Time `json:"ts"`      // when the call came in, UTC, kept to the millisecond
	AgentType        string    `json:"agent_type"`
	AgentID          string    `json:"agent_id"`
	RunID            string    `json:"run_id"`
	Action           string    `json:"action"`              // as policy names it: "mail/send"
	Resource         string    `json:"resource"`            // "type=id", empty for none
	Dests            []string  `json:"dests"`               // sink values, normalised; at most 32 of at most 256 bytes
	ArgKeys          []string  `json:"arg_keys"`            // names of the arguments, sorted; at most 64
	ArgsDigest       string    `json:"args_digest"`         // SHA-256 of the canonical arguments, hex
	BytesIn          int64     `json:"bytes_in"`            // of the arguments as sent
	BytesOut         int64     `json:"bytes_out"`           // of the answer as released
	Outcome          string    `json:"outcome"`             // see the Outcome constants
	Turn             int64     `json:"turn"`                // the agent's turn, 0 where it is not known
	DestInPrompt     *bool     `json:"dest_in_prompt"`      // a destination stands in the purpose or plan; null = no destination
	DestInToolOutput *bool     `json:"dest_in_tool_output"` // a destination stands in an earlier answer; null = no destination or not looked for

	DestsCut   int64 `json:"dests_cut,omitempty"` // destinations left out or shortened above
	ArgKeysCut int64 `json:"arg_keys_cut,omitempty"`

	Method         string      `json:"method,omitempty"` // JSON-RPC method
	Era            string      `json:"era,omitempty"`    // MCP protocol version
	CallDigest     string      `json:"call_digest,omitempty"`
	Code           string      `json:"code,omitempty"`  // named reason of a refusal or error
	Rules          []string    `json:"rules,omitempty"` // ids of the rules that determined the decision
	Class          string      `json:"class,omitempty"` // effect class: read | write | irreversible
	Stakes         []string    `json:"stakes,omitempty"`
	LabelBefore    label.Label `json:"label_before,omitzero"`
	LabelAfter     label.Label `json:"label_after,omitzero"`
	PolicyVersion  int64       `json:"policy_version,omitempty"`
	PolicyDigest   string      `json:"policy_digest,omitempty"`
	CatalogVersion int64       `json:"catalog_version,omitempty"`
	RunVersion     int64       `json:"run_version,omitempty"`
	UpstreamStatus int64       `json:"upstream_status,omitempty"` // HTTP status, 0 = nothing was forwarded
	DurationUS     int64       `json:"duration_us,omitempty"`     // from receipt to this event, microseconds
	Decided        *Decided    `json:"decided,omitempty"`         // the decision, where it has no event of its own
}

// Decided is a decision as it is kept; the whole policy request goes into the part "request", so that it can be made again.
type Decided struct {
	Effect             string   `json:"effect"` // permit | forbid
	Code               string   `json:"code,omitempty"`
	Rules              []Rule   `json:"rules,omitempty"` // determining first
	Missing            *Missing `json:"missing,omitempty"`
	Errors             []string `json:"errors,omitempty"` // of evaluation
	Action             string   `json:"action,omitempty"`
	Class              string   `json:"class,omitempty"`
	CallDigest         string   `json:"call_digest,omitempty"`
	ToolDigest         string   `json:"tool_digest,omitempty"`
	RequestDigest      string   `json:"request_digest,omitempty"` // SHA-256 of the part "request"
	PolicyVersion      int64    `json:"policy_version"`
	PolicyDigest       string   `json:"policy_digest"`
	CatalogVersion     int64    `json:"catalog_version"`
	RunVersion         int64    `json:"run_version"`
	RevocationPosition int64    `json:"revocation_position,omitempty"`
	Tries              int64    `json:"tries,omitempty"` // how often it was decided, where a snapshot moved
}

// Rule is a policy rule in a decision, by id and by SHA-256 of its text.
type Rule struct {
	ID     string `json:"id"`
	Reason string `json:"reason,omitempty"`
	Effect string `json:"effect,omitempty"`
	Digest string `json:"digest,omitempty"`
}

// Missing is what people could still give.
type Missing struct {
	Rules          []Rule        `json:"rules"`
	Require        []Requirement `json:"require"`
	Tier           string        `json:"tier,omitempty"`
	ExpiresSeconds int64         `json:"expires_seconds,omitempty"`
}

// Requirement is one row of who must agree: number people of the group.
type Requirement struct {
	Group  string `json:"group"`
	Number int64  `json:"number"`
}

// Restored is the data of restore.accepted: the positions that the log holds and the database lost, from From to To inclusive, and
// the tree that the log had then.
type Restored struct {
	From     int64  `json:"from"`
	To       int64  `json:"to"`
	TreeSize int64  `json:"tree_size"`
	Root     string `json:"root"` // base64, as in the checkpoint
}

// Erased is the data of parts.erased: the parts called Names (all, if there are none) of the records From to To inclusive.
type Erased struct {
	From   int64    `json:"from"`
	To     int64    `json:"to"`
	Names  []string `json:"names,omitempty"`
	Reason string   `json:"reason"`
}

// kept is the data as it goes into the leaf: times to the millisecond, lists present and bounded.
func kept(data any) any {
	switch d := data.(type) {
	case Call:
		return d.kept()
	case *Call:
		if d != nil {
			return d.kept()
		}
	}
	return data
}

func (c Call) kept() Call {
	c.TS = c.TS.UTC().Truncate(time.Millisecond)
	c.Resource, _ = cut(c.Resource)
	var n int64
	c.Dests, n = bounded(c.Dests, maxDests)
	c.DestsCut += n
	c.ArgKeys, n = bounded(c.ArgKeys, maxArgKeys)
	c.ArgKeysCut += n
	return c
}

func bounded(in []string, most int) (out []string, lost int64) {
	out = make([]string, 0, min(len(in), most))
	for i, s := range in {
		short, was := cut(s)
		if i >= most || was {
			lost++
		}
		if i < most {
			out = append(out, short)
		}
	}
	return out, lost
}

// cut shortens a text to maxText bytes, at the start of a character.
func cut(s string) (string, bool) {
	if len(s) <= maxText {
		return s, false
	}
	i := maxText
	for i > 0 && !utf8.RuneStart(s[i]) {
		i--
	}
	return s[:i], true
}
