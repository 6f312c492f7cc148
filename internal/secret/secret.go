// SPDX-License-Identifier: Apache-2.0

// Package secret describes sealed upstream credentials and how each is injected. It decides where a secret may go (one
// upstream, one place in the request) and finds its echo in an answer; it never opens a seal (keyring does) and never
// prints one.
package secret

import (
	"iter"
	"time"

	"chaperone/internal/canon"
)

// Place is where in the upstream request a secret goes.
type Place string

// The places.
const (
	Bearer Place = "bearer" // Authorization: Bearer <secret>
	Basic  Place = "basic"  // Authorization: Basic base64(user:secret)
	Header Place = "header" // <Name>: <secret>
	Query  Place = "query"  // ?<Name>=<secret>
)

// Sealed is a stored upstream credential. Server is both its key and the only upstream it may go to. The associated data of
// the seal is canonical JSON of {owner, upstream, version}.
type Sealed struct {
	Server    string    `json:"server"`
	Place     Place     `json:"place"`
	Name      string    `json:"name,omitempty"` // header or query parameter
	User      string    `json:"user,omitempty"` // basic
	KeyID     string    `json:"key_id"`
	Blob      []byte    `json:"blob"`
	Owner     string    `json:"owner"`
	Version   int64     `json:"version"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Store keeps sealed secrets. Put inserts or replaces; absent ones are NotFound, "no_secret".
type Store interface {
	Secret(server string) (Sealed, error)
	Put(Sealed) error
	Delete(server string) error
	Secrets() iter.Seq2[Sealed, error]
}

// AssociatedData is what the seal is bound to: canonical JSON of {owner, upstream, version}. A blob that was moved to another server,
// owner or version does not open.
func (s Sealed) AssociatedData() ([]byte, error) {
	return canon.Marshal(struct {
		Owner    string `json:"owner"`
		Upstream string `json:"upstream"`
		Version  int64  `json:"version"`
	}{s.Owner, s.Server, s.Version})
}
