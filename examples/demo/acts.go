// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// denial is what the gateway says of a refused or pending call, beside the text, under _meta.
type denial struct {
	Verdict  string `json:"verdict"`
	Code     string `json:"code"`
	Decision string `json:"decision"`
	Rule     string `json:"rule"`
	Reason   string `json:"reason"`
}

func (r reply) denial() (denial, error) {
	b, err := json.Marshal(r.Meta["chaperone/outcome"])
	if err != nil {
		return denial{}, err
	}
	var d denial
	return d, json.Unmarshal(b, &d)
}

// pending reports whether the call still waits for a person.
func (r reply) pending() bool {
	d, err := r.denial()
	return err == nil && d.Verdict == "pending"
}

// leaf is what the story reads of a record.
type leaf struct {
	Position int64
	ID       string
	Leaf     struct {
		Type     string
		Tool     string
		Decision string
		Data     struct {
			Effect string
			Rules  []json.RawMessage
		}
	}
}

func (s *story) permitted(ctx context.Context) error {
	tools, err := s.agent.Tell("tools", "", nil)
	if err != nil || tools.Failure != "" {
		return errors.Join(err, fail("listing tools: %s", tools.Failure))
	}
	s.p.note("clerk sees %d tools: %s", len(tools.Tools), strings.Join(tools.Tools, ", "))
	if slices.Contains(tools.Tools, "file_delete") {
		return fail("clerk sees file_delete, which no rule could permit")
	}
	args := map[string]any{"name": "open-invoices.csv"}
	got, err := s.agent.Tell("call", "file_read", args)
	if err != nil {
		return err
	}
	if got.Failure != "" || got.IsError {
		return fail("the read was not permitted: %s%s", got.Failure, got.Text)
	}
	rec, err := s.last(ctx, "call.decided", "file_read")
	if err != nil {
		return err
	}
	s.p.yes("file_read %s came back: %s", quoted(args), firstLine(got))
	s.p.note("record %d (%s) holds the decision and the outcome; it was durable before the answer was released", rec.Position, rec.ID)
	where, n, err := searchAgent(s.agent.Cmd.Process.Pid, filepath.Join(s.Dir, "agent"), s.Secret)
	switch {
	case err != nil:
		s.p.note("the agent's memory could not be searched here: %v", err)
	case where != "":
		return fail("the office's credential is in the agent's %s", where)
	default:
		s.p.yes("the office's credential is not in the environment, files or memory of the agent and its bridge (%d processes searched)", n)
	}
	return nil
}

func (s *story) refused(ctx context.Context) error {
	args := map[string]any{"iban": "DE89370400440532013000", "recipient": "Hallmann Print", "amount": 9000, "reference": "2043"}
	d, err := s.mustRefuse("payment_send", args, "payments-over-limit")
	if err != nil {
		return err
	}
	s.p.no("payment_send %s", quoted(args))
	s.p.note("rule %s: %s", d.Rule, d.Reason)
	var why struct {
		Effect  string
		Reasons []struct{ Rule, Text string }
	}
	if err := s.Do(ctx, "nora", "", &why, "explain", d.Decision); err != nil {
		return err
	}
	if why.Effect != "forbid" || len(why.Reasons) == 0 || why.Reasons[0].Rule != d.Rule {
		return fail("explain tells another story: %+v", why)
	}
	s.p.note("`chaperone explain %s` says the same to the operator", d.Decision)
	hidden, err := s.agent.Tell("call", "file_delete", map[string]any{"name": "notes.txt"})
	if err != nil {
		return err
	}
	absent, err := s.agent.Tell("call", "no_such_tool", map[string]any{"name": "notes.txt"})
	if err != nil {
		return err
	}
	if hidden.Failure == "" || strings.ReplaceAll(hidden.Failure, "file_delete", "") != strings.ReplaceAll(absent.Failure, "no_such_tool", "") {
		return fail("a hidden tool is answered unlike one that does not exist: %q and %q", hidden.Failure, absent.Failure)
	}
	s.p.no("file_delete is answered exactly like a tool that does not exist: %s", hidden.Failure)
	return nil
}

func (s *story) approved(ctx context.Context) error {
	args := map[string]any{"iban": "DE89370400440532013000", "recipient": "Hallmann Print", "amount": 1240, "reference": "2043"}
	type answer struct {
		reply
		err error
	}
	done := make(chan answer, 1)
	go func() {
		r, err := s.agent.Tell("call", "payment_send", args)
		done <- answer{r, err}
	}()
	a, err := s.pending(ctx)
	if err != nil {
		select {
		case got := <-done:
			return errors.Join(err, fail("the payment was answered without a person: %s%s %s", got.Failure, got.Text, got.Structured))
		default:
			return err
		}
	}
	s.p.wait("payment_send waits: approval %s needs %d of %s, held by %s", a.ID, a.Require[0].Number, a.Require[0].Group, a.Binding.Rules[0].ID)
	if a.Binding.Rules[0].ID != "irreversible-needs-approval" {
		return fail("the call is held by %s", a.Binding.Rules[0].ID)
	}
	err = s.Do(ctx, "olaf", "", nil, "approval", "approve", a.ID, "--binding", a.BindingDigest)
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != "approval_excluded_requester" {
		return fail("olaf, who opened the run, was not refused as requester: %v", err)
	}
	s.p.no("olaf opened the run, so he may not approve it: approval_excluded_requester")
	var payload bytes.Buffer
	if err := json.Compact(&payload, a.Call.Arguments); err != nil {
		return err
	}
	s.p.note("ada sees exactly what will run: %s/%s %s", a.Call.Server, a.Call.Tool, payload.String())
	if s.o.Interactive {
		s.p.wait("your turn; in a second terminal:\n")
		fmt.Fprintf(s.p.w, "     export XDG_CONFIG_HOME=%s\n     %s approval show %s --profile ada\n     %s approval approve %s --profile ada\n\n",
			filepath.Join(s.Dir, "config"), s.Bin, a.ID, s.Bin, a.ID)
	} else if err := s.Do(ctx, "ada", "", nil, "approval", "approve", a.ID, "--binding", a.BindingDigest, "--reason", "matches the invoice"); err != nil {
		return err
	}
	got := <-done
	for got.err == nil && got.pending() { // the call is held for seconds only; the same call again goes on waiting
		got.reply, got.err = s.agent.Tell("call", "payment_send", args)
	}
	if got.err != nil {
		return got.err
	}
	if got.Failure != "" || got.IsError {
		return fail("the approved payment did not run: %s%s", got.Failure, got.Text)
	}
	s.p.yes("approved, and run once: %s", got.Structured)
	again, err := s.pendingAgain(ctx, args)
	if err != nil {
		return err
	}
	s.p.wait("the same call again is a new question (%s): an approval is used once; ada refuses it", again)
	return nil
}

// pendingAgain repeats the approved call, which must wait anew, and has ada refuse it.
func (s *story) pendingAgain(ctx context.Context, args map[string]any) (string, error) {
	type answer struct {
		reply
		err error
	}
	done := make(chan answer, 1)
	go func() {
		r, err := s.agent.Tell("call", "payment_send", args)
		done <- answer{r, err}
	}()
	a, err := s.pending(ctx)
	if err != nil {
		return "", err
	}
	if err := s.Do(ctx, "ada", "", nil, "approval", "deny", a.ID, "--binding", a.BindingDigest, "--reason", "paid already"); err != nil {
		return "", err
	}
	got := <-done
	if got.err != nil {
		return "", got.err
	}
	if !got.IsError {
		return "", fail("the refused payment ran: %s", got.Structured)
	}
	return a.ID, nil
}

func (s *story) poisoned(ctx context.Context) error {
	mail, err := s.agent.Tell("call", "mail_read", map[string]any{"id": "m3"})
	if err != nil || mail.Failure != "" || mail.IsError {
		return errors.Join(err, fail("reading the mail: %s%s", mail.Failure, mail.Text))
	}
	var m struct{ From, Body string }
	if err := json.Unmarshal(mail.Structured, &m); err != nil {
		return err
	}
	s.p.note("clerk reads a mail from %s: %q", m.From, m.Body[:min(len(m.Body), 140)]+"...")
	var r struct {
		Label struct {
			Integrity string
			Sources   []string
		}
	}
	if err := s.Do(ctx, "nora", "", &r, "run", "show", s.run); err != nil {
		return err
	}
	if r.Label.Integrity != "untrusted" {
		return fail("the run is still %s", r.Label.Integrity)
	}
	s.p.note("the run is now untrusted, because of %s; that was recorded before the mail was released", strings.Join(r.Label.Sources, ", "))
	for _, order := range []struct {
		tool string
		args map[string]any
	}{
		{"payment_send", map[string]any{"iban": "GB29NWBK60161331926819", "recipient": "Hallmann Print", "amount": 4800, "reference": "2043-B"}},
		{"mail_send", map[string]any{"to": "billing@hallmann-print-accounts.example", "subject": "customers", "body": "Family Okafor, Trier, +49 651 555 0134"}},
	} {
		d, err := s.mustRefuse(order.tool, order.args, "untrusted-sink")
		if err != nil {
			return err
		}
		s.p.no("clerk obeys the mail: %s %s", order.tool, quoted(order.args))
		s.p.note("rule %s: %s", d.Rule, d.Reason)
	}
	honest := map[string]any{"to": "ana@hallmann-print.example", "subject": "Invoice 2043", "body": "It is on its way."}
	got, err := s.agent.Tell("call", "mail_send", honest)
	if err != nil {
		return err
	}
	if got.Failure != "" || got.IsError {
		return fail("the honest answer was stopped: %s%s", got.Failure, got.Text)
	}
	s.p.yes("the honest task goes on: mail_send to ana@hallmann-print.example, whom olaf named in the purpose: %s", got.Text)
	return nil
}

func (s *story) ended(ctx context.Context) error {
	if err := s.Do(ctx, "olaf", "", nil, "run", "end", s.run, "--reason", "done"); err != nil {
		return err
	}
	got, err := s.agent.Tell("call", "file_read", map[string]any{"name": "notes.txt"})
	if err != nil {
		return err
	}
	if got.Failure == "" || !strings.Contains(got.Failure, "run_ended") {
		return fail("a call after the end was not refused as run_ended: %s%s", got.Failure, got.Text)
	}
	s.p.no("clerk's credential opens nothing any more: %s", got.Failure)
	var left struct{ Items []json.RawMessage }
	if err := s.Do(ctx, "nora", "", &left, "grant", "list", "--run", s.run, "--state", "active"); err != nil {
		return err
	}
	if len(left.Items) != 0 {
		return fail("%d grants of the run are still active", len(left.Items))
	}
	s.p.yes("grants of the run still active: %d", len(left.Items))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Public+"/mcp/office", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("MCP-Protocol-Version", "2025-11-25")
	req.Header.Set("Authorization", "Bearer "+s.Secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // only the status is of interest
	if resp.StatusCode != http.StatusUnauthorized {
		return fail("the gateway took a bearer credential: HTTP %d", resp.StatusCode)
	}
	s.p.no("and nobody gets in with a bearer credential, not even the office's own: HTTP %d", resp.StatusCode)
	return nil
}

// mustRefuse makes a call that has to be refused by the named rule.
func (s *story) mustRefuse(tool string, args map[string]any, rule string) (denial, error) {
	got, err := s.agent.Tell("call", tool, args)
	if err != nil {
		return denial{}, err
	}
	if got.Failure != "" || !got.IsError {
		return denial{}, fail("%s was not refused: %s%s%s", tool, got.Failure, got.Text, got.Structured)
	}
	d, err := got.denial()
	if err != nil {
		return d, err
	}
	if d.Rule != rule {
		return d, fail("%s was refused by %q (%s), not by %s", tool, d.Rule, got.Text, rule)
	}
	return d, nil
}

// question is what the story reads of an approval.
type question struct {
	ID            string
	State         string
	BindingDigest string `json:"binding_digest"`
	Require       []struct {
		Group  string
		Number int
	}
	Call struct {
		Server, Tool string
		Arguments    json.RawMessage
	}
	Binding struct{ Rules []struct{ ID string } }
}

// pending waits up to ten seconds for the one pending approval of the run.
func (s *story) pending(ctx context.Context) (question, error) {
	for range 100 {
		var page struct{ Items []question }
		if err := s.Do(ctx, "ada", "", &page, "approval", "list", "--state", "pending"); err != nil {
			return question{}, err
		}
		if len(page.Items) > 0 {
			var a question
			return a, s.Do(ctx, "ada", "", &a, "approval", "show", page.Items[0].ID)
		}
		select {
		case <-ctx.Done():
			return question{}, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return question{}, fail("nobody was asked")
}

// last returns the newest record of a type and tool in the run.
func (s *story) last(ctx context.Context, typ, tool string) (leaf, error) {
	var page struct{ Items []leaf }
	if err := s.Do(ctx, "ada", "", &page, "audit", "query", "--run", s.run, "--type", typ, "--limit", "20"); err != nil {
		return leaf{}, err
	}
	for _, l := range page.Items {
		if l.Leaf.Tool == tool {
			return l, nil
		}
	}
	return leaf{}, fail("no record %s of %s in the run", typ, tool)
}

func firstLine(r reply) string {
	var f struct{ Text string }
	if err := json.Unmarshal(r.Structured, &f); err == nil && f.Text != "" {
		lines := strings.Split(strings.TrimSpace(f.Text), "\n")
		return fmt.Sprintf("%d invoices, the first %q", len(lines)-1, lines[min(1, len(lines)-1)])
	}
	return r.Text
}

func fail(format string, args ...any) error { return fmt.Errorf(format, args...) }
