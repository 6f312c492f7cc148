// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"slices"
	"strings"
)

// The kinds of Tool. They are the item kinds of the catalogue, and "method".
const (
	KindTool     = "tool"
	KindPrompt   = "prompt"
	KindResource = "resource"
	KindTemplate = "template"
	KindServer   = "server"
	KindMethod   = "method"
)

// Tool is one thing that the Cedar schema is built from: a tool, prompt, resource or resource template as the operator pinned and
// described it. Kind "" is a tool. A Tool of kind "server" (Name "") makes the server and its protocol methods known even
// if nothing of it is pinned; any other Tool does so too. Groups are the action groups (GroupsOf); a Tool without any is
// irreversible. InputSchema is the pinned JSON Schema of the arguments.
type Tool struct {
	Server      string
	Name        string
	Kind        string
	Groups      []string
	InputSchema json.RawMessage
}

// The action groups that are always there, whether a tool stands in them or not. Groups of stakes are "stakes:<stake>".
const (
	GroupRead           = "read"
	GroupWrite          = "write"
	GroupIrreversible   = "irreversible"
	GroupEffects        = "effects"
	GroupOutward        = "outward"
	GroupProtocol       = "protocol"
	GroupServerRequests = "server-requests" // what a server may ask of the agent: sampling, elicitation, roots
	GroupPeople         = "people"
)

func fixedGroups() []string {
	return []string{GroupRead, GroupWrite, GroupIrreversible, GroupEffects, GroupOutward, GroupProtocol, GroupServerRequests, GroupPeople,
		"stakes:external_communication", "stakes:production_data", "stakes:money", "stakes:access", "stakes:code_execution"}
}

// GroupsOf returns the action groups of a tool from its effect class, its stakes and whether it has sinks. An effect class
// that is not read or write counts as irreversible.
func GroupsOf(effect string, stakes []string, sinks bool) []string {
	if effect != GroupRead && effect != GroupWrite {
		effect = GroupIrreversible
	}
	out := []string{effect}
	if effect != GroupRead || sinks {
		out = append(out, GroupEffects)
	}
	if sinks {
		out = append(out, GroupOutward)
	}
	for _, s := range stakes {
		out = append(out, "stakes:"+s)
	}
	return out
}

// ActionName returns the name of an agent's action: "<server>/<tool>", "<server>/prompt:<name>", "<server>/resource:<uri>" (for
// a template its URI template), "<server>/method:<method>".
func ActionName(server, kind, name string) string {
	switch kind {
	case KindPrompt:
		name = "prompt:" + name
	case KindResource, KindTemplate:
		name = "resource:" + name
	case KindMethod:
		name = "method:" + name
	}
	return server + "/" + name
}

// reserved reports whether a tool's name would be taken for something else. An upstream chooses its tools' names, so one could
// call a tool "method:ping" to slip under the rules for the protocol; such a tool never gets into the schema.
func reserved(tool string) bool {
	for _, p := range []string{"prompt:", "resource:", "template:", "method:"} {
		if strings.HasPrefix(tool, p) {
			return true
		}
	}
	return false
}

// Methods lists the protocol methods that every server has an action for, in both eras, from either side. "session/stream",
// "session/end" and "reply" are a GET, a DELETE and the answer to a request of the server. tools/call, prompts/get,
// resources/read, resources/subscribe and resources/unsubscribe are actions of what they name instead.
func Methods() []string {
	return []string{
		"initialize", "server/discover", "ping", "session/stream", "session/end", "subscriptions/listen", "reply",
		"tools/list", "prompts/list", "resources/list", "resources/templates/list", "completion/complete", "logging/setLevel",
		"tasks/list", "tasks/get", "tasks/result", "tasks/cancel", "tasks/update",
		"notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/message", "notifications/roots/list_changed",
		"notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed",
		"notifications/resources/updated", "notifications/elicitation/complete", "notifications/tasks/status",
		"sampling/createMessage", "elicitation/create", "roots/list",
	}
}

func methodGroups(method string) []string {
	if slices.Contains([]string{"sampling/createMessage", "elicitation/create", "roots/list"}, method) {
		return []string{GroupServerRequests}
	}
	return []string{GroupProtocol}
}

// peopleAction is one action of the people's door. Agents may be permitted those marked so: with a credential for the API they
// ask about their own runs and grants, and orchestrators open runs for others. The rest is for people alone, whatever a bundle says.
type peopleAction struct {
	name   string
	agents bool
}

func peopleActions() []peopleAction {
	return []peopleAction{
		{"person.list", false}, {"person.add", false}, {"person.suspend", false}, {"person.resume", false}, {"person.code", false},
		{"type.list", true}, {"type.put", false},
		{"agent.list", true}, {"agent.read", true}, {"agent.register", false}, {"agent.suspend", false}, {"agent.resume", false},
		{"agent.retire", false}, {"agent.join_code", false}, {"instance.revoke", false},
		{"run.list", true}, {"run.read", true}, {"run.open", true}, {"run.end", true},
		{"grant.list", true}, {"grant.request", true}, {"grant.revoke", true},
		{"approval.list", true}, {"approval.read", true}, {"approval.decide", false},
		{"policy.read", false}, {"policy.apply", false}, {"policy.check", false},
		{"server.list", false}, {"server.put", false}, {"server.pin", false},
		{"catalog.read", false}, {"catalog.apply", false},
		{"secret.list", false}, {"secret.put", false}, {"secret.delete", false},
		{"audit.read", false}, {"audit.export", false}, {"decision.explain", true}, {"doctor.run", false}, {"self.read", true},
	}
}

// PeopleActions lists the names of the actions of the people's door.
func PeopleActions() []string {
	var out []string
	for _, a := range peopleActions() {
		out = append(out, a.name)
	}
	return out
}
