// SPDX-License-Identifier: Apache-2.0

// Package label holds the information-flow mark of content and runs: where it came from (integrity) and who may see it
// (confidentiality). It decides how two marks join; it never decides what a mark forbids (policy does). Labels only
// grow: there is no operation that removes anything.
package label

import (
	"slices"

	"chaperone/internal/fault"
)

// Integrity says whether content may carry instructions of a stranger.
type Integrity string

// The two integrity levels. The empty value means Trusted, so that the zero Label is the bottom of the lattice.
const (
	Trusted   Integrity = "trusted"
	Untrusted Integrity = "untrusted"
)

// Level is how confidential content is.
type Level string

// The levels, in rising order. The empty value means Public.
const (
	Public       Level = "public"
	Internal     Level = "internal"
	Confidential Level = "confidential"
	Secret       Level = "secret"
)

var levels = []Level{Public, Internal, Confidential, Secret}

// Rank returns 0 (public) to 3 (secret); an unknown level ranks as secret, so that a misspelling is never a leak.
func (l Level) Rank() int {
	if l == "" {
		return 0
	}
	if i := slices.Index(levels, l); i >= 0 {
		return i
	}
	return len(levels) - 1
}

// Readers says who may see the content. The zero value means anyone (bottom).
type Readers struct {
	// Unknown is the top: nobody can be shown to be a reader.
	Unknown bool `json:"unknown,omitempty"`
	// Known, when true, restricts the readers to Names.
	Known bool     `json:"known,omitempty"`
	Names []string `json:"names,omitempty"` // sorted, unique
}

// Label is the mark of one piece of content or of one run. The zero value is trusted, public, readable by anyone.
// Values are immutable: Join returns a new one and never shares slices with its arguments.
type Label struct {
	Integrity  Integrity `json:"integrity,omitempty"`
	Sources    []string  `json:"sources,omitempty"` // what made it untrusted, as "server/tool"; sorted, unique
	Level      Level     `json:"level,omitempty"`
	Categories []string  `json:"categories,omitempty"` // personal, financial, credentials, ...; sorted, unique
	Readers    Readers   `json:"readers,omitzero"`
}

// Join returns the least label that covers both, in words of the vocabulary (an unknown one becomes the strictest). It is
// associative, commutative and idempotent.
func (a Label) Join(b Label) Label {
	out := Label{Integrity: Trusted, Level: levels[max(a.Level.Rank(), b.Level.Rank())]}
	if a.IsUntrusted() || b.IsUntrusted() {
		out.Integrity = Untrusted
	}
	out.Sources = union(a.Sources, b.Sources)
	out.Categories = union(a.Categories, b.Categories)
	out.Readers = joinReaders(a.Readers, b.Readers)
	return out
}

// Covers reports whether joining b to a would change nothing, so that no write is needed.
func (a Label) Covers(b Label) bool { return a.Join(b).Equal(a) }

// Equal compares two labels after normalisation.
func (a Label) Equal(b Label) bool {
	a, b = normal(a), normal(b)
	return a.Integrity == b.Integrity && a.Level.Rank() == b.Level.Rank() && slices.Equal(a.Sources, b.Sources) &&
		slices.Equal(a.Categories, b.Categories) && a.Readers.Unknown == b.Readers.Unknown &&
		a.Readers.Known == b.Readers.Known && slices.Equal(a.Readers.Names, b.Readers.Names)
}

// IsUntrusted reports whether anything untrusted was joined. An unknown integrity word counts as untrusted.
func (a Label) IsUntrusted() bool { return a.Integrity != "" && a.Integrity != Trusted }

// Check refuses words that are not in the vocabulary. Error kind: Invalid, code "bad_label".
func (a Label) Check() error {
	if a.Integrity != "" && a.Integrity != Trusted && a.Integrity != Untrusted {
		return fault.New(fault.Invalid, "label.Check", "bad_label", "integrity %q is not trusted or untrusted", a.Integrity)
	}
	if a.Level != "" && !slices.Contains(levels, a.Level) {
		return fault.New(fault.Invalid, "label.Check", "bad_label", "level %q is not public, internal, confidential or secret", a.Level)
	}
	return nil
}

// normal is the label with the words and lists that Join gives; an unknown word becomes the strictest.
func normal(a Label) Label { return a.Join(Label{}) }

func union(a, b []string) []string {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

func joinReaders(a, b Readers) Readers {
	switch {
	case a.Unknown || b.Unknown:
		return Readers{Unknown: true}
	case a.Known && b.Known:
		var both []string
		for _, n := range union(a.Names, nil) {
			if slices.Contains(b.Names, n) {
				both = append(both, n)
			}
		}
		return Readers{Known: true, Names: both}
	case a.Known:
		return Readers{Known: true, Names: union(a.Names, nil)}
	case b.Known:
		return Readers{Known: true, Names: union(b.Names, nil)}
	}
	return Readers{}
}
