// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
)

// finish writes what the road decided, unless the road has released the whole answer already.
func (d *Door) finish(ctx context.Context, out *sink, o enforce.Outcome, err error) {
	if o.Verdict == enforce.Released && err == nil {
		out.end()
		return
	}
	if err != nil && fault.KindOf(err) == fault.Internal {
		d.Log.ErrorContext(ctx, "a request failed", "server", out.server, "method", out.env.method, "decision", o.Decision.String(), "error", err)
	}
	body, no := d.answer(out, o, err)
	switch {
	case out.begun:
		// The refusal follows on the stream that the answer began on; where there is none, the caller sees it end.
		if body != nil && out.env.id != nil {
			out.event(enforce.Message{Raw: body, Event: "message"})
		}
	case no != nil:
		d.refuse(out.w, asker{out.env.id, out.env.era, out.server}, no)
	default:
		out.plain(http.StatusOK, body)
	}
}

// answer is the body for an outcome that is not Released: a result that says why, or a problem. With a problem the body is the same
// in the form that a stream needs.
func (d *Door) answer(out *sink, o enforce.Outcome, err error) ([]byte, *problem) {
	env := out.env
	call := out.kind == catalog.KindTool && env.id != nil
	var no *problem
	switch {
	case err != nil:
		no = problemOf(err)
	case o.Code == enforce.CodeNotListed:
		no = notListed(out)
	case o.Code == "method_unknown":
		no = &problem{Error: fault.New(fault.NotFound, "gateway.serve", "method_unknown", "method not found"), rpc: rpcMethodNotFound}
		if env.era != eraStateless && env.id != nil {
			no.status = http.StatusOK
		}
	case o.Code == "header_mismatch" || o.Code == "argument_case":
		no = mismatch(o.Fix, "%s", o.Reason)
		no.Code = o.Code
		if o.Code == "argument_case" {
			no.rpc = rpcInvalidParams
		}
	case o.Verdict == enforce.Pending && o.Approval != nil && env.era == eraStateless && out.canElicit && canWait(env.method):
		return inputRequired(env, o), nil
	case call:
		return toolError(env, o), nil
	case o.Verdict == enforce.Pending:
		no = &problem{Error: fault.New(fault.Denied, "gateway.serve", "approval_pending", "%s", words(o)), rpc: rpcPending, data: details(o)}
	case o.Verdict == enforce.Denied:
		no = &problem{Error: fault.New(fault.Denied, "gateway.serve", o.Code, "%s", words(o)), data: details(o)}
	default:
		no = problemOf(nil)
	}
	return no.message(env.id, env.era), no
}

// notListed is the one answer for what the caller may not see and for what there is not. It depends on the request alone.
func notListed(out *sink) *problem {
	what := "the method is not available here"
	switch out.kind {
	case catalog.KindTool:
		what = "unknown tool"
	case catalog.KindPrompt:
		what = "unknown prompt"
	case catalog.KindResource:
		what = "unknown resource"
	case catalog.KindTemplate, catalog.KindServer:
	}
	no := &problem{Error: fault.New(fault.NotFound, "gateway.serve", enforce.CodeNotListed, "%s", what).
		WithFix("list what there is and use a name from the list"), rpc: rpcInvalidParams}
	if out.env.era != eraStateless && out.env.id != nil {
		no.status = http.StatusOK
	}
	return no
}

// canWait are the methods whose result may ask the client for input (2026-07-28).
func canWait(method string) bool {
	return method == enforce.MethodCall || method == enforce.MethodPrompt || method == enforce.MethodRead
}

// words is what a model or a person reads of a denial or a pending approval.
func words(o enforce.Outcome) string {
	var s []string
	if o.Verdict == enforce.Pending && o.Approval != nil {
		s = append(s, "Waiting for approval "+o.Approval.ID.String()+": a person decides at "+o.Approval.Link+".")
		if o.Reason != "" {
			s = append(s, "Why: "+o.Reason)
		}
		s = append(s, "Repeat the same call, unchanged, once it is approved.")
	} else {
		s = append(s, "Denied ("+o.Code+").")
		if o.Reason != "" {
			s = append(s, o.Reason)
		}
	}
	if o.Rule != "" {
		s = append(s, "Rule: "+o.Rule+".")
	}
	if !o.Decision.IsZero() {
		s = append(s, "Decision: "+o.Decision.String()+".")
	}
	if o.Fix != "" {
		s = append(s, "Next: "+o.Fix)
	}
	return strings.Join(s, " ")
}

// details is the same for programs.
func details(o enforce.Outcome) map[string]any {
	m := map[string]any{"verdict": string(o.Verdict), "code": o.Code}
	set := func(k, v string) {
		if v != "" {
			m[k] = v
		}
	}
	set("rule", o.Rule)
	set("reason", o.Reason)
	set("fix", o.Fix)
	set("decision", o.Decision.String())
	if a := o.Approval; a != nil {
		m["approval"] = map[string]any{"id": a.ID.String(), "link": a.Link, "state": a.State, "not_after": a.NotAfter.UTC().Format("2006-01-02T15:04:05Z")}
	}
	return m
}

// metaKey holds details in a result's _meta.
const metaKey = "chaperone/outcome"

// toolError is a result that tells the model why the call did not happen.
func toolError(env envelope, o enforce.Outcome) []byte {
	result := map[string]any{
		"content": []any{map[string]any{"type": "text", "text": words(o)}},
		"isError": true,
		"_meta":   map[string]any{metaKey: details(o)},
	}
	if env.era == eraStateless {
		result["resultType"] = "complete"
	}
	return response(env.id, "result", result)
}

// inputRequired asks the client to show the approval's page to its user and then to repeat the call (2026-07-28).
func inputRequired(env envelope, o enforce.Outcome) []byte {
	return response(env.id, "result", map[string]any{
		"resultType": "input_required",
		"inputRequests": map[string]any{"approval": map[string]any{
			"method": "elicitation/create",
			"params": map[string]any{
				"mode": "url", "message": words(o), "url": o.Approval.Link, "elicitationId": o.Approval.ID.String(),
			},
		}},
		"requestState": o.RequestState,
		"_meta":        map[string]any{metaKey: details(o)},
	})
}

// response writes an answer around the id's own bytes.
func response(id []byte, member string, value any) []byte {
	if id == nil {
		id = []byte("null")
	}
	b, err := canon.Marshal(value)
	if err != nil {
		// Only text that is not UTF-8 could do this, and no such text comes this far.
		member, b = "error", []byte(`{"code":-32603,"message":"the gateway failed"}`)
	}
	return slices.Concat([]byte(`{"jsonrpc":"2.0","id":`), id, []byte(`,"`+member+`":`), b, []byte(`}`))
}

// message is the problem as a JSON-RPC error.
func (p *problem) message(id []byte, era string) []byte {
	rpc, _ := p.codes(id != nil, era)
	data := map[string]any{"code": p.Code}
	if p.Fix != "" {
		data["fix"] = p.Fix
	}
	for k, v := range p.data {
		data[k] = v
	}
	return response(id, "error", map[string]any{"code": rpc, "message": p.Msg, "data": data})
}

// asker is what an answer of the door's own must know of the request.
type asker struct {
	id          []byte
	era, server string
}

// refuse writes a problem as the whole answer.
func (d *Door) refuse(w http.ResponseWriter, a asker, p *problem) {
	_, status := p.codes(a.id != nil, a.era)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", d.challenge(a.server, p))
	}
	if status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", allowed(a.era))
	}
	writeJSON(w, status, p.message(a.id, a.era))
}

func allowed(era string) string {
	if era == eraStateless {
		return "POST"
	}
	return "GET, POST, DELETE"
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body) // the caller may be gone; nobody is left to tell
}
