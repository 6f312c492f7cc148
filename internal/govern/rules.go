// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/policy"
	"chaperone/internal/store"
)

// Bounds of a bundle.
const (
	maxFiles  = 64
	maxBundle = 1 << 20 // bytes of all files
)

type policyData struct {
	Version  int64        `json:"version"`
	Digest   string       `json:"digest"`
	Replaces string       `json:"replaces,omitempty"` // digest of the bundle before
	Files    []string     `json:"files"`
	Note     string       `json:"note,omitempty"`
	Problems int          `json:"problems,omitempty"` // how many, when refused; the part "problems" has them all
	Rules    []audit.Rule `json:"rules,omitempty"`
}

// Refused is the cause of a policy_refused fault: every problem that was found.
type Refused struct{ Problems []policy.Problem }

// Error names the first problem.
func (p *Refused) Error() string {
	if len(p.Problems) == 0 {
		return "policy refused"
	}
	return p.Problems[0].Code
}

// Policies lists the bundles, newest first.
func (r *Road) Policies(ctx context.Context, c Caller) (out []policy.Bundle, err error) {
	if _, err := r.allow(ctx, c, ActPolicyRead, policy.Resource{Kind: "policy"}); err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) (err error) { out, err = collect(tx.Policies().Bundles(), 0); return err })
	slices.SortFunc(out, func(a, b policy.Bundle) int { return int(b.Version - a.Version) })
	return out, err
}

// ActivePolicy returns the bundle in force with its files.
func (r *Road) ActivePolicy(ctx context.Context, c Caller) (b policy.Bundle, err error) {
	if _, err := r.allow(ctx, c, ActPolicyRead, policy.Resource{Kind: "policy"}); err != nil {
		return b, err
	}
	err = r.view(ctx, func(tx store.Tx) (err error) { b, err = tx.Policies().Active(); return err })
	return b, err
}

// CheckPolicy compiles files against the catalogue in force and returns every problem; nothing changes.
func (r *Road) CheckPolicy(ctx context.Context, c Caller, files map[string]string) ([]policy.Problem, error) {
	if _, err := r.allow(ctx, c, ActPolicyCheck, policy.Resource{Kind: "policy"}); err != nil {
		return nil, err
	}
	if err := checkFiles(files); err != nil {
		return nil, err
	}
	_, problems, err := r.Rules.Compile(ctx, files)
	return problems, err
}

// ApplyPolicy puts a whole bundle in force before it returns. base, when not zero, is the version that the files were made from.
// Errors: Invalid "policy_refused" (with Refused as its cause; recorded as policy.refused, and the old bundle stays),
// Conflict "policy_moved", Invalid "bad_bundle".
func (r *Road) ApplyPolicy(ctx context.Context, c Caller, files map[string]string, note string, base int64) (policy.Bundle, error) {
	const op = "govern.ApplyPolicy"
	a, err := r.allow(ctx, c, ActPolicyApply, policy.Resource{Kind: "policy"})
	if err != nil {
		return policy.Bundle{}, err
	}
	if err := checkText(op, note); err != nil {
		return policy.Bundle{}, err
	}
	if err := checkFiles(files); err != nil {
		return policy.Bundle{}, err
	}
	b, err := r.nextBundle(ctx, a, files, note)
	if err != nil {
		return policy.Bundle{}, err
	}
	if base != 0 && base != b.Version-1 {
		return policy.Bundle{}, moved(op, b.Version-1)
	}
	_, problems, err := r.Rules.Compile(ctx, files)
	if err != nil {
		return policy.Bundle{}, err
	}
	data := policyData{Version: b.Version, Digest: b.Digest, Files: names(files), Note: note, Rules: a.rules}
	if len(problems) > 0 {
		data.Problems = len(problems)
		ev := r.event(a, audit.PolicyRefused, "policy", data)
		if ev.Parts["problems"], err = canon.Marshal(problems); err != nil {
			return policy.Bundle{}, err
		}
		if err := r.change(ctx, a, ev, func(store.Tx) error { return nil }); err != nil {
			return policy.Bundle{}, err
		}
		return policy.Bundle{}, fault.New(fault.Invalid, op, "policy_refused", "the policies have %d problems; version %d stays in force", len(problems), b.Version-1).
			WithFix("mend each problem, try with chaperone policy check, and apply again").WithCause(&Refused{problems})
	}
	if err := r.insertBundle(ctx, a, b, data); err != nil {
		return policy.Bundle{}, err
	}
	return b, r.refresh(ctx)
}

// nextBundle forms the version after the active one; it is version 1 of an empty database.
func (r *Road) nextBundle(ctx context.Context, a allowed, files map[string]string, note string) (policy.Bundle, error) {
	digest, err := policy.DigestFiles(files)
	if err != nil {
		return policy.Bundle{}, err
	}
	b := policy.Bundle{ID: id.NewBundle(a.at), Version: 1, Digest: digest, Files: files, Author: a.name(), At: a.at, Note: note}
	err = r.view(ctx, func(tx store.Tx) error {
		active, err := tx.Policies().Active()
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		b.Version = active.Version + 1
		return err
	})
	return b, err
}

func (r *Road) insertBundle(ctx context.Context, a allowed, b policy.Bundle, data policyData) error {
	ev := r.event(a, audit.PolicyApplied, "policy:"+strconv.FormatInt(b.Version, 10), data)
	return r.change(ctx, a, ev, func(tx store.Tx) error { return tx.Policies().Insert(b) })
}

func moved(op string, active int64) error {
	return fault.New(fault.Conflict, op, "policy_moved", "version %d is in force, not the one that the files were made from", active).
		WithFix("fetch the policies in force, make the change again, and apply")
}

func checkFiles(files map[string]string) error {
	const op = "govern.checkFiles"
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, op, "bad_bundle", format, args...).WithFix("give 1 to %d files named like flow.cedar, 1 MiB together", maxFiles)
	}
	if len(files) == 0 || len(files) > maxFiles {
		return bad("a bundle has 1 to %d files", maxFiles)
	}
	size := 0
	for name, text := range files {
		if !fileName(name) {
			return bad("%.80q is not a file name of policies", name)
		}
		size += len(text)
	}
	if size > maxBundle {
		return bad("the files are over 1 MiB together")
	}
	return nil
}

func fileName(s string) bool {
	stem, ok := strings.CutSuffix(s, ".cedar")
	if !ok || stem == "" || len(s) > 100 {
		return false
	}
	for _, c := range []byte(stem) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return stem[0] != '.'
}

func names(files map[string]string) []string {
	out := make([]string, 0, len(files))
	for n := range files {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Catalog returns the catalogue as it is in force: what the operator wrote, made stricter by the pinned definitions, and the
// defaults of what nobody described.
func (r *Road) Catalog(ctx context.Context, c Caller) (version int64, out []catalog.Entry, err error) {
	if _, err := r.allow(ctx, c, ActCatalogRead, policy.Resource{Kind: "catalog"}); err != nil {
		return 0, nil, err
	}
	err = r.view(ctx, func(tx store.Tx) error {
		snap, err := snapshot(tx)
		if err != nil {
			return err
		}
		version, out = snap.Version(), nil
		for _, item := range snap.Items() {
			out = append(out, item.Entry)
		}
		return nil
	})
	return version, out, err
}

func snapshot(tx store.Tx) (*catalog.Snapshot, error) {
	version, err := tx.Catalog().Version()
	if err != nil {
		return nil, err
	}
	servers, err := every(tx.Catalog().Servers())
	if err != nil {
		return nil, err
	}
	entries, err := every(tx.Catalog().Entries())
	if err != nil {
		return nil, err
	}
	pins, err := every(tx.Pins().Pins())
	if err != nil {
		return nil, err
	}
	return catalog.NewSnapshot(version, servers, entries, pins), nil
}

type catalogData struct {
	Version int64        `json:"version"` // before
	Digest  string       `json:"file_digest"`
	Count   int          `json:"count"`
	Entries []string     `json:"entries"` // the first 20; the part "entries" has them all
	Rules   []audit.Rule `json:"rules,omitempty"`
}

// ApplyCatalog puts the entries of a catalogue file in force and returns the catalogue's version with those that changed. Entries that the
// file does not name stay. Whoever changed an entry may not approve its calls for a day; an entry that the file repeats
// unchanged is nobody's change. Errors, Invalid: "bad_catalogue", "server_unknown", "too_many_entries".
func (r *Road) ApplyCatalog(ctx context.Context, c Caller, file []byte) (int64, []catalog.Entry, error) {
	const op = "govern.ApplyCatalog"
	a, err := r.allow(ctx, c, ActCatalogApply, policy.Resource{Kind: "catalog"})
	if err != nil {
		return 0, nil, err
	}
	entries, err := catalog.ParseYAML(file)
	if err != nil {
		return 0, nil, err
	}
	if len(entries) > maxEntries {
		return 0, nil, fault.New(fault.Invalid, op, "too_many_entries", "the file has over %d entries", maxEntries).WithFix("apply it in parts")
	}
	var changed []catalog.Entry
	var before int64
	err = r.view(ctx, func(tx store.Tx) (err error) {
		if before, err = tx.Catalog().Version(); err != nil {
			return err
		}
		changed, err = differing(tx, op, entries)
		return err
	})
	if err != nil || len(changed) == 0 {
		return before, nil, err
	}
	if err := r.fits(ctx, op, draft{entries: changed}); err != nil {
		return 0, nil, err
	}
	data := catalogData{Version: before, Digest: canon.Sum(file), Count: len(changed), Rules: a.rules}
	for i, e := range changed {
		if i < 20 {
			data.Entries = append(data.Entries, short(e.Server+"/"+ItemName(e.Kind, e.Name)))
		}
	}
	ev := r.event(a, audit.CatalogApplied, "catalog", data)
	if ev.Parts["entries"], err = canon.Marshal(changed); err != nil {
		return 0, nil, err
	}
	after := before
	err = r.change(ctx, a, ev, func(tx store.Tx) error {
		now, err := tx.Catalog().Version()
		if err != nil {
			return err
		}
		if now != before {
			return fault.New(fault.Conflict, op, "catalog_moved", "the catalogue changed meanwhile").WithFix("apply the file again")
		}
		for _, e := range changed {
			if err := tx.Catalog().PutEntry(e); err != nil {
				return err
			}
			if err := tx.Pins().AddAuthor(catalog.Authorship{Server: e.Server, Kind: e.Kind, Name: e.Name, Person: a.name(), What: "entry", At: a.at}); err != nil {
				return err
			}
		}
		after, err = tx.Catalog().Version()
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	return after, changed, r.refresh(ctx)
}

const maxEntries = 5000

// differing returns the entries that are not stored just so, and refuses those of a server that is not registered.
func differing(tx store.Tx, op string, entries []catalog.Entry) ([]catalog.Entry, error) {
	known := map[string]bool{}
	servers, err := every(tx.Catalog().Servers())
	if err != nil {
		return nil, err
	}
	for _, s := range servers {
		known[s.Name] = true
	}
	stored, err := every(tx.Catalog().Entries())
	if err != nil {
		return nil, err
	}
	have := map[string]catalog.Entry{}
	for _, e := range stored {
		have[e.Server+"/"+ItemName(e.Kind, e.Name)] = e
	}
	var out []catalog.Entry
	for _, e := range entries {
		if !known[e.Server] {
			return nil, fault.New(fault.Invalid, op, "server_unknown", "the file describes the server %q, which is not registered", e.Server).
				WithFix("register it first: chaperone server add %s", e.Server)
		}
		if old, ok := have[e.Server+"/"+ItemName(e.Kind, e.Name)]; !ok || !same(old, e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// same compares two entries in canonical form, in which an empty list and an absent one are one.
func same(a, b catalog.Entry) bool {
	x, errX := canon.Digest(a)
	y, errY := canon.Digest(b)
	return errX == nil && errY == nil && x == y
}
