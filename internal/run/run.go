// SPDX-License-Identifier: Apache-2.0

// Package run is one task's life: who opened it, for what stated purpose and plan, with what budgets and labels, and
// when it ends. It decides what a run's words may clear and when it is over; it never decides a call (policy does).
package run

import (
	"iter"
	"time"

	"chaperone/internal/id"
	"chaperone/internal/label"
)

// State is a stage of a run's life. Only active runs may act; the others are final but for suspended.
type State string

// The states.
const (
	Active    State = "active"
	Suspended State = "suspended"
	Ended     State = "ended"
	Expired   State = "expired"
)

// OpenerKind tells whose key opened a run.
type OpenerKind string

// The opener kinds. Only what a person or an orchestrator (never for itself) states clears values (invariant 5).
const (
	ByAgent        OpenerKind = "agent"
	ByPerson       OpenerKind = "person"
	ByOrchestrator OpenerKind = "orchestrator"
)

// Opener is who opened a run, by their own key.
type Opener struct {
	Kind OpenerKind `json:"kind"`
	Name string     `json:"name"`
	JKT  string     `json:"jkt"`
}

// PlanStep is one line of a declared plan: a tool as "server/tool", sink values by argument name, and how often.
type PlanStep struct {
	Tool  string              `json:"tool"`
	Sinks map[string][]string `json:"sinks,omitempty"`
	Max   int64               `json:"max,omitempty"` // 0 = no limit of its own
}

// Budgets bound a run. A zero field is filled with the default when the run opens (Defaults), never "unlimited".
type Budgets struct {
	Steps   int64            `json:"steps,omitempty"`   // calls, denied ones too
	Seconds int64            `json:"seconds,omitempty"` // life of the run
	Bytes   int64            `json:"bytes,omitempty"`   // bodies both ways
	Calls   map[string]int64 `json:"calls,omitempty"`   // by stakes; an absent stake is bounded by Steps alone
}

// Defaults are the budgets of a run that states none: 200 steps, one hour, 64 MiB.
var Defaults = Budgets{Steps: 200, Seconds: 3600, Bytes: 64 << 20}

// Spent counts what a run has used of its budgets.
type Spent struct {
	Steps int64            `json:"steps"`
	Bytes int64            `json:"bytes"`
	Calls map[string]int64 `json:"calls,omitempty"`
}

// Run is one task's life. Version moves when labels, state, plan or limits change; counters do not move it.
type Run struct {
	ID        id.Run      `json:"id"`
	Agent     id.Agent    `json:"agent"`
	AgentName string      `json:"agent_name"`
	AgentType string      `json:"agent_type"`
	Instance  id.Instance `json:"instance,omitzero"` // zero until the agent's instance continues a run opened for it
	Opener    Opener      `json:"opener"`
	Purpose   string      `json:"purpose"` // at most 4 KiB
	Plan      []PlanStep  `json:"plan,omitempty"`
	Budgets   Budgets     `json:"budgets"`
	Spent     Spent       `json:"spent"`
	Parent    id.Run      `json:"parent,omitzero"`
	Depth     int         `json:"depth"`
	Label     label.Label `json:"label"`
	State     State       `json:"state"`
	EndReason string      `json:"end_reason,omitempty"`
	OpenedAt  time.Time   `json:"opened_at"`
	ExpiresAt time.Time   `json:"expires_at"`
	EndedAt   time.Time   `json:"ended_at,omitzero"`
	Version   int64       `json:"version"`
}

// Clears reports whether the stated purpose and plan may clear sink values: only when someone other than the agent
// stated them by their own key.
func (r Run) Clears() bool { return r.Opener.Kind == ByPerson || r.Opener.Kind == ByOrchestrator }

// Alive reports whether the run may act at now.
func (r Run) Alive(now time.Time) bool { return r.State == Active && now.Before(r.ExpiresAt) }

// Spend is what one step takes from the budgets.
type Spend struct {
	Steps  int64
	Bytes  int64
	Stakes []string // one call each
}

// Filter narrows a list; zero fields match everything.
type Filter struct {
	Agent    id.Agent
	Instance id.Instance
	Parent   id.Run
	State    State
	Limit    int // 0 = 1000; newest first
}

// Store keeps runs. Update demands the stored version and moves it (Conflict, "run_moved"). Spend takes from the budgets
// without moving the version, and fails whole with Limited, "budget_<steps|bytes|calls>" if one does not suffice, or Suspended,
// "run_<state>" if the run is not active. Join grows the label and moves the version only if it grew.
type Store interface {
	Run(id.Run) (Run, error)
	Insert(Run) error
	Update(Run) error
	Spend(id.Run, Spend) error
	Join(id.Run, label.Label) error
	Runs(Filter) iter.Seq2[Run, error]
}

// Handles binds opaque ids that an upstream made (tasks) to the run they were made in, so that another run cannot use them.
// Bind keeps the first owner; Owner is NotFound for an id never seen.
type Handles interface {
	Bind(server, kind, value string, owner id.Run) error
	Owner(server, kind, value string) (id.Run, error)
}
