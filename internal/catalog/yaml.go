// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"chaperone/internal/fault"
	"chaperone/internal/label"
)

// document is the operator's YAML (docs/catalogue.md).
type document struct {
	Version int                 `yaml:"version"`
	Servers map[string]sections `yaml:"servers"`
}

type sections struct {
	Tools     map[string]item `yaml:"tools"`
	Prompts   map[string]item `yaml:"prompts"`
	Resources map[string]item `yaml:"resources"`
	Templates map[string]item `yaml:"templates"`
}

type item struct {
	Effect      Effect  `yaml:"effect"`
	Stakes      []Stake `yaml:"stakes"`
	Source      *source `yaml:"source"`
	Sinks       []Sink  `yaml:"sinks"`
	Object      Object  `yaml:"object"`
	Annotations string  `yaml:"annotations"` // "" or "ignore"
}

type source struct {
	Integrity  label.Integrity `yaml:"integrity"`
	Level      label.Level     `yaml:"level"`
	Categories []string        `yaml:"categories"`
	Readers    []string        `yaml:"readers"`
}

// maxFile bounds the operator's file, in bytes.
const maxFile = 4 << 20

var (
	serverName = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)
	// sinkPath is what guard.SinkValues reads: names with dots between them, "[]" for every element, a backslash before a sign that
	// belongs to a name.
	sinkPath = regexp.MustCompile(`^(?:\\.|[^\\.\[\]])+(?:\[\])*(?:\.(?:\\.|[^\\.\[\]])+(?:\[\])*)*$`)
)

// sinkTypes are the types a sink may have.
var sinkTypes = [...]string{"email", "domain", "url", "iban", "account", "channel", "user", "path", "phone", "name"}

// ParseYAML reads an operator's catalogue. Unknown keys, unknown words and repeated keys are refused, all faults at once, with
// Invalid, "bad_catalogue". The entries carry only what the operator wrote; Describe fills the rest. They are in order of server,
// kind and name.
func ParseYAML(b []byte) ([]Entry, error) {
	if len(b) > maxFile {
		return nil, badCatalogue("the file has %d bytes, %d are allowed", len(b), maxFile)
	}
	var doc document
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, badCatalogue("the file is empty")
		}
		return nil, badCatalogue("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, badCatalogue("there is more than one document")
	}
	var faults []string
	if doc.Version != 1 {
		faults = append(faults, fmt.Sprintf("version is %d, this program reads 1", doc.Version))
	}
	var out []Entry
	for server, s := range doc.Servers {
		if !serverName.MatchString(server) {
			faults = append(faults, fmt.Sprintf("%q is not a server's name: lower-case letters, digits and hyphens, 1 to 63", server))
		}
		for kind, items := range map[ItemKind]map[string]item{KindTool: s.Tools, KindPrompt: s.Prompts, KindResource: s.Resources, KindTemplate: s.Templates} {
			for name, it := range items {
				if name == "" {
					faults = append(faults, fmt.Sprintf("%s: a %s has no name", server, kind))
				}
				e := it.entry(server, kind, name)
				out = append(out, e)
				for _, f := range it.faults() {
					faults = append(faults, fmt.Sprintf("%s/%s: %s", server, name, f))
				}
			}
		}
	}
	if len(faults) > 0 {
		slices.Sort(faults)
		return nil, badCatalogue("%s", strings.Join(faults, "; "))
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

func (it item) entry(server string, kind ItemKind, name string) Entry {
	e := Entry{Server: server, Kind: kind, Name: name, Effect: it.Effect, Stakes: it.Stakes, Sinks: it.Sinks, Object: it.Object, Known: true,
		Origin: map[string]string{}}
	for attribute, set := range map[string]bool{"effect": it.Effect != "", "stakes": it.Stakes != nil, "source": it.Source != nil,
		"sinks": it.Sinks != nil, "object": it.Object != (Object{})} {
		if set {
			e.Origin[attribute] = FromOperator
		}
	}
	if it.Annotations == "ignore" {
		e.Origin["annotations"] = "ignore"
	}
	if s := it.Source; s != nil {
		e.Source = label.Label{Integrity: s.Integrity, Level: s.Level, Categories: s.Categories}
		if s.Readers != nil {
			e.Source.Readers = label.Readers{Known: true, Names: s.Readers}
		}
		if s.Integrity == "" { // a source whose integrity nobody vouched for is a stranger's
			e.Source.Integrity = label.Untrusted
		}
	}
	return e
}

func (it item) faults() []string {
	var out []string
	if it.Effect != "" && it.Effect != Read && it.Effect != Write && it.Effect != Irreversible {
		out = append(out, fmt.Sprintf("effect %q is not read, write or irreversible", it.Effect))
	}
	for _, s := range it.Stakes {
		if !slices.Contains([]Stake{ExternalCommunication, ProductionData, Money, Access, CodeExecution}, s) {
			out = append(out, fmt.Sprintf("stake %q is not external_communication, production_data, money, access or code_execution", s))
		}
	}
	for i, s := range it.Sinks {
		if !slices.Contains(sinkTypes[:], s.Type) {
			out = append(out, fmt.Sprintf("sink %q has type %q, not one of %s", s.Argument, s.Type, strings.Join(sinkTypes[:], ", ")))
		}
		if len(s.Argument) > 512 || !sinkPath.MatchString(s.Argument) {
			out = append(out, fmt.Sprintf("sink %q is no path: write names with dots between them and [] for every element", s.Argument))
		}
		if slices.ContainsFunc(it.Sinks[:i], func(o Sink) bool { return o.Argument == s.Argument }) {
			out = append(out, fmt.Sprintf("sink %q is there twice", s.Argument))
		}
	}
	if o := it.Object; (o.Type == "") != (o.Argument == "") || strings.ContainsAny(o.Argument, "[]\\") {
		out = append(out, fmt.Sprintf("object needs a type and an argument without []; it has %q and %q", o.Type, o.Argument))
	}
	if it.Source != nil {
		if err := (label.Label{Integrity: it.Source.Integrity, Level: it.Source.Level}).Check(); err != nil {
			if e, ok := errors.AsType[*fault.Error](err); ok {
				out = append(out, e.Msg)
			}
		}
	}
	if it.Annotations != "" && it.Annotations != "ignore" {
		out = append(out, fmt.Sprintf("annotations %q is not ignore", it.Annotations))
	}
	return out
}

func badCatalogue(format string, args ...any) error {
	return fault.New(fault.Invalid, "catalog.ParseYAML", "bad_catalogue", format, args...).
		WithFix("mend each of these; docs/catalogue.md describes the file")
}
