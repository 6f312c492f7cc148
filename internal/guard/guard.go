// SPDX-License-Identifier: Apache-2.0

// Package guard reads typed values - addresses, accounts, hosts, paths - out of a call's arguments and out of what the
// opener of a run stated, and decides one thing: whether a value in a call equals a stated one (clearance). It never
// decides a call (policy does), never compares parts of strings, and never repairs a malformed value: what is not
// well-formed for its type clears nothing and is never cleared.
package guard

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// Sink is an argument that names somebody or something outside. Argument is a dotted path of member names; "[]" steps into
// every element of an array ("recipients[].email"). A dot, bracket or backslash that belongs to a name is written with a
// backslash before it. Type is one of Types.
type Sink struct {
	Argument string
	Type     string
}

// Value is one thing found at a sink. Argument is where, with the element's index ("recipients[1].email"). Raw is the
// string as it will be forwarded, or the JSON text of what stands there instead. Norm is the canonical form, only if OK.
// OK says that Raw is a well-formed value of the type; a value that is not OK is never cleared.
type Value struct {
	Argument string
	Type     string
	Raw      string
	Norm     string
	OK       bool
}

// SinkValues reads the values at the sinks of a call. An absent sink has no value; one that is there in another shape than
// declared (null, a number, an array where the path has no "[]", ...) is a value with OK = false. Order is that of sinks, then
// of the document. Errors: those of canon.Parse for arguments that are not strict JSON; bad_sink for a path that does not
// parse.
func SinkValues(args json.RawMessage, sinks []Sink) ([]Value, error) {
	if len(sinks) == 0 {
		return nil, nil
	}
	var root *canon.Node
	if len(args) > 0 {
		n, err := canon.Parse(args, canon.Limits{})
		if err != nil {
			return nil, fault.Wrap("guard.SinkValues", err)
		}
		root = n
	}
	var out []Value
	for _, s := range sinks {
		steps, err := parsePath(s.Argument)
		if err != nil {
			return nil, err
		}
		if root != nil {
			collect(&out, root, "", steps, s.Type)
		}
	}
	return out, nil
}

// CheckSink refuses a sink whose path does not parse or whose type is not one of Types. Error kind: Invalid, code bad_sink.
func CheckSink(s Sink) error {
	if !slices.Contains(Types(), s.Type) {
		return fault.New(fault.Invalid, "guard.CheckSink", "bad_sink", "sink %q has the unknown type %q", s.Argument, s.Type).
			WithFix("use one of: %v", Types())
	}
	_, err := parsePath(s.Argument)
	return err
}

// step is one step of a sink path: into a member, or into every element.
type step struct {
	member string
	each   bool
}

func parsePath(path string) ([]step, error) {
	bad := func(why string) error {
		return fault.New(fault.Invalid, "guard.SinkValues", "bad_sink", "the sink path %q %s", path, why).
			WithFix(`write member names with dots between them and "[]" for every element, as in recipients[].email`)
	}
	if len(path) > 512 {
		return nil, bad("is longer than 512 bytes")
	}
	var steps []step
	var name []byte
	var last byte // what ended before here: 0 the start, 'n' a name, '.' a dot, ']' an "[]"
	for i := 0; i < len(path); i++ {
		switch c := path[i]; c {
		case '.':
			if last != 'n' && last != ']' {
				return nil, bad("has an empty member name")
			}
			last = '.'
		case '[':
			if i+1 == len(path) || path[i+1] != ']' {
				return nil, bad(`has a bracket that is not "[]"`)
			}
			if last == '.' {
				return nil, bad("has an empty member name")
			}
			i++
			steps, last = append(steps, step{each: true}), ']'
		case ']':
			return nil, bad(`has a bracket that is not "[]"`)
		default:
			if last == ']' {
				return nil, bad(`has a name straight after "[]"`)
			}
			if c == '\\' {
				if i++; i == len(path) {
					return nil, bad("ends in a backslash")
				}
			}
			if last != 'n' {
				steps, name, last = append(steps, step{}), nil, 'n'
			}
			name = append(name, path[i])
			steps[len(steps)-1].member = string(name)
		}
	}
	if last == 0 || last == '.' {
		return nil, bad("is empty or ends in a dot")
	}
	return steps, nil
}

func collect(out *[]Value, n *canon.Node, at string, steps []step, typ string) {
	if len(steps) == 0 {
		v := Value{Argument: at, Type: typ, Raw: string(n.Raw)}
		if s, ok := n.String(); ok {
			v.Raw = s
			v.Norm, v.OK = Normalise(typ, s)
		} else if typ == Number && n.Kind == canon.Number {
			v.Norm, v.OK = Normalise(typ, n.Text)
		}
		*out = append(*out, v)
		return
	}
	s := steps[0]
	switch {
	case s.each && n.Kind == canon.Array:
		for i, item := range n.Items {
			collect(out, item, at+"["+strconv.Itoa(i)+"]", steps[1:], typ)
		}
	case !s.each && n.Kind == canon.Object:
		if m := n.Get(s.member); m != nil {
			collect(out, m, join(at, s.member), steps[1:], typ)
		}
	default: // something stands there, in a shape nobody declared
		*out = append(*out, Value{Argument: at, Type: typ, Raw: string(n.Raw)})
	}
}

func join(at, member string) string {
	if at == "" {
		return member
	}
	return at + "." + member
}

// PlanSink is one sink value of a stated plan. An empty Type states the value for every type it is well-formed in.
type PlanSink struct {
	Type  string
	Value string
}

// Stated is what the opener of a run stated: typed values in canonical form. The zero value states nothing. It is immutable
// and safe for concurrent use.
type Stated struct {
	values map[string]map[string]struct{} // type -> canonical form
}

// Read extracts the typed values of a purpose and adds those of a plan. The caller passes only text that someone other than the
// agent stated by their own key; for any other run it passes nothing.
func Read(purpose string, plan []PlanSink) Stated {
	s := Stated{values: map[string]map[string]struct{}{}}
	recognise(purpose, s.add)
	for _, p := range plan {
		if p.Type != "" {
			s.add(p.Type, p.Value)
			continue
		}
		for _, typ := range Types() {
			s.add(typ, p.Value)
		}
	}
	return s
}

// add states a value for a type if it is well-formed in it.
func (s Stated) add(typ, raw string) {
	norm, ok := Normalise(typ, raw)
	if !ok {
		return
	}
	if s.values[typ] == nil {
		s.values[typ] = map[string]struct{}{}
	}
	s.values[typ][norm] = struct{}{}
}

// Clears reports whether the value equals a stated value of the same type, both in canonical form. A value that is not
// well-formed is never cleared, and a part of a stated value clears nothing.
func (s Stated) Clears(v Value) bool {
	if !v.OK {
		return false
	}
	// Norm is made again, so that a Value somebody filled by hand cannot claim to be another.
	norm, ok := Normalise(v.Type, v.Raw)
	if !ok {
		return false
	}
	_, ok = s.values[v.Type][norm]
	return ok
}

// Values lists the stated values of a type in canonical form, sorted; for showing to people.
func (s Stated) Values(typ string) []string {
	return slices.Sorted(maps.Keys(s.values[typ]))
}
