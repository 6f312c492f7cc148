// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
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
// do not fit, "definition_schema" when the schema itself cannot be used, and those of canon.Parse. It compiles the schema every
// time; Snapshot.CheckArguments does so once.
func CheckArguments(definition, args json.RawMessage) error {
	c, err := compile(definition)
	if err != nil {
		return err
	}
	return c.check(args)
}

// checker is a compiled schema and what a check of it costs: the size of the schema with every reference written out, and the number
// of references that lead back to where they came from.
type checker struct {
	schema *jsonschema.Schema
	weight int
	back   int
}

const (
	maxWeight = 100_000
	maxWork   = 10_000_000 // visits of a schema, about a second
)

func (c checker) check(args json.RawMessage) error {
	bad := func(format string, a ...any) *fault.Error {
		return fault.New(fault.Invalid, "catalog.CheckArguments", "arguments_schema", format, a...).
			WithFix("call again with arguments that fit the inputSchema of the tool")
	}
	n, err := canon.Parse(args, canon.Limits{})
	if err != nil {
		return fault.Wrap("catalog.CheckArguments", err)
	}
	work := c.weight // a schema that leads back twice doubles the work with every level of the arguments
	for d := depth(n); c.back > 1 && d > 0; d-- {
		if work *= c.back; work > maxWork {
			return bad("the arguments are nested too deep to be held against a schema that refers to itself %d times", c.back)
		}
	}
	if err := c.schema.Validate(n.Any()); err != nil {
		msg := "the arguments do not fit the tool's schema"
		if ve, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
			msg += ": " + shortest(ve)
		}
		return bad("%s", msg)
	}
	return nil
}

func depth(n *canon.Node) int {
	d := 0
	for _, m := range n.Members {
		d = max(d, 1+depth(m.Value))
	}
	for _, i := range n.Items {
		d = max(d, 1+depth(i))
	}
	return d
}

func compile(definition json.RawMessage) (checker, error) {
	bad := func(err error) error {
		return fault.New(fault.Invalid, "catalog.CheckArguments", "definition_schema", "the tool's inputSchema cannot be used").
			WithFix("have the server's owner mend the schema, then pin it again").WithCause(err)
	}
	n, err := canon.Parse(definition, canon.Limits{Bytes: maxDefinition})
	if err != nil {
		return checker{}, bad(err)
	}
	in := n.Get("inputSchema")
	if in == nil {
		return checker{}, bad(errors.New("no inputSchema"))
	}
	w := weigher{root: in, done: map[*canon.Node]int{}}
	weight := w.weigh(in)
	if weight > maxWeight {
		return checker{}, bad(errors.New("the schema, with every reference written out, is too large"))
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(nowhere{})
	if err := c.AddResource("pinned:definition", in.Any()); err != nil {
		return checker{}, bad(err)
	}
	s, err := c.Compile("pinned:definition")
	if err != nil {
		return checker{}, bad(err)
	}
	return checker{schema: s, weight: weight, back: w.back}, nil
}

// weigher adds up a schema with every reference written out. A server chooses its schemas: sixty definitions that each refer twice
// to the next are 2^60 visits.
type weigher struct {
	root *canon.Node
	done map[*canon.Node]int // -1 while it is being weighed
	back int
}

func (w *weigher) weigh(n *canon.Node) int {
	if n == nil || n.Kind != canon.Object && n.Kind != canon.Array {
		return 0
	}
	if have, ok := w.done[n]; ok {
		if have < 0 {
			w.back++
			return 1
		}
		return have
	}
	w.done[n] = -1
	sum := 1
	for _, m := range n.Members {
		if ref, ok := m.Value.String(); ok && (m.Key == "$ref" || m.Key == "$dynamicRef" || m.Key == "$recursiveRef") {
			sum += w.weigh(w.resolve(ref))
		}
		sum = min(sum+w.weigh(m.Value), maxWeight+1)
	}
	for _, i := range n.Items {
		sum = min(sum+w.weigh(i), maxWeight+1)
	}
	w.done[n] = sum
	return sum
}

// resolve follows a JSON pointer of this document, or the name of an anchor to wherever it may be: the whole document.
func (w *weigher) resolve(ref string) *canon.Node {
	rest, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return w.root
	}
	if plain, err := url.PathUnescape(rest); err == nil {
		rest = plain
	}
	n := w.root
	for key := range strings.SplitSeq(rest, "/") {
		key = strings.NewReplacer("~1", "/", "~0", "~").Replace(key)
		if n != nil && n.Kind == canon.Array {
			if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Items) {
				n = n.Items[i]
				continue
			}
		}
		n = n.Get(key)
	}
	return n
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
