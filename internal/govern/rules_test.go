// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/audit"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/secret"
	"chaperone/internal/store"
)

func TestApplyPolicy(t *testing.T) {
	h := open(t)
	files := maps.Clone(policy.DefaultFiles())
	files["house.cedar"] = `@id("house-rule") @reason("ours") forbid (principal is Chaperone::Agent, action in Chaperone::Action::"write", resource);`
	b, err := h.road.ApplyPolicy(t.Context(), h.as("olga"), files, "a rule of ours", 1)
	if err != nil || b.Version != 2 || b.Author != "olga" {
		t.Fatalf("%+v %v", b, err)
	}
	set, version, _ := h.rules.Current()
	if _, ok := set.Rule("house-rule"); !ok || version != 2 || set.Digest() != b.Digest {
		t.Fatal("not in force when the call returned")
	}
	h.last(audit.PolicyApplied)

	_, err = h.road.ApplyPolicy(t.Context(), h.as("olga"), files, "", 1)
	wantCode(t, err, fault.Conflict, "policy_moved")

	files["house.cedar"] = `forbid (principal, action, resource);` + "\n" + `@id("read-by-type") @reason("again") permit (principal, action, resource);`
	_, err = h.road.ApplyPolicy(t.Context(), h.as("olga"), files, "", 0)
	wantCode(t, err, fault.Invalid, "policy_refused")
	refused, ok := errors.AsType[*Refused](err)
	if !ok || len(refused.Problems) < 2 {
		t.Fatalf("all problems are told: %+v", refused)
	}
	var codes []string
	for _, p := range refused.Problems {
		codes = append(codes, p.Code)
	}
	for _, want := range []string{"rule_without_id", "rule_duplicate_id"} {
		if !strings.Contains(strings.Join(codes, " "), want) {
			t.Errorf("no %s among %v", want, codes)
		}
	}
	if v := h.last(audit.PolicyRefused); v.Parts["problems"].Size == 0 {
		t.Fatal("the problems are not on the record")
	}
	if active, _ := h.road.ActivePolicy(t.Context(), h.as("olga")); active.Version != 2 {
		t.Fatalf("version %d is in force", active.Version)
	}
	problems, err := h.road.CheckPolicy(t.Context(), h.as("olga"), files)
	if err != nil || cmp.Diff(refused.Problems, problems) != "" {
		t.Fatalf("check and apply disagree: %v %v", problems, err)
	}
	for name, bad := range map[string]map[string]string{"none": nil, "a path": {"../x.cedar": ""}, "another kind": {"x.yaml": ""}, "hidden": {".cedar": ""}, "large": {"x.cedar": strings.Repeat(" ", maxBundle+1)}} {
		t.Run(name, func(t *testing.T) {
			_, err := h.road.ApplyPolicy(t.Context(), h.as("olga"), bad, "", 0)
			wantCode(t, err, fault.Invalid, "bad_bundle")
		})
	}
	all, err := h.road.Policies(t.Context(), h.as("olga"))
	if err != nil || len(all) != 2 || all[0].Version != 2 {
		t.Fatalf("%v %v", all, err)
	}
}

// TestRefreshFails: a change that is stored and not in force says so.
func TestRefreshFails(t *testing.T) {
	h := open(t)
	h.rules.fail = errors.New("disk")
	_, err := h.road.ApplyPolicy(t.Context(), h.as("olga"), policy.DefaultFiles(), "", 0)
	wantCode(t, err, fault.Unavailable, "not_in_force")
}

func office(h *house) catalog.Server {
	h.t.Helper()
	s, err := h.road.PutServer(h.t.Context(), h.as("olga"), catalog.Server{Name: "office", URL: "http://127.0.0.1:9000/mcp", AllowLoopback: true}, true)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func TestPutServer(t *testing.T) {
	h := open(t)
	s := office(h)
	if s.Mode != "enforce" || s.Author != "olga" || s.ID.IsZero() {
		t.Fatalf("%+v", s)
	}
	_, err := h.road.PutServer(t.Context(), h.as("olga"), s, true)
	wantCode(t, err, fault.Exists, "server_name_taken")
	rows := []struct {
		name string
		s    catalog.Server
		code string
	}{
		{"no name", catalog.Server{URL: "https://x.example/mcp"}, "bad_name"},
		{"no URL", catalog.Server{Name: "a"}, "bad_url"},
		{"a file", catalog.Server{Name: "a", URL: "file:///etc/passwd"}, "bad_url"},
		{"plain http far away", catalog.Server{Name: "a", URL: "http://x.example/mcp"}, "bad_url"},
		{"plain http far away, near allowed", catalog.Server{Name: "a", URL: "http://x.example/mcp", AllowLoopback: true}, "bad_url"},
		{"user in it", catalog.Server{Name: "a", URL: "https://u:p@x.example/mcp"}, "bad_url"},
		{"query", catalog.Server{Name: "a", URL: "https://x.example/mcp?key=1"}, "bad_url"},
		{"fragment", catalog.Server{Name: "a", URL: "https://x.example/mcp#a"}, "bad_url"},
		{"loopback", catalog.Server{Name: "a", URL: "https://127.0.0.1/mcp"}, "loopback_not_allowed"},
		{"localhost", catalog.Server{Name: "a", URL: "https://localhost./mcp"}, "loopback_not_allowed"},
		{"private", catalog.Server{Name: "a", URL: "https://10.1.2.3/mcp"}, "loopback_not_allowed"},
		{"mapped loopback", catalog.Server{Name: "a", URL: "https://[::ffff:127.0.0.1]/mcp"}, "loopback_not_allowed"},
		{"metadata address", catalog.Server{Name: "a", URL: "https://169.254.169.254/mcp"}, "loopback_not_allowed"},
		{"unspecified", catalog.Server{Name: "a", URL: "https://0.0.0.0/mcp"}, "loopback_not_allowed"},
		{"TLS name without TLS", catalog.Server{Name: "a", URL: "http://127.0.0.1/mcp", AllowLoopback: true, TLSName: "x"}, "bad_tls"},
		{"CA that is none", catalog.Server{Name: "a", URL: "https://x.example/mcp", TLSCA: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"}, "bad_tls"},
		{"observe", catalog.Server{Name: "a", URL: "https://x.example/mcp", Mode: "observe"}, "bad_mode"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			_, err := h.road.PutServer(t.Context(), h.as("olga"), r.s, false)
			wantCode(t, err, fault.Invalid, r.code)
		})
	}
}

// TestServerMovesAway: a new address does not inherit what the old one was trusted with.
func TestServerMovesAway(t *testing.T) {
	h := open(t)
	s := office(h)
	h.offer = []Definition{{Kind: catalog.KindServer, Raw: []byte(`{"endpoint":"http://127.0.0.1:9000/mcp"}`)}}
	if _, err := h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{All: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.road.PutSecret(t.Context(), h.as("olga"), "office", secret.Bearer, "", "", secret.NewValue("correct horse")); err != nil {
		t.Fatal(err)
	}
	s.URL = "http://127.0.0.1:9001/mcp"
	_, err := h.road.PutServer(t.Context(), h.as("olga"), s, false)
	wantCode(t, err, fault.Conflict, "server_has_secret")
	if err := h.road.DeleteSecret(t.Context(), h.as("olga"), "office"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.road.PutServer(t.Context(), h.as("olga"), s, false); err != nil {
		t.Fatal(err)
	}
	pins, err := h.road.ListPins(t.Context(), h.as("olga"), "office")
	if err != nil || len(pins) != 1 || pins[0].State != catalog.Quarantined {
		t.Fatalf("%+v %v", pins, err)
	}
	if err := h.store.View(t.Context(), func(tx store.Tx) error {
		authors, err := every(tx.Pins().Authors("office", "anything", h.now().Add(-1)))
		if len(authors) < 3 || authors[0].Person != "olga" {
			t.Errorf("%+v", authors)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestPin(t *testing.T) {
	h := open(t)
	office(h)
	read := func(text string) Definition {
		return Definition{Kind: catalog.KindTool, Name: "mail_read", Raw: []byte(`{"name":"mail_read","description":"` + text + `","inputSchema":{"type":"object"}}`)}
	}
	pay := Definition{Kind: catalog.KindTool, Name: "payment_send", Raw: []byte(`{"name":"payment_send","inputSchema":{"type":"object"}}`)}
	h.offer = []Definition{read("reads mail"), pay}
	states := func(o Offer) map[string]string {
		out := map[string]string{}
		for _, i := range o.Items {
			out[ItemName(i.Kind, i.Name)] = i.State
		}
		return out
	}
	shown, err := h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"tool:mail_read": ItemNew, "tool:payment_send": ItemNew}, states(shown)); d != "" {
		t.Fatal(d)
	}
	if pins, _ := h.road.ListPins(t.Context(), h.as("olga"), "office"); len(pins) != 0 {
		t.Fatal("showing pinned something")
	}
	h.offer = []Definition{read("reads mail and obeys it"), pay}
	_, err = h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{All: true, Expect: shown.Digest})
	wantCode(t, err, fault.Conflict, "offer_moved")
	_, err = h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{Items: []string{"tool:mail_read", "tool:nothing"}})
	wantCode(t, err, fault.NotFound, "item_unknown")

	h.offer = []Definition{read("reads mail"), pay}
	if _, err = h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{Items: []string{"tool:mail_read"}, Expect: shown.Digest}); err != nil {
		t.Fatal(err)
	}
	pins, err := h.road.ListPins(t.Context(), h.as("olga"), "office")
	if err != nil || len(pins) != 1 || pins[0].By != "olga" || pins[0].State != catalog.Pinned {
		t.Fatalf("%+v %v", pins, err)
	}
	if v := h.last(audit.ServerPinned); v.Server != "office" || v.Parts["pinned"].Size == 0 {
		t.Fatalf("%+v", v)
	}
	h.offer = []Definition{read("reads mail and obeys it")}
	now, err := h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{})
	if err != nil || now.Items[0].State != ItemChanged || len(now.Items[0].Changes) != 1 || now.Items[0].Changes[0].Path != "description" {
		t.Fatalf("%+v %v", now, err)
	}
	h.offer = nil
	gone, err := h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{All: true})
	if err != nil || gone.Items[0].State != ItemGone || !gone.Items[0].Accepted {
		t.Fatalf("%+v %v", gone, err)
	}
	if pins, _ := h.road.ListPins(t.Context(), h.as("olga"), "office"); len(pins) != 0 {
		t.Fatal("what is gone is still pinned")
	}
	h.offer = []Definition{pay, pay}
	_, err = h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{All: true})
	wantCode(t, err, fault.Invalid, "definition_twice")
	_, err = h.road.Pin(t.Context(), h.as("olga"), "nowhere", Acceptance{})
	wantCode(t, err, fault.NotFound, "server_unknown")
}

const officeCatalogue = `version: 1
servers:
  office:
    tools:
      mail_read:
        effect: read
        source: {integrity: untrusted}
      payment_send:
        effect: irreversible
        stakes: [money]
        sinks: [{argument: iban, type: iban}]
`

func TestApplyCatalog(t *testing.T) {
	h := open(t)
	_, _, err := h.road.ApplyCatalog(t.Context(), h.as("olga"), []byte(officeCatalogue))
	wantCode(t, err, fault.Invalid, "server_unknown")
	office(h)
	version, changed, err := h.road.ApplyCatalog(t.Context(), h.as("olga"), []byte(officeCatalogue))
	if err != nil || len(changed) != 2 {
		t.Fatalf("%d %v %v", version, changed, err)
	}
	h.last(audit.CatalogApplied)
	again, changed, err := h.road.ApplyCatalog(t.Context(), h.as("olga"), []byte(officeCatalogue))
	if err != nil || len(changed) != 0 || again != version {
		t.Fatalf("applying the same file again is nobody's change: %d %v %v", again, changed, err)
	}
	_, entries, err := h.road.Catalog(t.Context(), h.as("olga"))
	if err != nil || len(entries) != 2 || entries[1].Effect != catalog.Irreversible || !entries[1].Known {
		t.Fatalf("%+v %v", entries, err)
	}
	_, changed, err = h.road.ApplyCatalog(t.Context(), h.as("olga"), []byte(strings.ReplaceAll(officeCatalogue, "effect: read", "effect: write")))
	if err != nil || len(changed) != 1 || changed[0].Name != "mail_read" {
		t.Fatalf("%+v %v", changed, err)
	}
	_, _, err = h.road.ApplyCatalog(t.Context(), h.as("olga"), []byte("version: 1\nservices: {}\n"))
	wantCode(t, err, fault.Invalid, "bad_catalogue")
}

// TestPolicyWouldBreak: a rule names a tool; its pin cannot be dropped while the rule is in force.
func TestPolicyWouldBreak(t *testing.T) {
	h := open(t)
	office(h)
	h.offer = []Definition{{Kind: catalog.KindTool, Name: "payment_send", Raw: []byte(`{"name":"payment_send","inputSchema":{"type":"object","properties":{"amount":{"type":"integer"}},"required":["amount"]}}`)}}
	if _, err := h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{All: true}); err != nil {
		t.Fatal(err)
	}
	files := maps.Clone(policy.DefaultFiles())
	files["house.cedar"] = `@id("small-payments") @reason("small") forbid (principal, action == Chaperone::Action::"office/payment_send", resource) when { context.arguments.amount > 10 };`
	if _, err := h.road.ApplyPolicy(t.Context(), h.as("olga"), files, "", 0); err != nil {
		t.Fatal(err)
	}
	h.offer = nil
	_, err := h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{All: true})
	wantCode(t, err, fault.Invalid, "policy_would_break")
	if _, ok := errors.AsType[*Refused](err); !ok {
		t.Fatal("the problems are not told")
	}
	if pins, _ := h.road.ListPins(t.Context(), h.as("olga"), "office"); len(pins) != 1 {
		t.Fatal("the pin went all the same")
	}
}

func TestSecrets(t *testing.T) {
	h := open(t)
	office(h)
	const canary = "canary-7f3a9c51e2"
	put := func(server string, place secret.Place, value string) error {
		return second(h.road.PutSecret(t.Context(), h.as("olga"), server, place, "", "", secret.NewValue(value)))
	}
	wantCode(t, put("office", secret.Bearer, "short"), fault.Invalid, "secret_short")
	wantCode(t, put("office", "cookie", canary), fault.Invalid, "secret_place")
	wantCode(t, put("nowhere", secret.Bearer, canary), fault.NotFound, "server_unknown")
	if err := put("office", secret.Bearer, canary); err != nil {
		t.Fatal(err)
	}
	if err := put("office", secret.Bearer, canary+"2"); err != nil {
		t.Fatal(err)
	}
	var s secret.Sealed
	if err := h.store.View(t.Context(), func(tx store.Tx) (err error) { s, err = tx.Secrets().Secret("office"); return err }); err != nil {
		t.Fatal(err)
	}
	open := func(ad string) (string, error) {
		plain, err := h.road.Seal.Unseal(s.KeyID, s.Blob, []byte(ad))
		return string(plain), err
	}
	if plain, err := open(`{"owner":"olga","upstream":"office","version":2}`); err != nil || plain != canary+"2" {
		t.Fatalf("%v", err)
	}
	for _, ad := range []string{`{"owner":"olga","upstream":"other","version":2}`, `{"owner":"olga","upstream":"office","version":1}`, `{"owner":"eve","upstream":"office","version":2}`} {
		if _, err := open(ad); err == nil {
			t.Errorf("the seal opens under %s", ad)
		}
	}
	infos, err := h.road.Secrets(t.Context(), h.as("olga"))
	if err != nil || len(infos) != 1 || infos[0].Blob != nil {
		t.Fatalf("%+v %v", infos, err)
	}
	_, records := h.events("")
	told, err := json.Marshal([]any{infos, records})
	if err != nil || strings.Contains(string(told), "canary") {
		t.Fatal("the secret was told", err)
	}
	for _, r := range records {
		for _, p := range r.Parts {
			if strings.Contains(string(p.Bytes), "canary") || strings.Contains(string(r.Leaf), "canary") {
				t.Fatal("the secret is on the record")
			}
		}
	}
	if err := h.road.DeleteSecret(t.Context(), h.as("olga"), "office"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, h.road.DeleteSecret(t.Context(), h.as("olga"), "office"), fault.NotFound, "no_secret")
}

func TestExplain(t *testing.T) {
	h := open(t)
	h.add("ben", []people.Role{people.Approver})
	_, err := h.road.AddPerson(t.Context(), h.as("ben"), people.Person{Name: "eve", Roles: []people.Role{people.Operator}})
	no, ok := errors.AsType[*Denial](err)
	if !ok {
		t.Fatal(err)
	}
	for _, who := range []string{"olga", "ben"} { // by right, and because it is his own
		e, err := h.road.Explain(t.Context(), h.as(who), no.Decision)
		if err != nil {
			t.Fatal(who, err)
		}
		if e.Decided.Effect != "forbid" || len(e.Reasons) != 1 || e.Reasons[0].ID != policy.RuleDefaultDeny || len(e.Lift) != 1 ||
			e.Request == nil || e.Request.Principal.Name != "ben" || e.Request.Action.Name != ActPersonAdd || len(e.Events) != 1 {
			t.Fatalf("%+v", e)
		}
		set, _, _ := h.rules.Current()
		if d := set.Decide(*e.Request); d.Effect != policy.Forbid {
			t.Fatal("the stored request, decided again, gives another outcome")
		}
	}
	_, err = h.road.AddPerson(t.Context(), h.as("olga"), people.Person{Name: "cyd", Roles: []people.Role{people.Auditor}})
	if err != nil {
		t.Fatal(err)
	}
	v := h.last(audit.PersonAdded)
	e, err := h.road.Explain(t.Context(), h.as("olga"), v.Decision)
	if err != nil || e.Decided.Effect != "permit" || len(e.Reasons) != 1 || e.Reasons[0].ID != "operator-manages" || e.Reasons[0].Info == nil || e.Reasons[0].Changed || e.Lift != nil {
		t.Fatalf("%+v %v", e, err)
	}
	h.wantDenied(t, second(h.road.Explain(t.Context(), h.as("ben"), v.Decision)), "default-deny")
}

func TestDoctor(t *testing.T) {
	h := open(t)
	codes := func() map[string]string {
		found, err := h.road.Doctor(t.Context(), h.as("olga"))
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, f := range found {
			out[f.Code] = f.Severity
			if f.Message == "" || f.Fix == "" {
				t.Errorf("%+v says too little", f)
			}
		}
		return out
	}
	got := codes()
	if got["nobody_can_approve"] != Error || got["one_operator"] != Note {
		t.Fatalf("%v", got)
	}
	h.add("ben", []people.Role{people.Approver})
	if got = codes(); got["nobody_can_approve"] != "" || got["approver_irreplaceable"] != Warning {
		t.Fatalf("%v", got)
	}
	h.add("cyd", []people.Role{people.Approver})
	office(h)
	if got = codes(); got["approver_irreplaceable"] != "" || got["server_not_pinned"] != Warning {
		t.Fatalf("%v", got)
	}
	h.offer = []Definition{{Kind: catalog.KindServer, Raw: []byte(`{"endpoint":"http://127.0.0.1:9000/mcp"}`)}}
	if _, err := h.road.Pin(t.Context(), h.as("olga"), "office", Acceptance{All: true}); err != nil {
		t.Fatal(err)
	}
	if got = codes(); got["server_without_entries"] != Warning {
		t.Fatalf("%v", got)
	}
	h.agent("clerk-1", "ben")
	if _, err := h.road.SuspendPerson(t.Context(), h.as("olga"), "ben", ""); err != nil {
		t.Fatal(err)
	}
	if got = codes(); got["owner_gone"] != Warning {
		t.Fatalf("%v", got)
	}
	h.wait(DefaultAgentLife)
	if got = codes(); got["agent_expired"] != Warning {
		t.Fatalf("%v", got)
	}
	h.wait(-DefaultAgentLife - 1e12)
	if got = codes(); got["clock_stepped_back"] != Error {
		t.Fatalf("%v", got)
	}
}
