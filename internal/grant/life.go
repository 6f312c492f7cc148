// SPDX-License-Identifier: Apache-2.0

package grant

import (
	"slices"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/id"
)

var next = map[State][]State{
	Requested: {Active, Revoked, Expired},
	Active:    {Used, Expired, Revoked},
	Used:      {Released, Revoked},
}

// Legal reports whether a grant may go from one state to the other.
func Legal(from, to State) bool { return slices.Contains(next[from], to) }

// Live reports whether the state can still become anything else.
func Live(s State) bool { return len(next[s]) > 0 }

// Scope is the one call a grant is for, and the run it can never outlive.
type Scope struct {
	Run        id.Run
	Agent      id.Agent
	Server     string
	Tool       string
	CallDigest string
	RunEnds    time.Time
}

// MaxAhead is how long a grant asked ahead of its step lives, if its run lives that long.
const MaxAhead = 15 * time.Minute

// New forms a grant that is not stored yet. life is cut to the run's end; zero means the run's end. A scope with an empty
// part is Invalid, "bad_grant"; a run that ends before now is Invalid, "grant_wider_than_run".
func New(s Scope, origin Origin, state State, life time.Duration, now time.Time) (Grant, error) {
	if s.Run.IsZero() || s.Agent.IsZero() || s.Server == "" || s.Tool == "" || s.CallDigest == "" {
		return Grant{}, fault.New(fault.Invalid, "grant.New", "bad_grant", "a grant names its run, agent, server, tool and exact call")
	}
	if !now.Before(s.RunEnds) {
		return Grant{}, fault.New(fault.Invalid, "grant.New", "grant_wider_than_run", "the run is over").WithFix("open a new run")
	}
	end := s.RunEnds
	if life > 0 && now.Add(life).Before(end) {
		end = now.Add(life)
	}
	return Grant{
		ID: id.NewGrant(now), Run: s.Run, Agent: s.Agent, Server: s.Server, Tool: s.Tool, CallDigest: s.CallDigest,
		Origin: origin, State: state, CreatedAt: now.UTC(), NotAfter: end.UTC(), ChangedAt: now.UTC(),
	}, nil
}

// Opens returns nil if the grant is active and for exactly this call at now. Errors, all Conflict: "grant_<state>",
// "grant_expired", "grant_other_call" (another run, agent, server, tool or digest).
func (g Grant) Opens(s Scope, now time.Time) error {
	switch {
	case g.Run != s.Run || g.Agent != s.Agent || g.Server != s.Server || g.Tool != s.Tool || g.CallDigest != s.CallDigest:
		return fault.New(fault.Conflict, "grant.Opens", "grant_other_call", "the grant is for another call")
	case g.State != Active:
		return fault.New(fault.Conflict, "grant.Opens", "grant_"+string(g.State), "the grant is %s", g.State)
	case !now.Before(g.NotAfter):
		return fault.New(fault.Conflict, "grant.Opens", "grant_expired", "the grant has expired").WithFix("ask for it again")
	}
	return nil
}
