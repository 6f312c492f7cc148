// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/base64"
	"math"
	"net/http"
	"strconv"
	"strings"

	"chaperone/internal/canon"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
)

// agree compares the headers of 2026-07-28 with the body. What stands between here and the upstream may route or decide by the
// headers; the road decides by the body; so the two must say one thing. Mcp-Param-* are compared later, with the pinned schema.
func (env *envelope) agree(h http.Header, req *enforce.Request) *problem {
	method, sent := one(h, "Mcp-Method")
	switch {
	case !sent:
		return mismatch("send Mcp-Method with the method of the body", "the header Mcp-Method is missing")
	case method != env.method:
		return mismatch("send Mcp-Method with the method of the body", "the header Mcp-Method is not the method of the body")
	}
	want, needed := "", false
	switch env.method {
	case enforce.MethodCall, enforce.MethodPrompt, enforce.MethodRead:
		want, needed = req.Name, true
	default:
		want = req.Name + req.Task
	}
	raw, sent := one(h, "Mcp-Name")
	if !sent {
		if needed {
			return mismatch("send Mcp-Name with the name (or URI) of the body", "the header Mcp-Name is missing")
		}
		return nil
	}
	if name, ok := decodeHeader(raw); !ok || name != want {
		return mismatch("send Mcp-Name with the name (or URI) of the body", "the header Mcp-Name is not the name of the body")
	}
	return nil
}

func one(h http.Header, name string) (string, bool) {
	v := h.Values(name)
	if len(v) == 0 || v[0] == "" {
		return "", false
	}
	return v[0], true
}

const sentinel, sentinelEnd = "=?base64?", "?="

// decodeHeader undoes the sentinel =?base64?...?= in which a header carries what is not plain ASCII (MCP SEP-2243).
func decodeHeader(v string) (string, bool) {
	inner, ok := strings.CutPrefix(v, sentinel)
	if !ok {
		return v, true
	}
	inner, ok = strings.CutSuffix(inner, sentinelEnd)
	if !ok {
		return v, true
	}
	b, err := base64.StdEncoding.Strict().DecodeString(inner)
	return string(b), err == nil
}

// definitionCheck returns the check that the road makes once it has the pinned definition of the tool that is called, and knows
// that the caller may see it. Faults: Invalid header_mismatch, argument_case.
func definitionCheck(h http.Header, arguments []byte, stateless bool) func(definition []byte) error {
	return func(definition []byte) error {
		def, err := canon.Parse(definition, canon.Limits{Bytes: 16 << 20})
		if err != nil {
			return fault.Wrap("gateway.definition", err)
		}
		args, err := canon.Parse(orEmpty(arguments), canon.Limits{Bytes: 16 << 20})
		if err != nil {
			return fault.Wrap("gateway.definition", err)
		}
		schema := def.Get("inputSchema")
		if err := exactArguments(schema, args, "arguments", 0); err != nil {
			return err
		}
		if !stateless {
			return nil
		}
		asked := map[string]bool{}
		if err := paramHeaders(h, schema.Get("properties"), args, "", 0, asked); err != nil {
			return err
		}
		return unasked(h, asked)
	}
}

func orEmpty(b []byte) []byte {
	if len(b) == 0 {
		return []byte("{}")
	}
	return b
}

// maxNesting bounds how deep a schema is walked; deeper ones are not looked at for headers, as servers do not either.
const maxNesting = 32

// exactArguments refuses an argument that differs from one of the schema's in nothing but case, at any depth of named properties: an
// upstream that does not care about case would take it for the other, past every rule that looks at the other.
func exactArguments(schema, args *canon.Node, path string, depth int) error {
	props := schema.Get("properties")
	if props == nil || args == nil || args.Kind != canon.Object || depth > maxNesting {
		return nil
	}
	for _, a := range args.Members {
		if p := props.Get(a.Key); p != nil {
			if err := exactArguments(p, a.Value, path+"."+a.Key, depth+1); err != nil {
				return err
			}
			continue
		}
		for _, p := range props.Members {
			if strings.EqualFold(p.Key, a.Key) {
				return fault.New(fault.Invalid, "gateway.definition", "argument_case", "%s.%s is spelt in another case", path, p.Key).
					WithFix("write the argument as the tool's schema does")
			}
		}
	}
	return nil
}

// paramHeaders compares the Mcp-Param-* headers that the schema asks for (x-mcp-header) with the arguments.
func paramHeaders(h http.Header, props, args *canon.Node, path string, depth int, asked map[string]bool) error {
	if props == nil || props.Kind != canon.Object || depth > maxNesting {
		return nil
	}
	for _, p := range props.Members {
		arg := args.Get(p.Key)
		if name, ok := p.Value.Get("x-mcp-header").String(); ok && name != "" {
			asked[http.CanonicalHeaderKey("Mcp-Param-"+name)] = true
			if err := paramHeader(h, name, arg, path+p.Key); err != nil {
				return err
			}
		}
		if err := paramHeaders(h, p.Value.Get("properties"), arg, path+p.Key+".", depth+1, asked); err != nil {
			return err
		}
	}
	return nil
}

// unasked refuses a header that mirrors no argument of the pinned schema: nobody decided on it, and an upstream might read it.
func unasked(h http.Header, asked map[string]bool) error {
	for name := range h {
		if strings.HasPrefix(name, paramPrefix) && !asked[name] {
			return fault.New(fault.Invalid, "gateway.definition", "header_mismatch", "the header %s is not one that the tool's schema asks for", name).
				WithFix("leave it out")
		}
	}
	return nil
}

// paramPrefix begins the headers that mirror arguments.
const paramPrefix = "Mcp-Param-"

func paramHeader(h http.Header, name string, arg *canon.Node, path string) error {
	no := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "gateway.definition", "header_mismatch", format, args...).
			WithFix("send Mcp-Param-%s with the value of the argument %s, and only then", name, path)
	}
	raw, sent := one(h, "Mcp-Param-"+name)
	if arg == nil || arg.IsNull() {
		if sent {
			return no("the header Mcp-Param-%s is there and its argument is not", name)
		}
		return nil
	}
	if !sent {
		return no("the header Mcp-Param-%s is missing", name)
	}
	value, ok := decodeHeader(raw)
	if !ok || !sameValue(value, arg) {
		return no("the header Mcp-Param-%s is not the argument", name)
	}
	return nil
}

// sameValue compares a header with a string, boolean or integer; nothing else may be mirrored in a header.
func sameValue(header string, arg *canon.Node) bool {
	switch arg.Kind {
	case canon.String, canon.Bool:
		return header == arg.Text
	case canon.Number:
		a, ok1 := integer(arg.Text)
		b, ok2 := integer(header)
		return ok1 && ok2 && a == b
	case canon.Null, canon.Array, canon.Object:
	}
	return false
}

// integer reads a number that is whole and exact in a double.
func integer(s string) (int64, bool) {
	const most = 1<<53 - 1
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > most {
		return 0, false
	}
	return int64(f), true
}
