// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"chaperone/internal/api/client"
	"chaperone/internal/app/apptest"
	"chaperone/internal/connect"
	"chaperone/internal/identity"
	"chaperone/internal/people"
)

const catalogue = `version: 1
servers:
  office:
    tools:
      note: {effect: read, source: {integrity: trusted}}
      pay: {effect: irreversible, stakes: [money], source: {integrity: trusted}}
`

func office() http.Handler {
	s := mcp.NewServer(&mcp.Implementation{Name: "office", Version: "1"}, nil)
	for _, name := range []string{"note", "pay"} {
		s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object","properties":{"iban":{"type":"string"},"text":{"type":"string"}}}`)},
			func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return &mcp.CallToolResult{}, nil
			})
	}
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true})
}

// house is a deployment with a server, an agent and three people who are signed in at the desk.
type house struct {
	*desk
	d    *apptest.Deployment
	join string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	d := apptest.Start(t, func(d *apptest.Deployment) { d.Conf.Limits.Hold = 0 })
	d.Server("office", office(), catalogue)
	h := &house{desk: newDesk(t, d), d: d, join: d.Agent("clerk", "office/note", "office/pay")}
	for _, err := d.Operator.Checkpoint(t.Context()); err != nil; _, err = d.Operator.Checkpoint(t.Context()) {
		time.Sleep(20 * time.Millisecond) // a log that has just started is still catching up
	}
	h.signIn("nora", d.LoginCode("nora", people.Operator))
	h.signIn("ada", d.LoginCode("ada", people.Approver))
	h.signIn("otto", d.LoginCode("otto", people.Auditor))
	h.ok(nil, "type", "put", "reader", "--profile", "nora", "--reads", "office/note")
	return h
}

// openRun opens a run for clerk as nora, who does not decide on it.
func (h *house) openRun(purpose string) string {
	h.t.Helper()
	var r struct{ ID string }
	h.ok(&r, "run", "open", "--profile", "nora", "--agent", "clerk", "--purpose", purpose)
	return r.ID
}

// takenUp opens a run and lets the instance of a directory continue it.
func (h *house) takenUp(purpose, dir string) string {
	h.t.Helper()
	run := h.openRun(purpose)
	h.ok(nil, "connect", "--server", "office", "--state", dir, "--run", run)
	return run
}

// enrolled binds an instance of clerk in a directory.
func (h *house) enrolled() string {
	h.t.Helper()
	dir := h.t.TempDir()
	_, err := connect.Enrol(h.t.Context(), dir, false, func(ctx context.Context, k *identity.Key) (client.Enrolment, error) {
		return client.Enrol(ctx, h.d.Conf.PublicURL, k, h.join, client.Config{})
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return dir
}

func TestExitCodesOfARealDeployment(t *testing.T) {
	h := newHouse(t)
	h.ok(nil, "agent", "list", "--profile", "nora")
	for _, r := range []struct {
		exit int
		code string
		line string
	}{
		{exitFailed, "no_agent", "agent show nobody --profile nora"},
		{exitFailed, "no_run", "run show run_2al2pd2fpxymr5pvyp63ce2nng --profile nora"},
		{exitDenied, "not_logged_in", "agent list"},
		{exitDenied, "not_logged_in", "agent list --profile nobody"},
		{exitDenied, "access_denied", "agent join-code clerk --profile otto"},
		{exitDenied, "login_code", "login --profile new --code lc_00000000000000000000000000"},
		{exitFailed, "not_enrolled", "connect --server office --state /does/not/exist"},
		{exitDenied, "join_code", "connect --server office --state " + t.TempDir() + " --join jc_00000000000000000000000000"},
		{exitUnreachable, "chaperone_unreachable", "agent list --profile nora --set api_url=http://127.0.0.1:9"},
		{exitUnreachable, "chaperone_unreachable", "login --profile new --code x --set public_url=http://127.0.0.1:9"},
	} {
		e := h.refused(r.exit, r.code, strings.Fields(r.line)...)
		if e["hint"] == "" {
			t.Errorf("%s: %v says not what to do", r.line, e)
		}
	}
	if _, err := os.Stat(filepath.Join(h.home, "config", "chaperone", "profiles", "new")); !os.IsNotExist(err) {
		t.Error("a refused code left a profile behind")
	}

	run := h.takenUp("pay ana", h.enrolled())
	s := h.run("grant", "request", run, "--profile", "nora", "--tool", "office/pay", "--arguments", `{"iban":"x"}`, "-o", "json")
	var asked struct {
		State    string
		Approval struct{ ID string }
	}
	if err := json.Unmarshal([]byte(s.out), &asked); err != nil || s.code != exitPending || asked.Approval.ID == "" {
		t.Fatalf("exit %d, %v: %s%s", s.code, err, s.out, s.err)
	}
	if err := h.d.Stop(); err != nil {
		t.Error(err)
	}
	h.refused(exitUnreachable, "chaperone_unreachable", "agent", "list", "--profile", "nora")
}

// TestEveryListHasItems: with -o json a list is {"items":[...]}, also an empty one.
func TestEveryListHasItems(t *testing.T) {
	h := newHouse(t)
	lists := []string{"person list", "agent list", "agent instances clerk", "type list", "run list", "grant list", "approval list", "policy list", "catalog show", "catalog list",
		"server list", "server pin office", "secret list", "audit query", "audit query --type no.such", "doctor"}
	for _, l := range lists {
		s := h.run(append(strings.Fields(l), "--profile", "nora", "-o", "json")...)
		var got map[string]json.RawMessage
		if err := json.Unmarshal([]byte(s.out), &got); err != nil || s.code != 0 || !strings.HasPrefix(string(got["items"]), "[") {
			t.Errorf("%s: exit %d, %v: %s%s", l, s.code, err, s.out, s.err)
		}
		if s := h.run(append(strings.Fields(l), "--profile", "nora")...); s.code != 0 || s.out == "" && s.err != "none\n" {
			t.Errorf("%s as a table: exit %d: %s%s", l, s.code, s.out, s.err)
		}
	}
	for path := range commands((&cli{}).root(), "") {
		words := strings.Fields(path)
		if verb := words[len(words)-1]; verb == "list" && !slices.Contains(lists, path) {
			t.Errorf("%s is not looked at", path)
		}
	}
}

// TestListsGoToTheirEnd, over as many pages as the API makes of them.
func TestListsGoToTheirEnd(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"access_token":"a","expires_in":300}`) })
	mux.HandleFunc("GET /api/types", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("after") {
		case "":
			fmt.Fprint(w, `{"items":[{"name":"one"}],"next":"1"}`)
		case "1":
			fmt.Fprint(w, `{"items":[{"name":"two"}],"next":"2"}`)
		case "2":
			fmt.Fprint(w, `{"items":[{"name":"three"}],"next":"2"}`) // a server that goes round
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	k := newDesk(t, nil)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(k.home, "config", "chaperone", "profiles", "default")
	b, err := json.Marshal(profile{LoggedIn: client.LoggedIn{ClientID: "x", Issuer: srv.URL}, APIURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := connect.KeepKey(dir, key, personFile, b); err != nil {
		t.Fatal(err)
	}
	var got struct{ Items []struct{ Name string } }
	k.ok(&got, "type", "list")
	if len(got.Items) != 3 || got.Items[2].Name != "three" {
		t.Errorf("%+v", got)
	}
}

// TestHostileTextIsShown and never cut: what others wrote comes out as the code points that it is made of.
func TestHostileTextIsShown(t *testing.T) {
	h := newHouse(t)
	long := strings.Repeat("x", 3000)
	hostile := "pay\x1b[2J\u202egnp\u200b\ufe0f\U000e0041\u3164\u2800\u00ad\u2028\u034f\nrun_fake  clerk\tactive" + long + "end"
	run := h.openRun(hostile)
	want := "pay<U+001B>[2J<U+202E>gnp<U+200B><U+FE0F><U+E0041><U+3164><U+2800><U+00AD><U+2028><U+034F><U+000A>run_fake  clerk<U+0009>active" + long + "end"
	for _, line := range []string{"run list", "run show " + run} {
		s := h.ok(nil, append(strings.Fields(line), "--profile", "nora")...)
		if !strings.Contains(s.out, want) {
			t.Errorf("%s prints %q", line, s.out)
		}
	}
	var r struct{ Purpose string }
	h.ok(&r, "run", "show", run, "--profile", "nora")
	if r.Purpose != hostile {
		t.Errorf("JSON says it as it is: %q", r.Purpose)
	}
	if s := h.run("agent", "show", "\x1b[2J\nx (ok)", "--profile", "nora"); strings.Contains(s.err, "\x1b") {
		t.Errorf("an error repeats it: %q", s.err)
	}
}

func TestProfilesAreOnesOwn(t *testing.T) {
	d := apptest.Start(t, nil)
	k := newDesk(t, d)
	dir := filepath.Join(k.home, "config", "chaperone", "profiles", "ada")
	k.signIn("ada", d.LoginCode("ada", people.Operator))
	mode := func(name string) os.FileMode {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if mode(".") != 0o700 || mode("key.jwk") != 0o600 || mode("person.json") != 0o600 {
		t.Errorf("modes %o, %o, %o", mode("."), mode("key.jwk"), mode("person.json"))
	}
	k.ok(nil, "person", "list", "--profile", "ada")
	if err := os.Chmod(filepath.Join(dir, "key.jwk"), 0o644); err != nil {
		t.Fatal(err)
	}
	e := k.refused(exitFailed, "key_file_open", "person", "list", "--profile", "ada")
	if !strings.Contains(e["hint"], "chmod 600 ") {
		t.Errorf("%v", e)
	}
	// Who opens the run must not be a surprise: a profile that cannot be used does not make the agent the opener.
	code := d.Agent("clerk", "", "")
	k.refused(exitFailed, "key_file_open", "connect", "--profile", "ada", "--server", "office", "--state", t.TempDir(), "--join", code)

	// A refused code leaves the profile as it was; a good one replaces key and file, and closes what was open.
	k.refused(exitDenied, "login_code", "login", "--profile", "ada", "--code", "lc_00000000000000000000000000")
	var fresh struct{ Code string }
	made, err := d.Operator.PersonCode(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	fresh.Code = made.Code
	k.signIn("ada", fresh.Code)
	if mode("key.jwk") != 0o600 {
		t.Errorf("the new key lies in a file of mode %o", mode("key.jwk"))
	}
	k.ok(nil, "person", "list", "--profile", "ada")
	if err := os.WriteFile(filepath.Join(dir, "person.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.refused(exitFailed, "profile_damaged", "person", "list", "--profile", "ada")
}

// TestApprovalNeedsThePayloadSeen: consent is to a digest; without one there is a person who sees the payload and types a word.
func TestApprovalNeedsThePayloadSeen(t *testing.T) {
	h := newHouse(t)
	run := h.takenUp("pay ana", h.enrolled())
	ask := func(text string) (id, binding string) {
		t.Helper()
		s := h.run("grant", "request", run, "--profile", "nora", "--tool", "office/pay", "--arguments", `{"text":"`+text+`"}`, "-o", "json")
		var got struct{ Approval struct{ ID string } }
		if err := json.Unmarshal([]byte(s.out), &got); err != nil || s.code != exitPending {
			t.Fatalf("exit %d: %s%s", s.code, s.out, s.err)
		}
		var a struct {
			BindingDigest string `json:"binding_digest"`
		}
		h.ok(&a, "approval", "show", got.Approval.ID, "--profile", "ada")
		return got.Approval.ID, a.BindingDigest
	}
	one, binding := ask("one")
	if binding == "" {
		t.Fatal("no binding")
	}
	approve := func(stdin string, args ...string) said {
		return h.typed(stdin, append([]string{"approval", "approve", "--profile", "ada"}, args...)...)
	}

	for _, args := range [][]string{{one}, {one, "-o", "json"}} {
		if s := approve("approve\n", args...); s.code != exitUsage || !strings.Contains(s.err, "--binding") {
			t.Errorf("not a terminal, %v: exit %d, %s", args, s.code, s.err)
		}
	}
	if s := approve("", one, "--binding", strings.Repeat("0", 64)); s.code != exitFailed || !strings.Contains(s.err, "approval_binding_mismatch") {
		t.Errorf("another digest: exit %d, %s", s.code, s.err)
	}
	if s := h.run("approval", "approve", "--profile", "nora", one, "--binding", binding); s.code != exitDenied || !strings.Contains(s.err, "(access_denied)") {
		t.Errorf("who is no approver: exit %d, %s", s.code, s.err)
	}
	if s := approve("", one, "--binding", binding); s.code != 0 || !strings.Contains(s.out, "approved") {
		t.Errorf("with the digest: exit %d, %s%s", s.code, s.out, s.err)
	}

	h.tty = true
	two, _ := ask("two\\n\\u202e")
	for _, typed := range []string{"", "\n", "yes\n", "APPROVE\n", "deny\n"} {
		s := approve(typed, two)
		if s.code != exitFailed || !strings.Contains(s.err, "(not_confirmed)") {
			t.Errorf("%q: exit %d, %s", typed, s.code, s.err)
		}
		if !strings.Contains(s.out, "exactly this will run:\n{\n  \"text\": \"two\\n<U+202E>\"\n}\n") {
			t.Errorf("the payload is not shown: %s", s.out)
		}
	}
	if s := approve("approve\n", two); s.code != 0 || !strings.Contains(s.err, `Type "approve"`) {
		t.Errorf("confirmed: exit %d, %s", s.code, s.err)
	}
	three, _ := ask("three")
	if s := h.typed("deny\n", "approval", "deny", "--profile", "ada", three, "--reason", "no"); s.code != 0 || !strings.Contains(s.out, "denied") {
		t.Errorf("denied: exit %d, %s%s", s.code, s.out, s.err)
	}
	h.tty = false
	four, _ := ask("four")
	if s := approve("", four, "--yes"); s.code != 0 {
		t.Errorf("--yes: exit %d, %s", s.code, s.err)
	}
	var list struct {
		Items []struct{ State string }
	}
	h.ok(&list, "approval", "list", "--profile", "ada", "--state", "pending")
	if len(list.Items) != 0 {
		t.Errorf("%d still wait", len(list.Items))
	}
}

// TestRunsOfTheBridge: the signed-in person opens the run, unless there is none at this deployment.
func TestRunsOfTheBridge(t *testing.T) {
	h := newHouse(t)
	dir := h.enrolled()
	opener := func(args ...string) string {
		t.Helper()
		s := h.run(append([]string{"connect", "--server", "office", "--state", dir, "--set", "log.format=json"}, args...)...)
		if s.code != 0 {
			t.Fatalf("exit %d: %s", s.code, s.err)
		}
		var line struct{ Run string }
		if err := json.Unmarshal([]byte(strings.Split(s.err, "\n")[0]), &line); err != nil {
			t.Fatalf("%v in %s", err, s.err)
		}
		var r struct {
			Opener  struct{ Name, Kind string }
			Purpose string
		}
		h.ok(&r, "run", "show", line.Run, "--profile", "nora")
		return r.Opener.Kind + " " + r.Opener.Name + ": " + r.Purpose
	}
	if got := opener("--purpose", "a"); !strings.HasPrefix(got, "agent ") || !strings.HasSuffix(got, ": a") {
		t.Errorf("nobody is signed in: %s", got)
	}
	if got := opener("--purpose", "b", "--profile", "nora"); got != "person nora: b" {
		t.Errorf("nora is signed in: %s", got)
	}
	run := h.openRun("c")
	if got := opener("--run", run); got != "person nora: c" {
		t.Errorf("continued: %s", got)
	}
	h.refused(exitDenied, "not_logged_in", "connect", "--server", "office", "--state", dir, "--as-person")

	// Signed in elsewhere: not here.
	elsewhere := filepath.Join(h.home, "config", "chaperone", "profiles", "elsewhere")
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := connect.KeepKey(elsewhere, key, personFile, []byte(`{"client_id":"x","name":"eve","issuer":"https://other.example","api_url":"https://other.example"}`)); err != nil {
		t.Fatal(err)
	}
	if got := opener("--purpose", "d", "--profile", "elsewhere"); !strings.HasPrefix(got, "agent ") {
		t.Errorf("signed in elsewhere: %s", got)
	}
	h.refused(exitUsage, "usage", "connect", "--server", "office", "--state", dir, "--as-person", "--profile", "elsewhere")
}

func TestTailFollowsAndEndsQuietly(t *testing.T) {
	h := newHouse(t)
	ctx, stop := context.WithCancel(t.Context())
	out := &pipeBuffer{}
	c := &cli{in: strings.NewReader(""), out: out, errOut: out, output: "json"}
	done := make(chan int, 1)
	go func() { done <- c.exec(ctx, "v", []string{"audit", "tail", "-o", "json", "--profile", "otto"}) }()
	deadline := time.Now().Add(15 * time.Second)
	for i := 0; !strings.Contains(out.String(), `"run.opened_for_agent"`); i++ {
		if time.Now().After(deadline) {
			t.Fatalf("tail says nothing of a new run:\n%s", out)
		}
		if i%50 == 0 {
			h.openRun(fmt.Sprint("tail ", i))
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	if code := <-done; code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(out.String()), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("%q is no line of JSON", line)
		}
	}
}
