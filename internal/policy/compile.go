// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// The bounds of a bundle.
const (
	maxFiles    = 64
	maxFile     = 256 << 10 // bytes
	maxRule     = 32 << 10  // bytes; also bounds how deep an expression can nest
	maxRules    = 10_000
	maxExpires  = 24 * time.Hour
	stdExpires  = 15 * time.Minute
	tierConfirm = "confirm"
)

// Set is a compiled bundle on the schema of one catalogue. It is immutable and safe for concurrent use.
type Set struct {
	world  *world
	rules  []*rule // by id
	byID   map[string]*rule
	digest string
}

// RuleInfo is one rule of a bundle, for people. Text is the rule's exact source, annotations included, comments before it not;
// Digest is its SHA-256, hex. Require, Tier and Expires are set on rules that an approval lifts.
type RuleInfo struct {
	ID      string        `json:"id"`
	Reason  string        `json:"reason"`
	Effect  Effect        `json:"effect"`
	File    string        `json:"file"`
	Line    int           `json:"line"`
	Text    string        `json:"text"`
	Digest  string        `json:"digest"`
	Require []Requirement `json:"require,omitempty"`
	Tier    string        `json:"tier,omitempty"`
	Expires time.Duration `json:"expires,omitempty"`
}

// rule is a RuleInfo with its compiled form.
type rule struct {
	RuleInfo
	policy   *cedar.Policy
	ast      *ast.Policy
	anyThing bool // names single objects, so that partial evaluation must leave the resource open
}

func (r *rule) liftable() bool { return len(r.Require) > 0 }

func (r *rule) reason() Reason {
	return Reason{Rule: r.ID, Text: r.Reason, Effect: r.Effect, Digest: r.Digest}
}

// Digest returns the digest of the bundle's files, as in Bundle.Digest.
func (s *Set) Digest() string { return s.digest }

// Rules lists the rules by id.
func (s *Set) Rules() []RuleInfo {
	out := make([]RuleInfo, 0, len(s.rules))
	for _, r := range s.rules {
		out = append(out, r.RuleInfo)
	}
	return out
}

// Rule returns the rule with the id.
func (s *Set) Rule(id string) (RuleInfo, bool) {
	r, ok := s.byID[id]
	if !ok {
		return RuleInfo{}, false
	}
	return r.RuleInfo, true
}

// DigestFiles returns the digest of a bundle: SHA-256 over the JCS form of {file name: text}, hex.
func DigestFiles(files map[string]string) (string, error) {
	d, err := canon.Digest(files)
	return d, fault.Wrap("policy.DigestFiles", err)
}

// Compile checks a bundle against the schema of the tools and compiles it. It returns either a Set or the problems, sorted by file
// and line, never both: any problem refuses the whole bundle. The codes are listed in docs/policy.md.
func Compile(files map[string]string, tools []Tool) (*Set, []Problem) {
	w, problems := buildWorld(tools)
	rules, more := readRules(files)
	problems = append(problems, more...)
	if w != nil {
		for _, r := range rules {
			problems = append(problems, w.check(r)...)
		}
	}
	digest, err := DigestFiles(files)
	if err != nil {
		problems = append(problems, Problem{Code: "syntax", Msg: "the bundle is not UTF-8 text", Fix: "save the files as UTF-8"})
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b Problem) int {
			return strings.Compare(fmt.Sprintf("%s\x00%09d\x00%s\x00%s", a.File, a.Line, a.Code, a.Msg), fmt.Sprintf("%s\x00%09d\x00%s\x00%s", b.File, b.Line, b.Code, b.Msg))
		})
		return nil, slices.CompactFunc(problems, func(a, b Problem) bool { return a == b })
	}
	s := &Set{world: w, rules: rules, byID: map[string]*rule{}, digest: digest}
	slices.SortFunc(s.rules, func(a, b *rule) int { return strings.Compare(a.ID, b.ID) })
	for _, r := range s.rules {
		s.byID[r.ID] = r
	}
	w.index(s.rules)
	return s, nil
}

var fileName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}\.cedar$`)

// readRules parses the files and their annotations.
func readRules(files map[string]string) (rules []*rule, problems []Problem) {
	if len(files) > maxFiles {
		return nil, []Problem{{Code: "bundle_too_large", Msg: fmt.Sprintf("the bundle has %d files, %d are allowed", len(files), maxFiles), Fix: "put more rules into a file"}}
	}
	first := map[string]*rule{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		say := func(line int, code, fix, format string, args ...any) {
			problems = append(problems, Problem{File: name, Line: line, Code: code, Msg: fmt.Sprintf(format, args...), Fix: fix})
		}
		if !fileName.MatchString(name) {
			say(0, "bad_file_name", "use lower-case letters, digits, dots, hyphens and underscores, ending in .cedar", "%q is not a file name of a bundle", name)
			continue
		}
		if len(text) > maxFile {
			say(0, "bundle_too_large", "split the file", "the file has %d bytes, %d are allowed", len(text), maxFile)
			continue
		}
		sources, line, err := split(text)
		if err != "" {
			say(line, "syntax", "see docs.cedarpolicy.com/policies/syntax-grammar.html", "%s", err)
			continue
		}
		for _, src := range sources {
			r, ps := readRule(name, src)
			problems = append(problems, ps...)
			if r == nil {
				continue
			}
			if other := first[r.ID]; other != nil {
				say(r.Line, "rule_duplicate_id", "give every rule an id of its own", "the id %q is also that of the rule at %s:%d", r.ID, other.File, other.Line)
				continue
			}
			first[r.ID] = r
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 && len(problems) == 0 {
		problems = append(problems, Problem{Code: "bundle_empty", Msg: "the bundle has no rules, so nobody could do anything, not even mend it", Fix: "start from the shipped pack"})
	}
	if len(rules) > maxRules {
		problems = append(problems, Problem{Code: "bundle_too_large", Msg: fmt.Sprintf("the bundle has %d rules, %d are allowed", len(rules), maxRules), Fix: "write rules about groups instead of single tools"})
	}
	return rules, problems
}

// source is the text of one rule and where it starts.
type source struct {
	text string
	line int
}

// split cuts a file into rules: a semicolon outside of strings and comments ends one, and a rule starts at the first character
// after it that is neither space nor comment. Cedar's grammar has the semicolon nowhere else.
func split(text string) (rules []source, line int, problem string) {
	start, startLine := -1, 0
	line = 1
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\n':
			line++
		case c == ' ' || c == '\t' || c == '\r':
		case c == '/' && strings.HasPrefix(text[i:], "//"):
			for i+1 < len(text) && text[i+1] != '\n' {
				i++
			}
		default:
			if start < 0 {
				start, startLine = i, line
			}
			if c == '"' {
				opened := line
				for i++; i < len(text) && text[i] != '"'; i++ {
					if text[i] == '\\' {
						i++
					}
					if i < len(text) && text[i] == '\n' {
						line++
					}
				}
				if i >= len(text) {
					return nil, opened, "a string does not end"
				}
			}
			if c == ';' {
				if i+1-start > maxRule {
					return nil, startLine, fmt.Sprintf("a rule has %d bytes, %d are allowed", i+1-start, maxRule)
				}
				rules = append(rules, source{text: text[start : i+1], line: startLine})
				start = -1
			}
		}
	}
	if start >= 0 {
		return nil, startLine, "a rule does not end in a semicolon"
	}
	return rules, 0, ""
}

var (
	ruleID     = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`)
	parseError = regexp.MustCompile(`^(?:parser error: )?(?:parse error at|.*?:)?\s*(?:<input>)?:?(\d+):(\d+)[: ]*`)
	groupCount = regexp.MustCompile(`^([a-z0-9][a-z0-9._-]{0,62}):([1-9][0-9]?)$`)
)

// readRule parses one rule and its annotations.
func readRule(file string, src source) (*rule, []Problem) {
	var problems []Problem
	r := &rule{RuleInfo: RuleInfo{File: file, Line: src.line, Text: src.text, Digest: canon.Sum([]byte(src.text))}, policy: &cedar.Policy{}}
	say := func(code, fix, format string, args ...any) {
		problems = append(problems, Problem{File: file, Line: src.line, Rule: r.ID, Code: code, Msg: fmt.Sprintf(format, args...), Fix: fix})
	}
	if err := r.policy.UnmarshalCedar([]byte(src.text)); err != nil {
		msg := err.Error()
		if m := parseError.FindStringSubmatch(msg); m != nil {
			at, _ := strconv.Atoi(m[1])
			src.line += max(at-1, 0)
			msg = strings.TrimSpace(msg[len(m[0]):])
		}
		say("syntax", "see docs.cedarpolicy.com/policies/syntax-grammar.html", "the rule does not parse: %s", msg)
		return nil, problems
	}
	r.ast = (*ast.Policy)(r.policy.AST())
	r.Effect = Forbid
	if r.policy.Effect() == cedar.Permit {
		r.Effect = Permit
	}
	notes := map[string]string{}
	for _, a := range r.ast.Annotations {
		notes[string(a.Key)] = string(a.Value)
	}
	r.ID, r.Reason = notes["id"], notes["reason"]
	switch {
	case notes["id"] == "":
		say("rule_without_id", `write @id("...") before it`, "the rule has no @id")
		return nil, problems
	case !ruleID.MatchString(r.ID):
		say("bad_id", "use lower-case letters, digits, dots, hyphens and underscores, at most 128", "%q is no rule id", r.ID)
	case r.ID == RuleDefaultDeny || r.ID == RuleError:
		say("bad_id", "choose another id", "the id %q is that of an answer no rule gave", r.ID)
	}
	for _, key := range slices.Sorted(maps.Keys(notes)) {
		if !slices.Contains([]string{"id", "reason", "require", "tier", "expires"}, key) {
			say("unknown_annotation", "the annotations are @id, @reason, @require, @tier and @expires", "the rule has the unknown annotation @%s", key)
		}
	}
	readRequire(r, notes, say)
	return r, problems
}

// readRequire reads the annotations of a rule that an approval lifts.
func readRequire(r *rule, notes map[string]string, say func(code, fix, format string, args ...any)) {
	want, has := notes["require"]
	tier, hasTier := notes["tier"]
	expires, hasExpires := notes["expires"]
	if !has {
		if hasTier || hasExpires {
			say("bad_require", `add @require("group:number"), or remove them`, "@tier and @expires mean nothing without @require")
		}
		return
	}
	if r.Effect == Permit {
		say("require_on_permit", "put @require on the forbid rule that an approval lifts", "@require stands on a permit rule")
	}
	for part := range strings.SplitSeq(want, ",") {
		m := groupCount.FindStringSubmatch(strings.TrimSpace(part))
		if m == nil {
			say("bad_require", `write @require("finance:1,security:1"), numbers from 1 to 20`, "%q is not a group and a number", part)
			continue
		}
		n, _ := strconv.Atoi(m[2])
		if n > 20 || slices.ContainsFunc(r.Require, func(q Requirement) bool { return q.Group == m[1] }) {
			say("bad_require", "name every group once, with a number from 1 to 20", "%q is too many, or the group is there twice", part)
			continue
		}
		r.Require = append(r.Require, Requirement{Group: m[1], Number: n})
	}
	slices.SortFunc(r.Require, func(a, b Requirement) int { return strings.Compare(a.Group, b.Group) })
	r.Tier, r.Expires = tierConfirm, stdExpires
	if hasTier {
		switch tier {
		case tierConfirm:
		case "strong", "phishing-resistant":
			say("tier_not_available", `use @tier("confirm")`, "nobody can decide in the tier %q before the console exists", tier)
		default:
			say("bad_tier", `use @tier("confirm")`, "%q is no tier", tier)
		}
	}
	if hasExpires {
		d, err := time.ParseDuration(expires)
		if err != nil || d < time.Second || d > maxExpires {
			say("bad_expires", `write @expires("15m"), from 1s to 24h`, "%q is not a duration from 1s to 24h", expires)
		} else {
			r.Expires = d
		}
	}
}

// check validates one rule against the schema.
func (w *world) check(r *rule) []Problem {
	var out []Problem
	say := func(code, fix, format string, args ...any) {
		out = append(out, Problem{File: r.File, Line: r.Line, Rule: r.ID, Code: code, Msg: fmt.Sprintf(format, args...), Fix: fix})
	}
	if err := validate.New(w.schemaFor(r.ast), validate.WithStrict()).Policy("", r.ast); err != nil {
		said := map[string]int{}
		for _, msg := range slices.Compact(slices.Sorted(slices.Values(strings.Split(err.Error(), "\n")))) {
			code, fix := validation(msg)
			if said[code]++; said[code] <= maxSaid { // one mistake in a rule about a group is said of every tool in it
				say(code, fix, "%s", msg[:min(len(msg), 400)])
			}
		}
	}
	w.walk(r, say)
	return out
}

// maxSaid bounds how often one kind of problem is reported of one rule.
const maxSaid = 5

// schemaFor is the schema with only those actions that the rule can be about or names. The validator goes through all actions
// for every rule; what it finds of the others, nothing in the rule can see.
func (w *world) schemaFor(p *ast.Policy) *resolved.Schema {
	if _, ok := p.Action.(ast.ScopeTypeAll); ok {
		return w.schema
	}
	keep := map[types.EntityUID]bool{}
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeValue); ok {
				if uid, ok := v.Value.(types.EntityUID); ok {
					keep[uid] = true
				}
			}
			return true
		})
	}
	out := &resolved.Schema{Namespaces: w.schema.Namespaces, Entities: w.schema.Entities, Enums: w.schema.Enums, Actions: map[types.EntityUID]resolved.Action{}}
	for uid, a := range w.schema.Actions {
		if keep[uid] || w.actionInScope(uid, p.Action) {
			out.Actions[uid] = a
		}
	}
	return out
}

// validation names the kind of a validator's message. The validator has no codes; a message that nobody foresaw is a type_error.
func validation(msg string) (code, fix string) {
	switch {
	case strings.HasPrefix(msg, "attribute `"):
		return "unknown_attribute", "docs/policy.md lists the attributes; those of arguments come from the pinned definition"
	case strings.HasPrefix(msg, "unrecognized action"):
		return "unknown_action", "name a pinned tool as \"<server>/<tool>\" or an action group; chaperone catalog lists them"
	case strings.HasPrefix(msg, "unrecognized entity type"):
		return "unknown_entity_type", "write the namespace too, as in Chaperone::Agent"
	case strings.HasPrefix(msg, "unable to find an applicable action"):
		return "never_applies", "no action has this kind of principal and resource"
	case strings.HasPrefix(msg, "unable to guarantee safety"):
		return "unguarded_attribute", "test the attribute with has before it is read"
	}
	return "type_error", "see docs/policy.md for the types"
}

// index files the rules under the actions they can apply to. A rule whose scope excludes the action or the kind of principal cannot
// apply, so leaving it out changes nothing; the tests hold that against the whole bundle.
func (w *world) index(rules []*rule) {
	for _, a := range w.actions {
		if !a.people || a.agents {
			a.agent = w.candidates(rules, a, typeAgent)
		}
		if a.people {
			a.person = w.candidates(rules, a, typePerson)
		}
	}
}

func (w *world) candidates(rules []*rule, a *action, principal types.EntityType) []*rule {
	resource := typeObject
	if a.people {
		resource = typeThing
	}
	var out []*rule
	for _, r := range rules {
		if w.actionInScope(a.uid, r.ast.Action) && typeInScope(principal, r.ast.Principal) && typeInScope(resource, r.ast.Resource) {
			out = append(out, r)
		}
	}
	return out
}

// actionInScope is Cedar's own test of an action scope: the hierarchy of actions is fixed by the schema.
func (w *world) actionInScope(a types.EntityUID, scope ast.IsActionScopeNode) bool {
	in := func(group types.EntityUID) bool { return a == group || w.entities[a].Parents.Contains(group) }
	switch s := scope.(type) {
	case ast.ScopeTypeEq:
		return a == s.Entity
	case ast.ScopeTypeIn:
		return in(s.Entity)
	case ast.ScopeTypeInSet:
		return slices.ContainsFunc(s.Entities, in)
	}
	return true
}

// typeInScope reports whether an entity of the type can stand in a scope. It asks the type only where the scope names one.
func typeInScope(t types.EntityType, scope ast.IsScopeNode) bool {
	switch s := scope.(type) {
	case ast.ScopeTypeIs:
		return s.Type == t
	case ast.ScopeTypeIsIn:
		return s.Type == t
	case ast.ScopeTypeEq:
		return s.Entity.Type == t
	}
	return true
}
