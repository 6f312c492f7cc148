// SPDX-License-Identifier: Apache-2.0

package approval

import (
	"crypto/subtle"
	"slices"
	"strings"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// The schema names that stand in the digested documents, so that a later form can never be taken for this one.
const (
	CallSchema    = "chaperone/call/1"
	BindingSchema = "chaperone/binding/1"
)

// CallDigest returns the hex SHA-256 over the canonical JSON (RFC 8785) of the call. It finds and coalesces: two askings of
// one exact call have one digest. Stakes are taken as a set; absent arguments count as {}. Arguments that canonical JSON
// cannot carry exactly are refused (fault Invalid, "json_inexact_number" and the other codes of canon). Vectors:
// docs/vectors/approval.json.
func CallDigest(c Call) (string, error) {
	d, err := canon.Digest(canonicalCall(c))
	if err != nil {
		return "", fault.Wrap("approval.CallDigest", err)
	}
	return d, nil
}

// BindingDigest returns the hex SHA-256 over the canonical JSON of the binding. It is what a person decides on and what is
// consumed. Rules are taken in order of id, NotAfter in UTC to the millisecond. Vectors: docs/vectors/approval.json.
func BindingDigest(b Binding) (string, error) {
	d, err := canon.Digest(canonicalBinding(b))
	if err != nil {
		return "", fault.Wrap("approval.BindingDigest", err)
	}
	return d, nil
}

func canonicalCall(c Call) Call {
	c.Schema = CallSchema
	c.Stakes = slices.Clone(c.Stakes)
	slices.Sort(c.Stakes)
	c.Stakes = slices.Compact(c.Stakes)
	if len(c.Arguments) == 0 {
		c.Arguments = []byte("{}")
	}
	return c
}

func canonicalBinding(b Binding) Binding {
	b.Schema = BindingSchema
	b.Rules = sortedRules(b.Rules)
	b.NotAfter = milli(b.NotAfter)
	return b
}

func sortedRules(rules []Rule) []Rule {
	out := append([]Rule{}, rules...)
	slices.SortFunc(out, func(x, y Rule) int { return strings.Compare(x.ID, y.ID) })
	return out
}

// SameRules reports whether two sets of lifted rules are the same by id and text, whatever the reasons say: an approval
// stands against a newer policy only then.
func SameRules(a, b []Rule) bool {
	return slices.EqualFunc(sortedRules(a), sortedRules(b), func(x, y Rule) bool {
		return x.ID == y.ID && x.TextDigest == y.TextDigest
	})
}

func milli(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func equalDigest(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// intact checks that both digests follow from the stored inputs and belong to this approval.
func intact(op string, a Approval) error {
	call, err := CallDigest(a.Call)
	if err != nil {
		return err
	}
	bound, err := BindingDigest(a.Binding)
	if err != nil {
		return err
	}
	if !equalDigest(call, a.CallDigest) || !equalDigest(call, a.Binding.CallDigest) || a.Binding.Approval != a.ID ||
		!equalDigest(bound, a.BindingDigest) {
		return fault.New(fault.Conflict, op, "approval_binding_mismatch", "approval %s does not match its stored inputs", a.ID).
			WithFix("make the call again: a new approval is asked")
	}
	return nil
}
