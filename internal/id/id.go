// SPDX-License-Identifier: Apache-2.0

// Package id makes and parses the typed identifiers of the house: a prefix, an underscore, and 26 lower-case
// base32 characters of a UUIDv7 (RFC 9562), so that they sort by time of making. It decides what a well-formed
// identifier is; it never looks one up.
package id

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"

	"chaperone/internal/fault"
)

// Kind is implemented by the marker types below; each names the prefix of its identifiers.
type Kind interface{ prefix() string }

type (
	agent    struct{}
	instance struct{}
	run      struct{}
	step     struct{}
	grant    struct{}
	approval struct{}
	decision struct{}
	event    struct{}
	server   struct{}
	bundle   struct{}
	catalog  struct{}
	person   struct{}
	reviewed struct{}
)

func (agent) prefix() string    { return "agt" }
func (instance) prefix() string { return "ins" }
func (run) prefix() string      { return "run" }
func (step) prefix() string     { return "stp" }
func (grant) prefix() string    { return "grt" }
func (approval) prefix() string { return "apr" }
func (decision) prefix() string { return "dec" }
func (event) prefix() string    { return "evt" }
func (server) prefix() string   { return "srv" }
func (bundle) prefix() string   { return "pol" }
func (catalog) prefix() string  { return "cat" }
func (person) prefix() string   { return "per" }
func (reviewed) prefix() string { return "cas" }

// The identifier types. They are distinct: a run's identifier cannot be passed for an agent's.
type (
	Agent    = ID[agent]
	Instance = ID[instance]
	Run      = ID[run]
	Step     = ID[step]
	Grant    = ID[grant]
	Approval = ID[approval]
	Decision = ID[decision]
	Event    = ID[event]
	Server   = ID[server]
	Bundle   = ID[bundle]
	Catalog  = ID[catalog]
	Person   = ID[person]
	Case     = ID[reviewed]
)

// ID is a validated identifier of kind K. The zero value is "no identifier"; it marshals to the empty string.
type ID[K Kind] struct{ s string }

// alphabet is that of RFC 4648 base32 in lower case and in the order of its bytes, so that the text sorts as the number does.
var alphabet = base32.NewEncoding("234567abcdefghijklmnopqrstuvwxyz").WithPadding(base32.NoPadding)

// New makes an identifier whose time part is now (milliseconds) and whose other 74 bits are random. It is safe for
// concurrent use. Identifiers of one millisecond sort in random order; the order of record is the event's position.
func New[K Kind](now time.Time) ID[K] {
	var b [16]byte
	rand.Read(b[6:]) // never fails (crypto/rand aborts the process instead)
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint16(b[0:2], uint16(ms>>32))
	binary.BigEndian.PutUint32(b[2:6], uint32(ms))
	b[6] = b[6]&0x0f | 0x70
	b[8] = b[8]&0x3f | 0x80
	var k K
	return ID[K]{k.prefix() + "_" + alphabet.EncodeToString(b[:])}
}

// Parse accepts exactly the form that New makes. It refuses upper case, other prefixes, other UUID versions and non-zero spare
// bits, so that one identifier has one spelling. Error kind: Invalid, code "bad_id".
func Parse[K Kind](s string) (ID[K], error) {
	var k K
	rest, ok := strings.CutPrefix(s, k.prefix()+"_")
	if !ok || len(rest) != 26 {
		return ID[K]{}, bad[K]()
	}
	b, err := alphabet.DecodeString(rest)
	if err != nil || len(b) != 16 || b[6]>>4 != 7 || b[8]>>6 != 2 || alphabet.EncodeToString(b) != rest {
		return ID[K]{}, bad[K]()
	}
	return ID[K]{s}, nil
}

func bad[K Kind]() error {
	var k K
	return fault.New(fault.Invalid, "id.Parse", "bad_id", "not an identifier of the form %s_ and 26 characters", k.prefix()).
		WithFix("copy the identifier as the product printed it")
}

// String returns the identifier as written, empty for the zero value.
func (i ID[K]) String() string { return i.s }

// IsZero reports whether there is no identifier.
func (i ID[K]) IsZero() bool { return i.s == "" }

// Time returns the moment of making, in milliseconds; the zero time for the zero value.
func (i ID[K]) Time() time.Time {
	if i.s == "" {
		return time.Time{}
	}
	b, err := alphabet.DecodeString(i.s[4:])
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint16(b[0:2]))<<32 | int64(binary.BigEndian.Uint32(b[2:6]))).UTC()
}

// MarshalText implements encoding.TextMarshaler; the zero value is the empty text.
func (i ID[K]) MarshalText() ([]byte, error) { return []byte(i.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; the empty text is the zero value, anything else is parsed.
func (i *ID[K]) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*i = ID[K]{}
		return nil
	}
	p, err := Parse[K](string(b))
	if err != nil {
		return err
	}
	*i = p
	return nil
}
