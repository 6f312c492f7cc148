// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"chaperone/internal/app/apptest"
	"chaperone/internal/config"
	"chaperone/internal/fault"
)

// desk is a person at a command line, with a home of their own.
type desk struct {
	t    *testing.T
	home string
	p    Programs
	tty  bool
}

// newDesk sits somebody down. d may be nil: then there is no deployment.
func newDesk(t *testing.T, d *apptest.Deployment) *desk {
	t.Helper()
	k := &desk{t: t, home: t.TempDir()}
	for name, value := range map[string]string{"HOME": k.home, "XDG_CONFIG_HOME": filepath.Join(k.home, "config"), "XDG_DATA_HOME": filepath.Join(k.home, "data"),
		"XDG_STATE_HOME": filepath.Join(k.home, "state"), "CHAPERONE_PROFILE": "", "CHAPERONE_CONFIG": "", "NO_COLOR": "1"} {
		t.Setenv(name, value)
	}
	if d != nil {
		t.Setenv("CHAPERONE_PUBLIC_URL", d.Conf.PublicURL)
		t.Setenv("CHAPERONE_API_URL", d.Conf.APIURL)
	}
	return k
}

// said is what one command said.
type said struct {
	out, err string
	code     int
}

func (k *desk) typed(stdin string, args ...string) said {
	k.t.Helper()
	var out, errOut bytes.Buffer
	c := &cli{p: k.p, in: strings.NewReader(stdin), out: &out, errOut: &errOut, output: asked(args), tty: func() bool { return k.tty }}
	code := c.exec(k.t.Context(), "v-test", args)
	return said{out.String(), errOut.String(), code}
}

func (k *desk) run(args ...string) said { k.t.Helper(); return k.typed("", args...) }

// ok runs a command that must succeed, and decodes its JSON unless into is nil.
func (k *desk) ok(into any, args ...string) said {
	k.t.Helper()
	if into != nil {
		args = append(args, "-o", "json")
	}
	s := k.run(args...)
	if s.code != 0 {
		k.t.Fatalf("chaperone %s: exit %d\n%s", strings.Join(args, " "), s.code, s.err)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(s.out), into); err != nil {
			k.t.Fatalf("chaperone %s: %v in %s", strings.Join(args, " "), err, s.out)
		}
	}
	return s
}

// refused runs a command that must fail with this exit code and error code, and returns its envelope.
func (k *desk) refused(exit int, code string, args ...string) map[string]string {
	k.t.Helper()
	s := k.run(append([]string{"-o", "json"}, args...)...)
	var e map[string]string
	if err := json.Unmarshal([]byte(s.err), &e); err != nil {
		k.t.Fatalf("chaperone %s: exit %d, %v in %q", strings.Join(args, " "), s.code, err, s.err)
	}
	if s.code != exit || e["code"] != code {
		k.t.Errorf("chaperone %s: exit %d and %s, want %d and %s: %s", strings.Join(args, " "), s.code, e["code"], exit, code, s.err)
	}
	return e
}

// signIn logs a profile in with a code.
func (k *desk) signIn(profile, code string) {
	k.t.Helper()
	k.ok(nil, "login", "--profile", profile, "--code", code)
}

func TestCommandLinesThatAreWrong(t *testing.T) {
	k := newDesk(t, nil)
	for _, line := range []string{
		"bogus", "agent bogus", "agent list extra", "agent show", "agent show a b", "agent list --bogus", "agent list -o",
		"up extra", "connect", "login", "policy test", "policy bogus x", "help bogus", "help agent bogus", "audit query --limit many", "run open --agent a",
		"--set limits.hold agent list", "restore", "grant request r --tool pay", "grant request r --tool office/pay --arguments {", "--profile ../x agent list",
		"audit export", "connect --server x --run r --purpose p", "server add x", "policy check /does/not/exist", "catalog apply /does/not/exist",
		"agent list --set", "run open --agent a --purpose p --plan /does/not/exist",
	} {
		e := k.refused(exitUsage, "usage", strings.Fields(line)...)
		if e["hint"] == "" || e["message"] == "" {
			t.Errorf("%s: %v says not what to do", line, e)
		}
	}
	if s := k.run("agent", "lst"); !strings.Contains(s.err, "did you mean `chaperone agent list`?") {
		t.Errorf("%s", s.err)
	}
	for _, args := range [][]string{{"-o", "json", "agent", "--bogus"}, {"agent", "--bogus", "-ojson"}, {"bogus", "--output=json"}, {"agent", "list", "--output", "json", "--bogus"}} {
		if s := k.run(args...); !strings.HasPrefix(s.err, `{"code":"usage"`) {
			t.Errorf("%v: whoever wants JSON gets %q", args, s.err)
		}
	}
	for _, args := range [][]string{{"bogus"}, {"agent", "list", "-o", "xml"}, {"bogus", "--", "-o", "json"}, {"agent", "list", "--bogus", "-o", "table"}} {
		if s := k.run(args...); !strings.HasSuffix(strings.Split(s.err, "\n")[0], " (usage)") || !strings.HasPrefix(strings.Split(s.err, "\n")[1], "next: ") {
			t.Errorf("%v: %q", args, s.err)
		}
	}
}

// commands are all commands by their path.
func commands(c *cobra.Command, path string) map[string]*cobra.Command {
	out := map[string]*cobra.Command{}
	for _, sub := range c.Commands() {
		p := strings.TrimSpace(path + " " + sub.Name())
		out[p] = sub
		maps.Copy(out, commands(sub, p))
	}
	return out
}

func TestEveryCommandHasHelp(t *testing.T) {
	k := newDesk(t, nil)
	all := commands((&cli{output: "table"}).root(), "")
	if len(all) < 60 {
		t.Errorf("%d commands", len(all))
	}
	for path, cmd := range all {
		if path == "demo-part" {
			continue // its arguments are its own
		}
		for _, args := range [][]string{append(strings.Fields(path), "--help"), append([]string{"help"}, strings.Fields(path)...)} {
			if s := k.run(args...); s.code != 0 || !strings.Contains(s.out, "USAGE") || s.err != "" {
				t.Errorf("%v: exit %d, %q", args, s.code, s.err)
			}
		}
		if cmd.Short == "" && !cmd.Hidden {
			t.Errorf("%s says not what it does", path)
		}
		if cmd.HasSubCommands() {
			if s := k.run(strings.Fields(path)...); s.code != 0 || !strings.Contains(s.out, "USAGE") {
				t.Errorf("%s alone: exit %d", path, s.code)
			}
		}
	}
	for _, args := range [][]string{{}, {"--help"}, {"help"}, {"--version"}} {
		if s := k.run(args...); s.code != 0 || s.out == "" {
			t.Errorf("%v: exit %d, %q", args, s.code, s.out)
		}
	}
	if s := k.run("--version"); !strings.Contains(s.out, "v-test") {
		t.Error(s.out)
	}
}

func TestCompletion(t *testing.T) {
	k := newDesk(t, nil)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if s := k.run("completion", shell); s.code != 0 || !strings.Contains(s.out, "chaperone") || len(s.out) < 1000 {
			t.Errorf("%s: exit %d, %d bytes", shell, s.code, len(s.out))
		}
	}
	s := k.run("__complete", "agent", "")
	for _, verb := range []string{"list", "register", "join-code", "revoke-instance"} {
		if !strings.Contains(s.out, verb+"\t") {
			t.Errorf("%s is not offered: %s", verb, s.out)
		}
	}
	if s := k.run("__complete", ""); strings.Contains(s.out, "demo-part") {
		t.Errorf("what is no command of people is offered: %s", s.out)
	}
	if s := k.run("__complete", "agent", "register", "--"); !strings.Contains(s.out, "--owner") {
		t.Errorf("flags are not offered: %s", s.out)
	}
}

func TestErrorEnvelope(t *testing.T) {
	rows := []struct {
		err  error
		exit int
		want map[string]string
		text string
	}{
		{fault.New(fault.NotFound, "x", "agent_unknown", "no agent \x1b[31m%s", "clerk").WithFix("look at `chaperone agent list`"), 1,
			map[string]string{"kind": "not_found", "code": "agent_unknown", "message": "no agent \x1b[31mclerk", "hint": "look at `chaperone agent list`"},
			"no agent <U+001B>[31mclerk (agent_unknown)\nnext: look at `chaperone agent list`\n"},
		{fault.New(fault.Denied, "x", "denied", "no"), 3, map[string]string{"kind": "denied", "code": "denied", "message": "no", "hint": ""}, "no (denied)\n"},
		{fault.New(fault.Suspended, "x", "agent_suspended", "no"), 3, map[string]string{"kind": "suspended", "code": "agent_suspended", "message": "no", "hint": ""}, "no (agent_suspended)\n"},
		{fault.New(fault.Unauthenticated, "x", "join_code", "no"), 3, map[string]string{"kind": "unauthenticated", "code": "join_code", "message": "no", "hint": ""}, "no (join_code)\n"},
		{fault.New(fault.Denied, "x", "pending", "wait"), 4, map[string]string{"kind": "denied", "code": "pending", "message": "wait", "hint": ""}, "wait (pending)\n"},
		{fault.New(fault.Unavailable, "x", "chaperone_unreachable", "gone"), 5, map[string]string{"kind": "unavailable", "code": "chaperone_unreachable", "message": "gone", "hint": ""}, "gone (chaperone_unreachable)\n"},
		{fault.New(fault.Unavailable, "x", "answer_lost", "lost"), 1, map[string]string{"kind": "unavailable", "code": "answer_lost", "message": "lost", "hint": ""}, "lost (answer_lost)\n"},
		{usage("no"), 2, map[string]string{"kind": "invalid", "code": "usage", "message": "no", "hint": "see `chaperone --help`"}, "no (usage)\nnext: see `chaperone --help`\n"},
		{io.ErrUnexpectedEOF, 1, map[string]string{"kind": "internal", "code": "failed", "message": "unexpected EOF", "hint": ""}, "unexpected EOF (failed)\n"},
	}
	for _, r := range rows {
		k := newDesk(t, nil)
		k.p.Demo = func(context.Context, io.Writer, DemoOptions) error { return r.err }
		s := k.run("demo", "-o", "json")
		var got map[string]string
		if err := json.Unmarshal([]byte(s.err), &got); err != nil {
			t.Fatalf("%v in %q", err, s.err)
		}
		r.want["docs"] = "docs/cli.md#errors"
		if len(got) != len(r.want) || s.code != r.exit || s.out != "" {
			t.Errorf("%v: exit %d, %s", r.err, s.code, s.err)
		}
		for name, want := range r.want {
			if got[name] != want {
				t.Errorf("%v: %s is %q, want %q", r.err, name, got[name], want)
			}
		}
		if s := k.run("demo"); s.err != r.text || s.code != r.exit {
			t.Errorf("%v: %q, want %q", r.err, s.err, r.text)
		}
	}
}

func TestConfigurationThatIsWrongNamesTheFix(t *testing.T) {
	k := newDesk(t, nil)
	k.p.Up = func(context.Context, config.Config, *slog.Logger, func(Started)) error {
		t.Error("it was started")
		return nil
	}
	file := filepath.Join(k.home, "chaperone.yaml")
	if err := os.WriteFile(file, []byte("limitz:\n  hold: 20s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"up", "agent list", "audit verify x"} { // also where the setting would not matter
		for flags, want := range map[string][2]string{
			"--set listen.agent=127.0.0.1:1":      {`unknown key "listen.agent" (did you mean "listen.agents"?)`, "docs/configuration.md"},
			"--set limits.hold=2m":                {"limits.hold 2m0s must be 0s to 55s", "docs/configuration.md"},
			"--set listen.agents=0.0.0.0:7400":    {"nothing listens off loopback without tls.cert", "docs/configuration.md"},
			"--config " + k.home + "/nowhere":     {"cannot read the configuration file", "--config"},
			"--config " + file:                    {`unknown key "limitz.hold"`, "docs/configuration.md"},
			"--set public_url=http://192.0.2.1:1": {"plain http to a host that is not loopback", "docs/configuration.md"},
		} {
			e := k.refused(exitFailed, "bad_config", append(strings.Fields(flags), strings.Fields(command)...)...)
			if !strings.Contains(e["message"], want[0]) || !strings.Contains(e["hint"], want[1]) {
				t.Errorf("%s %s: %v", flags, command, e)
			}
		}
		e := k.refused(exitUsage, "usage", append([]string{"--set", "limits.hold"}, strings.Fields(command)...)...)
		if !strings.Contains(e["hint"], "--set limits.hold=20s") {
			t.Errorf("%v", e)
		}
	}
	t.Setenv("CHAPERONE_LIMITS_HODL", "1s")
	if e := k.refused(exitFailed, "bad_config", "up"); !strings.Contains(e["message"], "environment: unknown key") {
		t.Errorf("%v", e)
	}
}

func TestProgramsGetTheConfiguration(t *testing.T) {
	k := newDesk(t, nil)
	t.Setenv("CHAPERONE_TRUST_DOMAIN", "from.environment")
	var got config.Config
	k.p.Up = func(_ context.Context, c config.Config, _ *slog.Logger, ready func(Started)) error {
		got = c
		ready(Started{PublicURL: c.PublicURL, APIURL: c.APIURL, FirstOperator: "operator", LoginCode: "lc_1", Notes: []string{"a note"}})
		return nil
	}
	s := k.ok(nil, "up", "--set", "limits.hold=7s")
	if got.TrustDomain != "from.environment" || got.Limits.Hold.Seconds() != 7 || got.Data != filepath.Join(k.home, "data", "chaperone") ||
		got.Keys != filepath.Join(k.home, "config", "chaperone", "keys") {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{"http://127.0.0.1:7400", "http://127.0.0.1:7401", "sign in as operator", "chaperone login --code lc_1", "note: a note"} {
		if !strings.Contains(s.out, want) {
			t.Errorf("%q is not said: %s", want, s.out)
		}
	}
	var line struct {
		PublicURL string   `json:"public_url"`
		APIURL    string   `json:"api_url"`
		First     string   `json:"first_operator"`
		Code      string   `json:"login_code"`
		Notes     []string `json:"notes"`
	}
	k.ok(&line, "up")
	if line.Code != "lc_1" || line.First != "operator" || line.APIURL != "http://127.0.0.1:7401" || len(line.Notes) != 1 {
		t.Errorf("%+v", line)
	}

	var demo DemoOptions
	k.p.Demo = func(_ context.Context, _ io.Writer, o DemoOptions) error { demo = o; return nil }
	k.ok(nil, "demo", "--interactive", "--keep", "dir", "--without", "a,b")
	if !demo.Interactive || demo.Keep != "dir" || !slices.Equal(demo.Without, []string{"a", "b"}) || demo.Colour {
		t.Errorf("%+v", demo)
	}
	var part []string
	k.p.DemoPart = func(_ context.Context, name string, args []string) error {
		part = append([]string{name}, args...)
		return nil
	}
	k.ok(nil, "demo-part", "agent", "--profile", "x", "-o", "json")
	if !slices.Equal(part, []string{"agent", "--profile", "x", "-o", "json"}) {
		t.Errorf("a part's arguments are its own: %v", part)
	}

	restored := 0
	k.p.Restore = func(_ context.Context, _ config.Config, out io.Writer) error {
		restored++
		_, err := io.WriteString(out, "done\n")
		return err
	}
	if e := k.refused(exitUsage, "usage", "restore"); !strings.Contains(e["hint"], "revokes all credentials") {
		t.Errorf("%v", e)
	}
	if s := k.ok(nil, "restore", "--accept"); s.out != "done\n" || restored != 1 {
		t.Errorf("%d: %s", restored, s.out)
	}
	k.p.ResetOperators = func(_ context.Context, _ config.Config, name string) (string, error) { return "lc_" + name, nil }
	if s := k.ok(nil, "policy", "reset-operators", "--name", "nora"); !strings.Contains(s.out, "lc_nora") {
		t.Error(s.out)
	}
}
