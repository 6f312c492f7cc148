// SPDX-License-Identifier: Apache-2.0

package revocation_test

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chaperone/internal/revocation"
)

var t0 = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

func dead(position int64) revocation.Notice {
	return revocation.Notice{Kind: revocation.Agent, ID: "a", Dead: true, At: t0, Position: position}
}

func lifted(position int64) revocation.Notice {
	return revocation.Notice{Kind: revocation.Agent, ID: "a", At: t0.Add(time.Minute), Position: position}
}

func TestIndex(t *testing.T) {
	final := dead(5)
	final.Final = true
	for name, tc := range map[string]struct {
		notices []revocation.Notice
		dead    bool
	}{
		"nothing":                                {nil, false},
		"stop":                                   {[]revocation.Notice{dead(5)}, true},
		"stop without a position":                {[]revocation.Notice{dead(0)}, true},
		"lift after the stop":                    {[]revocation.Notice{dead(5), lifted(6)}, false},
		"lift before the stop":                   {[]revocation.Notice{lifted(4), dead(5)}, true},
		"an older lift arrives late":             {[]revocation.Notice{dead(5), lifted(4)}, true},
		"a lift of the same position":            {[]revocation.Notice{dead(5), lifted(5)}, true},
		"a lift without a position":              {[]revocation.Notice{dead(5), lifted(0)}, true},
		"a stop without a position after lift":   {[]revocation.Notice{dead(5), lifted(6), dead(0)}, true},
		"final stop, then lift":                  {[]revocation.Notice{final, lifted(9)}, true},
		"final stop, then a stop that is not":    {[]revocation.Notice{final, dead(9), lifted(10)}, true},
		"an older stop after the lift":           {[]revocation.Notice{dead(5), lifted(7), dead(6)}, false},
		"unpositioned stop, then table's lift":   {[]revocation.Notice{dead(0), lifted(3)}, false},
		"another subject's stop":                 {[]revocation.Notice{{Kind: revocation.Run, ID: "a", Dead: true, Position: 1}}, false},
		"another subject of the kind":            {[]revocation.Notice{{Kind: revocation.Agent, ID: "b", Dead: true, Position: 1}}, false},
		"stop, lift, stop":                       {[]revocation.Notice{dead(1), lifted(2), dead(3)}, true},
		"the same notice twice":                  {[]revocation.Notice{dead(1), lifted(2), dead(1), lifted(2)}, false},
		"an old final stop arrives after a lift": {[]revocation.Notice{dead(1), lifted(2), func() revocation.Notice { n := dead(1); n.Final = true; return n }()}, false},
	} {
		x := revocation.NewIndex()
		for _, n := range tc.notices {
			x.Apply(n)
		}
		if _, got := x.Dead(revocation.Agent, "a"); got != tc.dead {
			t.Errorf("%s: dead %v, want %v", name, got, tc.dead)
		}
	}
}

func TestStopsWhatWasIssuedBefore(t *testing.T) {
	x := revocation.NewIndex()
	x.Apply(dead(1))
	if _, stopped := x.Stops(revocation.Agent, "a", t0.Add(time.Hour)); !stopped {
		t.Error("a dead agent's credential stands")
	}
	x.Apply(lifted(2)) // at t0 + 1 min
	if _, stopped := x.Stops(revocation.Agent, "a", t0.Add(59*time.Second)); !stopped {
		t.Error("a credential from before the stop stands again")
	}
	if _, stopped := x.Stops(revocation.Agent, "a", t0.Add(time.Minute)); stopped {
		t.Error("a credential from after the lift is stopped")
	}
	if _, stopped := x.Stops(revocation.Agent, "b", t0); stopped {
		t.Error("another agent's credential is stopped")
	}
}

func TestAge(t *testing.T) {
	x := revocation.NewIndex()
	if x.Age(t0) != math.MaxInt64 {
		t.Error("a view that was never loaded is not infinitely old")
	}
	x.Apply(dead(1))
	if x.Age(t0) != math.MaxInt64 {
		t.Error("a notice made the view fresh")
	}
	x.Load(nil, 3, t0)
	if got := x.Age(t0.Add(7 * time.Second)); got != 7*time.Second {
		t.Errorf("age %v", got)
	}
	x.Seen(2, t0.Add(5*time.Second)) // an older reading
	if got := x.Age(t0.Add(7 * time.Second)); got != 7*time.Second || x.Position() != 3 {
		t.Errorf("age %v at position %d after an older reading", got, x.Position())
	}
	x.Seen(3, t0.Add(6*time.Second))
	if got := x.Age(t0.Add(7 * time.Second)); got != time.Second {
		t.Errorf("age %v", got)
	}
	if got := x.Age(t0.Add(-time.Hour)); got < time.Hour {
		t.Errorf("a clock that went back makes the view %v old", got)
	}
}

func TestUntil(t *testing.T) {
	x := revocation.NewIndex()
	n := revocation.Notice{Kind: revocation.Credential, ID: "jti", Dead: true, Final: true, Position: 1, Until: t0}
	x.Load([]revocation.Notice{n}, 1, t0)
	if _, is := x.Dead(revocation.Credential, "jti"); !is {
		t.Error("forgotten too early")
	}
	x.Load(nil, 1, t0.Add(time.Second))
	if _, is := x.Dead(revocation.Credential, "jti"); is {
		t.Error("not forgotten")
	}
}

// TestOrderDoesNotMatter: whatever the order and repetition in which the table's notices arrive, singly or in readings, the
// view says of each subject what its newest notice says; and no message without a position ever revives anybody.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := []string{"a", "b", "c"}
		type truth struct {
			dead, final bool
			position    int64
		}
		newest := map[string]truth{}
		var table []revocation.Notice
		for p := range rapid.IntRange(0, 12).Draw(t, "notices") {
			id := rapid.SampledFrom(ids).Draw(t, "id")
			n := revocation.Notice{Kind: revocation.Agent, ID: id, Dead: rapid.Bool().Draw(t, "dead"), Position: int64(p + 1), At: t0}
			n.Final = n.Dead && rapid.IntRange(0, 4).Draw(t, "final") == 0
			if newest[id].final {
				continue // the store refuses to touch a final stop
			}
			newest[id] = truth{n.Dead, n.Final, n.Position}
			table = append(table, n)
		}
		x := revocation.NewIndex()
		stopped := map[string]bool{}
		for _, n := range rapid.Permutation(append(table, table...)).Draw(t, "order") {
			switch rapid.IntRange(0, 3).Draw(t, "how") {
			case 0:
				x.Load([]revocation.Notice{n}, n.Position, t0)
			case 1:
				revive := n
				revive.Dead, revive.Final, revive.Position = false, false, 0
				x.Apply(revive)
				x.Apply(n)
			default:
				x.Apply(n)
			}
			if _, is := x.Dead(n.Kind, n.ID); is {
				stopped[n.ID] = true
			}
		}
		for _, id := range ids {
			if _, got := x.Dead(revocation.Agent, id); got != newest[id].dead {
				t.Fatalf("%s: dead %v, the table says %+v", id, got, newest[id])
			}
		}
		id := rapid.SampledFrom(ids).Draw(t, "stopped at once")
		x.Apply(revocation.Notice{Kind: revocation.Agent, ID: id, Dead: true})
		x.Load(table, int64(len(table)), t0) // a reading from before the stop
		if _, is := x.Dead(revocation.Agent, id); !is {
			t.Fatalf("an old reading revived %s", id)
		}
	})
}

func TestParallel(t *testing.T) {
	x := revocation.NewIndex()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				x.Apply(revocation.Notice{Kind: revocation.Run, ID: fmt.Sprint(i, j), Dead: true, Position: int64(j)})
				x.Dead(revocation.Run, fmt.Sprint(i, j))
				x.Load(nil, int64(j), t0)
				x.Age(t0)
			}
		})
	}
	wg.Wait()
}
