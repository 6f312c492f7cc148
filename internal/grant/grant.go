// SPDX-License-Identifier: Apache-2.0

// Package grant is the just-in-time permission: for one exact call, in one run, with an end. It decides how a grant
// lives (requested, active, used, released, expired, revoked) and that it is never wider than its run; it never decides
// whether one should be given (policy and approval do).
package grant

import (
	"iter"
	"time"

	"chaperone/internal/id"
)

// State is a stage of a grant's life. Legal: requested -> active | revoked | expired; active -> used | expired | revoked;
// used -> released | revoked. The rest is final.
type State string

// The states.
const (
	Requested State = "requested"
	Active    State = "active"
	Used      State = "used"
	Released  State = "released"
	Expired   State = "expired"
	Revoked   State = "revoked"
)

// Origin tells who asked for a grant; policy sees it.
type Origin string

// The origins.
const (
	ByCall     Origin = "call"
	ByPlan     Origin = "plan"
	ByOpener   Origin = "opener"
	ByApprover Origin = "approver"
)

// Grant permits one exact call, named by its call digest, in one run.
type Grant struct {
	ID         id.Grant    `json:"id"`
	Run        id.Run      `json:"run"`
	Agent      id.Agent    `json:"agent"`
	Server     string      `json:"server"`
	Tool       string      `json:"tool"`
	CallDigest string      `json:"call_digest"`
	Origin     Origin      `json:"origin"`
	Ahead      bool        `json:"ahead,omitempty"` // asked for before the call, not minted with it
	State      State       `json:"state"`
	Approval   id.Approval `json:"approval,omitzero"`
	Decision   id.Decision `json:"decision,omitzero"`
	CreatedAt  time.Time   `json:"created_at"`
	NotAfter   time.Time   `json:"not_after"` // never after the run's end
	ChangedAt  time.Time   `json:"changed_at"`
	Reason     string      `json:"reason,omitempty"` // why it was revoked
}

// Filter narrows a list; zero fields match everything.
type Filter struct {
	Run        id.Run
	Agent      id.Agent
	State      State
	CallDigest string
	Limit      int // 0 = 1000; newest first
}

// Store keeps grants. Move changes the state only if the stored state is from and the transition is legal; otherwise
// Conflict, "grant_<stored state>" (so two parallel uses have one winner). EndRun revokes every requested, active or used
// grant of the run and returns how many.
type Store interface {
	Grant(id.Grant) (Grant, error)
	Insert(Grant) error
	Move(g id.Grant, from, to State, at time.Time, reason string) error
	Grants(Filter) iter.Seq2[Grant, error]
	EndRun(r id.Run, at time.Time, reason string) (int, error)
}
