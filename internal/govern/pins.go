// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"slices"
	"strings"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/policy"
	"chaperone/internal/store"
)

// ItemName names one definition of a server as people write it: "tool:send_mail", "resource:file:///x", "server:".
func ItemName(kind catalog.ItemKind, name string) string { return string(kind) + ":" + name }

// The states of an item against what is pinned.
const (
	ItemNew         = "new"
	ItemSame        = "same"
	ItemChanged     = "changed"
	ItemQuarantined = "quarantined" // the same as pinned, but stopped until it is pinned again
	ItemGone        = "gone"        // pinned, and no longer offered
)

// Item is one definition that a server offers, or used to, against what is pinned.
type Item struct {
	Kind     catalog.ItemKind
	Name     string
	State    string
	Digest   string // of what is offered
	Pinned   string // digest of what is pinned
	Raw      []byte // what is offered
	Changes  []catalog.Change
	Accepted bool
}

// Offer is everything that a server offers now. Digest names the whole set, so that what is accepted is what was shown.
type Offer struct {
	Server string
	Digest string
	Items  []Item
}

// Acceptance says what of an offer is to be pinned: the named items, or all. Expect, when set, is the digest of the offer that
// the person was shown.
type Acceptance struct {
	Items  []string
	All    bool
	Expect string
}

type pinData struct {
	Server string       `json:"server"`
	Offer  string       `json:"offer"`  // digest
	Pinned []pinned     `json:"pinned"` // the first 20; the part "pinned" has them all
	Count  int          `json:"count"`
	Rules  []audit.Rule `json:"rules,omitempty"`
}

type pinned struct {
	Item   string `json:"item"`
	State  string `json:"was"`
	Digest string `json:"digest,omitempty"`
	Before string `json:"before,omitempty"`
}

// Pin asks the server what it offers now and shows it against what is pinned; what acc names is pinned, and what is gone and
// named is dropped, with the author, before it returns. Nothing else changes. Errors: NotFound "server_unknown", "item_unknown",
// Conflict "offer_moved" (the server offers something else than was shown), and the upstream's own.
func (r *Road) Pin(ctx context.Context, c Caller, server string, acc Acceptance) (Offer, error) {
	const op = "govern.Pin"
	a, err := r.allow(ctx, c, ActServerPin, policy.Resource{Kind: "server", ID: server})
	if err != nil {
		return Offer{}, err
	}
	if r.Upstream == nil {
		return Offer{}, unavailable("the far side")
	}
	s, ok, err := r.server(ctx, server)
	if err != nil {
		return Offer{}, err
	}
	if !ok {
		return Offer{}, noServer(server)
	}
	defs, err := r.Upstream.Definitions(ctx, s)
	if err != nil {
		return Offer{}, err
	}
	var held []catalog.Pin
	if err := r.view(ctx, func(tx store.Tx) (err error) { held, err = pinsOf(tx, server); return err }); err != nil {
		return Offer{}, err
	}
	offer, err := compare(server, defs, held)
	if err != nil {
		return Offer{}, err
	}
	if !acc.All && len(acc.Items) == 0 {
		return offer, nil
	}
	if acc.Expect != "" && acc.Expect != offer.Digest {
		return Offer{}, fault.New(fault.Conflict, op, "offer_moved", "the server offers something else than was shown").
			WithFix("look at it again: chaperone server pin %s", server)
	}
	if err := choose(op, &offer, acc); err != nil {
		return Offer{}, err
	}
	return offer, r.pin(ctx, a, s, held, offer)
}

// compare sets what is offered against what is pinned.
func compare(server string, defs []Definition, held []catalog.Pin) (Offer, error) {
	offer := Offer{Server: server}
	have := map[string]catalog.Pin{}
	for _, p := range held {
		have[ItemName(p.Kind, p.Name)] = p
	}
	digests := map[string]string{}
	for _, d := range defs {
		name := ItemName(d.Kind, d.Name)
		if _, twice := digests[name]; twice {
			return Offer{}, fault.New(fault.Invalid, "govern.compare", "definition_twice", "the server offers two definitions named %s", name).
				WithFix("have the server's operator mend it: one name must mean one thing")
		}
		digest, err := catalog.DefinitionDigest(d.Raw)
		if err != nil {
			return Offer{}, err
		}
		digests[name] = digest
		item := Item{Kind: d.Kind, Name: d.Name, State: ItemNew, Digest: digest, Raw: d.Raw}
		if p, ok := have[name]; ok {
			item.Pinned, item.State = p.Digest, ItemSame
			switch {
			case p.Digest != digest:
				item.State, item.Changes = ItemChanged, catalog.Diff(p.Raw, d.Raw)
			case p.State != catalog.Pinned:
				item.State = ItemQuarantined
			}
			delete(have, name)
		}
		offer.Items = append(offer.Items, item)
	}
	for _, p := range have {
		offer.Items = append(offer.Items, Item{Kind: p.Kind, Name: p.Name, State: ItemGone, Pinned: p.Digest})
	}
	slices.SortFunc(offer.Items, func(a, b Item) int { return strings.Compare(ItemName(a.Kind, a.Name), ItemName(b.Kind, b.Name)) })
	var err error
	offer.Digest, err = canon.Digest(digests)
	return offer, err
}

// choose marks what is accepted; a name that the offer does not have is refused rather than skipped.
func choose(op string, offer *Offer, acc Acceptance) error {
	wanted := map[string]bool{}
	for _, name := range acc.Items {
		wanted[name] = true
	}
	for i := range offer.Items {
		name := ItemName(offer.Items[i].Kind, offer.Items[i].Name)
		offer.Items[i].Accepted = (acc.All || wanted[name]) && offer.Items[i].State != ItemSame
		delete(wanted, name)
	}
	for name := range wanted {
		return fault.New(fault.NotFound, op, "item_unknown", "the server has no %q", name).WithFix("name items as they are shown, like tool:send_mail")
	}
	return nil
}

// pin writes what was accepted, unless the pins moved since they were compared.
func (r *Road) pin(ctx context.Context, a allowed, s catalog.Server, held []catalog.Pin, offer Offer) error {
	data := pinData{Server: s.Name, Offer: offer.Digest, Rules: a.rules}
	var next draft
	var all []pinned
	for _, item := range offer.Items {
		if !item.Accepted {
			continue
		}
		p := catalog.Pin{
			Server: s.Name, Kind: item.Kind, Name: item.Name, Digest: item.Digest, Raw: item.Raw, State: catalog.Pinned, By: a.name(), At: a.at,
		}
		if item.State == ItemGone {
			next.gone = append(next.gone, p)
		} else {
			next.pins = append(next.pins, p)
		}
		all = append(all, pinned{ItemName(item.Kind, item.Name), item.State, item.Digest, item.Pinned})
		if data.Count++; data.Count <= 20 {
			data.Pinned = append(data.Pinned, pinned{short(ItemName(item.Kind, item.Name)), item.State, item.Digest, item.Pinned})
		}
	}
	if data.Count == 0 {
		return nil // all of it stands already
	}
	if err := r.fits(ctx, "govern.Pin", next); err != nil {
		return err
	}
	ev := r.event(a, audit.ServerPinned, "server:"+s.Name, data)
	ev.Server = s.Name
	part, err := canon.Marshal(all)
	if err != nil {
		return err
	}
	ev.Parts["pinned"] = part
	err = r.change(ctx, a, ev, func(tx store.Tx) error {
		if err := samePins(tx, s, held); err != nil {
			return err
		}
		for _, p := range next.gone {
			if err := tx.Pins().Delete(p.Server, p.Kind, p.Name); err != nil {
				return err
			}
		}
		for _, p := range next.pins {
			if err := tx.Pins().Put(p); err != nil {
				return err
			}
		}
		for _, p := range slices.Concat(next.gone, next.pins) {
			if err := tx.Pins().AddAuthor(catalog.Authorship{Server: p.Server, Kind: p.Kind, Name: p.Name, Person: a.name(), What: "pin", At: a.at}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.refresh(ctx)
}

func samePins(tx store.Tx, s catalog.Server, held []catalog.Pin) error {
	now, err := pinsOf(tx, s.Name)
	if err != nil {
		return err
	}
	server, ok, err := findServer(tx, s.Name)
	if err != nil {
		return err
	}
	same := slices.EqualFunc(now, held, func(a, b catalog.Pin) bool { return a.Kind == b.Kind && a.Name == b.Name && a.Digest == b.Digest })
	if !ok || server.URL != s.URL || !same {
		return fault.New(fault.Conflict, "govern.Pin", "offer_moved", "the server or its pins changed meanwhile").WithFix("look at it again: chaperone server pin %s", s.Name)
	}
	return nil
}
