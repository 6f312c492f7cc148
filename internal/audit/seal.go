// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// LeafVersion is the version of the leaf format.
const LeafVersion = 1

// SaltSize is the length of a part's salt, in bytes. A fixed length makes salt || bytes mean one thing.
const SaltSize = 32

// atFormat is RFC 3339 in UTC with exactly three digits of a second.
const atFormat = "2006-01-02T15:04:05.000Z"

// PartDigest is what a leaf keeps of a part: SHA-256(salt || bytes) in lower-case hex, and the size in bytes.
type PartDigest struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// View is a leaf, read. Data is canonical JSON. The JSON of a View under RFC 8785 is the leaf.
type View struct {
	Head
	Data  json.RawMessage       `json:"data,omitempty"`
	Parts map[string]PartDigest `json:"parts,omitempty"`
}

// leaf is a View whose data is not JSON yet, so that sealing encodes it once.
type leaf struct {
	Head
	Data  any                   `json:"data,omitempty"`
	Parts map[string]PartDigest `json:"parts,omitempty"`
}

// Head is what every leaf has beside the fields of its type.
type Head struct {
	V          int         `json:"v"`
	ID         id.Event    `json:"id"`
	Stream     Stream      `json:"stream"`
	Type       string      `json:"type"`
	At         string      `json:"at"`
	Actor      Actor       `json:"actor"`
	Agent      id.Agent    `json:"agent,omitzero"`
	AgentName  string      `json:"agent_name,omitempty"`
	AgentType  string      `json:"agent_type,omitempty"`
	Instance   id.Instance `json:"instance,omitzero"`
	Run        id.Run      `json:"run,omitzero"`
	Step       id.Step     `json:"step,omitzero"`
	OnBehalfOf string      `json:"on_behalf_of,omitempty"`
	Server     string      `json:"server,omitempty"`
	Tool       string      `json:"tool,omitempty"`
	Decision   id.Decision `json:"decision,omitzero"`
	Grant      id.Grant    `json:"grant,omitzero"`
	Approval   id.Approval `json:"approval,omitzero"`
	Subject    string      `json:"subject,omitempty"`
}

// Time returns At.
func (v Head) Time() time.Time {
	t, _ := time.Parse(atFormat, v.At) // checked when the leaf was read
	return t
}

// Call returns the data of a call event.
func (v View) Call() (Call, error) {
	var c Call
	return c, canon.Decode(v.Data, canon.Limits{Bytes: MaxLeaf}, &c)
}

// Seal makes the bytes that are committed to. The leaf is the RFC 8785 form of View, at most MaxLeaf bytes; each part gets a
// salt of SaltSize bytes from salts (RandomSalt outside tests) and only its digest goes into the leaf. Seal is pure but for salts, and never runs
// inside a transaction.
//
// Codes, all Invalid: event_type (a type that is not in the vocabulary, or in the other stream), event_data (not the type's form, or not
// an object), event_field, part_name, part_salt, leaf_too_large, and those of package canon.
func Seal(ev Event, salts func() []byte) (Sealed, error) {
	v, err := leafOf(ev)
	if err != nil {
		return Sealed{}, err
	}
	names := make([]string, 0, len(ev.Parts))
	for name := range ev.Parts {
		names = append(names, name)
	}
	slices.Sort(names)
	parts := make([]Part, 0, len(names))
	for _, name := range names {
		if !validPart(name) {
			return Sealed{}, refuse("part_name", "part name %q", name).WithFix("use 1 to 32 lower-case letters and underscores")
		}
		p := Part{Name: name, Salt: salts(), Bytes: ev.Parts[name]}
		if len(p.Salt) != SaltSize {
			return Sealed{}, refuse("part_salt", "the salt of part %s has %d bytes, not %d", name, len(p.Salt), SaltSize)
		}
		parts = append(parts, p)
		if v.Parts == nil {
			v.Parts = make(map[string]PartDigest, len(names))
		}
		v.Parts[name] = p.digest()
	}
	b, err := canon.Marshal(v)
	if err != nil {
		return Sealed{}, fault.Wrap("audit.Seal", err)
	}
	if len(b) > MaxLeaf {
		return Sealed{}, refuse("leaf_too_large", "the event %s has %d bytes, %d are allowed", ev.Type, len(b), MaxLeaf).
			WithFix("put long matter into a part")
	}
	return Sealed{Event: ev, Leaf: b, Parts: parts}, nil
}

// RandomSalt returns a new salt from the system's random source.
func RandomSalt() []byte {
	b := make([]byte, SaltSize)
	rand.Read(b) // never fails (crypto/rand aborts the process instead)
	return b
}

func leafOf(ev Event) (leaf, error) {
	t, ok := typeOf(ev.Type)
	if !ok {
		return leaf{}, refuse("event_type", "%q is not an event type", ev.Type).WithFix("use a type of docs/events.md")
	}
	if t.Stream != ev.Stream {
		return leaf{}, refuse("event_type", "%s belongs to the stream %s, not %q", ev.Type, t.Stream, ev.Stream).WithFix("use a type of the stream")
	}
	if !t.fits(ev.Data) {
		return leaf{}, refuse("event_data", "the data of %s is a %T", ev.Type, ev.Data).WithFix("use %s", t.forms())
	}
	if ev.Data != nil && !object(ev.Data) {
		return leaf{}, refuse("event_data", "the data of %s is a %T, which is not an object", ev.Type, ev.Data).WithFix("give a struct")
	}
	v := leaf{Data: kept(ev.Data), Head: Head{
		V: LeafVersion, ID: ev.ID, Stream: ev.Stream, Type: ev.Type, At: ev.At.UTC().Format(atFormat), Actor: ev.Actor, Agent: ev.Agent,
		AgentName: ev.AgentName, AgentType: ev.AgentType, Instance: ev.Instance, Run: ev.Run, Step: ev.Step, OnBehalfOf: ev.OnBehalfOf,
		Server: ev.Server, Tool: ev.Tool, Decision: ev.Decision, Grant: ev.Grant, Approval: ev.Approval, Subject: ev.Subject,
	}}
	return v, v.check()
}

// object reports whether data encodes as a JSON object.
func object(data any) bool {
	if raw, ok := data.(json.RawMessage); ok {
		return len(raw) > 0 && raw[0] == '{'
	}
	v := reflect.ValueOf(data)
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if !v.IsValid() || v.Kind() != reflect.Struct && (v.Kind() != reflect.Map || v.IsNil()) {
		return false
	}
	switch v.Interface().(type) {
	case json.Marshaler, encoding.TextMarshaler:
		return false
	}
	return true
}

// check holds for every leaf, made or read.
func (v Head) check() error {
	t, err := time.Parse(atFormat, v.At)
	switch {
	case v.V != LeafVersion:
		return refuse("leaf_version", "the leaf has format %d, this program knows format %d", v.V, LeafVersion).WithFix("use a newer program")
	case v.ID.IsZero():
		return refuse("event_field", "the event has no id")
	case err != nil || t.Year() < 2000 || t.Format(atFormat) != v.At:
		return refuse("event_field", "the event's time %q is not a moment in UTC to the millisecond", v.At)
	case v.Actor.Kind != ActorAgent && v.Actor.Kind != ActorPerson && v.Actor.Kind != ActorSystem:
		return refuse("event_field", "the actor's kind %q is not agent, person or system", v.Actor.Kind)
	}
	return nil
}

// ParseLeaf reads a leaf and refuses bytes that Seal could not have made. The type need not be in this program's vocabulary:
// an older program reads the record of a newer one. Codes: leaf_too_large, leaf_version, leaf_not_canonical, event_field, event_data,
// part_name, and those of package canon.
func ParseLeaf(b []byte) (View, error) {
	if len(b) > MaxLeaf {
		return View{}, refuse("leaf_too_large", "the leaf has %d bytes, %d are allowed", len(b), MaxLeaf)
	}
	var v View
	if err := canon.Decode(b, canon.Limits{Bytes: MaxLeaf}, &v); err != nil {
		return View{}, err
	}
	if err := v.check(); err != nil {
		return View{}, err
	}
	if len(v.Data) > 0 && v.Data[0] != '{' {
		return View{}, refuse("event_data", "the data of the leaf is not an object")
	}
	for name, p := range v.Parts {
		if raw, err := hex.DecodeString(p.Digest); !validPart(name) || err != nil || len(raw) != sha256.Size || p.Size < 0 {
			return View{}, refuse("part_name", "part %q has no proper name, digest or size", name)
		}
	}
	again, err := canon.Marshal(v)
	if err != nil {
		return View{}, err
	}
	if !bytes.Equal(again, b) {
		return View{}, refuse("leaf_not_canonical", "the leaf is not in canonical form")
	}
	return v, nil
}

// digest is what the leaf keeps of the part.
func (p Part) digest() PartDigest {
	h := sha256.New()
	h.Write(p.Salt)
	h.Write(p.Bytes)
	return PartDigest{Digest: hex.EncodeToString(h.Sum(nil)), Size: int64(len(p.Bytes))}
}

func validPart(name string) bool {
	if len(name) == 0 || len(name) > 32 {
		return false
	}
	for _, c := range []byte(name) {
		if c != '_' && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

func refuse(code, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "audit.Seal", code, format, args...)
}
