// SPDX-License-Identifier: Apache-2.0

// Package approval is human consent as a state machine: what exactly was asked, who may decide, what they decided, and
// that it is used once. It decides quorum, exclusion and expiry, and makes both digests; it never asks anybody and never
// decides whether consent is needed (policy does).
package approval

import (
	"encoding/json"
	"iter"
	"time"

	"chaperone/internal/id"
)

// State is a stage of an approval's life: pending -> approved | denied | expired | cancelled; approved -> consumed | expired | cancelled.
type State string

// The states.
const (
	Pending   State = "pending"
	Approved  State = "approved"
	Denied    State = "denied"
	Expired   State = "expired"
	Cancelled State = "cancelled"
	Consumed  State = "consumed"
)

// Tier is how strong a decision must be.
type Tier string

// The tiers, in rising order. Only confirm can be decided before the console exists.
const (
	Confirm           Tier = "confirm"
	Strong            Tier = "strong"
	PhishingResistant Tier = "phishing-resistant"
)

// Requirement is one row of who must agree: number people of the group. Rows are joined by AND, by distinct people.
type Requirement struct {
	Group  string `json:"group"`
	Number int    `json:"number"`
}

// Rule is a policy rule that the approval lifts, by id and by SHA-256 of its text.
type Rule struct {
	ID         string `json:"id"`
	TextDigest string `json:"text_digest"`
	Reason     string `json:"reason,omitempty"`
}

// Call is the exact call that is asked for; its JCS digest is the call digest. Arguments are canonical JSON.
type Call struct {
	Schema        string          `json:"schema"` // "chaperone/call/1"
	Run           id.Run          `json:"run"`
	Agent         id.Agent        `json:"agent"`
	KeyThumbprint string          `json:"key_thumbprint"`
	OnBehalfOf    string          `json:"on_behalf_of,omitempty"`
	ChainDigest   string          `json:"chain_digest,omitempty"`
	Server        string          `json:"server"`
	Endpoint      string          `json:"endpoint"`
	Kind          string          `json:"kind"` // tool | prompt | resource
	Tool          string          `json:"tool"`
	ToolDigest    string          `json:"tool_digest"`
	Arguments     json.RawMessage `json:"arguments"`
	CredentialRef string          `json:"credential_ref,omitempty"`
	Effect        string          `json:"effect"`
	Stakes        []string        `json:"stakes,omitempty"`
}

// Binding is what is decided and consumed: its JCS digest is the binding digest.
type Binding struct {
	Schema       string      `json:"schema"` // "chaperone/binding/1"
	CallDigest   string      `json:"call_digest"`
	Approval     id.Approval `json:"approval"`
	Rules        []Rule      `json:"rules"` // sorted by id
	PolicyDigest string      `json:"policy_digest"`
	Nonce        string      `json:"nonce"`
	NotAfter     time.Time   `json:"not_after"`
}

// Approval is one question to people. It is never edited: a changed call is a new question.
type Approval struct {
	ID            id.Approval   `json:"id"`
	State         State         `json:"state"`
	Call          Call          `json:"call"`
	CallDigest    string        `json:"call_digest"`
	Binding       Binding       `json:"binding"`
	BindingDigest string        `json:"binding_digest"`
	Require       []Requirement `json:"require"`
	Tier          Tier          `json:"tier"`
	AgentName     string        `json:"agent_name"`
	AgentOwner    string        `json:"agent_owner"`
	Requester     string        `json:"requester"` // who opened the run, if a person
	Purpose       string        `json:"purpose"`
	Label         string        `json:"label"` // the run's label when asked, in words
	Excluded      []Exclusion   `json:"excluded,omitempty"`
	CreatedAt     time.Time     `json:"created_at"`
	ClosedAt      time.Time     `json:"closed_at,omitzero"`
	Reason        string        `json:"reason,omitempty"`
	Decisions     []Decision    `json:"decisions,omitempty"`
	Version       int64         `json:"version"`
}

// Exclusion is a person who may not decide, and why: requester, on_behalf_of, owner, chain, or author_of_change. Email, where
// it is known, excludes the same human under another name.
type Exclusion struct {
	Person string `json:"person"`
	Email  string `json:"email,omitempty"`
	Why    string `json:"why"`
}

// Verdict is what a person said.
type Verdict string

// The verdicts. One denial closes the question.
const (
	Yes Verdict = "approve"
	No  Verdict = "deny"
)

// Decision is one person's word, one row per person. BindingDigest is what they saw.
type Decision struct {
	Person        string    `json:"person"`
	PersonID      id.Person `json:"person_id"`
	Groups        []string  `json:"groups"` // the person's groups at that moment
	Verdict       Verdict   `json:"verdict"`
	BindingDigest string    `json:"binding_digest"`
	Channel       string    `json:"channel"` // cli | api
	Reason        string    `json:"reason,omitempty"`
	At            time.Time `json:"at"`
}

// Filter narrows a list; zero fields match everything.
type Filter struct {
	State      State
	Run        id.Run
	CallDigest string
	Limit      int // 0 = 1000; newest first
}

// Store keeps approvals with their decisions. Update demands the stored version and moves it (Conflict, "approval_moved").
type Store interface {
	Approval(id.Approval) (Approval, error)
	Insert(Approval) error
	Update(Approval) error
	Approvals(Filter) iter.Seq2[Approval, error]
}
