// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"chaperone/examples/demo"
	"chaperone/internal/needs"
)

var fence = regexp.MustCompile("(?ms)^```(\\w+)\\n(.*?)^```$")

// block is one fenced block of a document.
type block struct{ language, text string }

// section returns the fenced blocks of one section of a document.
func section(t *testing.T, document, heading string) []block {
	t.Helper()
	b, err := os.ReadFile(document)
	must(t, err)
	_, text, found := strings.Cut(string(b), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no section %q", document, heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var out []block
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		out = append(out, block{m[1], m[2]})
	}
	return out
}

// placeholders are what a reader fills in, each with the form of what was printed; the newest counts.
var placeholders = map[string]*regexp.Regexp{
	"LOGIN_CODE": regexp.MustCompile(`\blc_[A-Za-z0-9_-]+`), "JOIN_CODE": regexp.MustCompile(`\bjc_[A-Za-z0-9_-]+`),
	"RUN": regexp.MustCompile(`\brun_[a-z2-7]{26}\b`), "APPROVAL": regexp.MustCompile(`\bapr_[a-z2-7]{26}\b`), "DECISION": regexp.MustCompile(`\bdec_[a-z2-7]{26}\b`),
}

var placeholder = regexp.MustCompile(`\b(LOGIN_CODE|JOIN_CODE|RUN|APPROVAL|DECISION)\b`)

// reader follows a tour: it types what is written, and fills in what was printed before.
type reader struct {
	t      *testing.T
	dir    string
	env    []string
	office string   // the address that stands for the one in the text
	said   []string // the files that hold what each block printed
	run    string
}

func (r *reader) printed() string {
	var all strings.Builder
	for _, file := range r.said {
		b, err := os.ReadFile(file)
		must(r.t, err)
		all.Write(b)
	}
	return all.String()
}

// fill puts what was printed in the places of its names, waiting for what a process started before is still to say.
func (r *reader) fill(ctx context.Context, text string) string {
	r.t.Helper()
	text = strings.ReplaceAll(text, "127.0.0.1:7410", r.office)
	return placeholder.ReplaceAllStringFunc(text, func(name string) string {
		for {
			if found := placeholders[name].FindAllString(r.printed(), -1); len(found) > 0 {
				return found[len(found)-1]
			}
			select {
			case <-ctx.Done():
				r.t.Fatalf("nothing printed a %s:\n%s", name, r.printed())
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

// enter runs one block in a shell of its own, and returns what it printed. Processes that it leaves behind end with the test.
func (r *reader) enter(ctx context.Context, text string) string {
	r.t.Helper()
	file := filepath.Join(r.dir, fmt.Sprintf("block-%d.out", len(r.said)))
	out, err := os.Create(file)
	must(r.t, err)
	defer out.Close()
	cmd := exec.Command("sh", "-eu", "-c", text)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = r.dir, r.env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(r.t, cmd.Start())
	group := -cmd.Process.Pid
	r.t.Cleanup(func() {
		_ = syscall.Kill(group, syscall.SIGTERM) // most groups are gone already
		for range 200 {
			if syscall.Kill(group, 0) != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		_ = syscall.Kill(group, syscall.SIGKILL)
	})
	r.said = append(r.said, file)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = syscall.Kill(group, syscall.SIGKILL)
		err = ctx.Err()
	}
	b, rerr := os.ReadFile(file)
	must(r.t, rerr)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(r.dir, "up.log")) // for the message alone
		r.t.Fatalf("%v in\n%s\nwhich printed\n%s\nlog:\n%s", err, text, b, log)
	}
	return string(b)
}

// TestTour types the five-minute tour of the README as it stands there.
func TestTour(t *testing.T) {
	needs.Program(t, "sh")
	ctx := within(t, 90*time.Second)
	blocks := section(t, filepath.Join("..", "README.md"), "Five-minute tour")
	if len(blocks) < 9 || !strings.HasPrefix(blocks[0].text, "go build -o tour/chaperone ./cmd/chaperone && ") {
		t.Fatalf("the tour has %d blocks and begins with %q", len(blocks), blocks[0].text)
	}
	// Ports and directories of its own come from the environment; the text says nothing of either.
	stage, err := demo.NewStage(product(t), t.TempDir())
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &reader{t: t, dir: stage.Dir, office: l.Addr().String()}
	must(t, l.Close())
	for _, v := range stage.Environ() {
		if strings.HasPrefix(v, "PATH=") {
			v = "PATH=" + filepath.Dir(stage.Bin) + ":" + os.Getenv("PATH")
		}
		r.env = append(r.env, v)
	}
	expect := map[string]string{ // a part of a block, and what it must print
		"server pin office": "payment_send", "agent join-code clerk": "clears values", "< pay.json\nchaperone approval list": `"input_required"`,
		"approval show": "exactly this will run", "explain DECISION": "irreversible-needs-approval", "audit verify record": "intact",
	}
	configured := false
	for _, b := range blocks[1:] {
		text := r.fill(ctx, b.text)
		if b.language == "json" {
			configured = true
			tourClient(ctx, t, r, text)
			continue
		}
		printed := r.enter(ctx, text)
		for part, want := range expect {
			if strings.Contains(b.text, part) {
				delete(expect, part)
				if !strings.Contains(strings.ToLower(printed), strings.ToLower(want)) {
					t.Errorf("after\n%s\nwant %q, got\n%s", text, want, printed)
				}
			}
		}
		if strings.Contains(b.text, "approval approve") && !strings.Contains(printed, `"reference":"2043"`) {
			t.Errorf("the approved payment did not run:\n%s", printed)
		}
		if strings.Contains(b.text, "< read.json") && !strings.Contains(printed, "Nordholz") {
			t.Errorf("the file was not read:\n%s", printed)
		}
	}
	if len(expect) > 0 || !configured {
		t.Errorf("the tour leaves out %v", expect)
	}
	// What the tour says of the end.
	dead := exec.CommandContext(ctx, "sh", "-c", r.fill(ctx, "chaperone connect --state clerk --server office --run RUN < pay.json"))
	dead.Dir, dead.Env = r.dir, r.env
	if out, err := dead.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("run")) {
		t.Errorf("the ended run still connects: %v\n%s", err, out)
	}
}

// tourClient connects the official client as its configuration says, and reads a file.
func tourClient(ctx context.Context, t *testing.T, r *reader, config string) {
	t.Helper()
	for name, server := range clientServers(t, config) {
		cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(product(t)), server.Command), server.Args...)
		cmd.Dir, cmd.Env = r.dir, r.env
		var said bytes.Buffer
		cmd.Stderr = &said
		c, err := mcp.NewClient(&mcp.Implementation{Name: "official", Version: "1"}, nil).Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil)
		if err != nil {
			t.Fatalf("the client does not connect to %s: %v\n%s", name, err, said.String())
		}
		res, err := c.CallTool(ctx, &mcp.CallToolParams{Name: "file_read", Arguments: map[string]any{"name": "notes.txt"}})
		if err != nil || res.IsError {
			t.Errorf("the client cannot read: %v %v", res, err)
		}
		must(t, c.Close())
	}
}

// clientServer is how an MCP client is told to start a server.
type clientServer struct {
	Command string
	Args    []string
	URL     string
}

// clientServers reads the servers of a client's configuration, whatever the client calls the list.
func clientServers(t *testing.T, config string) map[string]clientServer {
	t.Helper()
	var lists map[string]map[string]clientServer
	if err := json.Unmarshal([]byte(config), &lists); err != nil {
		t.Fatalf("%v in\n%s", err, config)
	}
	out := map[string]clientServer{}
	for _, list := range lists {
		for name, server := range list {
			out[name] = server
		}
	}
	if len(out) == 0 {
		t.Errorf("no server in\n%s", config)
	}
	return out
}

// TestClientConfigurations holds the configurations of docs/connecting.md to the flags that connect has.
func TestClientConfigurations(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "docs", "connecting.md"))
	must(t, err)
	cmd := exec.CommandContext(within(t, 20*time.Second), product(t), "connect", "--help")
	cmd.Env = []string{"NO_COLOR=1", "HOME=" + t.TempDir()}
	help, err := cmd.CombinedOutput()
	must(t, err)
	flags := map[string]bool{}
	for _, f := range regexp.MustCompile(`--[a-z][a-z-]*`).FindAllString(string(help), -1) {
		flags[f] = true
	}
	check := func(args []string) {
		t.Helper()
		if len(args) == 0 || args[0] != "connect" {
			t.Errorf("%q is not connect", args)
		}
		for _, a := range args {
			if strings.HasPrefix(a, "--") && !flags[a] {
				t.Errorf("connect has no flag %s", a)
			}
		}
	}
	checked := 0
	for _, m := range fence.FindAllStringSubmatch(string(b), -1) {
		switch m[1] {
		case "json":
			for _, server := range clientServers(t, m[2]) {
				if server.URL == "" {
					check(server.Args)
				}
				checked++
			}
		case "sh":
			for _, line := range strings.Split(strings.ReplaceAll(m[2], "\\\n", " "), "\n") {
				if _, after, found := strings.Cut(line, "chaperone connect"); found {
					check(append([]string{"connect"}, strings.Fields(after)...))
					checked++
				}
			}
		}
	}
	if checked < 6 {
		t.Errorf("%d configurations in docs/connecting.md", checked)
	}
}
