// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"encoding/json"
	"testing"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/people"
	"chaperone/internal/store"
)

// ask files an approval of a payment by clerk-1, owned by olga, asked by rita.
func (h *house) ask(change ...func(*approval.Question)) approval.Approval {
	h.t.Helper()
	q := approval.Question{
		ID: id.NewApproval(h.now()), Nonce: "n", PolicyDigest: "p", Expires: 15 * time.Minute, Tier: approval.Confirm,
		Rules:   []approval.Rule{{ID: "irreversible-needs-approval", TextDigest: "d"}},
		Require: []approval.Requirement{{Group: "approver", Number: 1}},
		Call: approval.Call{Run: id.NewRun(h.now()), Agent: id.NewAgent(h.now()), Server: "office", Kind: "tool", Tool: "payment_send",
			Arguments: json.RawMessage(`{"amount":1240,"iban":"DE89370400440532013000"}`), Effect: "irreversible"},
		Facts: approval.Facts{AgentName: "clerk-1", AgentOwner: "olga", Requester: "rita", Purpose: "pay the bill"},
	}
	for _, c := range change {
		c(&q)
	}
	a, err := approval.New(q, h.now())
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.store.Update(h.t.Context(), func(tx store.Tx) error { return tx.Approvals().Insert(a) }); err != nil {
		h.t.Fatal(err)
	}
	return a
}

func decide(v approval.Verdict, a approval.Approval) approval.Decision {
	return approval.Decision{Verdict: v, BindingDigest: a.BindingDigest, Channel: "cli", Reason: "seen"}
}

func withApprovers(t *testing.T) *house {
	h := open(t)
	for _, name := range []string{"ben", "cyd", "rita"} {
		h.add(name, []people.Role{people.Approver})
	}
	h.wait(25 * time.Hour) // the shipped policies and the people were set up yesterday
	return h
}

func TestDecideApproval(t *testing.T) {
	h := withApprovers(t)
	a := h.ask()
	v, err := h.road.Approval(t.Context(), h.as("ben"), a.ID)
	if err != nil || v.Not != nil || string(v.Call.Arguments) != `{"amount":1240,"iban":"DE89370400440532013000"}` || v.Link != "http://127.0.0.1:7401/approvals/"+a.ID.String() {
		t.Fatalf("%+v %v", v, err)
	}
	v, err = h.road.Approval(t.Context(), h.as("rita"), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, v.Not, fault.Denied, "approval_excluded_requester")

	_, err = h.road.DecideApproval(t.Context(), h.as("rita"), a.ID, decide(approval.Yes, a))
	wantCode(t, err, fault.Denied, "approval_excluded_requester")
	h.wantDenied(t, second(h.road.DecideApproval(t.Context(), h.as("olga"), a.ID, decide(approval.Yes, a))), "default-deny")
	_, err = h.road.DecideApproval(t.Context(), h.as("ben"), a.ID, approval.Decision{Verdict: approval.Yes, BindingDigest: a.CallDigest})
	wantCode(t, err, fault.Conflict, "approval_binding_mismatch")

	v, err = h.road.DecideApproval(t.Context(), h.as("ben"), a.ID, decide(approval.Yes, a))
	if err != nil || v.State != approval.Approved {
		t.Fatalf("%+v %v", v, err)
	}
	ev := h.last(audit.ApprovalDecided)
	if ev.Approval != a.ID || ev.Actor.Name != "ben" || ev.Run != a.Call.Run || ev.Tool != "payment_send" {
		t.Fatalf("%+v", ev)
	}
	_, err = h.road.DecideApproval(t.Context(), h.as("cyd"), a.ID, decide(approval.No, a))
	wantCode(t, err, fault.Conflict, "approval_closed")
	_, err = h.road.Approval(t.Context(), h.as("ben"), id.NewApproval(h.now()))
	if !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
}

// TestAuthorsMayNotDecide: who changed the server, the tool's entry or pin, or the policies in the last 24 hours is excluded, also when
// they did it after the question was filed.
func TestAuthorsMayNotDecide(t *testing.T) {
	for _, what := range []string{"server", "entry", "pin", "other tool", "long ago"} {
		t.Run(what, func(t *testing.T) {
			h := withApprovers(t)
			a := h.ask()
			w := catalog.Authorship{Server: "office", Kind: catalog.KindTool, Name: "payment_send", Person: "ben", What: what, At: h.now()}
			switch what {
			case "server":
				w.Kind, w.Name = catalog.KindServer, ""
			case "other tool":
				w.Name = "mail_read"
			case "long ago":
				w.At = h.now().Add(-25 * time.Hour)
			}
			if err := h.store.Update(t.Context(), func(tx store.Tx) error { return tx.Pins().AddAuthor(w) }); err != nil {
				t.Fatal(err)
			}
			_, err := h.road.DecideApproval(t.Context(), h.as("ben"), a.ID, decide(approval.Yes, a))
			if what == "other tool" || what == "long ago" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantCode(t, err, fault.Denied, "approval_excluded_author_of_change")
			v, err := h.road.DecideApproval(t.Context(), h.as("cyd"), a.ID, decide(approval.Yes, a))
			if err != nil || v.State != approval.Approved {
				t.Fatalf("%+v %v", v, err)
			}
		})
	}
	t.Run("policies", func(t *testing.T) {
		h := withApprovers(t)
		h.add("zoe", []people.Role{people.Operator, people.Approver})
		files := map[string]string{}
		b, err := h.road.ActivePolicy(t.Context(), h.as("zoe"))
		if err != nil {
			t.Fatal(err)
		}
		for n, text := range b.Files {
			files[n] = text + "\n"
		}
		a := h.ask()
		if _, err := h.road.ApplyPolicy(t.Context(), h.as("zoe"), files, "", 0); err != nil {
			t.Fatal(err)
		}
		_, err = h.road.DecideApproval(t.Context(), h.as("zoe"), a.ID, decide(approval.Yes, a))
		wantCode(t, err, fault.Denied, "approval_excluded_author_of_change")
	})
}

func TestExpireApprovals(t *testing.T) {
	h := withApprovers(t)
	a := h.ask()
	h.wait(15 * time.Minute)
	all, err := h.road.Approvals(t.Context(), h.as("ben"), approval.Pending, 0)
	if err != nil || len(all) != 0 {
		t.Fatalf("past its end it is not pending: %v %v", all, err)
	}
	all, err = h.road.Approvals(t.Context(), h.as("ben"), approval.Expired, 0)
	if err != nil || len(all) != 1 {
		t.Fatalf("%v %v", all, err)
	}
	_, err = h.road.DecideApproval(t.Context(), h.as("ben"), a.ID, decide(approval.Yes, a))
	wantCode(t, err, fault.Conflict, "approval_expired")
	if n, err := h.road.ExpireApprovals(t.Context()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if v := h.last(audit.ApprovalExpired); v.Approval != a.ID || v.Stream != audit.Agents {
		t.Fatalf("%+v", v)
	}
	if n, err := h.road.ExpireApprovals(t.Context()); n != 0 || err != nil {
		t.Fatal(n, err)
	}
}

// TestTwoDecideAtOnce: two approvers at the same moment both count, and a quorum of two needs both.
func TestTwoDecideAtOnce(t *testing.T) {
	h := withApprovers(t)
	a := h.ask(func(q *approval.Question) { q.Require = []approval.Requirement{{Group: "approver", Number: 2}} })
	errs := make(chan error, 2)
	for _, name := range []string{"ben", "cyd"} {
		c := h.as(name)
		go func() { errs <- second(h.road.DecideApproval(t.Context(), c, a.ID, decide(approval.Yes, a))) }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	v, err := h.road.Approval(t.Context(), h.as("ben"), a.ID)
	if err != nil || v.State != approval.Approved || len(v.Decisions) != 2 {
		t.Fatalf("%+v %v", v, err)
	}
}
