// SPDX-License-Identifier: Apache-2.0

package approval

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

var update = flag.Bool("update", false, "write docs/vectors/approval.json")

var (
	t0       = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	fixRun   = id.NewRun(t0)
	fixAgent = id.NewAgent(t0)
	aprID    = id.NewApproval(t0)
)

// question is the asking that the tests change by one thing each.
func question(change ...func(*Question)) Question {
	q := Question{
		ID: aprID,
		Call: Call{
			Run: fixRun, Agent: fixAgent, KeyThumbprint: "thumb", Server: "office",
			Endpoint: "https://office.example/mcp", Kind: "tool", Tool: "pay", ToolDigest: "d1", Arguments: json.RawMessage(`{"amount": 10, "to":"DE1"}`),
			CredentialRef: "office:1", Effect: "irreversible", Stakes: []string{"money"},
		},
		Rules:   []Rule{{ID: "irreversible-needs-approval", TextDigest: "abc", Reason: "cannot be undone"}},
		Require: []Requirement{{"approver", 1}}, Tier: Confirm, PolicyDigest: "p1", Nonce: "n1", Expires: 15 * time.Minute,
		Facts: Facts{AgentName: "mailer", AgentOwner: "olga", Requester: "rita", Purpose: "pay the bill", Excluded: []Exclusion{
			{Person: "carl", Why: ExcludedChain}, {Person: "anna", Why: ExcludedAuthor}, {Person: "xena", Email: "zed@example.org", Why: ExcludedChain},
		}},
	}
	for _, c := range change {
		c(&q)
	}
	return q
}

func asked(t testing.TB, change ...func(*Question)) Approval {
	t.Helper()
	a, err := New(question(change...), t0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func who(name string, groups ...string) Decider { return Decider{Name: name, Groups: groups} }

func yes(a Approval) Decision {
	return Decision{Verdict: Yes, BindingDigest: a.BindingDigest, Channel: "cli"}
}
func no(a Approval) Decision {
	return Decision{Verdict: No, BindingDigest: a.BindingDigest, Channel: "cli", Reason: "not this"}
}

func wantCode(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	if err == nil || fault.CodeOf(err) != code || fault.KindOf(err) != kind {
		t.Fatalf("got %v, want kind %s code %s", err, kind, code)
	}
}

func TestDecide(t *testing.T) {
	later := t0.Add(time.Minute)
	a := asked(t)
	rows := []struct {
		name string
		a    Approval
		d    Decision
		who  Decider
		at   time.Time
		kind fault.Kind
		code string
		want State
	}{
		{name: "yes by an approver", a: a, d: yes(a), who: who("ben", "approver"), want: Approved},
		{name: "no by an approver", a: a, d: no(a), who: who("ben", "approver"), want: Denied},
		{name: "who opened the run", a: a, d: yes(a), who: who("rita", "approver"), kind: fault.Denied, code: "approval_excluded_requester"},
		{name: "the owner", a: a, d: yes(a), who: who("olga", "approver"), kind: fault.Denied, code: "approval_excluded_owner"},
		{name: "in the chain", a: a, d: yes(a), who: who("carl", "approver"), kind: fault.Denied, code: "approval_excluded_chain"},
		{name: "author of the change", a: a, d: yes(a), who: who("anna", "approver"), kind: fault.Denied, code: "approval_excluded_author_of_change"},
		{name: "the owner by another alias", a: a, d: yes(a), who: Decider{Name: "o.smith", Aliases: []string{"OLGA"}, Groups: []string{"approver"}},
			kind: fault.Denied, code: "approval_excluded_owner"},
		{name: "excluded by address, tagged and in capitals", a: a, d: yes(a), who: Decider{Name: "zoe", Aliases: []string{"Zed+pay@Example.org"}, Groups: []string{"approver"}},
			kind: fault.Denied, code: "approval_excluded_chain"},
		{name: "not in the group", a: a, d: yes(a), who: who("ben", "operator"), kind: fault.Denied, code: "approval_not_eligible"},
		{name: "suspended", a: a, d: yes(a), who: Decider{Name: "ben", Groups: []string{"approver"}, Suspended: true}, kind: fault.Suspended, code: "person_suspended"},
		{name: "another digest", a: a, d: Decision{Verdict: Yes, BindingDigest: "00"}, who: who("ben", "approver"), kind: fault.Conflict, code: "approval_binding_mismatch"},
		{name: "no digest", a: a, d: Decision{Verdict: Yes}, who: who("ben", "approver"), kind: fault.Conflict, code: "approval_binding_mismatch"},
		{name: "too late", a: a, d: yes(a), who: who("ben", "approver"), at: t0.Add(15 * time.Minute), kind: fault.Conflict, code: "approval_expired"},
		{name: "no verdict", a: a, d: Decision{BindingDigest: a.BindingDigest}, who: who("ben", "approver"), kind: fault.Invalid, code: "approval_bad_verdict"},
		{name: "higher tier", a: asked(t, func(q *Question) { q.Tier = Strong }), d: yes(asked(t, func(q *Question) { q.Tier = Strong })), who: who("ben", "approver"),
			kind: fault.Denied, code: "approval_tier_unavailable"},
	}
	onBehalf := asked(t, func(q *Question) { q.Call.OnBehalfOf = "spiffe://chaperone.internal/person/uma" })
	rows = append(rows, struct {
		name string
		a    Approval
		d    Decision
		who  Decider
		at   time.Time
		kind fault.Kind
		code string
		want State
	}{name: "the user it acts for", a: onBehalf, d: yes(onBehalf), who: Decider{Name: "uma", Aliases: []string{"spiffe://chaperone.internal/person/uma"}, Groups: []string{"approver"}},
		kind: fault.Denied, code: "approval_excluded_on_behalf_of"})
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if r.at.IsZero() {
				r.at = later
			}
			got, err := Decide(r.a, r.d, r.who, r.at)
			if r.code != "" {
				wantCode(t, err, r.kind, r.code)
				if got.State != Pending || len(got.Decisions) != 0 {
					t.Fatalf("a refused decision changed the approval: %s, %d decisions", got.State, len(got.Decisions))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.State != r.want || len(got.Decisions) != 1 || got.Decisions[0].Person != r.who.Name {
				t.Fatalf("got %s with %v", got.State, got.Decisions)
			}
			if len(r.a.Decisions) != 0 {
				t.Fatal("the input was changed")
			}
		})
	}
}

func TestDecideQuorum(t *testing.T) {
	a := asked(t, func(q *Question) { q.Require = []Requirement{{"finance", 1}, {"security", 1}} })
	a, err := Decide(a, yes(a), who("both", "finance", "security"), t0)
	if err != nil || a.State != Pending {
		t.Fatalf("one person in both groups must not fill both rows: %s %v", a.State, err)
	}
	_, err = Decide(a, yes(a), who("both", "finance", "security"), t0)
	wantCode(t, err, fault.Conflict, "approval_duplicate")
	_, err = Decide(a, yes(a), Decider{Name: "other", Aliases: []string{"both"}, Groups: []string{"finance"}}, t0)
	wantCode(t, err, fault.Conflict, "approval_duplicate")
	denied, err := Decide(a, no(a), who("sec", "security"), t0)
	if err != nil || denied.State != Denied {
		t.Fatalf("a denial wins: %s %v", denied.State, err)
	}
	_, err = Decide(denied, yes(a), who("fin", "finance"), t0)
	wantCode(t, err, fault.Conflict, "approval_closed")
	a, err = Decide(a, yes(a), who("fin", "finance"), t0)
	if err != nil || a.State != Approved {
		t.Fatalf("finance by fin, security by both: %s %v", a.State, err)
	}
}

func TestSatisfiedMatching(t *testing.T) {
	d := func(name string, groups ...string) Decision {
		return Decision{Person: name, Groups: groups, Verdict: Yes}
	}
	rows := []struct {
		name string
		req  []Requirement
		dec  []Decision
		want bool
	}{
		{"no rows", nil, []Decision{d("a", "x")}, false},
		{"zero of a group", []Requirement{{"x", 0}}, []Decision{d("a", "x")}, false},
		{"one", []Requirement{{"x", 1}}, []Decision{d("a", "x")}, true},
		{"needs the augmenting path", []Requirement{{"x", 1}, {"y", 1}}, []Decision{d("a", "x", "y"), d("b", "x")}, true},
		{"same row twice is two people", []Requirement{{"x", 1}, {"x", 1}}, []Decision{d("a", "x")}, false},
		{"one person twice counts once", []Requirement{{"x", 2}}, []Decision{d("a", "x"), d("A", "x")}, false},
		{"three rows of two", []Requirement{{"x", 2}, {"y", 1}}, []Decision{d("a", "x", "y"), d("b", "x"), d("c", "x")}, true},
		{"a denial among them", []Requirement{{"x", 1}}, []Decision{d("a", "x"), {Person: "b", Groups: []string{"x"}, Verdict: No}}, false},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if got := Satisfied(Approval{Require: r.req, Decisions: r.dec}); got != r.want {
				t.Fatalf("got %v", got)
			}
		})
	}
}

func TestVerifyForUse(t *testing.T) {
	a := asked(t)
	ok, err := Decide(a, yes(a), who("ben", "approver", "finance"), t0)
	if err != nil {
		t.Fatal(err)
	}
	still := func(string) ([]string, bool) { return []string{"approver"}, true }
	if err := VerifyForUse(ok, still, t0); err != nil {
		t.Fatal(err)
	}
	consumed, err := Consume(ok, t0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Consume(consumed, t0)
	wantCode(t, err, fault.Conflict, "approval_consumed")

	change := func(f func(*Approval)) Approval {
		b := ok
		b.Decisions = slices.Clone(ok.Decisions)
		b.Binding.Rules = slices.Clone(ok.Binding.Rules)
		f(&b)
		return b
	}
	rows := []struct {
		name  string
		a     Approval
		still func(string) ([]string, bool)
		at    time.Time
		code  string
	}{
		{name: "pending", a: a, code: "approval_pending"},
		{name: "used", a: consumed, code: "approval_consumed"},
		{name: "too late", a: ok, at: t0.Add(15 * time.Minute), code: "approval_expired"},
		{name: "arguments changed", a: change(func(a *Approval) { a.Call.Arguments = json.RawMessage(`{"amount":11,"to":"DE1"}`) }), code: "approval_binding_mismatch"},
		{name: "arguments and digest changed", a: change(func(a *Approval) {
			a.Call.Arguments = json.RawMessage(`{"amount":11,"to":"DE1"}`)
			a.CallDigest, _ = CallDigest(a.Call)
		}), code: "approval_binding_mismatch"},
		{name: "lifted rules changed", a: change(func(a *Approval) { a.Binding.Rules[0].ID = "untrusted-sink" }), code: "approval_binding_mismatch"},
		{name: "lifetime stretched", a: change(func(a *Approval) { a.Binding.NotAfter = a.Binding.NotAfter.Add(time.Hour) }), code: "approval_binding_mismatch"},
		{name: "another approval's binding", a: change(func(a *Approval) { a.ID = id.NewApproval(t0) }), code: "approval_binding_mismatch"},
		{name: "decided on something else", a: change(func(a *Approval) { a.Decisions[0].BindingDigest = "00" }), code: "approval_binding_mismatch"},
		{name: "who said yes became the owner", a: change(func(a *Approval) { a.AgentOwner = "ben" }), code: "approval_excluded_owner"},
		{name: "left the group", a: ok, still: func(string) ([]string, bool) { return []string{"finance"}, true }, code: "approval_quorum_lost"},
		{name: "joined another group only", a: change(func(a *Approval) { a.Decisions[0].Groups = []string{"finance"} }), code: "approval_quorum_lost"},
		{name: "suspended since", a: ok, still: func(string) ([]string, bool) { return []string{"approver"}, false }, code: "approval_quorum_lost"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if r.still == nil {
				r.still = still
			}
			if r.at.IsZero() {
				r.at = t0.Add(time.Minute)
			}
			wantCode(t, VerifyForUse(r.a, r.still, r.at), fault.Conflict, r.code)
		})
	}
}

func TestTransitions(t *testing.T) {
	a := asked(t)
	_, err := Expire(a, t0)
	wantCode(t, err, fault.Conflict, "approval_not_expired")
	if e, err := Expire(a, t0.Add(time.Hour)); err != nil || e.State != Expired {
		t.Fatal(e.State, err)
	}
	c, err := Cancel(a, "the run ended", t0)
	if err != nil || c.State != Cancelled || c.Reason != "the run ended" {
		t.Fatal(c.State, err)
	}
	for _, f := range []func(Approval) (Approval, error){
		func(a Approval) (Approval, error) { return Cancel(a, "", t0) },
		func(a Approval) (Approval, error) { return Expire(a, t0.Add(time.Hour)) },
		func(a Approval) (Approval, error) { return Decide(a, yes(a), who("ben", "approver"), t0) },
	} {
		_, err := f(c)
		wantCode(t, err, fault.Conflict, "approval_closed")
	}
	_, err = Consume(a, t0)
	wantCode(t, err, fault.Conflict, "approval_pending")
	ok, _ := Decide(a, yes(a), who("ben", "approver"), t0)
	_, err = Consume(ok, t0.Add(time.Hour))
	wantCode(t, err, fault.Conflict, "approval_expired")
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Question){
		"no rule":       func(q *Question) { q.Rules = nil },
		"no row":        func(q *Question) { q.Require = nil },
		"nobody of":     func(q *Question) { q.Require = []Requirement{{"finance", 0}} },
		"no group":      func(q *Question) { q.Require = []Requirement{{"", 1}} },
		"no end":        func(q *Question) { q.Expires = 0 },
		"too long":      func(q *Question) { q.Expires = 25 * time.Hour },
		"no nonce":      func(q *Question) { q.Nonce = "" },
		"no policy":     func(q *Question) { q.PolicyDigest = "" },
		"no identifier": func(q *Question) { q.ID = id.Approval{} },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(question(change), t0)
			wantCode(t, err, fault.Invalid, "approval_bad_question")
		})
	}
	_, err := New(question(func(q *Question) { q.Call.Arguments = json.RawMessage(`{"a":1,"a":2}`) }), t0)
	wantCode(t, err, fault.Invalid, "json_duplicate_key")
}

func TestDigestsFindAndTell(t *testing.T) {
	a := asked(t)
	same := asked(t, func(q *Question) {
		q.Call.Arguments = json.RawMessage(`{ "to":"DE1", "amount":1.0e1 }`)
		q.Call.Stakes = []string{"money", "money"}
	})
	if same.CallDigest != a.CallDigest {
		t.Fatal("one call in two spellings has two digests")
	}
	for name, change := range map[string]func(*Question){
		"arguments":   func(q *Question) { q.Call.Arguments = json.RawMessage(`{"amount": 11, "to":"DE1"}`) },
		"run":         func(q *Question) { q.Call.Run = id.NewRun(t0) },
		"agent":       func(q *Question) { q.Call.Agent = id.NewAgent(t0) },
		"key":         func(q *Question) { q.Call.KeyThumbprint = "other" },
		"on behalf":   func(q *Question) { q.Call.OnBehalfOf = "uma" },
		"chain":       func(q *Question) { q.Call.ChainDigest = "c" },
		"server":      func(q *Question) { q.Call.Server = "other" },
		"endpoint":    func(q *Question) { q.Call.Endpoint = "https://evil.example/mcp" },
		"kind":        func(q *Question) { q.Call.Kind = "prompt" },
		"tool":        func(q *Question) { q.Call.Tool = "other" },
		"definition":  func(q *Question) { q.Call.ToolDigest = "d2" },
		"credential":  func(q *Question) { q.Call.CredentialRef = "office:2" },
		"effect":      func(q *Question) { q.Call.Effect = "write" },
		"more stakes": func(q *Question) { q.Call.Stakes = []string{"money", "access"} },
	} {
		if asked(t, change).CallDigest == a.CallDigest {
			t.Errorf("%s does not move the call digest", name)
		}
	}
	for name, change := range map[string]func(*Question){
		"call":   func(q *Question) { q.Call.Tool = "other" },
		"policy": func(q *Question) { q.PolicyDigest = "p2" },
		"nonce":  func(q *Question) { q.Nonce = "n2" },
		"rules":  func(q *Question) { q.Rules = append(q.Rules, Rule{ID: "z", TextDigest: "y"}) },
		"text":   func(q *Question) { q.Rules = []Rule{{ID: "irreversible-needs-approval", TextDigest: "other"}} },
		"end":    func(q *Question) { q.Expires = 14 * time.Minute },
		"id":     func(q *Question) { q.ID = id.NewApproval(t0) },
	} {
		if asked(t, change).BindingDigest == a.BindingDigest {
			t.Errorf("%s does not move the binding digest", name)
		}
	}
}

func TestSameRules(t *testing.T) {
	a := []Rule{{ID: "a", TextDigest: "1", Reason: "old words"}, {ID: "b", TextDigest: "2"}}
	b := []Rule{{ID: "b", TextDigest: "2"}, {ID: "a", TextDigest: "1", Reason: "new words"}}
	if !SameRules(a, b) {
		t.Fatal("order and words do not matter")
	}
	b[0].TextDigest = "3"
	if SameRules(a, b) || SameRules(a, a[:1]) || SameRules(nil, a) {
		t.Fatal("text and number matter")
	}
}

type vector struct {
	Note          string  `json:"note"`
	Call          Call    `json:"call"`
	CallCanonical string  `json:"call_canonical"`
	CallDigest    string  `json:"call_digest"`
	Binding       Binding `json:"binding"`
	Canonical     string  `json:"binding_canonical"`
	BindingDigest string  `json:"binding_digest"`
}

func TestVectors(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "vectors", "approval.json")
	if *update {
		var out []vector
		for _, v := range vectorInputs(t) {
			out = append(out, v)
		}
		b, _ := json.MarshalIndent(out, "", "  ")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 3 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Note, func(t *testing.T) {
			call, err := CallDigest(v.Call)
			if err != nil {
				t.Fatal(err)
			}
			bound, err := BindingDigest(v.Binding)
			if err != nil {
				t.Fatal(err)
			}
			got := []string{call, bound, canon.Sum([]byte(v.CallCanonical)), canon.Sum([]byte(v.Canonical))}
			want := []string{v.CallDigest, v.BindingDigest, v.CallDigest, v.BindingDigest}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func vectorInputs(t *testing.T) []vector {
	var out []vector
	add := func(note string, q Question) {
		a, err := New(q, t0)
		if err != nil {
			t.Fatal(err)
		}
		cb, _ := canon.Marshal(a.Call)
		bb, _ := canon.Marshal(a.Binding)
		out = append(out, vector{Note: note, Call: a.Call, CallCanonical: string(cb), CallDigest: a.CallDigest,
			Binding: a.Binding, Canonical: string(bb), BindingDigest: a.BindingDigest})
	}
	add("a payment", question())
	add("two rules, on behalf of a user, no stakes", question(func(q *Question) {
		q.Rules = append(q.Rules, Rule{ID: "a-first", TextDigest: "00ff"})
		q.Call.OnBehalfOf, q.Call.ChainDigest, q.Call.Stakes = "spiffe://chaperone.internal/person/uma", "c0ffee", nil
	}))
	add("text beyond ASCII and odd numbers", question(func(q *Question) {
		q.Call.Arguments = json.RawMessage(`{"\u00fc":"\ud83d\ude00","z":1e21,"a":-0,"n":[0.1,1E2]}`)
	}))
	return out
}
