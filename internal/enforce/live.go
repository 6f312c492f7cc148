// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/store"
)

// Part of step 4: what a server says of itself now, held against what was pinned. A check holds for Config.DefinitionsTTL, ends at
// once when the server says that its lists changed, and while it fails, that server alone is unavailable.

// checkTime is how long a server may take to say what it is, and failedFor how long a failure is believed.
const (
	checkTime = 20 * time.Second
	failedFor = 2 * time.Second
)

type liveDefinitions struct {
	mu      sync.Mutex
	servers map[string]*liveServer
}

type liveServer struct {
	turn chan struct{} // capacity 1: one check at a time
	mu   sync.Mutex
	key  string
	at   time.Time
	seen *seen
	err  error
}

// seen is what one check saw. It is not changed afterwards.
type seen struct {
	items map[itemKey]seenItem
}

type itemKey struct {
	kind catalog.ItemKind
	name string
}

type seenItem struct {
	digest string
	raw    json.RawMessage
}

func newLiveDefinitions() *liveDefinitions {
	return &liveDefinitions{servers: map[string]*liveServer{}}
}

func (s *seen) has(p catalog.Pin) bool {
	_, ok := s.items[keyOf(p)]
	return ok
}

func (s *seen) matches(p catalog.Pin) bool {
	return s.items[keyOf(p)].digest == p.Digest && p.Digest != ""
}

func keyOf(p catalog.Pin) itemKey {
	if p.Kind == catalog.KindServer {
		return itemKey{kind: catalog.KindServer}
	}
	return itemKey{p.Kind, p.Name}
}

func (l *liveDefinitions) of(name string) *liveServer {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.servers[name]
	if s == nil {
		s = &liveServer{turn: make(chan struct{}, 1)}
		l.servers[name] = s
	}
	return s
}

// fresh returns what was seen (or why it could not be), if that still holds.
func (s *liveServer) fresh(key string, now time.Time, ttl time.Duration) (*seen, error, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	age := now.Sub(s.at)
	if s.key != key || age < 0 || s.seen == nil && s.err == nil {
		return nil, nil, false
	}
	if s.err != nil {
		return nil, s.err, age < failedFor
	}
	return s.seen, nil, age < ttl
}

func (s *liveServer) keep(key string, now time.Time, v *seen, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key, s.at, s.seen, s.err = key, now, v, err
}

// DefinitionsChanged makes the next call of the server check its definitions again.
func (e *Engine) DefinitionsChanged(server string) {
	s := e.live.of(server)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.err = nil, nil
}

// liveDefinitions returns what the server says of itself now, and quarantines what differs from its pins.
func (c *call) liveDefinitions(ctx context.Context) (*seen, *refusal) {
	key := c.server.ID.String() + " " + c.server.URL + " " + c.server.UpdatedAt.String()
	s := c.live.of(c.req.Server)
	if v, err, ok := s.fresh(key, c.now, c.cfg.DefinitionsTTL); ok {
		return v, orNil(err)
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, fail(fault.New(fault.Unavailable, "enforce.describe", "upstream_unavailable", "the request was given up"))
	}
	now := c.Now()
	if v, err, ok := s.fresh(key, now, c.cfg.DefinitionsTTL); ok {
		return v, orNil(err)
	}
	v, err := c.askServer(ctx)
	if err != nil && ctx.Err() == nil {
		err = fault.New(fault.Unavailable, "enforce.describe", "upstream_unavailable", "the server %s cannot say what it offers", c.req.Server).
			WithFix("try again later; other servers are not affected").WithCause(err)
		s.keep(key, now, nil, err)
	}
	if err != nil {
		return nil, fail(err)
	}
	if err := c.quarantine(ctx, v); err != nil {
		return nil, orStore(err)
	}
	s.keep(key, now, v, nil)
	return v, nil
}

func orNil(err error) *refusal {
	if err == nil {
		return nil
	}
	return fail(err)
}

func (c *call) askServer(ctx context.Context) (*seen, error) {
	in, err := c.Secrets.Injection(ctx, c.req.Server)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	defs, err := c.Upstream.Definitions(ctx, c.server, in)
	if err != nil {
		return nil, err
	}
	v := &seen{items: map[itemKey]seenItem{}}
	add := func(k itemKey, raw json.RawMessage) error {
		sum, err := catalog.DefinitionDigest(raw)
		if err != nil {
			return err
		}
		if had, ok := v.items[k]; ok && had.digest != sum {
			sum = "" // two definitions of one name: neither is the pinned one
		}
		v.items[k] = seenItem{sum, raw}
		return nil
	}
	for _, item := range defs {
		if err := add(itemKey{item.Kind, item.Name}, item.Raw); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// quarantine closes every pin of the server that its live definitions contradict, with an event each, until somebody pins again.
func (c *call) quarantine(ctx context.Context, v *seen) error {
	var drifted []catalog.Pin
	err := c.Store.View(ctx, func(tx store.Tx) (err error) {
		drifted, err = drift(tx, c.req.Server, v)
		return err
	})
	if err != nil || len(drifted) == 0 {
		return err
	}
	events := make([]audit.Sealed, 0, len(drifted))
	for i := range drifted {
		e, err := c.driftEvent(drifted[i])
		if err != nil {
			return err
		}
		events = append(events, e)
	}
	err = c.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
		still, err := drift(tx, c.req.Server, v)
		if err != nil {
			return err
		}
		for i, p := range drifted {
			if !contains(still, p) {
				continue // a neighbour has written it, or somebody has pinned it again
			}
			if err := tx.Pins().Put(p); err != nil {
				return err
			}
			if err := tx.Events().Append(events[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.Snapshots.Refresh(ctx); err != nil {
		c.Log.WarnContext(ctx, "catalogue could not be read again", "error", err)
	}
	return nil
}

// drift lists the pinned definitions of the server that differ from what was seen, as they are to be stored.
func drift(tx store.Tx, server string, v *seen) ([]catalog.Pin, error) {
	var out []catalog.Pin
	for p, err := range tx.Pins().Pins() {
		if err != nil {
			return nil, err
		}
		if p.Server != server || p.State != catalog.Pinned || !v.has(p) || v.matches(p) {
			continue
		}
		now := v.items[keyOf(p)]
		p.State, p.Seen, p.SeenHash = catalog.Quarantined, now.raw, now.digest
		out = append(out, p)
	}
	return out, nil
}

func contains(pins []catalog.Pin, p catalog.Pin) bool {
	for _, q := range pins {
		if q.Kind == p.Kind && q.Name == p.Name && q.Digest == p.Digest {
			return true
		}
	}
	return false
}

// drifted is the data of definition.drifted.
type drifted struct {
	Kind   string   `json:"kind"`
	Name   string   `json:"name"`
	Pinned string   `json:"pinned_digest"`
	Seen   string   `json:"seen_digest"`
	Fields []string `json:"fields,omitempty"` // what changed, as paths; at most 32
}

func (c *call) driftEvent(p catalog.Pin) (audit.Sealed, error) {
	d := drifted{Kind: string(p.Kind), Name: p.Name, Pinned: p.Digest, Seen: p.SeenHash}
	for _, ch := range catalog.Diff(p.Raw, p.Seen) {
		if len(d.Fields) == 32 {
			break
		}
		d.Fields = append(d.Fields, ch.Path)
	}
	ev := c.event(audit.DefinitionDrifted, c.Now())
	ev.ID, ev.Tool = id.NewEvent(ev.At), toolName(p.Kind, p.Name)
	ev.Actor = audit.Actor{Kind: audit.ActorSystem}
	ev.Decision = id.Decision{}
	ev.Data = d
	ev.Parts = map[string][]byte{"pinned": p.Raw, "seen": p.Seen}
	return audit.Seal(ev, c.Salts)
}
