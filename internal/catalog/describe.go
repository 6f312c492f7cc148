// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"encoding/json"
	"maps"

	"chaperone/internal/canon"
	"chaperone/internal/label"
)

// Where an attribute of an entry came from.
const (
	FromOperator   = "operator"
	FromAnnotation = "annotation"
	FromDefault    = "default"
)

// Describe says what is known of one item: what the operator wrote (op, if known), made stricter by the definition's own
// annotations, and the strictest for everything nobody said: irreversible and untrusted. Annotations are the server's word, so they
// never make anything milder: readOnlyHint alone leaves an unknown tool irreversible.
func Describe(op Entry, known bool, definition json.RawMessage) Entry {
	e := op
	e.Known = known
	e.Origin = maps.Clone(op.Origin)
	if e.Origin == nil {
		e.Origin = map[string]string{}
	}
	if e.Effect == "" {
		e.Effect, e.Origin["effect"] = Irreversible, FromDefault
	}
	if e.Origin["source"] == "" {
		e.Source = label.Label{Integrity: label.Untrusted, Sources: []string{e.Server + "/" + e.Name}}
		e.Origin["source"] = FromDefault
	}
	if e.Source.IsUntrusted() && len(e.Source.Sources) == 0 {
		e.Source.Sources = []string{e.Server + "/" + e.Name}
	}
	if op.Origin["annotations"] == "ignore" {
		return e
	}
	n, err := canon.Parse(definition, canon.Limits{Bytes: 8 << 20})
	if err != nil {
		return e
	}
	hints := n.Get("annotations")
	if readOnly, ok := hints.Get("readOnlyHint").Bool(); ok && !readOnly && e.Effect == Read {
		e.Effect, e.Origin["effect"] = Write, FromAnnotation
	}
	if destructive, ok := hints.Get("destructiveHint").Bool(); ok && destructive && e.Effect == Write {
		e.Effect, e.Origin["effect"] = Irreversible, FromAnnotation
	}
	if open, ok := hints.Get("openWorldHint").Bool(); ok && open && !e.Source.IsUntrusted() {
		e.Source = e.Source.Join(label.Label{Integrity: label.Untrusted, Sources: []string{e.Server + "/" + e.Name}})
		e.Origin["source"] = FromAnnotation
	}
	return e
}
