// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	sast "github.com/cedar-policy/cedar-go/x/exp/schema/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
)

// The names of the Cedar schema.
const (
	namespace     = "Chaperone"
	typeAction    = types.EntityType("Chaperone::Action")
	typeAgent     = types.EntityType("Chaperone::Agent")
	typeAgentType = types.EntityType("Chaperone::AgentType")
	typePerson    = types.EntityType("Chaperone::Person")
	typeGroup     = types.EntityType("Chaperone::Group")
	typeObject    = types.EntityType("Chaperone::Object")
	typeTool      = types.EntityType("Chaperone::Tool")
	typeServer    = types.EntityType("Chaperone::Server")
	typeThing     = types.EntityType("Chaperone::Thing")
)

// action is what is known of one action at decision time.
type action struct {
	name   string
	uid    types.EntityUID
	groups []string // sorted
	people bool
	agents bool   // people: agents may be permitted it
	server string // agents' actions
	tool   string
	method bool
	args   shape
	// rules that can apply, by the kind of principal: those whose scope covers the action and the kind.
	agent, person []*rule
}

// world is the Cedar schema and everything that is fixed with it. It is immutable.
type world struct {
	schema   *resolved.Schema
	actions  map[string]*action
	entities types.EntityMap // actions, tools, servers
	objects  map[string]types.Entity
	servers  map[string]bool
	tools    map[string]bool // "<server>/<tool>"
}

var groupName = regexp.MustCompile(`^(stakes:[a-z][a-z0-9_]{0,63})$`)

// buildWorld makes the schema of the tools. Problems name tools that contradict themselves; the order of tools does not matter.
func buildWorld(tools []Tool) (*world, []Problem) {
	var problems []Problem
	w := &world{actions: map[string]*action{}, entities: types.EntityMap{}, objects: map[string]types.Entity{}, servers: map[string]bool{}, tools: map[string]bool{}}
	twice := map[string]bool{}
	bad := func(t Tool, msg, fix string) {
		problems = append(problems, Problem{Code: "bad_tool", Msg: "the " + kindOf(t) + " " + ActionName(t.Server, t.Kind, t.Name) + " " + msg, Fix: fix})
	}
	for _, t := range tools {
		if t.Server == "" || strings.Contains(t.Server, "/") {
			bad(t, "has no server's name", "name servers with lower-case letters, digits and hyphens")
			continue
		}
		if !w.servers[t.Server] {
			w.servers[t.Server] = true
			for _, m := range Methods() {
				w.add(&action{name: ActionName(t.Server, KindMethod, m), groups: methodGroups(m), server: t.Server, tool: "method:" + m, method: true, args: shape{kind: shapeRecord}})
			}
		}
		switch kind := kindOf(t); kind {
		case KindServer:
			continue
		case KindMethod:
			continue // all servers have the same methods
		case KindTool, KindPrompt, KindResource, KindTemplate:
			if kind == KindTool && reserved(t.Name) || t.Name == "" {
				continue // never in the schema, and so forbidden
			}
			groups, ok := checkGroups(t.Groups)
			if !ok {
				bad(t, "stands in contradicting or unknown action groups", "use policy.GroupsOf")
				continue
			}
			a := &action{name: ActionName(t.Server, kind, t.Name), groups: groups, server: t.Server, args: shapeOf(t.InputSchema)}
			a.tool = a.name[len(t.Server)+1:]
			if (kind == KindResource || kind == KindTemplate) && len(t.InputSchema) == 0 {
				a.args.fields = map[string]field{"uri": {shape: shape{kind: shapeString}, required: true}}
			}
			if w.actions[a.name] != nil {
				twice[a.name] = true
			} else {
				w.add(a)
			}
		default:
			bad(t, "is of an unknown kind", "use tool, prompt, resource, template, server or method")
		}
	}
	for name, is := range twice {
		if is { // two things of one name: nobody can tell which is meant, so neither is in the schema
			delete(w.actions, name)
			delete(w.tools, name)
		}
	}
	for _, p := range peopleActions() {
		w.add(&action{name: p.name, groups: []string{GroupPeople}, people: true, agents: p.agents})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	if err := w.resolve(); err != nil {
		return nil, []Problem{{Code: "schema", Msg: "the Cedar schema of the catalogue cannot be built: " + err.Error(), Fix: "report this; the catalogue holds a definition that nobody foresaw"}}
	}
	return w, nil
}

func kindOf(t Tool) string {
	if t.Kind == "" {
		return KindTool
	}
	return t.Kind
}

// checkGroups sorts the groups of a tool and refuses those that do not go together.
func checkGroups(groups []string) ([]string, bool) {
	if len(groups) == 0 {
		groups = GroupsOf(GroupIrreversible, nil, false)
	}
	groups = slices.Clone(groups)
	slices.Sort(groups)
	groups = slices.Compact(groups)
	classes, sinks := 0, slices.Contains(groups, GroupOutward)
	for _, g := range groups {
		switch {
		case g == GroupRead || g == GroupWrite || g == GroupIrreversible:
			classes++
		case g != GroupEffects && g != GroupOutward && !groupName.MatchString(g):
			return nil, false
		}
	}
	effects := sinks || !slices.Contains(groups, GroupRead)
	return groups, classes == 1 && effects == slices.Contains(groups, GroupEffects)
}

// add files an action with its entities.
func (w *world) add(a *action) {
	a.uid = types.NewEntityUID(typeAction, types.String(a.name))
	slices.Sort(a.groups)
	w.actions[a.name] = a
	if a.people {
		return
	}
	server, tool := types.NewEntityUID(typeServer, types.String(a.server)), types.NewEntityUID(typeTool, types.String(a.name))
	w.entities[server] = types.Entity{UID: server, Attributes: types.NewRecord(types.RecordMap{"name": types.String(a.server)})}
	w.entities[tool] = types.Entity{UID: tool, Parents: types.NewEntityUIDSet(server), Attributes: types.NewRecord(types.RecordMap{
		"name": types.String(a.tool), "server": types.String(a.server)})}
	w.tools[a.name] = true
	w.objects[a.name] = objectEntity(a, "", "")
}

// objectEntity is the resource of an agent's request: an object in a tool, or the tool as a whole.
func objectEntity(a *action, objectType, objectID string) types.Entity {
	uid := types.NewEntityUID(typeObject, types.String(objectUID(a.name, objectID)))
	return types.Entity{
		UID: uid, Parents: types.NewEntityUIDSet(types.NewEntityUID(typeTool, types.String(a.name))),
		Attributes: types.NewRecord(types.RecordMap{"object_type": types.String(objectType), "object_id": types.String(objectID),
			"tool": types.String(a.tool), "server": types.String(a.server)}),
	}
}

// objectUID names an object so that no object of one tool has the name of another tool's: signs that divide are escaped in the
// tool's name.
func objectUID(action, object string) string {
	name := strings.NewReplacer("%", "%25", "#", "%23").Replace(action)
	if object == "" {
		return name
	}
	return name + "#" + object
}

// Record types of the context. Later issues may only add optional attributes.

func runType() sast.RecordType {
	return sast.RecordType{
		"id": {Type: sast.String()}, "opener": {Type: sast.String()}, "clears": {Type: sast.Bool()}, "has_purpose": {Type: sast.Bool()},
		"in_plan": {Type: sast.Bool()}, "in_type_reads": {Type: sast.Bool()}, "in_type_writes": {Type: sast.Bool()},
		"steps": {Type: sast.Long()}, "depth": {Type: sast.Long()},
	}
}

func flowType() sast.RecordType {
	set := sast.Set(sast.String())
	return sast.RecordType{
		"untrusted": {Type: sast.Bool()}, "sources": {Type: set}, "level": {Type: sast.String()}, "level_rank": {Type: sast.Long()},
		"categories": {Type: set}, "sinks": {Type: sast.Long()}, "uncleared": {Type: set}, "has_uncleared": {Type: sast.Bool()},
		"answer_taints": {Type: sast.Bool()}, "unknown_tool": {Type: sast.Bool()}, "mode": {Type: sast.String()}, "findings": {Type: set},
		"stakes": {Type: set}, "sink_types": {Type: set},
	}
}

func agentContext(args sast.IsType) sast.RecordType {
	return sast.RecordType{
		"run": {Type: runType()}, "flow": {Type: flowType()}, "arguments": {Type: args}, "arguments_unmapped": {Type: sast.Set(sast.String())},
		"approval": {Optional: true, Type: sast.RecordType{"id": {Type: sast.String()}, "satisfies": {Type: sast.Set(sast.String())}}},
		"grant":    {Type: sast.String()}, "credential": {Type: sast.String()}, "network": {Type: sast.IPAddr()}, "time": {Type: sast.Datetime()},
		"risk": {Optional: true, Type: sast.RecordType{"score": {Type: sast.Long()}, "level": {Type: sast.String()}}},
	}
}

func peopleContext() sast.RecordType {
	return sast.RecordType{
		"run": {Optional: true, Type: runType()}, "credential": {Type: sast.String()}, "network": {Type: sast.IPAddr()}, "time": {Type: sast.Datetime()},
	}
}

// resolve builds the Cedar schema. Groups apply to what their members apply to, with no arguments, so that a rule about a group is
// checked even when no tool stands in it yet.
func (w *world) resolve() error {
	agent, person := sast.EntityTypeRef("Agent"), sast.EntityTypeRef("Person")
	str := sast.Attribute{Type: sast.String()}
	ns := sast.Namespace{
		Entities: sast.Entities{
			"AgentType": {}, "Group": {},
			"Agent": {ParentTypes: []sast.EntityTypeRef{"AgentType"}, Shape: sast.RecordType{
				"name": str, "kind": str, "owner": str, "environment": str, "orchestrator": {Type: sast.Bool()}}},
			"Person": {ParentTypes: []sast.EntityTypeRef{"Group"}, Shape: sast.RecordType{"name": str}},
			"Server": {Shape: sast.RecordType{"name": str}},
			"Tool":   {ParentTypes: []sast.EntityTypeRef{"Server"}, Shape: sast.RecordType{"name": str, "server": str}},
			"Object": {ParentTypes: []sast.EntityTypeRef{"Tool"}, Shape: sast.RecordType{"object_type": str, "object_id": str, "tool": str, "server": str}},
			"Thing":  {Shape: sast.RecordType{"kind": str, "id": str, "owner": {Type: sast.String(), Optional: true}}},
		},
		Actions: sast.Actions{},
	}
	ofAgents := func(args sast.IsType) *sast.AppliesTo {
		return &sast.AppliesTo{Principals: []sast.EntityTypeRef{agent}, Resources: []sast.EntityTypeRef{"Object"}, Context: agentContext(args)}
	}
	ofPeople := func(agents bool) *sast.AppliesTo {
		a := &sast.AppliesTo{Principals: []sast.EntityTypeRef{person}, Resources: []sast.EntityTypeRef{"Thing"}, Context: peopleContext()}
		if agents {
			a.Principals = append(a.Principals, agent)
		}
		return a
	}
	group := func(name string) {
		if _, ok := ns.Actions[types.String(name)]; ok {
			return
		}
		applies := ofAgents(sast.RecordType{})
		if name == GroupPeople {
			applies = ofPeople(true)
		}
		ns.Actions[types.String(name)] = sast.Action{AppliesTo: applies}
		uid := types.NewEntityUID(typeAction, types.String(name))
		w.entities[uid] = types.Entity{UID: uid}
	}
	for _, g := range fixedGroups() {
		group(g)
	}
	for _, a := range w.actions {
		var parents []sast.ParentRef
		var uids []types.EntityUID
		for _, g := range a.groups {
			group(g)
			parents = append(parents, sast.ParentRefFromID(types.String(g)))
			uids = append(uids, types.NewEntityUID(typeAction, types.String(g)))
		}
		applies := ofPeople(a.agents)
		if !a.people {
			applies = ofAgents(a.args.cedarType())
		}
		ns.Actions[types.String(a.name)] = sast.Action{Parents: parents, AppliesTo: applies}
		w.entities[a.uid] = types.Entity{UID: a.uid, Parents: types.NewEntityUIDSet(uids...)}
	}
	var err error
	w.schema, err = schema.NewSchemaFromAST(&sast.Schema{Namespaces: sast.Namespaces{namespace: ns}}).Resolve()
	return err
}
