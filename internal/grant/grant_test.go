// SPDX-License-Identifier: Apache-2.0

package grant_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/id"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func scope() grant.Scope {
	return grant.Scope{
		Run: id.NewRun(t0), Agent: id.NewAgent(t0), Server: "office", Tool: "pay", CallDigest: "d1",
		RunEnds: t0.Add(time.Hour),
	}
}

func TestNewNeverOutlivesTheRun(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{0: time.Hour, time.Minute: time.Minute, 2 * time.Hour: time.Hour} {
		g, err := grant.New(scope(), grant.ByCall, grant.Active, life, t0)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.NotAfter.Sub(t0); got != want {
			t.Errorf("life %s: ends after %s, want %s", life, got, want)
		}
	}
	s := scope()
	s.RunEnds = t0
	if _, err := grant.New(s, grant.ByCall, grant.Active, 0, t0); fault.CodeOf(err) != "grant_wider_than_run" {
		t.Error(err)
	}
	s.CallDigest = ""
	if _, err := grant.New(s, grant.ByCall, grant.Active, 0, t0); fault.CodeOf(err) != "bad_grant" {
		t.Error(err)
	}
}

func TestOpens(t *testing.T) {
	s := scope()
	g, err := grant.New(s, grant.ByCall, grant.Active, time.Minute, t0)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Opens(s, t0); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		change func(*grant.Grant, *grant.Scope, *time.Time)
		code   string
	}{
		"digest":  {func(_ *grant.Grant, s *grant.Scope, _ *time.Time) { s.CallDigest = "d2" }, "grant_other_call"},
		"run":     {func(_ *grant.Grant, s *grant.Scope, _ *time.Time) { s.Run = id.NewRun(t0) }, "grant_other_call"},
		"server":  {func(_ *grant.Grant, s *grant.Scope, _ *time.Time) { s.Server = "bank" }, "grant_other_call"},
		"used":    {func(g *grant.Grant, _ *grant.Scope, _ *time.Time) { g.State = grant.Used }, "grant_used"},
		"revoked": {func(g *grant.Grant, _ *grant.Scope, _ *time.Time) { g.State = grant.Revoked }, "grant_revoked"},
		"asked":   {func(g *grant.Grant, _ *grant.Scope, _ *time.Time) { g.State = grant.Requested }, "grant_requested"},
		"late":    {func(_ *grant.Grant, _ *grant.Scope, now *time.Time) { *now = t0.Add(time.Minute) }, "grant_expired"},
	} {
		g, s, now := g, s, t0
		c.change(&g, &s, &now)
		if got := fault.CodeOf(g.Opens(s, now)); got != c.code {
			t.Errorf("%s: %s, want %s", name, got, c.code)
		}
	}
}

// A grant is used at most once, and nothing comes back from a final state.
func TestLifeIsOneWay(t *testing.T) {
	all := []grant.State{grant.Requested, grant.Active, grant.Used, grant.Released, grant.Expired, grant.Revoked}
	rapid.Check(t, func(t *rapid.T) {
		state, uses := grant.Requested, 0
		for range 20 {
			to := rapid.SampledFrom(all).Draw(t, "to")
			if !grant.Legal(state, to) {
				continue
			}
			if !grant.Live(state) {
				t.Fatalf("%s is final but went to %s", state, to)
			}
			if to == grant.Used {
				uses++
			}
			state = to
		}
		if uses > 1 {
			t.Errorf("used %d times", uses)
		}
	})
}
