// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
)

// walk is our own look at a rule, for what the Cedar validator lets pass. The validator takes a test that cannot come true for
// the constant false and skips what it guards, so a forbid with a misspelt "has" loads and never fires. Here every has, is, in and
// == must be able to come true in some request environment of the rule's scope; context.approval may be read by a rule's own
// unless clause only, so that an approval lifts what names it and nothing else; and servers and tools that a rule names exist.
func (w *world) walk(r *rule, say func(code, fix, format string, args ...any)) {
	envs := w.environments(r.ast)
	need := func(test func(environment) bool, code, fix, format string, args ...any) {
		if !slices.ContainsFunc(envs, test) {
			say(code, fix, format, args...)
		}
	}
	contexts, members, approvals := 0, 0, 0
	member := func(of ast.IsNode, name types.String) {
		if v, ok := of.(ast.NodeTypeVariable); ok && v.Name == "context" {
			members++
			if name == "approval" {
				approvals++
			}
		}
	}
	is := func(left ast.IsNode, t types.EntityType) {
		need(func(e environment) bool { return slices.Contains(entityTypes(w.typesOf(e, left)), t) }, "is_never_true",
			"check the type; agents act on Chaperone::Object, people on Chaperone::Thing", "nothing in the rule's scope is a %s there", t)
	}
	visit := func(n ast.IsNode) bool {
		switch n := n.(type) {
		case ast.NodeTypeVariable:
			if n.Name == "context" {
				contexts++
			}
		case ast.NodeTypeHas:
			member(n.Arg, n.Value)
			need(func(e environment) bool { return w.hasAttribute(w.typesOf(e, n.Arg), n.Value) }, "has_never_true",
				"check the spelling; docs/policy.md lists the attributes", "%q is tested with has, but nothing in the rule's scope can have it", n.Value)
		case ast.NodeTypeAccess:
			member(n.Arg, n.Value)
		case ast.NodeTypeHasTag:
			say("has_never_true", "use attributes", "hasTag is never true: nothing here has tags")
		case ast.NodeTypeIs:
			is(n.Left, n.EntityType)
		case ast.NodeTypeIsIn:
			is(n.Left, n.EntityType)
		case ast.NodeTypeIn:
			need(func(e environment) bool { return w.canBeIn(w.typesOf(e, n.Left), w.typesOf(e, n.Right)) }, "in_never_true",
				"docs/policy.md says what stands in what", "an in-test of the rule can never be true")
		case ast.NodeTypeEquals:
			need(func(e environment) bool { return canBeEqual(w.typesOf(e, n.Left), w.typesOf(e, n.Right)) }, "eq_never_true",
				"compare things of one type", "a comparison of the rule can never be true")
		case ast.NodeValue:
			if uid, ok := n.Value.(types.EntityUID); ok {
				w.named(r, uid, say)
			}
		}
		return true
	}
	for _, c := range r.ast.Conditions {
		ast.Inspect(ast.NewNode(c.Body), visit)
	}
	for _, scope := range []ast.IsScopeNode{r.ast.Principal, r.ast.Resource} {
		switch s := scope.(type) {
		case ast.ScopeTypeEq:
			w.named(r, s.Entity, say)
		case ast.ScopeTypeIn:
			w.named(r, s.Entity, say)
		case ast.ScopeTypeIsIn:
			w.named(r, s.Entity, say)
		}
	}
	if contexts != members {
		say("context_as_value", "read the attributes one by one", "the rule uses the context as a whole")
	}
	own := 0
	for _, c := range r.ast.Conditions {
		if c.Condition == ast.ConditionUnless && ast.Equal(ast.NewNode(c.Body), liftedBy(r.ID)) {
			own++
		}
	}
	clause := `unless { context has approval && context.approval.satisfies.contains("` + r.ID + `") }`
	switch {
	case r.liftable() && own == 0:
		say("rule_not_liftable", "end the rule with: "+clause, "the rule has @require, but nothing in it lets an approval lift it")
	case !r.liftable() && approvals > 0:
		say("approval_outside_unless", `add @require("group:number"), or remove the test`, "the rule reads context.approval but has no @require")
	case approvals != 2*own:
		say("approval_outside_unless", "read context.approval only in: "+clause, "the rule reads context.approval outside its own unless clause")
	}
}

// liftedBy is the one expression by which a rule is lifted.
func liftedBy(id string) ast.Node {
	return ast.Context().Has("approval").And(ast.Context().Access("approval").Access("satisfies").Contains(ast.String(types.String(id))))
}

// named checks an entity that a rule names, where it can be known whether it exists. A misspelt server in a forbid would
// never match.
func (w *world) named(r *rule, uid types.EntityUID, say func(code, fix, format string, args ...any)) {
	id := string(uid.ID)
	switch uid.Type {
	case typeServer:
		if !w.servers[id] {
			say("unknown_server", "chaperone server list shows the names", "there is no server %q", id)
		}
	case typeTool:
		if !w.tools[id] {
			say("unknown_tool", `name a pinned tool as "<server>/<tool>"`, "there is no tool %q", id)
		}
	case typeObject:
		r.anyThing = true
		tool, _, _ := strings.Cut(id, "#")
		if !w.tools[strings.NewReplacer("%23", "#", "%25", "%").Replace(tool)] {
			say("unknown_tool", `name an object as "<server>/<tool>#<object id>"`, "there is no tool for the object %q", id)
		}
	}
}

// environment is one combination of an action, a kind of principal and a kind of resource.
type environment struct {
	principal, resource types.EntityType
	context             resolved.RecordType
}

func (w *world) environments(p *ast.Policy) []environment {
	var out []environment
	for uid, a := range w.schema.Actions {
		if a.AppliesTo == nil || !w.actionInScope(uid, p.Action) {
			continue
		}
		for _, pt := range a.AppliesTo.Principals {
			for _, rt := range a.AppliesTo.Resources {
				if w.scopeAllows(pt, p.Principal) && w.scopeAllows(rt, p.Resource) {
					out = append(out, environment{pt, rt, a.AppliesTo.Context})
				}
			}
		}
	}
	return out
}

// scopeAllows is typeInScope that also looks at what the type can stand in.
func (w *world) scopeAllows(t types.EntityType, scope ast.IsScopeNode) bool {
	if s, ok := scope.(ast.ScopeTypeIn); ok {
		return w.standsIn(t, s.Entity.Type)
	}
	if s, ok := scope.(ast.ScopeTypeIsIn); ok && !w.standsIn(t, s.Entity.Type) {
		return false
	}
	return typeInScope(t, scope)
}

// standsIn reports whether an entity of type t may be, or be below, one of type in.
func (w *world) standsIn(t, in types.EntityType) bool {
	if t == in {
		return true
	}
	return slices.ContainsFunc(w.schema.Entities[t].ParentTypes, func(p types.EntityType) bool { return w.standsIn(p, in) })
}

// typesOf lists what an expression may be in an environment: entity types, record types, or nil for what has no attributes. Two
// branches of a condition give both.
func (w *world) typesOf(e environment, n ast.IsNode) []resolved.IsType {
	switch n := n.(type) {
	case ast.NodeTypeVariable:
		switch n.Name {
		case "principal":
			return []resolved.IsType{resolved.EntityType(e.principal)}
		case "resource":
			return []resolved.IsType{resolved.EntityType(e.resource)}
		case "action":
			return []resolved.IsType{resolved.EntityType(typeAction)}
		}
		return []resolved.IsType{e.context}
	case ast.NodeValue:
		if uid, ok := n.Value.(types.EntityUID); ok {
			return []resolved.IsType{resolved.EntityType(uid.Type)}
		}
	case ast.NodeTypeAccess:
		var out []resolved.IsType
		for _, t := range w.typesOf(e, n.Arg) {
			if a, ok := w.record(t)[n.Value]; ok {
				out = append(out, a.Type)
			}
		}
		return out
	case ast.NodeTypeIfThenElse:
		return append(w.typesOf(e, n.Then), w.typesOf(e, n.Else)...)
	case ast.NodeTypeSet:
		var out []resolved.IsType
		for _, item := range n.Elements {
			out = append(out, w.typesOf(e, item)...)
		}
		return out
	case ast.NodeTypeRecord:
		rec := resolved.RecordType{}
		for _, m := range n.Elements {
			rec[m.Key] = resolved.Attribute{Type: resolved.StringType{}}
			if ts := w.typesOf(e, m.Value); len(ts) > 0 {
				rec[m.Key] = resolved.Attribute{Type: ts[0]}
			}
		}
		return []resolved.IsType{rec}
	}
	return nil
}

func (w *world) record(t resolved.IsType) resolved.RecordType {
	switch t := t.(type) {
	case resolved.RecordType:
		return t
	case resolved.EntityType:
		return w.schema.Entities[types.EntityType(t)].Shape
	}
	return nil
}

func (w *world) hasAttribute(ts []resolved.IsType, attr types.String) bool {
	return slices.ContainsFunc(ts, func(t resolved.IsType) bool { _, ok := w.record(t)[attr]; return ok })
}

func entityTypes(ts []resolved.IsType) []types.EntityType {
	var out []types.EntityType
	for _, t := range ts {
		if e, ok := t.(resolved.EntityType); ok {
			out = append(out, types.EntityType(e))
		}
	}
	return out
}

func (w *world) canBeIn(left, right []resolved.IsType) bool {
	for _, l := range entityTypes(left) {
		for _, r := range entityTypes(right) {
			if l == typeAction && r == typeAction || w.standsIn(l, r) {
				return true
			}
		}
	}
	return false
}

// canBeEqual is false only for two entities of types that differ; the validator sees to the rest.
func canBeEqual(left, right []resolved.IsType) bool {
	l, r := entityTypes(left), entityTypes(right)
	if len(l) == 0 || len(r) == 0 {
		return true
	}
	return slices.ContainsFunc(l, func(t types.EntityType) bool { return slices.Contains(r, t) })
}
