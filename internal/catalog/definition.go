// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// maxDefinition bounds one definition, in bytes.
const maxDefinition = 1 << 20

// DefinitionDigest is the digest that a pin keeps: hex SHA-256 over the canonical form of the raw definition, so that unknown
// members count and white space does not.
func DefinitionDigest(raw json.RawMessage) (string, error) {
	b, err := canon.JCS(raw)
	if err != nil {
		return "", err
	}
	return canon.Sum(b), nil
}

// Change is one difference between two definitions. Was and Is are nil for absent.
type Change struct {
	Path string          `json:"path"` // "inputSchema.properties.to"
	Was  json.RawMessage `json:"was,omitempty"`
	Is   json.RawMessage `json:"is,omitempty"`
}

// Diff lists what differs, in the order of the members of was, then what is new. A side that is not JSON differs as a whole.
func Diff(was, is json.RawMessage) []Change {
	a, errA := canon.Parse(was, canon.Limits{Bytes: maxDefinition})
	b, errB := canon.Parse(is, canon.Limits{Bytes: maxDefinition})
	if errA != nil || errB != nil {
		return []Change{{Path: "", Was: was, Is: is}}
	}
	return diff("", a, b, nil)
}

func diff(path string, a, b *canon.Node, out []Change) []Change {
	if a != nil && b != nil && a.Kind == canon.Object && b.Kind == canon.Object {
		for _, m := range a.Members {
			out = diff(join(path, m.Key), m.Value, b.Get(m.Key), out)
		}
		for _, m := range b.Members {
			if a.Get(m.Key) == nil {
				out = diff(join(path, m.Key), nil, m.Value, out)
			}
		}
		return out
	}
	if a != nil && b != nil {
		ca, errA := canon.Canonical(a)
		cb, errB := canon.Canonical(b)
		if errA == nil && errB == nil && bytes.Equal(ca, cb) {
			return out
		}
	}
	c := Change{Path: path}
	if a != nil {
		c.Was = json.RawMessage(a.Raw)
	}
	if b != nil {
		c.Is = json.RawMessage(b.Raw)
	}
	return append(out, c)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// CheckArguments holds arguments against the inputSchema of a tool's pinned definition (JSON Schema 2020-12 unless it says
// otherwise). References to other documents are refused, nothing is fetched. Errors: Invalid, "arguments_schema" when the arguments
// do not fit, "definition_schema" when the schema itself cannot be used.
func CheckArguments(definition, args json.RawMessage) error {
	s, err := compile(definition)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(args))
	if err != nil {
		return fault.New(fault.Invalid, "catalog.CheckArguments", "arguments_schema", "the arguments are not JSON").WithCause(err)
	}
	if err := s.Validate(v); err != nil {
		msg := "the arguments do not fit the tool's schema"
		if ve, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
			msg += ": " + shortest(ve)
		}
		return fault.New(fault.Invalid, "catalog.CheckArguments", "arguments_schema", "%s", msg).
			WithFix("call again with arguments that fit the inputSchema of the tool")
	}
	return nil
}

func compile(definition json.RawMessage) (*jsonschema.Schema, error) {
	bad := func(err error) error {
		return fault.New(fault.Invalid, "catalog.CheckArguments", "definition_schema", "the tool's inputSchema cannot be used").
			WithFix("have the server's owner mend the schema, then pin it again").WithCause(err)
	}
	n, err := canon.Parse(definition, canon.Limits{Bytes: maxDefinition})
	if err != nil {
		return nil, bad(err)
	}
	in := n.Get("inputSchema")
	if in == nil {
		return nil, bad(fmt.Errorf("no inputSchema"))
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(in.Raw))
	if err != nil {
		return nil, bad(err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(nowhere{})
	if err := c.AddResource("pinned:definition", doc); err != nil {
		return nil, bad(err)
	}
	s, err := c.Compile("pinned:definition")
	if err != nil {
		return nil, bad(err)
	}
	return s, nil
}

// nowhere loads no document: a schema that refers outside itself is refused.
type nowhere struct{}

func (nowhere) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s: %w", url, io.ErrNoProgress)
}

// shortest names the deepest single cause, without repeating the values of the arguments.
func shortest(e *jsonschema.ValidationError) string {
	for len(e.Causes) > 0 {
		e = e.Causes[0]
	}
	at := strings.Join(e.InstanceLocation, ".")
	if at == "" {
		at = "the arguments"
	}
	return fmt.Sprintf("%s does not satisfy %s", at, strings.Join(e.ErrorKind.KeywordPath(), "/"))
}
