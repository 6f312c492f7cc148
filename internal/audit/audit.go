// SPDX-License-Identifier: Apache-2.0

// Package audit is the record: the vocabulary of events, the bytes that are committed to, and the proof, checkable by a
// stranger, that none was changed, removed, reordered or cut off. It decides what a record is; it never decides when one
// is made (roads do) and never reads a database.
package audit

import (
	"encoding/json"
	"iter"
	"time"

	"chaperone/internal/id"
)

// Stream keeps what agents did apart from what people did. The types of the two are disjoint.
type Stream string

// The streams.
const (
	Agents Stream = "agent"
	People Stream = "people"
)

// MaxLeaf is the most bytes a leaf may have; larger matter goes into parts.
const MaxLeaf = 16 << 10

// The kinds of actors.
const (
	ActorAgent  = "agent"
	ActorPerson = "person"
	ActorSystem = "system"
)

// Actor is whose key caused the event.
type Actor struct {
	Kind string `json:"kind"` // agent | person | system
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
	JKT  string `json:"jkt,omitempty"`
}

// Event is one thing that happened. Data holds the fields of its type (Call, Decision, ...) and is canonicalised when sealed.
// Parts holds matter that may be erased later (arguments, results, the whole policy request): the leaf keeps only a salted digest.
type Event struct {
	ID         id.Event
	Stream     Stream
	Type       string
	At         time.Time // UTC, milliseconds
	Actor      Actor
	Agent      id.Agent
	AgentName  string
	AgentType  string
	Instance   id.Instance
	Run        id.Run
	Step       id.Step
	OnBehalfOf string
	Server     string
	Tool       string
	Decision   id.Decision
	Grant      id.Grant
	Approval   id.Approval
	Subject    string // what a person's event is about: "agent:mailer", "policy:7"
	Data       any
	Parts      map[string][]byte
}

// Part is matter beside a leaf. Digest in the leaf = SHA-256(salt || bytes), hex. Erased parts keep name and salt.
type Part struct {
	Name   string `json:"name"`
	Salt   []byte `json:"salt"`
	Bytes  []byte `json:"bytes,omitempty"`
	Erased string `json:"erased,omitempty"` // why, e.g. "retention"
}

// Sealed is an event ready to be stored: Leaf is committed to verbatim.
type Sealed struct {
	Event Event
	Leaf  []byte
	Parts []Part
}

// Record is a stored event. Position is gapless from 0, in commit order, and equals its index in the log.
type Record struct {
	Position int64           `json:"position"`
	ID       id.Event        `json:"id"`
	Leaf     json.RawMessage `json:"leaf"`
	Parts    []Part          `json:"parts,omitempty"`
}

// Filter narrows a query; zero fields match everything. After and Limit page by position, oldest first, unless Newest.
type Filter struct {
	After    int64 // positions greater than this; -1 = from the start
	Limit    int   // 0 = 1000
	Newest   bool
	Stream   Stream
	Type     string
	Agent    id.Agent
	Run      id.Run
	Decision id.Decision
	Approval id.Approval
	ID       id.Event
	Bare     bool // without parts: Record.Parts may be left empty, which spares their reading
}

// Log is the event table. Append stages an event in its transaction; the committer assigns the position just before COMMIT.
// Next is the number of committed events (the next position). Records lists by filter.
type Log interface {
	Append(Sealed) error
	Next() (int64, error)
	Records(Filter) iter.Seq2[Record, error]
	Last() (time.Time, error) // At of the newest event; zero if none
}

// Skipper is what a Log also offers where a restored database may be accepted under a log that is ahead of it. Skip moves Next
// forward to the position to, which leaves the positions between without rows for good; the next appended event stands at to. It is
// Invalid, "skip_back", where to is less than Next, and takes effect with its transaction.
type Skipper interface {
	Skip(to int64) error
}
