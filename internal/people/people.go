// SPDX-License-Identifier: Apache-2.0

// Package people decides who the operators, approvers and auditors are, which groups they stand in and which keys
// speak for them. It never decides what they may do (policy does) and never holds an agent.
package people

import (
	"iter"
	"slices"
	"time"

	"chaperone/internal/id"
)

// Role is what a person is here for. Policy gives roles their rights.
type Role string

// The roles.
const (
	Operator Role = "operator"
	Approver Role = "approver"
	Auditor  Role = "auditor"
)

// Person is a human of this deployment.
type Person struct {
	ID        id.Person `json:"id"`
	Name      string    `json:"name"` // lower-case letters, digits, dots and hyphens, 1 to 63 characters
	Email     string    `json:"email,omitempty"`
	Roles     []Role    `json:"roles"`
	Groups    []string  `json:"groups,omitempty"`
	Suspended bool      `json:"suspended,omitempty"`
	Keys      []Key     `json:"keys,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	Version   int64     `json:"version"`
}

// Key is a public key that speaks for a person, bound by a single-use code.
type Key struct {
	JKT       string    `json:"jkt"`
	PublicJWK string    `json:"public_jwk"`
	Profile   string    `json:"profile,omitempty"`
	BoundAt   time.Time `json:"bound_at"`
}

// LoginCode lets a person bind one key, once. Only the hash is kept.
type LoginCode struct {
	Hash      string    `json:"hash"`
	Person    id.Person `json:"person"`
	MadeBy    string    `json:"made_by"`
	ExpiresAt time.Time `json:"expires_at"`
}

// HasRole reports whether the person holds the role and is not suspended.
func (p Person) HasRole(r Role) bool { return !p.Suspended && slices.Contains(p.Roles, r) }

// InGroup reports whether the person stands in the group and is not suspended.
func (p Person) InGroup(g string) bool { return !p.Suspended && slices.Contains(p.Groups, g) }

// KeyBy returns the key with the thumbprint.
func (p Person) KeyBy(jkt string) (Key, bool) {
	i := slices.IndexFunc(p.Keys, func(k Key) bool { return k.JKT == jkt })
	if i < 0 {
		return Key{}, false
	}
	return p.Keys[i], true
}

// Store keeps people. PutPerson inserts or replaces by the version rule of identity.Registry.PutAgent; TakeCode removes
// the code it returns (NotFound, "login_code" if absent or expired at now). Absent people are NotFound.
type Store interface {
	Person(nameOrID string) (Person, error)
	PutPerson(Person) error
	People() iter.Seq2[Person, error]
	PutCode(LoginCode) error
	TakeCode(hash string, now time.Time) (LoginCode, error)
}
