// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/rand"
	"strings"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// Bounds of what people write about an agent, in bytes.
const (
	MaxPurpose = 4 << 10
	maxWord    = 256
	maxTools   = 1000
)

// Lives of the single-use code that enrols an instance.
const (
	DefaultCodeLife = 10 * time.Minute
	MaxCodeLife     = time.Hour
)

// CheckName accepts the name of an agent, type or server: lower-case letters, digits and single inner hyphens, 1 to 63 bytes.
// There is one spelling: nothing is folded or trimmed. Error kind: Invalid, code "bad_name".
func CheckName(name string) error {
	ok := name != "" && len(name) <= 63 && name[0] != '-' && name[len(name)-1] != '-'
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-'
	}
	if !ok {
		return fault.New(fault.Invalid, "identity.CheckName", "bad_name", "not a usable name").
			WithFix("use 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end")
	}
	return nil
}

// Check refuses a type whose name or tool patterns are malformed. A pattern is "server/tool" or "server/*". Error kind:
// Invalid, codes "bad_name", "bad_tool_pattern", "too_long".
func (t Type) Check() error {
	const op = "identity.Type.Check"
	if err := CheckName(t.Name); err != nil {
		return err
	}
	if len(t.Description) > MaxPurpose || len(t.Reads) > maxTools || len(t.Writes) > maxTools {
		return fault.New(fault.Invalid, op, "too_long", "the description is over 4 KiB or a list names over %d tools", maxTools).
			WithFix("shorten it, or use server/* patterns")
	}
	for _, list := range [][]string{t.Reads, t.Writes} {
		for _, pattern := range list {
			server, tool, ok := strings.Cut(pattern, "/")
			if !ok || CheckName(server) != nil || tool == "" || len(tool) > maxWord {
				return fault.New(fault.Invalid, op, "bad_tool_pattern", "%.80q does not name tools", pattern).
					WithFix("write server/tool or server/*")
			}
		}
	}
	return nil
}

// Check refuses an agent that is malformed or incomplete. Error kind: Invalid, codes "bad_name", "bad_kind", "no_owner",
// "no_purpose", "too_long", "bad_orchestrator", "bad_state", "bad_expiry".
func (a Agent) Check() error {
	const op = "identity.Agent.Check"
	if err := CheckName(a.Name); err != nil {
		return err
	}
	if err := CheckName(a.Type); err != nil {
		return fault.New(fault.Invalid, op, "bad_name", "the agent type is not a usable name").WithFix("name a type that exists: chaperone type list")
	}
	switch {
	case a.Kind != KindAgent && a.Kind != KindService && a.Kind != KindPipeline:
		return fault.New(fault.Invalid, op, "bad_kind", "kind %.40q is not agent, service or pipeline", a.Kind).WithFix("choose one of the three kinds")
	case a.Owner == "":
		return fault.New(fault.Invalid, op, "no_owner", "an agent has an owner").WithFix("name the person who answers for it")
	case strings.TrimSpace(a.Purpose) == "":
		return fault.New(fault.Invalid, op, "no_purpose", "an agent has a purpose").WithFix("say in a sentence what it is for")
	case len(a.Purpose) > MaxPurpose || len(a.Owner) > maxWord || len(a.Environment) > maxWord || len(a.StateReason) > MaxPurpose:
		return fault.New(fault.Invalid, op, "too_long", "the purpose is over 4 KiB or a word over %d bytes", maxWord).WithFix("shorten it")
	case a.Orchestrator && a.Kind != KindService:
		return fault.New(fault.Invalid, op, "bad_orchestrator", "only an agent of kind service may open runs for others").WithFix("set the kind to service")
	case a.State != Registered && a.State != Active && a.State != Suspended && a.State != Retired:
		return fault.New(fault.Invalid, op, "bad_state", "state %.40q is unknown", a.State).WithFix("use registered, active, suspended or retired")
	case a.ExpiresAt.IsZero() || !a.ExpiresAt.After(a.CreatedAt):
		return fault.New(fault.Invalid, op, "bad_expiry", "an agent has an end after its beginning").WithFix("set an expiry in the future")
	}
	return nil
}

// moves are the legal transitions of an agent's life.
var moves = [...]struct{ from, to State }{
	{Registered, Active}, {Registered, Suspended}, {Active, Suspended}, {Suspended, Active},
	{Registered, Retired}, {Active, Retired}, {Suspended, Retired},
}

// Move returns the agent in the state to, with the reason. The version is moved by the store. Error kind: Conflict, code
// "illegal_transition", for every pair that is not listed with the states; staying is not a transition.
func (a Agent) Move(to State, reason string) (Agent, error) {
	for _, m := range moves {
		if m.from == a.State && m.to == to {
			a.State, a.StateReason = to, reason
			return a, nil
		}
	}
	e := fault.New(fault.Conflict, "identity.Move", "illegal_transition", "an agent that is %s cannot become %s", a.State, to)
	if a.State == Retired {
		return a, e.WithFix("retirement is final: register a new agent under a new name")
	}
	return a, e.WithFix("look at the agent's state first: chaperone agent show %s", a.Name)
}

// MayAct reports, as an error, why the agent may not act at now. Error kind: Suspended, codes "agent_suspended",
// "agent_retired", "agent_expired", "agent_not_enrolled".
func (a Agent) MayAct(now time.Time) error {
	const op = "identity.MayAct"
	switch {
	case a.State == Retired:
		return fault.New(fault.Suspended, op, "agent_retired", "the agent is retired").WithFix("retirement is final: register a new agent")
	case a.State == Suspended:
		return fault.New(fault.Suspended, op, "agent_suspended", "the agent is suspended").
			WithFix("an operator can look at the reason and resume it: chaperone agent resume %s", a.Name)
	case !now.Before(a.ExpiresAt):
		return fault.New(fault.Suspended, op, "agent_expired", "the agent's time is over").WithFix("an operator can register a successor")
	case a.State != Active:
		return fault.New(fault.Suspended, op, "agent_not_enrolled", "no instance of the agent has enrolled").
			WithFix("an operator can make a join code: chaperone agent join-code %s", a.Name)
	}
	return nil
}

// MayAct reports, as an error, why the instance may not act. Error kind: Suspended, code "instance_revoked".
func (i Instance) MayAct() error {
	if i.RevokedAt.IsZero() {
		return nil
	}
	return fault.New(fault.Suspended, "identity.MayAct", "instance_revoked", "the instance is revoked").
		WithFix("enrol a new instance with a fresh join code")
}

// NewJoinCode makes a single-use code that lets one new instance of the agent bind its key before now+life; a life out of
// (0, MaxCodeLife] becomes DefaultCodeLife. The plain text is shown once; only the JoinCode, with its hash, is stored.
func NewJoinCode(agent id.Agent, by string, now time.Time, life time.Duration) (plain string, code JoinCode) {
	if life <= 0 || life > MaxCodeLife {
		life = DefaultCodeLife
	}
	plain = "jc_" + rand.Text()
	return plain, JoinCode{Hash: HashCode(plain), Agent: agent, MadeBy: by, ExpiresAt: now.Add(life).UTC()}
}

// HashCode returns what is stored of a single-use code: its SHA-256, hex. A code has 128 bits of randomness or more, so it
// needs no slow hash.
func HashCode(plain string) string { return canon.Sum([]byte(plain)) }
