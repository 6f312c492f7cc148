// SPDX-License-Identifier: Apache-2.0

package canon

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"chaperone/internal/fault"
)

// Decode parses b and fills dst, a non-nil pointer, by the names of the `json` tags. Unlike encoding/json it matches names
// exactly (another case is another name), refuses unknown members (json_unknown_member), and refuses null except where
// the destination can say "none": a pointer, slice, map, any or json.RawMessage. A value of the wrong type or out of range
// is json_type; the message names the member's path. A number into an any is a json.Number. A destination with its own
// UnmarshalJSON or UnmarshalText gets the value's bytes or text, and its fault.Error is returned as it is.
// Members that are absent leave their fields as they were.
func Decode(b []byte, lim Limits, dst any) error { return decode(b, lim, dst, true) }

// DecodeLoose is Decode for documents whose specification says that unknown members are ignored; names are still exact.
func DecodeLoose(b []byte, lim Limits, dst any) error { return decode(b, lim, dst, false) }

// Fill is Decode (or, with strict false, DecodeLoose) of a value that is already parsed.
func Fill(n *Node, dst any, strict bool) error {
	v := reflect.ValueOf(dst)
	if n == nil || v.Kind() != reflect.Pointer || v.IsNil() {
		return fault.New(fault.Internal, "canon.Decode", "json_type", "a value and a non-nil pointer are needed")
	}
	return (&filler{strict: strict}).fill(n, v.Elem(), "")
}

func decode(b []byte, lim Limits, dst any, strict bool) error {
	n, err := Parse(b, lim)
	if err != nil {
		return err
	}
	return Fill(n, dst, strict)
}

type filler struct{ strict bool }

func wrongType(path string, want string, n *Node) error {
	if path == "" {
		path = "the document"
	}
	return refuse("canon.Decode", "json_type", "send "+want, "%s must be %s, it is %s %s", path, want, article(n.Kind), n.Kind)
}

func article(k Kind) string {
	switch k {
	case Array, Object:
		return "an"
	case Null:
		return "the value"
	}
	return "a"
}

func (f *filler) fill(n *Node, v reflect.Value, path string) error {
	if n.Kind == Null {
		switch v.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Interface:
			v.SetZero()
			return nil
		case reflect.Slice:
			v.SetZero()
			if raw, ok := v.Addr().Interface().(*json.RawMessage); ok {
				*raw = slices.Clone(n.Raw)
			}
			return nil
		}
	}
	if v.Kind() == reflect.Pointer {
		p := reflect.New(v.Type().Elem())
		if err := f.fill(n, p.Elem(), path); err != nil {
			return err
		}
		v.Set(p)
		return nil
	}
	if done, err := f.own(n, v, path); done {
		return err
	}
	switch v.Kind() {
	case reflect.String:
		s, ok := n.String()
		if !ok {
			return wrongType(path, "a string", n)
		}
		v.SetString(s)
	case reflect.Bool:
		b, ok := n.Bool()
		if !ok {
			return wrongType(path, "true or false", n)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, ok := n.Int()
		if !ok || v.OverflowInt(i) {
			return wrongType(path, "an integer of "+strconv.Itoa(v.Type().Bits())+" bits", n)
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		u, err := strconv.ParseUint(n.Text, 10, v.Type().Bits())
		if n.Kind != Number || err != nil {
			return wrongType(path, "a non-negative integer of "+strconv.Itoa(v.Type().Bits())+" bits", n)
		}
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		x, err := strconv.ParseFloat(n.Text, v.Type().Bits())
		if n.Kind != Number || err != nil || math.IsInf(x, 0) {
			return wrongType(path, "a number", n)
		}
		v.SetFloat(x)
	case reflect.Interface:
		if v.NumMethod() > 0 {
			return unsupported(path, v.Type())
		}
		v.Set(reflect.ValueOf(n.Any()))
	case reflect.Slice:
		return f.slice(n, v, path)
	case reflect.Array:
		if n.Kind != Array || len(n.Items) != v.Len() {
			return wrongType(path, "an array of "+strconv.Itoa(v.Len()), n)
		}
		return f.items(n, v, path)
	case reflect.Map:
		return f.mapping(n, v, path)
	case reflect.Struct:
		return f.structure(n, v, path)
	default:
		return unsupported(path, v.Type())
	}
	return nil
}

// own handles the destinations that read themselves.
func (f *filler) own(n *Node, v reflect.Value, path string) (bool, error) {
	if !v.CanAddr() || !v.Addr().CanInterface() {
		return false, nil
	}
	switch d := v.Addr().Interface().(type) {
	case *json.RawMessage:
		*d = slices.Clone(n.Raw)
		return true, nil
	case *json.Number:
		if n.Kind != Number {
			return true, wrongType(path, "a number", n)
		}
		*d = json.Number(n.Text)
		return true, nil
	case json.Unmarshaler:
		return true, ownError(d.UnmarshalJSON(n.Raw), n, path)
	case encoding.TextUnmarshaler:
		s, ok := n.String()
		if !ok {
			return true, wrongType(path, "a string", n)
		}
		return true, ownError(d.UnmarshalText([]byte(s)), n, path)
	}
	return false, nil
}

// ownError keeps a fault's code and words, names the path, and turns any other error into json_type.
func ownError(err error, n *Node, path string) error {
	if err == nil {
		return nil
	}
	if inner, ok := errors.AsType[*fault.Error](err); ok && inner.Kind != fault.Internal {
		if path == "" {
			return err
		}
		return fault.New(inner.Kind, "canon.Decode", inner.Code, "%s: %s", path, inner.Msg).WithFix("%s", inner.Fix).WithCause(err)
	}
	e := wrongType(path, "a value of its documented form", n).(*fault.Error)
	return e.WithCause(err)
}

func unsupported(path string, t reflect.Type) error {
	return fault.New(fault.Internal, "canon.Decode", "json_type", "%s: cannot fill a %s", path, t)
}

func (f *filler) slice(n *Node, v reflect.Value, path string) error {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		s, ok := n.String()
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		if !ok || err != nil {
			return wrongType(path, "a base64 string", n)
		}
		v.SetBytes(b)
		return nil
	}
	if n.Kind != Array {
		return wrongType(path, "an array", n)
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Items), len(n.Items)))
	return f.items(n, v, path)
}

func (f *filler) items(n *Node, v reflect.Value, path string) error {
	for i, item := range n.Items {
		if err := f.fill(item, v.Index(i), path+"["+strconv.Itoa(i)+"]"); err != nil {
			return err
		}
	}
	return nil
}

func (f *filler) mapping(n *Node, v reflect.Value, path string) error {
	if v.Type().Key().Kind() != reflect.String {
		return unsupported(path, v.Type())
	}
	if n.Kind != Object {
		return wrongType(path, "an object", n)
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.Members))
	for _, m := range n.Members {
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := f.fill(m.Value, elem, join(path, m.Key)); err != nil {
			return err
		}
		key := reflect.New(v.Type().Key()).Elem()
		if t, ok := key.Addr().Interface().(encoding.TextUnmarshaler); ok {
			if err := t.UnmarshalText([]byte(m.Key)); err != nil {
				return ownError(err, m.Value, join(path, m.Key))
			}
		} else {
			key.SetString(m.Key)
		}
		out.SetMapIndex(key, elem)
	}
	v.Set(out)
	return nil
}

func (f *filler) structure(n *Node, v reflect.Value, path string) error {
	if n.Kind != Object {
		return wrongType(path, "an object", n)
	}
	for _, m := range n.Members {
		dst, ok := field(v, m.Key)
		if !ok {
			if f.strict {
				return refuse("canon.Decode", "json_unknown_member", "leave it out, or check its spelling (case matters)",
					"the member %s is not known", strconv.Quote(short(join(path, m.Key))))
			}
			continue
		}
		if err := f.fill(m.Value, dst, join(path, m.Key)); err != nil {
			return err
		}
	}
	return nil
}

// field finds the field that a name means: its own before those of embedded structs, which are made where they are nil.
func field(v reflect.Value, name string) (reflect.Value, bool) {
	t := v.Type()
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if !sf.IsExported() || sf.Tag.Get("json") == "-" || tag == "" && embedded(sf) {
			continue
		}
		if tag == name || tag == "" && sf.Name == name {
			return v.Field(i), true
		}
	}
	for i := range t.NumField() {
		sf := t.Field(i)
		if tag, _, _ := strings.Cut(sf.Tag.Get("json"), ","); tag != "" || !embedded(sf) {
			continue
		}
		inner := v.Field(i)
		if inner.Kind() == reflect.Pointer {
			if !sf.IsExported() {
				continue // reflection may not set it
			}
			fresh := inner
			if inner.IsNil() {
				fresh = reflect.New(inner.Type().Elem())
			}
			if dst, ok := field(fresh.Elem(), name); ok {
				inner.Set(fresh)
				return dst, true
			}
			continue
		}
		if dst, ok := field(inner, name); ok {
			return dst, true
		}
	}
	return reflect.Value{}, false
}

// embedded reports whether the field is an embedded struct, or a pointer to one, whose members are promoted.
func embedded(sf reflect.StructField) bool {
	t := sf.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return sf.Anonymous && t.Kind() == reflect.Struct
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
