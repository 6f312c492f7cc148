// SPDX-License-Identifier: Apache-2.0

package approval

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestMachine drives one approval through anything that can happen to it. The model is written from the rules alone: who said
// yes, whether somebody said no, how often it was used.
func TestMachine(t *testing.T) {
	groups := []string{"approver", "finance", "security"}
	people := []string{"ann", "ben", "cyd", "dan", "rita", "olga"} // rita asked, olga owns
	rapid.Check(t, func(t *rapid.T) {
		var rows []Requirement
		for range rapid.IntRange(1, 3).Draw(t, "rows") {
			rows = append(rows, Requirement{rapid.SampledFrom(groups).Draw(t, "group"), rapid.IntRange(1, 2).Draw(t, "number")})
		}
		seats := 0
		for _, r := range rows {
			seats += r.Number
		}
		a, err := New(question(func(q *Question) { q.Require = rows; q.Facts.Excluded = nil }), t0)
		if err != nil {
			t.Fatal(err)
		}
		member := map[string][]string{}
		for _, p := range people {
			member[p] = rapid.SliceOfNDistinct(rapid.SampledFrom(groups), 0, 3, rapid.ID[string]).Draw(t, "groups of "+p)
		}
		now, used, saidNo := t0, 0, false
		yesBy := map[string]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"decide": func(t *rapid.T) {
				p := rapid.SampledFrom(people).Draw(t, "person")
				v := rapid.SampledFrom([]Verdict{Yes, Yes, Yes, No}).Draw(t, "verdict")
				b, err := Decide(a, Decision{Verdict: v, BindingDigest: a.BindingDigest}, who(p, member[p]...), now)
				if err != nil {
					return
				}
				if p == "rita" || p == "olga" {
					t.Fatalf("%s decided", p)
				}
				if a.State != Pending || yesBy[p] {
					t.Fatalf("%s decided on a %s approval, again=%v", p, a.State, yesBy[p])
				}
				a = b
				if v == No {
					saidNo = true
				} else {
					yesBy[p] = true
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, 5 * time.Minute}).Draw(t, "d"))
			},
			"expire": func(t *rapid.T) { a, _ = Expire(a, now) },
			"cancel": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rarely") == 0 {
					a, _ = Cancel(a, "ended", now)
				}
			},
			"regroup": func(t *rapid.T) {
				p := rapid.SampledFrom(people).Draw(t, "person")
				member[p] = rapid.SliceOfNDistinct(rapid.SampledFrom(groups), 0, 3, rapid.ID[string]).Draw(t, "groups")
			},
			"use": func(t *rapid.T) {
				if err := VerifyForUse(a, func(p string) ([]string, bool) { return member[p], true }, now); err != nil {
					return
				}
				if !now.Before(a.Binding.NotAfter) {
					t.Fatal("used after its end")
				}
				standing := 0
				for p := range yesBy {
					if slices.ContainsFunc(rows, func(r Requirement) bool { return slices.Contains(member[p], r.Group) }) {
						standing++
					}
				}
				if standing < seats {
					t.Fatalf("used with %d standing people for %d seats", standing, seats)
				}
				b, err := Consume(a, now)
				if err != nil {
					t.Fatal(err)
				}
				a, used = b, used+1
			},
			"": func(t *rapid.T) {
				if a.State == Approved && len(yesBy) < seats {
					t.Fatalf("approved by %d people for %d seats", len(yesBy), seats)
				}
				if saidNo && a.State != Denied {
					t.Fatalf("denied and yet %s", a.State)
				}
				if used > 1 {
					t.Fatal("used twice")
				}
			},
		})
	})
}
