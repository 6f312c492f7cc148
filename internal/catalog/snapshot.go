// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"
)

// Snapshot is the catalogue at one version: servers, entries and pins, each item described once. It is immutable and safe for
// concurrent use.
type Snapshot struct {
	version int64
	servers map[string]Server
	items   map[key]Described
	pins    map[key]Pin
	checks  sync.Map // digest of a pinned definition -> func() (checker, error); filled as definitions are first used
}

type key struct {
	server string
	kind   ItemKind
	name   string
}

// Described is one item: what it does, and the definition that was approved, if any.
type Described struct {
	Server Server
	Entry  Entry
	Pin    Pin
	HasPin bool
}

// NewSnapshot describes every item that has a pin or an entry. Items of servers that are not registered are left out.
func NewSnapshot(version int64, servers []Server, entries []Entry, pins []Pin) *Snapshot {
	s := &Snapshot{version: version, servers: make(map[string]Server, len(servers)), items: make(map[key]Described, len(pins)), pins: make(map[key]Pin, len(pins))}
	for _, srv := range servers {
		s.servers[srv.Name] = srv
	}
	written := make(map[key]Entry, len(entries))
	for _, e := range entries {
		written[key{e.Server, e.Kind, e.Name}] = e
	}
	for _, p := range pins {
		k := key{p.Server, p.Kind, p.Name}
		s.pins[k] = p
		srv, ok := s.servers[p.Server]
		if !ok || p.Kind == KindServer {
			continue
		}
		op, known := written[k]
		if !known {
			op = Entry{Server: p.Server, Kind: p.Kind, Name: p.Name}
		}
		s.items[k] = Described{Server: srv, Entry: Describe(op, known, p.Raw), Pin: p, HasPin: true}
	}
	for k, op := range written {
		srv, ok := s.servers[k.server]
		if _, done := s.items[k]; !ok || done {
			continue
		}
		s.items[k] = Described{Server: srv, Entry: Describe(op, true, nil)}
	}
	return s
}

// Version is the catalogue version that the snapshot was made of.
func (s *Snapshot) Version() int64 { return s.version }

// Describe returns what is known of one item; ok is false if neither an entry nor a pin names it.
func (s *Snapshot) Describe(server string, kind ItemKind, name string) (Described, bool) {
	d, ok := s.items[key{server, kind, name}]
	return d, ok
}

// Server returns a registered server.
func (s *Snapshot) Server(name string) (Server, bool) {
	srv, ok := s.servers[name]
	return srv, ok
}

// Pin returns the pin of one item; for KindServer the name is empty.
func (s *Snapshot) Pin(server string, kind ItemKind, name string) (Pin, bool) {
	p, ok := s.pins[key{server, kind, name}]
	return p, ok
}

// CheckArguments is CheckArguments by a pinned definition; a definition is compiled once in the life of the snapshot.
func (s *Snapshot) CheckArguments(p Pin, args json.RawMessage) error {
	if p.Digest == "" {
		return CheckArguments(p.Raw, args)
	}
	once, _ := s.checks.LoadOrStore(p.Digest, sync.OnceValues(func() (checker, error) { return compile(p.Raw) }))
	c, err := once.(func() (checker, error))()
	if err != nil {
		return err
	}
	return c.check(args)
}

// Servers lists the registered servers in order of name.
func (s *Snapshot) Servers() []Server {
	out := make([]Server, 0, len(s.servers))
	for _, srv := range s.servers {
		out = append(out, srv)
	}
	slices.SortFunc(out, func(a, b Server) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Items lists everything described, in order of server, kind and name.
func (s *Snapshot) Items() []Described {
	out := make([]Described, 0, len(s.items))
	for _, d := range s.items {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Described) int {
		return cmp.Or(cmp.Compare(a.Entry.Server, b.Entry.Server), cmp.Compare(a.Entry.Kind, b.Entry.Kind), cmp.Compare(a.Entry.Name, b.Entry.Name))
	})
	return out
}
