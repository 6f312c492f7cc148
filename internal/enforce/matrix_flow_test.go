// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// Rows about labels, freshness and what is on the record.

const mailBob = `{"to":"bob@example.org","text":"hi"}`

var ownKey = run.Opener{Kind: run.ByAgent, Name: "mailer", JKT: "jkt-one"}

func TestMatrix_UntrustedSink(t *testing.T) {
	h := newHouse(t)
	h.want(h.call("read_mail", `{}`), enforce.Released, "")
	a := h.call("send_mail", `{"to":"eve@example.com","text":"hi"}`)
	h.wantRule(a, "untrusted-sink")
	b := h.call("pay", `{"iban":"GB82 WEST 1234 5698 7654 32","amount":5}`)
	h.wantRule(b, "untrusted-sink")
	if got := h.recorded(h.run.ID, audit.CallRefused, "denied"); got.Data.Outcome != audit.OutcomeDenied || len(got.Parts) != 2 {
		t.Errorf("%+v", got)
	}
	h.want(h.call("send_mail", mailBob), enforce.Released, "") // the honest task goes through
}

func TestMatrix_PurposeStatedByTheAgentsOwnKey(t *testing.T) {
	h := newHouse(t)
	own := h.open(ownKey, purpose)
	h.want(h.call("read_mail", `{}`, in(own)), enforce.Released, "")
	a := h.call("send_mail", mailBob, in(own)) // the agent itself stated bob
	h.wantRule(a, "untrusted-sink")
	clean := newHouse(t)
	own = clean.open(ownKey, purpose, func(o *run.Order) {
		o.Plan = []run.PlanStep{{Tool: "office/send_mail", Sinks: map[string][]string{"to": {"bob@example.org"}}}}
	})
	b := clean.call("send_mail", mailBob, in(own)) // nor does its plan clear
	clean.want(b, enforce.Pending, "approval_pending")
}

func TestMatrix_NewRunAfterPoison(t *testing.T) {
	h := newHouse(t)
	first := h.open(ownKey, purpose)
	h.want(h.call("read_mail", `{}`, in(first)), enforce.Released, "")
	second := h.open(ownKey, purpose)
	a := h.call("send_mail", mailBob, in(second))
	h.wantRule(a, "untrusted-sink")
	// A run that the agent's key had opened before the poison is not clean either.
	h2 := newHouse(t)
	early := h2.open(ownKey, purpose)
	late := h2.open(ownKey, purpose)
	h2.want(h2.call("read_mail", `{}`, in(late)), enforce.Released, "")
	a = h2.call("send_mail", mailBob, in(early))
	h2.wantRule(a, "untrusted-sink")
	// A person's run starts clean, and clears.
	fresh := h.open(run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "k"}, purpose)
	h.want(h.call("send_mail", mailBob, in(fresh)), enforce.Released, "")
}

func TestMatrix_ChildOfAPoisonedRun(t *testing.T) {
	h := newHouse(t)
	child := h.open(ownKey, "", func(o *run.Order) { o.Parent = &h.run })
	h.want(h.call("read_mail", `{}`), enforce.Released, "") // the parent reads after the child was opened
	a := h.call("send_mail", mailBob, in(child))
	h.wantRule(a, "untrusted-sink")
	// And the other way: what a child in the same hands reads is known to the parent.
	h2 := newHouse(t)
	child = h2.open(ownKey, "", func(o *run.Order) { o.Parent = &h2.run })
	h2.want(h2.call("read_mail", `{}`, in(child)), enforce.Released, "")
	if !h2.stored(h2.run.ID).Label.IsUntrusted() {
		t.Error("the parent stayed clean")
	}
}

// apply puts another bundle in force: the shipped pack with these rules in a file of their own.
func (h *house) apply(text string) {
	h.t.Helper()
	files := policy.DefaultFiles()
	if text != "" {
		files["local.cedar"] = text
	}
	sum, err := policy.DigestFiles(files)
	h.must(err)
	h.update(func(tx store.Tx) error {
		b, err := tx.Policies().Active()
		h.must(err)
		return tx.Policies().Insert(policy.Bundle{ID: id.NewBundle(start), Version: b.Version + 1, Digest: sum, Files: files, Author: "olga", At: start})
	})
}

func TestMatrix_PolicyEvaluationError(t *testing.T) {
	h := newHouse(t)
	h.apply(`@id("overflows") @reason("x") forbid (principal is Chaperone::Agent, action == Chaperone::Action::"office/note", resource)
		when { context.run.steps * 9223372036854775807 < 0 };`)
	h.must(h.lib.Refresh(t.Context()))
	h.want(h.call("list_files", `{}`), enforce.Released, "")
	h.want(h.call("list_files", `{}`), enforce.Released, "")
	a := h.call("note", `{}`)
	h.wantRule(a, policy.RuleError)
	if len(h.office.calls()) != 2 {
		t.Error("it was forwarded")
	}
	got := h.recorded(h.run.ID, audit.CallRefused, "denied")
	if got.Data.Decided.Rules[0].ID != policy.RuleError || len(got.Data.Decided.Errors) == 0 {
		t.Errorf("decided = %+v", got.Data.Decided)
	}
}

func TestMatrix_LogBehind(t *testing.T) {
	h := newHouse(t)
	h.mu.Lock()
	h.lag = 31 * time.Second
	h.mu.Unlock()
	h.want(h.call("note", `{}`), enforce.Failed, "record_behind")
	h.recorded(h.run.ID, audit.CallRefused, "record_behind")
	if len(h.office.calls()) != 0 {
		t.Error("it was forwarded")
	}
	h.want(h.call("list_files", `{}`), enforce.Released, "") // reads go on
}

func TestMatrix_RevocationViewTooOld(t *testing.T) {
	h := newHouse(t)
	h.mu.Lock()
	h.age = 31 * time.Second
	h.mu.Unlock()
	h.want(h.call("note", `{}`), enforce.Failed, "revocation_stale")
	h.recorded(h.run.ID, audit.CallRefused, "revocation_stale")
	h.want(h.call("list_files", `{}`), enforce.Released, "")
	h.mu.Lock()
	h.age = 6 * time.Minute
	h.mu.Unlock()
	h.want(h.call("list_files", `{}`), enforce.Failed, "revocation_stale")
}

// shaky moves the world under every decision, n times.
type shaky struct {
	store.Store
	left atomic.Int64
	move func(store.Tx) error
}

func (s *shaky) Update(ctx context.Context, fn func(store.Tx) error) error {
	if s.left.Add(-1) >= 0 {
		if err := s.Store.Update(ctx, s.move); err != nil {
			return err
		}
	}
	return s.Store.Update(ctx, fn)
}

func TestMatrix_SnapshotMoved(t *testing.T) {
	moves := map[string]func(h *house) func(store.Tx) error{
		"catalogue": func(h *house) func(store.Tx) error {
			return func(tx store.Tx) error { return tx.Catalog().PutEntry(entries()[0]) }
		},
		"run": func(h *house) func(store.Tx) error {
			return func(tx store.Tx) error {
				r, err := tx.Runs().Run(h.run.ID)
				if err != nil {
					return err
				}
				return tx.Runs().Update(r)
			}
		},
		"policy": func(h *house) func(store.Tx) error {
			return func(tx store.Tx) error {
				b, err := tx.Policies().Active()
				if err != nil {
					return err
				}
				b.ID, b.Version = id.NewBundle(start), b.Version+1
				return tx.Policies().Insert(b)
			}
		},
		"agent": func(h *house) func(store.Tx) error {
			return func(tx store.Tx) error {
				a, err := tx.Registry().Agent("mailer")
				if err != nil {
					return err
				}
				return tx.Registry().PutAgent(a)
			}
		},
		"type": func(h *house) func(store.Tx) error {
			n := 0
			return func(tx store.Tx) error {
				ty, err := tx.Registry().Type("assistant")
				if err != nil {
					return err
				}
				n++
				ty.UpdatedAt = start.Add(time.Duration(n) * time.Second)
				return tx.Registry().PutType(ty)
			}
		},
	}
	for name, move := range moves {
		for _, tool := range []string{"note", "list_files"} {
			t.Run(name+"/"+tool, func(t *testing.T) {
				var s *shaky
				h := newHouse(t, func(h *house) {
					s = &shaky{Store: h.db, move: move(h)}
					h.store = s
				})
				h.want(h.call("list_files", `{}`), enforce.Released, "")
				n := len(h.office.calls())
				s.left.Store(3)
				h.want(h.call(tool, `{}`), enforce.Released, "") // decided again, three times
				s.left.Store(4)
				a := h.call(tool, `{}`)
				h.want(a, enforce.Failed, "snapshot_moved")
				h.recorded(h.run.ID, audit.CallRefused, "snapshot_moved")
				if got := len(h.office.calls()); tool == "note" && got != n+1 {
					t.Errorf("forwarded %d times", got-n)
				}
			})
		}
	}
}

func TestMatrix_DecidedAnewMayBeDenied(t *testing.T) {
	// While the upstream answers, somebody takes the tool from the agent's type: nothing is released.
	var s *shaky
	h := newHouse(t, func(h *house) {
		s = &shaky{Store: h.db, move: func(tx store.Tx) error {
			return tx.Registry().PutType(identity.Type{Name: "assistant", UpdatedAt: start.Add(time.Minute)})
		}}
		h.store = s
	})
	h.want(h.call("list_files", `{}`), enforce.Released, "")
	s.left.Store(1)
	h.want(h.call("list_files", `{}`), enforce.Denied, enforce.CodeNotListed)
}

func TestMatrix_PoisonBetweenDecisionAndCommit(t *testing.T) {
	// Two calls at once: the mail that is read poisons the run before the payment's commit.
	var s *shaky
	h := newHouse(t, func(h *house) {
		s = &shaky{Store: h.db, move: func(tx store.Tx) error { return tx.Runs().Join(h.run.ID, entries()[0].Source) }}
		h.store = s
	})
	s.left.Store(1)
	h.want(h.call("send_mail", mailBob), enforce.Released, "")
	eve := `{"to":"eve@example.com","text":"hi"}`
	h2 := newHouse(t, func(h *house) {
		s = &shaky{Store: h.db, move: func(tx store.Tx) error { return tx.Runs().Join(h.run.ID, entries()[0].Source) }}
		h.store = s
	})
	h2.approved("send_mail", eve)
	s.left.Store(1)
	a := h2.call("send_mail", eve)
	h2.wantRule(a, "untrusted-sink")
}

func TestMatrix_ApproverNoLongerMay(t *testing.T) {
	for name, change := range map[string]func(*people.Person){
		"left the group": func(p *people.Person) { p.Roles = []people.Role{people.Auditor} },
		"suspended":      func(p *people.Person) { p.Suspended = true },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.approved("pay", pays)
			h.update(func(tx store.Tx) error {
				p, err := tx.People().Person("pia")
				h.must(err)
				change(&p)
				return tx.People().PutPerson(p)
			})
			h.want(h.call("pay", pays), enforce.Pending, "approval_pending")
			h.because("approval_quorum_lost")
			if len(h.office.calls()) != 0 {
				t.Error("it was forwarded")
			}
		})
	}
}

func TestMatrix_ApprovalUnderAnotherPolicy(t *testing.T) {
	h := newHouse(t)
	h.approved("pay", pays)
	h.apply("") // the same rules in a new version: the approval stands
	h.must(h.lib.Refresh(t.Context()))
	h.want(h.call("pay", pays), enforce.Released, "")

	h = newHouse(t)
	h.approved("pay", pays)
	h.apply(`@id("second-look") @reason("x") @require("approver:2") @tier("confirm") @expires("15m")
		forbid (principal is Chaperone::Agent, action == Chaperone::Action::"office/pay", resource)
		unless { context has approval && context.approval.satisfies.contains("second-look") };`)
	h.must(h.lib.Refresh(t.Context()))
	h.want(h.call("pay", pays), enforce.Pending, "approval_pending")
	h.because("approval_rules_changed")
	// A question that is still open is closed when it no longer asks for what is missing.
	h.apply("")
	h.must(h.lib.Refresh(t.Context()))
	other := strings.Replace(pays, "5", "6", 1)
	first := h.call("pay", other)
	h.apply(`@id("second-look") @reason("x") @require("approver:2") @tier("confirm") @expires("15m")
		forbid (principal is Chaperone::Agent, action == Chaperone::Action::"office/pay", resource)
		unless { context has approval && context.approval.satisfies.contains("second-look") };`)
	h.must(h.lib.Refresh(t.Context()))
	second := h.call("pay", other)
	h.want(second, enforce.Pending, "approval_pending")
	if first.Approval.ID == second.Approval.ID || fault.CodeOf(h.decide(first.Approval.ID, "pia", approval.Yes)) != "approval_closed" {
		t.Error("the old question is still open")
	}
	if n := len(h.events(h.run.ID, audit.ApprovalCancelled)); n != 1 {
		t.Errorf("%d events say so", n)
	}
}

func TestMatrix_ReadThatPeopleMustAllow(t *testing.T) {
	h := newHouse(t)
	h.apply(`@id("look-first") @reason("x") @require("approver:1") @tier("confirm") @expires("15m")
		forbid (principal is Chaperone::Agent, action == Chaperone::Action::"office/list_files", resource)
		unless { context has approval && context.approval.satisfies.contains("look-first") };`)
	h.must(h.lib.Refresh(t.Context()))
	h.approved("list_files", `{}`)
	if len(h.office.calls()) != 0 {
		t.Error("it was forwarded")
	}
	h.want(h.call("list_files", `{}`), enforce.Released, "")
	if n := len(h.events(h.run.ID, audit.CallIntent, audit.ApprovalConsumed)); n != 2 {
		t.Errorf("%d events", n)
	}
	h.want(h.call("list_files", `{}`), enforce.Pending, "approval_pending")
	// A rule that comes while the upstream answers stops the answer, too.
	h = newHouse(t)
	h.want(h.call("list_files", `{}`), enforce.Released, "")
	h.office.set(func() {
		h.office.on["list_files"] = func(w http.ResponseWriter, _ json.RawMessage) {
			h.apply(`@id("look-first") @reason("x") @require("approver:1") @tier("confirm") @expires("15m")
				forbid (principal is Chaperone::Agent, action == Chaperone::Action::"office/list_files", resource)
				unless { context has approval && context.approval.satisfies.contains("look-first") };`)
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"jsonrpc":"2.0","id":7,"result":{"content":"secret"}}`))
		}
	})
	h.want(h.call("list_files", `{}`), enforce.Pending, "approval_pending")
}

func TestMatrix_ApprovalExpired(t *testing.T) {
	h := newHouse(t)
	h.approved("pay", pays)
	h.pass(15 * time.Minute)
	h.want(h.call("pay", pays), enforce.Pending, "approval_pending")
	h.because("approval_expired")
}

func TestMatrix_ApprovalDenied(t *testing.T) {
	h := newHouse(t)
	a := h.call("pay", pays)
	h.must(h.decide(a.Approval.ID, "pia", approval.No))
	b := h.call("pay", pays)
	h.want(b, enforce.Denied, "approval_denied")
	h.recorded(h.run.ID, audit.CallRefused, "approval_denied")
}

func TestMatrix_Budgets(t *testing.T) {
	h := newHouse(t)
	narrow := func(b run.Budgets) func(*run.Order) { return func(o *run.Order) { o.Budgets = b } }
	person := run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "k"}
	steps := h.open(person, "", narrow(run.Budgets{Steps: 2}))
	h.want(h.call("nothing", `{}`, in(steps)), enforce.Denied, enforce.CodeNotListed) // a denial takes a step
	h.want(h.call("note", `{}`, in(steps)), enforce.Released, "")
	h.want(h.call("note", `{}`, in(steps)), enforce.Denied, "budget_steps")
	h.recorded(steps.ID, audit.CallRefused, "budget_steps")

	calls := h.open(person, purpose, narrow(run.Budgets{Calls: map[string]int64{"external_communication": 1}}))
	h.want(h.call("send_mail", mailBob, in(calls)), enforce.Released, "")
	h.want(h.call("send_mail", mailBob, in(calls)), enforce.Denied, "budget_calls")

	bytes := h.open(person, "", narrow(run.Budgets{Bytes: 120}))
	a := h.call("list_files", `{}`, in(bytes)) // the answer is too large for what is left
	h.want(a, enforce.Denied, "budget_bytes")
	h.recorded(bytes.ID, audit.CallRefused, "budget_bytes")
	effect := h.open(person, "", narrow(run.Budgets{Bytes: 120}))
	h.want(h.call("note", `{}`, in(effect)), enforce.Denied, "budget_bytes")
	h.recorded(effect.ID, audit.CallOutcome, "budget_bytes")
}

func TestMatrix_PlanIsUsedUp(t *testing.T) {
	h := newHouse(t)
	r := h.open(run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "k"}, "", func(o *run.Order) {
		o.Plan = []run.PlanStep{{Tool: "office/hidden", Max: 1}}
	})
	h.want(h.call("hidden", `{}`, in(r)), enforce.Released, "")
	h.want(h.call("hidden", `{}`, in(r)), enforce.Denied, enforce.CodeNotListed)

	r = h.open(run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "k"}, "", func(o *run.Order) {
		o.Plan = []run.PlanStep{{Tool: "office/hidden", Max: 1}}
	})
	answers := make(chan answer, 10)
	for range 10 {
		go func() { answers <- h.call("hidden", `{}`, in(r)) }()
	}
	released := 0
	for range 10 {
		if a := <-answers; a.Verdict == enforce.Released {
			released++
		}
	}
	if released != 1 {
		t.Errorf("a plan for one call let %d through", released)
	}
}

func TestMatrix_NamedRefusals(t *testing.T) {
	h := newHouse(t)
	h.want(h.call("note", `{"amount":"much"}`), enforce.Denied, "arguments_schema")
	h.recorded(h.run.ID, audit.CallRefused, "arguments_schema")
	h.want(h.call("hidden", `{"amount":"much"}`), enforce.Denied, enforce.CodeNotListed) // nothing is told of its schema
	h.want(h.call("note", `{"n":12345678901234567891234}`), enforce.Denied, "json_inexact_number")
	h.want(h.do(h.method("no/such")), enforce.Denied, "method_unknown")
	h.want(h.do(h.method("tasks/cancel", func(r *enforce.Request) { r.Task = "t" })), enforce.Failed, "task_of_another_run")
	h.want(h.do(h.method(enforce.MethodReply, func(r *enforce.Request) { r.Reply, r.ID = "9", "" })), enforce.Failed, "reply_unsolicited")
	h.want(h.call("note", `{}`, func(r *enforce.Request) { r.Presented.Token = "" }), enforce.Failed, "no_credential")
	h.want(h.call("note", `{}`, func(r *enforce.Request) { r.Presented.Token = "x" }), enforce.Failed, "bad_credential")
	h.want(h.call("note", `{}`, func(r *enforce.Request) { r.Server = "bank" }), enforce.Failed, "wrong_audience")
	h.want(h.call("note", `{}`, func(r *enforce.Request) { r.Presented.Token = id.NewRun(start).String() }), enforce.Failed, "run_unknown")
	refuse := func(code string) func(*enforce.Request) {
		return func(r *enforce.Request) {
			r.Agree = func([]byte) error { return fault.New(fault.Invalid, "test", code, "no") }
		}
	}
	h.want(h.call("note", `{}`, refuse("header_mismatch")), enforce.Denied, "header_mismatch")
	h.want(h.call("hidden", `{}`, refuse("header_mismatch")), enforce.Denied, enforce.CodeNotListed)
}
