// SPDX-License-Identifier: Apache-2.0

// Package store is the contract between the roads and the database: View and Update, and a transaction with one accessor a
// room. It decides what a transaction promises, and never how it is kept: internal/store/sql implements it, and
// internal/store/storetest is the suite that every implementation passes.
package store

import (
	"context"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/grant"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/run"
	"chaperone/internal/secret"
)

// Tx is one transaction. It is valid only inside the function it was handed to, and only on that goroutine. Inside: no
// crypto, policy, network or clock; short; and it may run twice.
type Tx interface {
	Registry() identity.Registry
	Instances() identity.Instances
	Once() identity.Once
	People() people.Store
	Runs() run.Store
	Handles() run.Handles
	Grants() grant.Store
	Approvals() approval.Store
	Policies() policy.Store
	Catalog() catalog.Store
	Pins() catalog.Pins
	Secrets() secret.Store
	Revocations() revocation.Store
	Events() audit.Log
	Meta() Meta
}

// Meta keeps a few named values that belong to no room (the log's origin, the follower's lease). Get of an absent name is "".
type Meta interface {
	Get(name string) (string, error)
	Set(name, value string) error
}

// Store runs transactions. Both methods are safe for concurrent use.
type Store interface {
	// View runs fn on one consistent snapshot; writes fail.
	View(ctx context.Context, fn func(Tx) error) error
	// Update runs fn and returns nil only after its commit is durable. On SQLite several callers share one commit, each in a
	// savepoint: an error from fn undoes only that caller's work and is returned to it; a failed commit fails all of them
	// with Unavailable, "store_commit". fn may run more than once.
	Update(ctx context.Context, fn func(Tx) error) error
	// Committed returns a channel that is closed at the next commit that appended events.
	Committed() <-chan struct{}
}
