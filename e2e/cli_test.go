// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"chaperone/examples/demo"
)

// TestCommandLine runs the scripts that read as a manual of the command line (testdata/script/cli_*.txt), each in a home of its own,
// against the real program. Beside the commands of testscript a script has
//
//	up               start `chaperone up` and wait until it answers; $CODE is the first operator's login code
//	down             stop it, as Ctrl-C does
//	office           start the example's MCP server at $OFFICE; its credential is in the file secret
//	exits N COMMAND  run a command that must end with exit code N
//	get NAME PATH    put a value of the JSON on the last standard output into a variable, as get ID items.0.id
//	change FILE      alter one record of an exported record, as somebody with write access to a copy might
func TestCommandLine(t *testing.T) {
	bin := product(t)
	files, err := filepath.Glob("testdata/script/cli_*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error {
			s, err := demo.NewStage(bin, env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(s.Close)
			env.Values["stage"] = &scene{stage: s}
			for _, v := range s.Environ() {
				name, value, _ := strings.Cut(v, "=")
				env.Setenv(name, value)
			}
			env.Setenv("PATH", filepath.Dir(bin)+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("PUBLIC", s.Public)
			env.Setenv("API", s.API)
			env.Setenv("OFFICE", s.Office)
			return os.WriteFile(filepath.Join(env.WorkDir, "secret"), []byte(s.Secret+"\n"), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"up": command(0, func(ts *testscript.TestScript, s *scene, _ []string) {
				p, err := s.stage.Start(context.Background(), "chaperone", func(cmd *exec.Cmd) {
					cmd.Env = append(cmd.Env, noHold)
				}, "up", "-o", "json")
				ts.Check(err)
				var up demo.Started
				if err := p.JSON(&up); err != nil {
					ts.Fatalf("%v\n%s", err, s.stage.LogTail("chaperone"))
				}
				s.up = p
				ts.Setenv("CODE", up.LoginCode)
			}),
			"down": command(0, func(_ *testscript.TestScript, s *scene, _ []string) { s.up.Stop() }),
			"office": command(0, func(ts *testscript.TestScript, s *scene, _ []string) {
				_, err := s.stage.StartOffice(context.Background())
				ts.Check(err)
			}),
			"exits": command(-1, func(ts *testscript.TestScript, _ *scene, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					exit, ok := errors.AsType[*exec.ExitError](err)
					if !ok {
						ts.Fatalf("%v", err)
					}
					got = exit.ExitCode()
				}
				if got != want {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			}),
			"get": command(2, func(ts *testscript.TestScript, _ *scene, args []string) {
				var v any
				ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
				for step := range strings.SplitSeq(args[1], ".") {
					switch x := v.(type) {
					case map[string]any:
						v = x[step]
					case []any:
						i, err := strconv.Atoi(step)
						ts.Check(err)
						if i >= len(x) {
							ts.Fatalf("there are %d items", len(x))
						}
						v = x[i]
					}
				}
				text, ok := v.(string)
				if !ok || text == "" {
					ts.Fatalf("%s is %v", args[1], v)
				}
				ts.Setenv(args[0], text)
			}),
			"change": command(1, func(ts *testscript.TestScript, _ *scene, args []string) {
				path := ts.MkAbs(args[0])
				b, err := os.ReadFile(path)
				ts.Check(err)
				lines := strings.SplitAfter(string(b), "\n")
				var rec map[string]any
				ts.Check(json.Unmarshal([]byte(lines[2]), &rec))
				leaf := []byte(rec["leaf"].(string))
				leaf[len(leaf)/2] ^= 1
				if leaf[len(leaf)/2] == '>' || leaf[len(leaf)/2] == '.' { // stay within base64
					leaf[len(leaf)/2] = 'A'
				}
				rec["leaf"] = string(leaf)
				line, err := json.Marshal(rec)
				ts.Check(err)
				lines[2] = string(line) + "\n"
				ts.Check(os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600))
				ts.Setenv("CHANGED", rec["id"].(string))
			}),
		},
	})
}

// noHold lets nobody wait on the wire: a script's client leaves as soon as it has spoken.
const noHold = "CHAPERONE_LIMITS_HOLD=0s"

// scene is what a script has started.
type scene struct {
	stage *demo.Stage
	up    *demo.Proc
}

// command makes a script's command with so many arguments, -1 for two or more. None of them can be negated.
func command(args int, do func(*testscript.TestScript, *scene, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, got []string) {
		if neg || args >= 0 && len(got) != args || args < 0 && len(got) < 2 {
			ts.Fatalf("wrong use of the command: %v", got)
		}
		do(ts, ts.Value("stage").(*scene), got)
	}
}
