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
	// A definition that says read-only and destructive in one breath is taken by its worse word.
	if destructive, ok := hints.Get("destructiveHint").Bool(); ok && destructive && e.Effect != Irreversible {
		e.Effect, e.Origin["effect"] = Irreversible, FromAnnotation
	}
	if open, ok := hints.Get("openWorldHint").Bool(); ok && open && !e.Source.IsUntrusted() {
		e.Source = e.Source.Join(label.Label{Integrity: label.Untrusted, Sources: []string{e.Server + "/" + e.Name}})
		e.Origin["source"] = FromAnnotation
	}
	return e
}

// InputSchema is the JSON Schema of the arguments of a pinned item: a tool's own; for a prompt, strings by the names of its arguments; for
// a resource or template, its URI. Nil if the definition has none.
func InputSchema(kind ItemKind, definition json.RawMessage) json.RawMessage {
	n, err := canon.Parse(definition, canon.Limits{Bytes: maxDefinition})
	if err != nil {
		return nil
	}
	type object = map[string]any
	schema := object{"type": "object", "additionalProperties": false}
	switch kind {
	case KindTool:
		if in := n.Get("inputSchema"); in != nil {
			return json.RawMessage(in.Raw)
		}
		return nil
	case KindPrompt:
		properties, required := object{}, []string{}
		if list := n.Get("arguments"); list != nil {
			for _, a := range list.Items {
				name, ok := a.Get("name").String()
				if !ok {
					return nil
				}
				properties[name] = object{"type": "string"}
				if must, _ := a.Get("required").Bool(); must {
					required = append(required, name)
				}
			}
		}
		schema["properties"], schema["required"] = properties, required
	case KindResource, KindTemplate:
		schema["properties"], schema["required"] = object{"uri": object{"type": "string"}}, []string{"uri"}
	default:
		return nil
	}
	b, err := canon.Marshal(schema)
	if err != nil {
		return nil
	}
	return b
}
