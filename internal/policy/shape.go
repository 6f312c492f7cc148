// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	sast "github.com/cedar-policy/cedar-go/x/exp/schema/ast"

	"chaperone/internal/canon"
)

// shape is what Cedar can know of a JSON value, read from its JSON Schema: a scalar, a set of scalars, or a record. Whatever
// Cedar has no type for (unions, null, open maps, arrays of objects, tuples, ...) has the shape none: it is not in
// context.arguments, and its path is in context.arguments_unmapped when a call carries it.
type shape struct {
	kind   shapeKind
	elem   shapeKind // of a set
	fields map[string]field
}

type field struct {
	shape
	required bool
}

type shapeKind uint8

const (
	shapeNone shapeKind = iota
	shapeLong
	shapeDecimal
	shapeBool
	shapeString
	shapeSet
	shapeRecord
)

// The bounds of what is read from one definition. Beyond them a property has the shape none.
const (
	maxShapeDepth = 8
	maxFields     = 256
	maxShapes     = 4096 // of all kinds: references may multiply
)

// shapeOf reads the shape of a tool's arguments. A schema that is absent, is not JSON or does not describe an object gives an empty
// record, so that every argument is unmapped: a definition nobody can read voids no policy.
func shapeOf(schema json.RawMessage) shape {
	root, err := canon.Parse(schema, canon.Limits{})
	if len(schema) == 0 || err != nil {
		return shape{kind: shapeRecord}
	}
	s := (&shaper{root: root}).shape(root, 0)
	if s.kind != shapeRecord {
		return shape{kind: shapeRecord}
	}
	return s
}

type shaper struct {
	root  *canon.Node
	count int
}

func (sh *shaper) shape(n *canon.Node, depth int) shape {
	sh.count++
	if n == nil || n.Kind != canon.Object || depth > maxShapeDepth || sh.count > maxShapes {
		return shape{}
	}
	if ref := n.Get("$ref"); ref != nil {
		if !onlyWords(n, "$ref") {
			return shape{}
		}
		return sh.shape(sh.resolve(ref), depth+1)
	}
	switch typeWord(n) {
	case "integer":
		return shape{kind: shapeLong}
	case "number":
		return shape{kind: shapeDecimal}
	case "boolean":
		return shape{kind: shapeBool}
	case "string":
		return shape{kind: shapeString}
	case "array":
		if n.Get("prefixItems") != nil {
			return shape{}
		}
		switch e := sh.shape(n.Get("items"), depth+1); e.kind {
		case shapeLong, shapeDecimal, shapeBool, shapeString:
			return shape{kind: shapeSet, elem: e.kind}
		}
	case "object":
		return sh.record(n, depth)
	case "":
		// Generators wrap a reference that has a description in an allOf of one.
		if all := n.Get("allOf"); all != nil && all.Kind == canon.Array && len(all.Items) == 1 && onlyWords(n, "allOf") {
			return sh.shape(all.Items[0], depth+1)
		}
		if e := n.Get("enum"); e != nil && len(e.Items) > 0 && !slices.ContainsFunc(e.Items, func(i *canon.Node) bool { return i.Kind != canon.String }) {
			return shape{kind: shapeString}
		}
		if _, ok := n.Get("const").String(); ok {
			return shape{kind: shapeString}
		}
	}
	return shape{}
}

// typeWord is the value of "type" if it is one word, as a string or as an array of one.
func typeWord(n *canon.Node) string {
	t := n.Get("type")
	if t == nil {
		return ""
	}
	if t.Kind == canon.Array && len(t.Items) == 1 {
		t = t.Items[0]
	}
	w, ok := t.String()
	if !ok {
		return "union"
	}
	return w
}

// onlyWords reports whether a schema says nothing of the value but by the keyword: the rest are notes for people.
func onlyWords(n *canon.Node, keyword string) bool {
	for _, m := range n.Members {
		if m.Key != keyword && !slices.Contains([]string{"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}, m.Key) {
			return false
		}
	}
	return true
}

// resolve follows a reference inside the document. Others have no shape.
func (sh *shaper) resolve(ref *canon.Node) *canon.Node {
	s, _ := ref.String()
	rest, ok := strings.CutPrefix(s, "#/")
	if !ok {
		return nil
	}
	n := sh.root
	for key := range strings.SplitSeq(rest, "/") {
		n = n.Get(strings.NewReplacer("~1", "/", "~0", "~").Replace(key))
	}
	return n
}

func (sh *shaper) record(n *canon.Node, depth int) shape {
	props := n.Get("properties")
	if props == nil || props.Kind != canon.Object || len(props.Members) > maxFields {
		return shape{} // an open map
	}
	out := shape{kind: shapeRecord, fields: map[string]field{}}
	required := n.Get("required")
	for _, m := range props.Members {
		f := field{shape: sh.shape(m.Value, depth+1)}
		if f.kind == shapeNone {
			continue
		}
		if required != nil {
			f.required = slices.ContainsFunc(required.Items, func(i *canon.Node) bool { s, ok := i.String(); return ok && s == m.Key })
		}
		out.fields[m.Key] = f
	}
	return out
}

// cedarType is the schema type of a shape. Cedar has no type for shapeNone.
func (s shape) cedarType() sast.IsType {
	if s.kind == shapeSet {
		return sast.Set(scalarType(s.elem))
	}
	if s.kind != shapeRecord {
		return scalarType(s.kind)
	}
	rec := sast.RecordType{}
	for name, f := range s.fields {
		rec[types.String(name)] = sast.Attribute{Type: f.cedarType(), Optional: !f.required}
	}
	return rec
}

func scalarType(k shapeKind) sast.IsType {
	switch k {
	case shapeLong:
		return sast.Long()
	case shapeDecimal:
		return sast.Decimal()
	case shapeBool:
		return sast.Bool()
	}
	return sast.String()
}

// mapArguments turns the arguments of a call into a Cedar record, and lists the paths of what has no place in it: values that
// the schema does not declare, that have another type than declared, or that Cedar cannot hold exactly.
func (s shape) mapArguments(args json.RawMessage) (types.Record, []string, error) {
	if len(args) == 0 {
		return types.NewRecord(nil), nil, nil
	}
	n, err := canon.Parse(args, canon.Limits{})
	if err != nil {
		return types.Record{}, nil, err
	}
	if n.Kind == canon.Null {
		return types.NewRecord(nil), nil, nil
	}
	var unmapped []string
	v := s.value(n, "", &unmapped)
	if v == nil {
		return types.NewRecord(nil), []string{""}, nil
	}
	return v.(types.Record), unmapped, nil
}

// value maps one value, or returns nil after naming it.
func (s shape) value(n *canon.Node, path string, unmapped *[]string) types.Value {
	switch {
	case s.kind == shapeRecord && n.Kind == canon.Object:
		rec := make(types.RecordMap, len(n.Members))
		for _, m := range n.Members {
			at := m.Key
			if path != "" {
				at = path + "." + m.Key
			}
			f, ok := s.fields[m.Key]
			if !ok {
				*unmapped = append(*unmapped, at)
				continue
			}
			if v := f.value(m.Value, at, unmapped); v != nil {
				rec[types.String(m.Key)] = v
			}
		}
		return types.NewRecord(rec)
	case s.kind == shapeSet && n.Kind == canon.Array:
		set := make([]types.Value, 0, len(n.Items))
		for _, item := range n.Items {
			v := scalar(s.elem, item)
			if v == nil {
				*unmapped = append(*unmapped, path)
				return nil
			}
			set = append(set, v)
		}
		return types.NewSet(set...)
	case s.kind != shapeRecord && s.kind != shapeSet:
		if v := scalar(s.kind, n); v != nil {
			return v
		}
	}
	*unmapped = append(*unmapped, path)
	return nil
}

func scalar(k shapeKind, n *canon.Node) types.Value {
	switch {
	case k == shapeString && n.Kind == canon.String:
		return types.String(n.Text)
	case k == shapeBool && n.Kind == canon.Bool:
		return types.Boolean(n.Text == "true")
	case k == shapeLong && n.Kind == canon.Number:
		if v, ok := exact(n.Text, 0); ok {
			return types.Long(v)
		}
	case k == shapeDecimal && n.Kind == canon.Number:
		if v, ok := exact(n.Text, 4); ok {
			if d, err := types.NewDecimal(v, -4); err == nil {
				return d
			}
		}
	}
	return nil
}

// exact returns the number times ten to the places, if that is an integer of 64 bits. It never rounds.
func exact(text string, places int) (int64, bool) {
	mantissa, exponent := text, 0
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		e, err := strconv.Atoi(text[i+1:])
		if err != nil || e > 64 || e < -64 {
			return 0, false
		}
		mantissa, exponent = text[:i], e
	}
	whole, frac, _ := strings.Cut(mantissa, ".")
	if len(whole)+len(frac) > 64 {
		return 0, false
	}
	n, ok := new(big.Int).SetString(whole+frac, 10)
	if !ok {
		return 0, false
	}
	power := exponent - len(frac) + places
	ten := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(power, -power))), nil)
	if power >= 0 {
		n.Mul(n, ten)
	} else if _, rest := n.QuoRem(n, ten, new(big.Int)); rest.Sign() != 0 {
		return 0, false
	}
	return n.Int64(), n.IsInt64()
}
