// SPDX-License-Identifier: Apache-2.0

// Package identity decides who an agent is: the trust domain, agent types, agents and their life cycle, instances and
// the keys that bind them, and the making and checking of every proof (access tokens, client assertions, DPoP proofs).
// It never decides what an agent may do, and holds no clock and no storage of its own.
package identity

import (
	"iter"
	"time"

	"chaperone/internal/id"
	"chaperone/internal/label"
)

// AgentKind tells what runs behind an agent.
type AgentKind string

// The kinds of agents. An orchestrator is an agent of kind service with the right to open runs for others.
const (
	KindAgent    AgentKind = "agent"
	KindService  AgentKind = "service"
	KindPipeline AgentKind = "pipeline"
)

// State is a stage of an agent's life.
type State string

// The states. Legal transitions: registered -> active (first enrolment), active <-> suspended, registered -> suspended,
// suspended -> active, and any -> retired, which is final; the name of a retired agent is never used again.
const (
	Registered State = "registered"
	Active     State = "active"
	Suspended  State = "suspended"
	Retired    State = "retired"
)

// Type is what agents of one kind of work have in common. Reads and Writes list tools as "server/tool" or "server/*".
type Type struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Reads       []string  `json:"reads,omitempty"`
	Writes      []string  `json:"writes,omitempty"`
	Author      string    `json:"author,omitempty"`
	UpdatedAt   time.Time `json:"updated_at"`
}

// Agent is one non-human identity with an owner and a purpose.
type Agent struct {
	ID           id.Agent  `json:"id"`
	Name         string    `json:"name"` // lower-case letters, digits and hyphens, 1 to 63 characters
	Type         string    `json:"type"`
	Kind         AgentKind `json:"kind"`
	Owner        string    `json:"owner"` // the name of a person
	Purpose      string    `json:"purpose"`
	Environment  string    `json:"environment,omitempty"`
	Orchestrator bool      `json:"orchestrator,omitempty"`
	State        State     `json:"state"`
	StateReason  string    `json:"state_reason,omitempty"`
	CreatedAt    time.Time `json:"created_at"`
	ExpiresAt    time.Time `json:"expires_at"`
	Version      int64     `json:"version"`
}

// Instance is one running copy of an agent, bound to one key that it made itself.
type Instance struct {
	ID         id.Instance `json:"id"`
	Agent      id.Agent    `json:"agent"`
	JKT        string      `json:"jkt"` // RFC 7638 SHA-256 thumbprint, base64url
	PublicJWK  string      `json:"public_jwk"`
	EnrolledAt time.Time   `json:"enrolled_at"`
	EnrolledBy string      `json:"enrolled_by"` // who made the join code
	RevokedAt  time.Time   `json:"revoked_at,omitzero"`
	// Carried is the join of the labels of every run of this instance (invariant 5). It is written in the commit that
	// joins a run's label, and only grows. CarriedVersion moves with it.
	Carried        label.Label `json:"carried"`
	CarriedVersion int64       `json:"carried_version"`
}

// JoinCode lets one new instance of an agent bind its key, once. Only the hash is kept.
type JoinCode struct {
	Hash      string    `json:"hash"` // SHA-256 of the code, hex
	Agent     id.Agent  `json:"agent"`
	MadeBy    string    `json:"made_by"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Registry keeps types and agents. Put methods insert or replace; PutAgent of an existing agent demands that Version is
// the stored one and moves it (Conflict otherwise); a new agent's name must never have been used (Exists, "name_taken").
// Lists are in order of name. Absent things are NotFound.
type Registry interface {
	Type(name string) (Type, error)
	PutType(Type) error
	Types() iter.Seq2[Type, error]
	Agent(nameOrID string) (Agent, error)
	PutAgent(Agent) error
	Agents() iter.Seq2[Agent, error]
}

// Instances keeps instances. JoinCarried joins a label to the carried one and moves CarriedVersion only if it grew.
type Instances interface {
	Instance(id.Instance) (Instance, error)
	PutInstance(Instance) error
	ByAgent(id.Agent) iter.Seq2[Instance, error]
	JoinCarried(id.Instance, label.Label) error
}

// Once keeps what may be used one time. Spend fails with Exists, "replayed" if the key was spent before and is not yet past
// until; TakeJoinCode removes the code it returns (NotFound, "join_code" if absent or expired at now).
type Once interface {
	Spend(key string, until time.Time) error
	PutJoinCode(JoinCode) error
	TakeJoinCode(hash string, now time.Time) (JoinCode, error)
	Sweep(now time.Time) error
}

// Credential is what a verified access token says. It names; it opens nothing.
type Credential struct {
	JTI       string
	Issuer    string
	Subject   string // SPIFFE ID of the agent or person
	ClientID  string // SPIFFE ID of the instance, or of the person
	Audience  string // exactly one
	JKT       string // cnf.jkt
	Agent     id.Agent
	AgentName string
	Instance  id.Instance
	Run       id.Run // zero for people
	Person    id.Person
	IssuedAt  time.Time
	ExpiresAt time.Time
}

// IsPerson reports whether a person, not an agent, holds the credential.
func (c Credential) IsPerson() bool { return !c.Person.IsZero() }

// Refused is a refusal of a genuine credential: whose it was, for the record alone. It proves nothing about the caller. The fault is
// what it wraps.
type Refused struct {
	Credential Credential
	Err        error
}

// Error implements error with the fault's words.
func (r *Refused) Error() string { return r.Err.Error() }

// Unwrap returns the fault.
func (r *Refused) Unwrap() error { return r.Err }
