// SPDX-License-Identifier: Apache-2.0

// Package catalog describes what can be called: servers, their tools, prompts and resources, what each does, what its
// answers are worth, which arguments name somebody or something outside, and the pinned definition that the operator
// approved. It decides what a definition's change is; it never decides a call.
package catalog

import (
	"encoding/json"
	"iter"
	"time"

	"chaperone/internal/id"
	"chaperone/internal/label"
)

// Effect is the effect class of a tool. Unknown tools are irreversible.
type Effect string

// The effect classes.
const (
	Read         Effect = "read"
	Write        Effect = "write"
	Irreversible Effect = "irreversible"
)

// Stake is what a call can cost.
type Stake string

// The stakes.
const (
	ExternalCommunication Stake = "external_communication"
	ProductionData        Stake = "production_data"
	Money                 Stake = "money"
	Access                Stake = "access"
	CodeExecution         Stake = "code_execution"
)

// ItemKind is what an entry describes.
type ItemKind string

// The kinds of things that can be called. KindServer is the server itself: its instructions and endpoint.
const (
	KindTool     ItemKind = "tool"
	KindPrompt   ItemKind = "prompt"
	KindResource ItemKind = "resource"
	KindTemplate ItemKind = "template"
	KindServer   ItemKind = "server"
)

// Sink is an argument that names somebody or something outside. Argument is a dotted path; "[]" steps into every element
// ("recipients[].email"). Type is one of email, domain, url, iban, account, channel, user, path, phone, name.
type Sink struct {
	Argument string `json:"argument" yaml:"argument"`
	Type     string `json:"type" yaml:"type"`
}

// Object says which argument names the object acted on, and of what type.
type Object struct {
	Type     string `json:"type,omitempty" yaml:"type"`
	Argument string `json:"argument,omitempty" yaml:"argument"`
}

// Entry is what the house knows of one tool, prompt or resource. Origin tells where each attribute came from: operator,
// annotation or default.
type Entry struct {
	Server string            `json:"server"`
	Kind   ItemKind          `json:"kind"`
	Name   string            `json:"name"` // for resources the URI
	Effect Effect            `json:"effect"`
	Stakes []Stake           `json:"stakes,omitempty"`
	Source label.Label       `json:"source"` // joins the run before the answer is released
	Sinks  []Sink            `json:"sinks,omitempty"`
	Object Object            `json:"object,omitzero"`
	Known  bool              `json:"known"` // the operator described it
	Origin map[string]string `json:"origin,omitempty"`
}

// IsEffect reports whether a call changes or reaches anything: everything but a read without sinks.
func (e Entry) IsEffect() bool { return e.Effect != Read || len(e.Sinks) > 0 }

// PinState says whether a definition may be used.
type PinState string

// The pin states. A quarantined definition differs from the pinned one (or was never pinned) and is refused.
const (
	Pinned      PinState = "pinned"
	Quarantined PinState = "quarantined"
)

// Pin is a definition as the operator approved it, raw bytes and all. For KindServer, Raw is
// {"endpoint", "instructions", "serverInfo"}. Seen is the last different definition met, kept for the diff.
type Pin struct {
	Server   string          `json:"server"`
	Kind     ItemKind        `json:"kind"`
	Name     string          `json:"name"`
	Digest   string          `json:"digest"` // SHA-256 over JCS of Raw, hex
	Raw      json.RawMessage `json:"raw"`
	State    PinState        `json:"state"`
	Seen     json.RawMessage `json:"seen,omitempty"`
	SeenHash string          `json:"seen_digest,omitempty"`
	By       string          `json:"by,omitempty"`
	At       time.Time       `json:"at,omitzero"`
}

// Server is one upstream as registered.
type Server struct {
	ID            id.Server `json:"id"`
	Name          string    `json:"name"` // lower-case letters, digits and hyphens, 1 to 63 characters
	URL           string    `json:"url"`
	AllowLoopback bool      `json:"allow_loopback,omitempty"` // or private addresses
	TLSName       string    `json:"tls_name,omitempty"`       // the name the certificate must carry, if not the URL's host
	TLSCA         string    `json:"tls_ca,omitempty"`         // PEM; empty = the system's roots
	Mode          string    `json:"mode"`                     // enforce (observe comes with the rollout issue)
	Author        string    `json:"author"`
	UpdatedAt     time.Time `json:"updated_at"`
	Disabled      bool      `json:"disabled,omitempty"`
}

// Authorship says who changed an entry, pin or server, for the rule that nobody approves what they enabled.
type Authorship struct {
	Server string    `json:"server"`
	Kind   ItemKind  `json:"kind"` // KindServer for the server entry
	Name   string    `json:"name"`
	Person string    `json:"person"`
	What   string    `json:"what"` // server | entry | pin
	At     time.Time `json:"at"`
}

// Store keeps servers, entries and pins. Every Put or Delete moves Version. Absent things are NotFound.
type Store interface {
	Version() (int64, error)
	PutServer(Server) error
	Servers() iter.Seq2[Server, error]
	PutEntry(Entry) error
	Entries() iter.Seq2[Entry, error]
}

// Pins keeps pinned definitions and who changed what. Put moves Store.Version.
type Pins interface {
	Put(Pin) error
	Pins() iter.Seq2[Pin, error]
	Delete(server string, kind ItemKind, name string) error
	AddAuthor(Authorship) error
	Authors(server, name string, since time.Time) iter.Seq2[Authorship, error]
}
