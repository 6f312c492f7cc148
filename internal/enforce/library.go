// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/label"
	"chaperone/internal/policy"
	"chaperone/internal/store"
)

// Snapshot is the policies and the catalogue of one moment, compiled together. It is immutable.
type Snapshot struct {
	Policy         *policy.Set
	PolicyVersion  int64
	PolicyDigest   string
	Catalog        *catalog.Snapshot
	CatalogVersion int64
	labels         map[string]label.Label // of each server's own words
}

// NewSnapshot puts a compiled set and a catalogue together.
func NewSnapshot(set *policy.Set, version int64, cat *catalog.Snapshot) *Snapshot {
	s := &Snapshot{
		Policy: set, PolicyVersion: version, PolicyDigest: set.Digest(), Catalog: cat, CatalogVersion: cat.Version(),
		labels: map[string]label.Label{},
	}
	for _, d := range cat.Items() {
		s.labels[d.Entry.Server] = s.labels[d.Entry.Server].Join(d.Entry.Source)
	}
	return s
}

// Server returns a registered server.
func (s *Snapshot) Server(name string) (catalog.Server, bool) { return s.Catalog.Server(name) }

// Pin returns the pin of one item; the server's own has the kind server and no name.
func (s *Snapshot) Pin(server string, kind catalog.ItemKind, name string) (catalog.Pin, bool) {
	return s.Catalog.Pin(server, kind, name)
}

// ServerLabel is the label of what a server says that is no answer of a described thing: the join of the labels of all its things,
// and untrusted if nothing of it is described.
func (s *Snapshot) ServerLabel(server string) label.Label {
	if l, ok := s.labels[server]; ok {
		return l
	}
	return label.Label{Integrity: label.Untrusted, Sources: []string{server}}
}

// ToolsOf lists what the policy's schema is built from: every described thing of the catalogue, by its pinned definition, and every
// server. Quarantined things stay in it, so that one server's drift cannot make the policies invalid.
func ToolsOf(cat *catalog.Snapshot) []policy.Tool {
	var out []policy.Tool
	for _, s := range cat.Servers() {
		out = append(out, policy.Tool{Server: s.Name, Kind: policy.KindServer})
	}
	for _, d := range cat.Items() {
		t := policy.Tool{Server: d.Entry.Server, Name: d.Entry.Name, Kind: string(d.Entry.Kind), Groups: groupsOf(d.Entry.Kind, d.Entry)}
		if doc, err := canon.Parse(d.Pin.Raw, canon.Limits{}); d.HasPin && err == nil {
			if in := doc.Get("inputSchema"); in != nil {
				t.InputSchema = in.Raw
			}
		}
		out = append(out, t)
	}
	return out
}

// LoadCatalog reads the catalogue as it stands in the transaction.
func LoadCatalog(tx store.Tx) (*catalog.Snapshot, error) {
	version, err := tx.Catalog().Version()
	if err != nil {
		return nil, err
	}
	var servers []catalog.Server
	for s, err := range tx.Catalog().Servers() {
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	var entries []catalog.Entry
	for e, err := range tx.Catalog().Entries() {
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	var pins []catalog.Pin
	for p, err := range tx.Pins().Pins() {
		if err != nil {
			return nil, err
		}
		pins = append(pins, p)
	}
	return catalog.NewSnapshot(version, servers, entries, pins), nil
}

// Library holds the snapshot in force and swaps it whole. It is safe for concurrent use.
type Library struct {
	store   store.Store
	log     *slog.Logger
	mu      sync.Mutex // one Refresh at a time
	current atomic.Pointer[Snapshot]
	refused atomic.Pointer[Refused]
}

// Refused is a bundle or catalogue that does not go together with the other and was not put in force.
type Refused struct {
	PolicyVersion  int64
	CatalogVersion int64
	Problems       []policy.Problem
}

// NewLibrary returns an empty library; Refresh fills it. log may be nil.
func NewLibrary(st store.Store, log *slog.Logger) *Library {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Library{store: st, log: log}
}

// Current returns the snapshot in force. Error: Unavailable, "policy_unavailable" while there is none.
func (l *Library) Current() (*Snapshot, error) {
	if s := l.current.Load(); s != nil {
		return s, nil
	}
	return nil, fault.New(fault.Unavailable, "enforce.Library", "policy_unavailable", "no policies are in force").
		WithFix("apply a policy bundle; chaperone doctor says more")
}

// Refused returns what the last Refresh could not put in force, nil if it could.
func (l *Library) Refused() *Refused { return l.refused.Load() }

// Refresh reads policies and catalogue again and puts them in force together. What does not compile is not: the old stays, Refused says
// why, and because commits compare versions nothing is done on the old either until somebody mends the new.
func (l *Library) Refresh(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.current.Load()
	var bundle policy.Bundle
	var cat *catalog.Snapshot
	err := l.store.View(ctx, func(tx store.Tx) error {
		var err error
		version, err := tx.Catalog().Version()
		if err != nil {
			return err
		}
		if old != nil && old.CatalogVersion == version {
			_, err := tx.Policies().Version(old.PolicyVersion + 1)
			if fault.Is(err, fault.NotFound) {
				return nil // nothing moved
			}
			if err != nil {
				return err
			}
		}
		if bundle, err = tx.Policies().Active(); err != nil {
			return err
		}
		cat, err = LoadCatalog(tx)
		return err
	})
	if err != nil || cat == nil {
		return err
	}
	set, problems := policy.Compile(bundle.Files, ToolsOf(cat))
	if len(problems) > 0 {
		l.refused.Store(&Refused{PolicyVersion: bundle.Version, CatalogVersion: cat.Version(), Problems: problems})
		p := problems[0]
		return fault.New(fault.Invalid, "enforce.Library", "policy_invalid", "policy %d does not go with catalogue %d: %s (%s)", bundle.Version, cat.Version(), p.Msg, p.Code).
			WithFix("mend %s line %d and apply it again", p.File, p.Line)
	}
	l.current.Store(NewSnapshot(set, bundle.Version, cat))
	l.refused.Store(nil)
	l.log.InfoContext(ctx, "policies and catalogue in force", "policy_version", bundle.Version, "policy_digest", set.Digest(), "catalog_version", cat.Version())
	return nil
}
