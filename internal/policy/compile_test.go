// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chaperone/internal/canon"
)

const liftClause = ` unless { context has approval && context.approval.satisfies.contains("x") };`

func TestCompileRefuses(t *testing.T) {
	tools := officeTools(t)
	const permit = `permit(principal is Chaperone::Agent, action in Chaperone::Action::"effects", resource)`
	const forbid = `forbid(principal is Chaperone::Agent, action in Chaperone::Action::"effects", resource)`
	for _, c := range []struct{ name, text, code string }{
		{"no id", permit + ";", "rule_without_id"},
		{"empty id", `@id("") ` + permit + ";", "rule_without_id"},
		{"id without value", `@id ` + permit + ";", "rule_without_id"},
		{"id with capitals", `@id("X") ` + permit + ";", "bad_id"},
		{"reserved id", `@id("default-deny") ` + permit + ";", "bad_id"},
		{"two of one id", `@id("x") ` + permit + `; @id("x") ` + permit + ";", "rule_duplicate_id"},
		{"misspelt annotation", `@id("x") @requires("approver:1") ` + forbid + ";", "unknown_annotation"},
		{"capital annotation", `@id("x") @Require("approver:1") ` + forbid + ";", "unknown_annotation"},
		{"require on a permit", `@id("x") @require("approver:1") ` + permit + liftClause, "require_on_permit"},
		{"tier alone", `@id("x") @tier("confirm") ` + forbid + ";", "bad_require"},
		{"expires alone", `@id("x") @expires("15m") ` + forbid + ";", "bad_require"},
		{"empty require", `@id("x") @require("") ` + forbid + liftClause, "bad_require"},
		{"require without number", `@id("x") @require("approver") ` + forbid + liftClause, "bad_require"},
		{"require of none", `@id("x") @require("approver:0") ` + forbid + liftClause, "bad_require"},
		{"require of too many", `@id("x") @require("approver:21") ` + forbid + liftClause, "bad_require"},
		{"require twice", `@id("x") @require("a:1,a:2") ` + forbid + liftClause, "bad_require"},
		{"require with a space in it", `@id("x") @require("a b:1") ` + forbid + liftClause, "bad_require"},
		{"strong", `@id("x") @require("a:1") @tier("strong") ` + forbid + liftClause, "tier_not_available"},
		{"phishing-resistant", `@id("x") @require("a:1") @tier("phishing-resistant") ` + forbid + liftClause, "tier_not_available"},
		{"unknown tier", `@id("x") @require("a:1") @tier("sure") ` + forbid + liftClause, "bad_tier"},
		{"empty tier", `@id("x") @require("a:1") @tier("") ` + forbid + liftClause, "bad_tier"},
		{"expires in words", `@id("x") @require("a:1") @expires("soon") ` + forbid + liftClause, "bad_expires"},
		{"expires too long", `@id("x") @require("a:1") @expires("25h") ` + forbid + liftClause, "bad_expires"},
		{"expires in the past", `@id("x") @require("a:1") @expires("-1m") ` + forbid + liftClause, "bad_expires"},
		{"not liftable", `@id("x") @require("a:1") ` + forbid + ";", "rule_not_liftable"},
		{"lifted by another's approval", `@id("y") @require("a:1") ` + forbid + liftClause, "rule_not_liftable"},
		{"when in place of unless", `@id("x") @require("a:1") ` + forbid + ` when { context has approval && context.approval.satisfies.contains("x") };`, "rule_not_liftable"},
		{"clause in a comment", `@id("x") @require("a:1") ` + forbid + " // " + liftClause + "\n;", "rule_not_liftable"},
		{"more than its own clause", `@id("x") @require("a:1") ` + forbid + ` when { !(context has approval) }` + liftClause, "approval_outside_unless"},
		{"also lifted by another's", `@id("x") @require("a:1") ` + forbid + ` unless { context has approval && context.approval.satisfies.contains("y") }` + liftClause, "approval_outside_unless"},
		{"lifted without require", `@id("x") ` + forbid + liftClause, "approval_outside_unless"},
		{"permitted by an approval", `@id("x") ` + permit + ` when { context has approval };`, "approval_outside_unless"},
		{"context as a value", `@id("x") ` + permit + ` when { [context].contains(context) };`, "context_as_value"},
		{"misspelt has", `@id("x") ` + forbid + ` when { context.arguments has amout && context.arguments.amout.greaterThan(decimal("1.0")) };`, "has_never_true"},
		{"misspelt optional fact", `@id("x") ` + forbid + ` when { context has rsk && context.rsk.score > 1 };`, "has_never_true"},
		{"has of another tool", `@id("x") forbid(principal, action == Chaperone::Action::"office/note_write", resource) when { context.arguments has amount };`, "has_never_true"},
		{"has behind a has", `@id("x") ` + forbid + ` when { context has risk && context.risk has scor };`, "has_never_true"},
		{"has in a branch", `@id("x") ` + forbid + ` when { if context.flow.untrusted then context.arguments has amout else false };`, "has_never_true"},
		{"has on the principal", `@id("x") ` + forbid + ` when { principal has ownr };`, "has_never_true"},
		{"tags", `@id("x") ` + forbid + ` when { principal.hasTag("a") };`, "has_never_true"},
		{"is of the wrong kind", `@id("x") ` + forbid + ` when { resource is Chaperone::Tool };`, "is_never_true"},
		{"is in of the wrong kind", `@id("x") ` + forbid + ` when { principal is Chaperone::Person in Chaperone::Group::"g" };`, "is_never_true"},
		{"in of the wrong kind", `@id("x") ` + forbid + ` when { principal in Chaperone::Group::"g" };`, "in_never_true"},
		{"equal of the wrong kind", `@id("x") ` + forbid + ` when { principal == Chaperone::Person::"p" };`, "eq_never_true"},
		{"misspelt server", `@id("x") forbid(principal, action in Chaperone::Action::"effects", resource in Chaperone::Server::"ofice");`, "unknown_server"},
		{"misspelt server in a condition", `@id("x") ` + forbid + ` when { resource in Chaperone::Server::"ofice" };`, "unknown_server"},
		{"misspelt tool", `@id("x") forbid(principal, action in Chaperone::Action::"effects", resource in Chaperone::Tool::"office/pay");`, "unknown_tool"},
		{"object of a misspelt tool", `@id("x") ` + forbid + ` when { resource == Chaperone::Object::"office/pay#1" };`, "unknown_tool"},
		{"misspelt action", `@id("x") permit(principal, action == Chaperone::Action::"office/pay", resource);`, "unknown_action"},
		{"misspelt group", `@id("x") forbid(principal, action in Chaperone::Action::"irreversable", resource);`, "unknown_action"},
		{"misspelt action in a condition", `@id("x") ` + forbid + ` when { action in Chaperone::Action::"irreversable" };`, "unknown_action"},
		{"no namespace", `@id("x") permit(principal is Agent, action in Chaperone::Action::"effects", resource);`, "unknown_entity_type"},
		{"unknown attribute", `@id("x") ` + forbid + ` when { context.flow.untrustd };`, "unknown_attribute"},
		{"unguarded argument", `@id("x") forbid(principal, action == Chaperone::Action::"office/note_write", resource) when { context.arguments.tags.contains("a") };`, "unguarded_attribute"},
		{"person on a tool", `@id("x") permit(principal is Chaperone::Person, action in Chaperone::Action::"effects", resource);`, "never_applies"},
		{"wrong type", `@id("x") ` + forbid + ` when { context.flow.level > 1 };`, "type_error"},
		{"decimal as a long", `@id("x") forbid(principal, action == Chaperone::Action::"office/payment_send", resource) when { context.arguments.amount > 10 };`, "type_error"},
		{"bad syntax", `@id("x") permit(principal, action resource);`, "syntax"},
		{"duplicate annotation", `@id("x") @id("y") ` + permit + ";", "syntax"},
		{"no end", `@id("x") ` + permit, "syntax"},
		{"open string", `@id("x`, "syntax"},
		{"nested beyond reason", `@id("x") ` + permit + ` when { ` + strings.Repeat("(", maxRule) + `true` + strings.Repeat(")", maxRule) + ` };`, "syntax"},
		{"empty", "// nothing\n", "bundle_empty"},
	} {
		_, problems := Compile(map[string]string{"a.cedar": c.text}, tools)
		found := false
		for _, p := range problems {
			found = found || p.Code == c.code && p.Fix != "" && p.Msg != ""
		}
		if !found {
			t.Errorf("%s: %+v, want %s", c.name, problems, c.code)
		}
	}
	for name, files := range map[string]map[string]string{
		"bad_file_name":    {"../a.cedar": "", "b.cedar": `@id("x") permit(principal, action, resource);`},
		"bundle_empty":     {},
		"bundle_too_large": {"a.cedar": strings.Repeat(" ", maxFile+1)},
	} {
		if s, problems := Compile(files, tools); s != nil || len(problems) == 0 || problems[0].Code != name {
			t.Errorf("%s: %+v", name, problems)
		}
	}
	for name, tools := range map[string][]Tool{
		"no server":      {{Name: "x"}},
		"two classes":    {{Server: "s", Name: "x", Groups: []string{"read", "write", "effects"}}},
		"no effects":     {{Server: "s", Name: "x", Groups: []string{"write"}}},
		"outward read":   {{Server: "s", Name: "x", Groups: []string{"read", "outward"}}},
		"unknown group":  {{Server: "s", Name: "x", Groups: []string{"read", "harmless"}}},
		"people":         {{Server: "s", Name: "x", Groups: []string{"read", "people"}}},
		"protocol":       {{Server: "s", Name: "x", Groups: []string{"read", "protocol"}}},
		"unknown kind":   {{Server: "s", Name: "x", Kind: "thing"}},
		"slashed server": {{Server: "s/t", Name: "x"}},
	} {
		if s, problems := Compile(DefaultFiles(), tools); s != nil || len(problems) == 0 || problems[0].Code != "bad_tool" {
			t.Errorf("%s: %+v", name, problems)
		}
	}
}

func TestProblemsAreAllThereAndInOrder(t *testing.T) {
	files := map[string]string{
		"b.cedar": "// one\n\n@id(\"x\")\npermit(principal, action, resource)\nwhen { context.nothing };\n\npermit(principal,action,resource);\n",
		"a.cedar": "@id(\"y\")\npermit(principal,\n  action resource);",
	}
	var got []string
	_, problems := Compile(files, nil)
	for _, p := range problems {
		got = append(got, fmt.Sprintf("%s:%d %s", p.File, p.Line, p.Code))
	}
	got = compact(got)
	want := []string{"a.cedar:3 syntax", "b.cedar:3 unknown_attribute", "b.cedar:7 rule_without_id"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func compact(in []string) []string {
	var out []string
	for _, s := range in {
		if len(out) == 0 || out[len(out)-1] != s {
			out = append(out, s)
		}
	}
	return out
}

func TestRuleInfo(t *testing.T) {
	text := "@id(\"x\") @reason(\"a; b // c \\\" d\")\n  @require(\"security:1, finance:2\") @expires(\"90s\")\nforbid(principal, action in Chaperone::Action::\"effects\", resource) // ; not yet\n" + liftClause
	s := mustCompile(t, map[string]string{"a.cedar": "// first;\n" + text + " // after"}, officeTools(t))
	want := RuleInfo{ID: "x", Reason: `a; b // c " d`, Effect: Forbid, File: "a.cedar", Line: 2, Text: text, Digest: canon.Sum([]byte(text)),
		Require: []Requirement{{"finance", 2}, {"security", 1}}, Tier: "confirm", Expires: 90 * time.Second}
	got, ok := s.Rule("x")
	if d := cmp.Diff(want, got); d != "" || !ok {
		t.Errorf("(-want +got)\n%s", d)
	}
	if _, ok := s.Rule("y"); ok {
		t.Error("there is a rule y")
	}
	d, err := DigestFiles(map[string]string{"a.cedar": "// first;\n" + text + " // after"})
	if err != nil || s.Digest() != d {
		t.Errorf("digest %s, want %s, %v", s.Digest(), d, err)
	}
}

// The order of files, of tools and of what Go's maps yield changes nothing.
func TestCompileIsDeterministic(t *testing.T) {
	tools := officeTools(t)
	files := DefaultFiles()
	files["z.cedar"] = files["people.cedar"]
	delete(files, "people.cedar")
	one, other := mustCompile(t, files, tools), mustCompile(t, DefaultFiles(), tools)
	rapid.Check(t, func(t *rapid.T) {
		shuffled := rapid.Permutation(tools).Draw(t, "tools")
		s, problems := Compile(maps.Clone(files), shuffled)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		req := drawRequest(t)
		a, b, c := s.Decide(req), one.Decide(req), other.Decide(req)
		if d := cmp.Diff(a, b) + cmp.Diff(b, c); d != "" {
			t.Fatal(d)
		}
	})
	bad := map[string]string{"a.cedar": `@id("x") forbid(principal, action, resource) when { context.a && context.b && principal.c };`}
	_, first := Compile(bad, tools)
	for range 5 {
		_, again := Compile(bad, tools)
		if d := cmp.Diff(first, again); d != "" || len(first) == 0 {
			t.Fatalf("problems differ:\n%s", d)
		}
	}
}

// The validator says of a rule the same on the whole schema and on what schemaFor leaves of it.
func TestSchemaForLeavesOutNothing(t *testing.T) {
	w, _ := buildWorld(officeTools(t))
	texts := []string{
		`forbid(principal, action in Chaperone::Action::"effects", resource) when { action in Chaperone::Action::"stakes:money" && context.nothing };`,
		`forbid(principal, action == Chaperone::Action::"office/payment_send", resource) when { action == Chaperone::Action::"office/mail_read" || action in [Chaperone::Action::"read", Chaperone::Action::"none"] };`,
		`permit(principal is Chaperone::Person, action in [Chaperone::Action::"effects", Chaperone::Action::"run.open"], resource) when { principal.name == context.credential };`,
		`permit(principal, action in Chaperone::Action::"people", resource) when { resource.owner == "x" };`,
		`permit(principal, action == Chaperone::Action::"office/none", resource) when { context.flow.untrusted };`,
	}
	for i, text := range ruleTexts() {
		texts = append(texts, fmt.Sprintf(text, fmt.Sprintf("r%d", i)))
	}
	bad := 0
	for _, text := range texts {
		var p cedar.Policy
		if err := p.UnmarshalCedar([]byte(text)); err != nil {
			t.Fatal(err)
		}
		rule := (*ast.Policy)(p.AST())
		say := func(s *resolved.Schema) []string {
			if err := validate.New(s, validate.WithStrict()).Policy("", rule); err != nil {
				bad++
				return slices.Sorted(slices.Values(strings.Split(err.Error(), "\n")))
			}
			return nil
		}
		if d := cmp.Diff(say(w.schema), say(w.schemaFor(rule))); d != "" {
			t.Errorf("%s\n(-whole +part)\n%s", text, d)
		}
	}
	if bad < 8 {
		t.Errorf("only %d complaints were compared", bad)
	}
}

func TestShapes(t *testing.T) {
	schema := `{"type":"object","properties":{
		"s":{"type":"string"},"i":{"type":"integer"},"n":{"type":"number"},"b":{"type":["boolean"]},
		"set":{"type":"array","items":{"type":"integer"}},"objs":{"type":"array","items":{"type":"object"}},
		"tuple":{"type":"array","prefixItems":[{"type":"string"}]},
		"union":{"type":["string","null"]},"any":{"anyOf":[{"type":"string"},{"type":"integer"}]},
		"map":{"type":"object","additionalProperties":{"type":"string"}},
		"rec":{"type":"object","properties":{"x":{"type":"string"}}},
		"ref":{"$ref":"#/$defs/N"},"wrapped":{"allOf":[{"$ref":"#/$defs/N"}],"description":"d"},"loop":{"$ref":"#/$defs/L"},
		"remote":{"$ref":"https://evil.test/x"},"enum":{"enum":["a","b"]},"mixed":{"enum":["a",1]},"const":{"const":"c"},"free":{}},
		"$defs":{"N":{"type":"integer"},"L":{"type":"object","properties":{"l":{"$ref":"#/$defs/L"},"v":{"type":"string"}}}}}`
	sh := shapeOf([]byte(schema))
	for _, c := range []struct {
		args     string
		want     string // the Cedar record
		unmapped []string
	}{
		{`{"s":"a","i":1,"n":1.5,"b":true,"set":[2,2,3],"rec":{"x":"y"},"ref":7,"wrapped":8,"enum":"a","const":"c"}`,
			`{"b":true, "const":"c", "enum":"a", "i":1, "n":decimal("1.5"), "rec":{"x":"y"}, "ref":7, "s":"a", "set":[2, 3], "wrapped":8}`, nil},
		{`{"objs":[{}],"tuple":["a"],"union":"a","any":1,"map":{"a":"b"},"remote":1,"mixed":"a","free":1,"unknown":1}`, `{}`,
			[]string{"objs", "tuple", "union", "any", "map", "remote", "mixed", "free", "unknown"}},
		{`{"s":1,"i":"1","n":"1","b":0,"set":[1,"2"],"rec":[1]}`, `{}`, []string{"s", "i", "n", "b", "set", "rec"}},
		{`{"s":null,"rec":{"x":null,"y":1}}`, `{"rec":{}}`, []string{"s", "rec.x", "rec.y"}},
		{`{"i":9223372036854775807,"n":922337203685477.5807}`, `{"i":9223372036854775807, "n":decimal("922337203685477.5807")}`, nil},
		{`{"i":9223372036854775808,"n":922337203685477.5808}`, `{}`, []string{"i", "n"}},
		{`{"i":1.0,"n":1e2}`, `{"i":1, "n":decimal("100.0")}`, nil},
		{`{"i":1.5,"n":0.00001}`, `{}`, []string{"i", "n"}},
		{`{"i":1e400,"n":1e-400}`, `{}`, []string{"i", "n"}},
		{`{"n":-0.5,"i":-7}`, `{"i":-7, "n":decimal("-0.5")}`, nil},
		{`{"loop":{"v":"a","l":{"v":"b"}}}`, `{"loop":{"l":{"v":"b"}, "v":"a"}}`, nil},
		{``, `{}`, nil},
		{`null`, `{}`, nil},
		{`[1]`, `{}`, []string{""}},
	} {
		got, unmapped, err := sh.mapArguments([]byte(c.args))
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		if text := string(got.MarshalCedar()); text != c.want {
			t.Errorf("%s: %s, want %s", c.args, text, c.want)
		}
		if d := cmp.Diff(c.unmapped, unmapped); d != "" {
			t.Errorf("%s: unmapped (-want +got)\n%s", c.args, d)
		}
	}
	if _, _, err := sh.mapArguments([]byte(`{"s":"a","s":"b"}`)); err == nil {
		t.Error("a repeated member is mapped")
	}
	for _, s := range []string{"", "no json", `"string"`, `{"type":"array"}`, `{"type":"object"}`} {
		if _, unmapped, err := shapeOf([]byte(s)).mapArguments([]byte(`{"a":1}`)); err != nil || len(unmapped) != 1 {
			t.Errorf("schema %q maps: %v %v", s, unmapped, err)
		}
	}
}

// A definition that refers to itself many times is read in bounded time.
func TestShapeIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"type":"object","properties":{"a":{"$ref":"#/$defs/L"}},"$defs":{"L":{"type":"object","properties":{`)
	for i := range 200 {
		fmt.Fprintf(&b, `"p%d":{"$ref":"#/$defs/L"},`, i)
	}
	b.WriteString(`"v":{"type":"string"}}}}}`)
	start := time.Now()
	shapeOf([]byte(b.String()))
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %v", d)
	}
}

func FuzzCompile(f *testing.F) {
	for _, text := range DefaultFiles() {
		f.Add(text)
	}
	f.Add(`@id("x") @require("a:1") forbid(principal, action in [Chaperone::Action::"read"], resource == Chaperone::Object::"office/mail_read#7") when { {"a": [context.flow]}["a"].contains(context.flow) || -1 * 2 < 3 }` + liftClause)
	tools := []Tool{{Server: "office", Name: "mail_read", Groups: []string{"read"}, InputSchema: []byte(`{"type":"object","properties":{"id":{"type":"string"}}}`)}}
	req := Request{Principal: Principal{Kind: "Agent", Name: "a"}, Action: Action{Name: "office/mail_read"}, Arguments: []byte(`{"id":"7"}`), Resource: Resource{ObjectID: "7"}}
	f.Fuzz(func(t *testing.T, text string) {
		s, problems := Compile(map[string]string{"a.cedar": text}, tools)
		if (s == nil) == (len(problems) == 0) {
			t.Fatalf("set and problems do not go together: %v", problems)
		}
		if s == nil {
			return
		}
		for _, r := range s.Rules() {
			if !strings.Contains(text, r.Text) || !strings.HasSuffix(r.Text, ";") {
				t.Fatalf("the rule's text %q is not in the file", r.Text)
			}
		}
		if d := s.Decide(req); (d.Effect == Permit || d.Missing != nil) && !s.CouldPermit(req) {
			t.Fatalf("%+v, but it is not listed", d)
		}
	})
}

func FuzzArguments(f *testing.F) {
	f.Add(`{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"array","items":{"type":"string"}}}}`, `{"a":1e3,"b":["x"],"c":{}}`)
	f.Add(`{"$ref":"#"}`, `{"a":-0.00010}`)
	f.Fuzz(func(t *testing.T, schema, args string) {
		sh := shapeOf([]byte(schema))
		rec, unmapped, err := sh.mapArguments([]byte(args))
		if err != nil {
			return
		}
		if n, err := canon.Parse([]byte(args), canon.Limits{}); err == nil && n.Kind == canon.Object && len(n.Members) > rec.Len()+len(unmapped) {
			t.Fatalf("%s lost a member: %s, %v", args, rec.MarshalCedar(), unmapped)
		}
	})
}
