// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/api/client"
	"chaperone/internal/approval"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/secret"
	"chaperone/internal/store"
)

func TestPeopleAndAgents(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	ben := h.add("ben", []string{"finance"}, people.Approver)
	me, err := ben.Whoami(ctx)
	if err != nil || me.Name != "ben" || me.Kind != "person" || me.JKT == "" {
		t.Fatalf("%+v %v", me, err)
	}
	_, err = ben.AddPerson(ctx, client.AddPerson{Name: "eve", Roles: []people.Role{people.Operator}})
	wantCode(t, err, fault.Denied, "access_denied")
	no, ok := errors.AsType[*client.Refusal](err)
	if !ok || no.Problem.Rule != policy.RuleDefaultDeny || no.Problem.Decision == "" || no.Problem.Status != http.StatusForbidden {
		t.Fatalf("%+v", no)
	}
	e, err := ben.Explain(ctx, no.Problem.Decision)
	if err != nil || e.Effect != "forbid" || len(e.Lift) == 0 || e.Request == nil || e.Request.Action.Name != "person.add" || e.Reasons[0].Rule != policy.RuleDefaultDeny {
		t.Fatalf("%+v %v", e, err)
	}
	list, err := h.olga.People(ctx, client.Page{Limit: 1})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "ben" || list.Next != "ben" {
		t.Fatalf("%+v %v", list, err)
	}
	list, err = h.olga.People(ctx, client.Page{Limit: 1, After: list.Next})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "olga" || list.Next != "" {
		t.Fatalf("%+v %v", list, err)
	}
	if p, err := h.olga.SuspendPerson(ctx, "ben", "away"); err != nil || !p.Suspended {
		t.Fatalf("%+v %v", p, err)
	}
	_, err = ben.Whoami(ctx)
	wantCode(t, err, fault.Suspended, "person_suspended")
	if p, err := h.olga.ResumePerson(ctx, "ben", ""); err != nil || p.Suspended {
		t.Fatalf("%+v %v", p, err)
	}
	if code, err := h.olga.PersonCode(ctx, "ben"); err != nil || code.Code == "" {
		t.Fatalf("%+v %v", code, err)
	}

	if _, err := h.olga.PutType(ctx, "clerk", client.PutType{Reads: []string{"office/*"}}); err != nil {
		t.Fatal(err)
	}
	if types, err := h.olga.Types(ctx, client.Page{}); err != nil || len(types.Items) != 1 {
		t.Fatalf("%+v %v", types, err)
	}
	g, err := h.olga.Register(ctx, client.Register{Name: "clerk-1", Type: "clerk", Owner: "ben", Purpose: "files letters", ExpiresIn: 3600})
	if err != nil || time.Until(g.ExpiresAt) > time.Hour || time.Until(g.ExpiresAt) < 50*time.Minute {
		t.Fatalf("%+v %v", g, err)
	}
	code, err := h.olga.JoinCode(ctx, "clerk-1")
	if err != nil || code.Agent != "clerk-1" {
		t.Fatalf("%+v %v", code, err)
	}
	key, _ := identity.NewKey()
	in, err := client.Enrol(ctx, h.issuer, key, code.Code, client.Config{})
	if err != nil || in.AgentName != "clerk-1" || in.ClientID == "" || in.LogKey == "" {
		t.Fatalf("%+v %v", in, err)
	}
	_, err = client.Enrol(ctx, h.issuer, key, code.Code, client.Config{})
	if err == nil || fault.CodeOf(err) == "http_status" {
		t.Fatalf("a code works once: %v", err)
	}
	copies, err := h.olga.Instances(ctx, "clerk-1", client.Page{})
	if err != nil || len(copies.Items) != 1 || copies.Items[0].ID.String() != in.Instance {
		t.Fatalf("%+v %v", copies, err)
	}
	if got, err := h.olga.Agent(ctx, g.ID.String()); err != nil || got.State != identity.Active {
		t.Fatalf("%+v %v", got, err)
	}

	r, err := h.olga.OpenRun(ctx, client.OpenRun{Agent: "clerk-1", Purpose: "file the letter"})
	if err != nil || !r.Clears() || r.Opener.Name != "olga" {
		t.Fatalf("%+v %v", r, err)
	}
	runs, err := h.olga.Runs(ctx, client.RunQuery{Agent: "clerk-1", State: "active"})
	if err != nil || len(runs.Items) != 1 {
		t.Fatalf("%+v %v", runs, err)
	}
	agent := client.New(h.api, client.Holder{Key: key, ClientID: in.ClientID, Issuer: h.issuer, Run: r.ID.String()}, client.Config{})
	if me, err := agent.Whoami(ctx); err != nil || me.Kind != "agent" || me.Run != r.ID.String() {
		t.Fatalf("%+v %v", me, err)
	}
	if got, err := agent.Run(ctx, r.ID.String()); err != nil || got.ID != r.ID {
		t.Fatalf("an agent sees its own run: %+v %v", got, err)
	}
	_, err = agent.Agents(ctx, client.Page{})
	wantCode(t, err, fault.Denied, "access_denied")

	if got, err := h.olga.EndRun(ctx, r.ID.String(), "done"); err != nil || got.State != "ended" {
		t.Fatalf("%+v %v", got, err)
	}
	_, err = agent.Whoami(ctx)
	wantCode(t, err, fault.Suspended, "run_ended")
	for _, step := range []struct {
		do    func() (identity.Agent, error)
		state identity.State
	}{
		{func() (identity.Agent, error) { return h.olga.SuspendAgent(ctx, "clerk-1", "odd") }, identity.Suspended},
		{func() (identity.Agent, error) { return h.olga.ResumeAgent(ctx, "clerk-1", "") }, identity.Active},
		{func() (identity.Agent, error) { return h.olga.RetireAgent(ctx, "clerk-1", "over") }, identity.Retired},
	} {
		if g, err := step.do(); err != nil || g.State != step.state {
			t.Fatalf("%+v %v", g, err)
		}
	}
	_, err = h.olga.ResumeAgent(ctx, "clerk-1", "")
	wantCode(t, err, fault.Conflict, "illegal_transition")
	_, err = h.olga.Agent(ctx, "nobody")
	if !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	_, err = h.olga.RevokeInstance(ctx, "not-an-id", "")
	wantCode(t, err, fault.Invalid, "bad_id")
}

func TestRulesOverHTTP(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	_, err := h.olga.PutServer(ctx, "office", client.PutServer{URL: "http://127.0.0.1:9000/mcp", AllowLoopback: true, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.olga.PutServer(ctx, "office", client.PutServer{URL: "http://127.0.0.1:9000/mcp", AllowLoopback: true, Create: true})
	wantCode(t, err, fault.Exists, "server_name_taken")
	raw := `{"name":"pay","description":"pays <money> & more","inputSchema":{"type":"object"}}`
	h.offer = []govern.Definition{{Kind: catalog.KindTool, Name: "pay", Raw: []byte(raw)}}
	shown, err := h.olga.Pin(ctx, "office", client.PinRequest{})
	if err != nil || len(shown.Items) != 1 || shown.Items[0].Item != "tool:pay" || shown.Items[0].State != "new" || string(shown.Items[0].Raw) != raw {
		t.Fatalf("%+v %v", shown, err)
	}
	if got, err := h.olga.Pin(ctx, "office", client.PinRequest{Accept: []string{"tool:pay"}, Expect: shown.Digest}); err != nil || !got.Items[0].Accepted {
		t.Fatalf("%+v %v", got, err)
	}
	if pins, err := h.olga.Pins(ctx, "office", client.Page{}); err != nil || len(pins.Items) != 1 || pins.Items[0].By != "olga" {
		t.Fatalf("%+v %v", pins, err)
	}
	yaml := "version: 1\nservers:\n  office:\n    tools:\n      pay:\n        effect: irreversible\n        stakes: [money]\n"
	applied, err := h.olga.ApplyCatalog(ctx, []byte(yaml))
	if err != nil || len(applied.Items) != 1 {
		t.Fatalf("%+v %v", applied, err)
	}
	if cat, err := h.olga.Catalog(ctx); err != nil || cat.Version != applied.Version || len(cat.Items) != 1 || !cat.Items[0].Known {
		t.Fatalf("%+v %v", cat, err)
	}
	_, err = h.olga.ApplyCatalog(ctx, nil)
	wantCode(t, err, fault.Invalid, "bad_catalogue")

	s, err := h.olga.PutSecret(ctx, "office", client.PutSecret{Value: "canary-value-1", Place: secret.Bearer})
	if err != nil || s.Version != 1 {
		t.Fatalf("%+v %v", s, err)
	}
	list, err := h.olga.Secrets(ctx, client.Page{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	resp, b := h.raw("GET", "/api/secrets", "", h.access("GET", "/api/secrets", h.olgaKey))
	if resp.StatusCode != 200 || bytes.Contains(b, []byte("canary")) || bytes.Contains(b, []byte("blob")) {
		t.Fatalf("%s", b)
	}
	if err := h.olga.DeleteSecret(ctx, "office"); err != nil {
		t.Fatal(err)
	}

	b0, err := h.olga.ActivePolicy(ctx)
	if err != nil || b0.Version != 1 || len(b0.Files) != 3 {
		t.Fatalf("%+v %v", b0.Version, err)
	}
	b0.Files["house.cedar"] = "forbid (principal, action, resource);"
	checked, err := h.olga.CheckPolicy(ctx, b0.Files)
	if err != nil || checked.OK || len(checked.Problems) == 0 {
		t.Fatalf("%+v %v", checked, err)
	}
	_, err = h.olga.ApplyPolicy(ctx, client.ApplyPolicy{Files: b0.Files})
	wantCode(t, err, fault.Invalid, "policy_refused")
	if r, ok := errors.AsType[*client.Refusal](err); !ok || len(r.Problem.Problems) != len(checked.Problems) || r.Problem.Problems[0].File != "house.cedar" {
		t.Fatalf("%+v", r)
	}
	delete(b0.Files, "house.cedar")
	b1, err := h.olga.ApplyPolicy(ctx, client.ApplyPolicy{Files: b0.Files, Note: "again", Base: 1})
	if err != nil || b1.Version != 2 || !b1.Active {
		t.Fatalf("%+v %v", b1, err)
	}
	if all, err := h.olga.Policies(ctx, client.Page{}); err != nil || len(all.Items) != 2 || !all.Items[0].Active || all.Items[1].Active {
		t.Fatalf("%+v %v", all, err)
	}
	if st, err := h.olga.Status(ctx); err != nil || st.PolicyVersion != 2 || st.Version != "test" || !st.Ready {
		t.Fatalf("%+v %v", st, err)
	}
	doc, err := h.olga.Doctor(ctx)
	if err != nil || doc.OK || doc.Items[0].Code != "nobody_can_approve" {
		t.Fatalf("%+v %v", doc, err)
	}
}

func TestApprovalsOverHTTP(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	ben := h.add("ben", nil, people.Approver)
	args := `{"amount":1240,"memo":"<b>&\u2028</b>"}`
	a, err := approval.New(approval.Question{
		ID: id.NewApproval(time.Now()), Nonce: "n", PolicyDigest: "p", Expires: 15 * time.Minute, Tier: approval.Confirm,
		Rules: []approval.Rule{{ID: "irreversible-needs-approval", TextDigest: "d"}}, Require: []approval.Requirement{{Group: "approver", Number: 1}},
		Call:  approval.Call{Run: id.NewRun(time.Now()), Agent: id.NewAgent(time.Now()), Server: "office", Tool: "pay", Arguments: []byte(args)},
		Facts: approval.Facts{AgentName: "clerk-1", AgentOwner: "olga", Requester: "rita"},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.db.Update(ctx, func(tx store.Tx) error { return tx.Approvals().Insert(a) }); err != nil {
		t.Fatal(err)
	}
	list, err := ben.Approvals(ctx, "pending", client.Page{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	got, err := ben.Approval(ctx, a.ID.String())
	if err != nil || !got.May || got.BindingDigest != a.BindingDigest {
		t.Fatalf("%+v %v", got, err)
	}
	call, err := approval.CallDigest(got.Call)
	if err != nil || call != a.CallDigest {
		t.Fatalf("the payload does not give its digest on the other side: %v", err)
	}
	seen, err := h.olga.Approval(ctx, a.ID.String())
	if err != nil || seen.May || seen.WhyNot != "approval_excluded_owner" || seen.Why == "" {
		t.Fatalf("%+v %v", seen, err)
	}
	_, err = ben.Decide(ctx, a.ID.String(), client.Decide{Verdict: approval.Yes, BindingDigest: strings.Repeat("0", 64)})
	wantCode(t, err, fault.Conflict, "approval_binding_mismatch")
	got, err = ben.Decide(ctx, a.ID.String(), client.Decide{Verdict: approval.Yes, BindingDigest: got.BindingDigest, Channel: "cli"})
	if err != nil || got.State != approval.Approved || got.Decisions[0].Channel != "cli" {
		t.Fatalf("%+v %v", got, err)
	}

	resp, b := h.raw("GET", "/approvals/"+a.ID.String(), "", nil)
	page := string(b)
	if resp.StatusCode != 200 || !strings.Contains(page, "chaperone approval show "+a.ID.String()) || !strings.HasPrefix(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Fatalf("%d %s", resp.StatusCode, page)
	}
	for _, leak := range []string{"1240", "office", "clerk-1", "rita", "<script", "style=", "pending", a.BindingDigest} {
		if strings.Contains(page, leak) {
			t.Errorf("the page holds %q", leak)
		}
	}
	unknown, _ := h.raw("GET", "/approvals/"+id.NewApproval(time.Now()).String(), "", nil)
	if unknown.StatusCode != 200 {
		t.Fatal("the page tells which approvals exist")
	}
	if resp, b := h.raw("GET", "/approvals/%3Cscript%3E", "", nil); resp.StatusCode != http.StatusNotFound || bytes.Contains(b, []byte("<script>")) {
		t.Fatalf("%d %s", resp.StatusCode, b)
	}
}

func TestAskGrantAnswers(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	g := grant.Grant{ID: id.NewGrant(time.Now()), State: grant.Active}
	if _, err := h.olga.PutType(ctx, "clerk", client.PutType{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.olga.Register(ctx, client.Register{Name: "clerk-1", Type: "clerk", Owner: "olga", Purpose: "x"}); err != nil {
		t.Fatal(err)
	}
	r, err := h.olga.OpenRun(ctx, client.OpenRun{Agent: "clerk-1", Purpose: "x"})
	if err != nil {
		t.Fatal(err)
	}
	ask := client.AskGrant{Server: "office", Tool: "pay", Arguments: []byte(`{"amount":1}`)}
	h.asked = govern.Asked{Grant: g, Decision: id.NewDecision(time.Now())}
	if got, err := h.olga.AskGrant(ctx, r.ID.String(), ask); err != nil || got.State != "active" || got.Grant.ID != g.ID || got.Approval != nil {
		t.Fatalf("%+v %v", got, err)
	}
	g.State = grant.Requested
	h.asked = govern.Asked{Grant: g, Approval: govern.Waiting{ID: id.NewApproval(time.Now()), Link: "l", State: "pending"}}
	if got, err := h.olga.AskGrant(ctx, r.ID.String(), ask); err != nil || got.State != "requested" || got.Approval == nil {
		t.Fatalf("%+v %v", got, err)
	}
	h.asked = govern.Asked{Denied: true, Code: "policy_denied", Rule: "untrusted-sink", Reason: "no", Decision: id.NewDecision(time.Now())}
	_, err = h.olga.AskGrant(ctx, r.ID.String(), ask)
	wantCode(t, err, fault.Denied, "policy_denied")
	if no, ok := errors.AsType[*client.Refusal](err); !ok || no.Problem.Rule != "untrusted-sink" {
		t.Fatalf("%+v", no)
	}
	// What is hidden and what is not there get one answer.
	h.asked = govern.Asked{Denied: true, Code: "not_listed"}
	_, absent := h.olga.AskGrant(ctx, r.ID.String(), ask)
	wantCode(t, absent, fault.Denied, "not_listed")
	h.asked.Decision = id.NewDecision(time.Now())
	if _, hidden := h.olga.AskGrant(ctx, r.ID.String(), ask); hidden == nil || hidden.Error() != absent.Error() || !sameProblem(hidden, absent) {
		t.Errorf("hidden: %v\nabsent: %v", hidden, absent)
	}
	_, err = h.olga.AskGrant(ctx, id.NewRun(time.Now()).String(), ask)
	if !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	if list, err := h.olga.RunGrants(ctx, r.ID.String(), client.Page{}); err != nil || len(list.Items) != 0 {
		t.Fatalf("%+v %v", list, err)
	}
	if list, err := h.olga.Grants(ctx, client.GrantQuery{State: "active"}); err != nil || list.Items == nil {
		t.Fatalf("%+v %v", list, err)
	}
}

func sameProblem(a, b error) bool {
	x, ok1 := errors.AsType[*client.Refusal](a)
	y, ok2 := errors.AsType[*client.Refusal](b)
	return ok1 && ok2 && cmp.Equal(x.Problem, y.Problem)
}

func TestRecordOverHTTP(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	first, err := h.olga.Events(ctx, client.EventQuery{Limit: 2})
	if err != nil || len(first.Items) != 2 || first.Items[0].Position != 0 || first.Next != "1" {
		t.Fatalf("%+v %v", first, err)
	}
	rest, err := h.olga.Events(ctx, client.EventQuery{After: first.Next, Limit: 1000})
	if err != nil || len(rest.Items) == 0 || rest.Items[0].Position != 2 || rest.Next != "" {
		t.Fatalf("%+v %v", rest, err)
	}
	newest, err := h.olga.Events(ctx, client.EventQuery{Newest: true, Limit: 1})
	if err != nil || newest.Items[0].Position < rest.Items[len(rest.Items)-1].Position {
		t.Fatalf("%+v %v", newest, err)
	}
	added, err := h.olga.Events(ctx, client.EventQuery{Type: "person.added"})
	if err != nil || len(added.Items) != 1 {
		t.Fatalf("%+v %v", added, err)
	}
	_, err = h.olga.Events(ctx, client.EventQuery{Agent: "nobody"})
	if !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := h.olga.Export(ctx, &out); err != nil || out.String() != "tar" {
		t.Fatalf("%q %v", out.String(), err)
	}
	h.export = func(w io.Writer) error {
		_, _ = io.WriteString(w, strings.Repeat("half", 4096))
		return errors.New("disk of 4711 gone")
	}
	err = h.olga.Export(ctx, &out)
	wantCode(t, err, fault.Unavailable, "export_broken")
	if !strings.Contains(h.logText(), "export broke off") {
		t.Fatal("nobody was told")
	}
}

func TestPublicFiles(t *testing.T) {
	h := open(t)
	h.checks = []client.Check{{Name: "store", OK: true}}
	c := client.New(h.api, client.Holder{}, client.Config{})
	if b, err := c.Checkpoint(t.Context()); err != nil || string(b) != "checkpoint" {
		t.Fatalf("%s %v", b, err)
	}
	if b, err := c.Tile(t.Context(), "tile/0/000.p/1"); err != nil || string(b) != "tile/0/000.p/1" {
		t.Fatalf("%s %v", b, err)
	}
	for _, path := range []string{"tile/entries/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/64/000", "tile/0/x1/000", "tile/0/..%2f..%2fkeys", "keys", ""} {
		resp, b := h.raw("GET", "/log/"+path, "", nil)
		if p := problemOf(t, resp, b); resp.StatusCode != http.StatusNotFound || p.Code != "no_such_file" {
			t.Errorf("%s: %d %+v", path, resp.StatusCode, p)
		}
	}
	if resp, _ := h.raw("GET", "/healthz", "", nil); resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode)
	}
	if r, err := c.Ready(t.Context()); err != nil || !r.Ready {
		t.Fatalf("%+v %v", r, err)
	}
	h.checks = append(h.checks, client.Check{Name: "record", Detail: "behind"})
	resp, _ := h.raw("GET", "/readyz", "", nil)
	r, err := c.Ready(t.Context())
	if resp.StatusCode != http.StatusServiceUnavailable || err != nil || r.Ready || len(r.Checks) != 2 || r.Checks[1].Detail != "behind" {
		t.Fatalf("%d %+v %v", resp.StatusCode, r, err)
	}
	_, err = c.Whoami(t.Context())
	wantCode(t, err, fault.Unauthenticated, "not_logged_in")
}
