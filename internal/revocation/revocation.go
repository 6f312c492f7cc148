// SPDX-License-Identifier: Apache-2.0

// Package revocation knows who is dead, since when, and how old that knowledge is. It decides whether a credential still
// stands; it never revives anything by itself (only a later notice from the event table does) and reads no clock.
package revocation

import (
	"time"
)

// Subject kinds of a notice.
const (
	Agent      = "agent"
	Instance   = "instance"
	Run        = "run"
	Credential = "credential" // a JWT id
	Person     = "person"
)

// Notice says that a subject is stopped (Dead) or stands again, as of one position of the event table.
type Notice struct {
	Kind     string    `json:"kind"`
	ID       string    `json:"id"`
	Dead     bool      `json:"dead"`
	Final    bool      `json:"final,omitempty"` // a final stop is never lifted
	Reason   string    `json:"reason,omitempty"`
	At       time.Time `json:"at"`
	Position int64     `json:"position"`
	Until    time.Time `json:"until,omitzero"` // when the notice may be forgotten (credentials)
}

// Store keeps the notices in force and the epoch, a number that every Put moves. Live lists those whose Until has not passed.
type Store interface {
	Put(Notice) error
	Epoch() (int64, error)
	Live(now time.Time) ([]Notice, error)
}
