// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chaperone/examples/demo"
	"chaperone/internal/needs"
)

// inspectorCatalogue describes what the test uses of server-everything; the rest stays undescribed, so nobody sees it.
const inspectorCatalogue = `version: 1
servers:
  everything:
    tools:
      echo: {effect: read, source: {integrity: trusted}}
      get-sum: {effect: read, source: {integrity: trusted}}
      get-structured-content: {effect: read, source: {integrity: untrusted}}
`

// TestInspector lists and calls tools of somebody else's server with somebody else's client: the official inspector and
// server-everything, over stdio and over loopback HTTP.
func TestInspector(t *testing.T) {
	inspector := filepath.Join(needs.Package(t, "@modelcontextprotocol/inspector"), "cli", "build", "cli.js")
	server := filepath.Join(needs.Package(t, "@modelcontextprotocol/server-everything"), "dist", "index.js")
	node := needs.Program(t, "node")
	ctx := within(t, 2*time.Minute)
	s := open(t, "info")
	at := startEverything(ctx, t, s, node, server)
	settle(t, s)
	enlist(t, s, "everything", at, inspectorCatalogue)
	must(t, s.Do(ctx, "nora", "", nil, "type", "put", "explorer", "--reads", "everything/echo,everything/get-sum,everything/get-structured-content"))
	state := filepath.Join(s.Dir, "explorer")
	code := join(t, s, "explorer", "explorer")

	// Over HTTP: the bridge of the first start enrols, and says where it listens.
	bridge, err := s.Start(context.WithoutCancel(ctx), "bridge", nil, "connect", "--state", state, "--server", "everything", "--join", code,
		"--purpose", "look around", "--listen", "127.0.0.1:0", "-o", "json")
	must(t, err)
	var ready struct{ URL, Run string }
	if err := bridge.JSON(&ready); err != nil {
		t.Fatalf("%v\n%s", err, s.LogTail("bridge"))
	}
	// Over stdio: the configuration that MCP clients share names the bridge as the server's command.
	config, err := json.Marshal(map[string]any{"mcpServers": map[string]any{"everything": map[string]any{
		"command": s.Bin, "args": []string{"connect", "--state", state, "--server", "everything", "--purpose", "look around"},
		"env": map[string]string{"CHAPERONE_API_URL": s.API},
	}}})
	must(t, err)
	file := filepath.Join(s.Dir, "mcp.json")
	must(t, os.WriteFile(file, config, 0o600))

	inspect := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, node, append([]string{inspector, "--cli"}, args...)...)
		cmd.Dir = s.Dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir}
		cmd.WaitDelay = 10 * time.Second
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	for over, to := range map[string][]string{
		"HTTP":  {ready.URL, "--transport", "http"},
		"stdio": {"--config", file, "--server", "everything"},
	} {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			var all sync.WaitGroup
			defer all.Wait()
			for name, one := range map[string]struct {
				args  []string
				check func(t *testing.T, out string)
			}{
				"list": {[]string{"--method", "tools/list"}, func(t *testing.T, out string) {
					var got struct {
						Tools []struct {
							Name        string
							Description string
							InputSchema struct{ Type string }
						}
					}
					if err := json.Unmarshal([]byte(out), &got); err != nil {
						t.Errorf("%v in %s", err, out)
					}
					var names []string
					for _, tool := range got.Tools {
						names = append(names, tool.Name)
						if tool.Description == "" || tool.InputSchema.Type != "object" {
							t.Errorf("%s lost its definition: %+v", tool.Name, tool)
						}
					}
					slices.Sort(names)
					if want := []string{"echo", "get-structured-content", "get-sum"}; !slices.Equal(names, want) {
						t.Errorf("listed %v, want %v and nothing that nobody described", names, want)
					}
				}},
				"echo": {[]string{"--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=grüße"}, func(t *testing.T, out string) {
					if !strings.Contains(out, "Echo: grüße") {
						t.Errorf("echo answered %s", out)
					}
				}},
				"structured": {[]string{"--method", "tools/call", "--tool-name", "get-structured-content", "--tool-arg", "location=Chicago"}, func(t *testing.T, out string) {
					if !strings.Contains(out, "structuredContent") || !strings.Contains(out, "temperature") {
						t.Errorf("the structured content is not there: %s", out)
					}
				}},
				"hidden": {[]string{"--method", "tools/call", "--tool-name", "get-env"}, func(t *testing.T, out string) {
					if !strings.Contains(out, "unknown tool") || strings.Contains(out, "PATH") {
						t.Errorf("a tool that nobody described answered %s", out)
					}
				}},
			} {
				all.Go(func() {
					out, err := inspect(append(slices.Clone(to), one.args...)...)
					if err != nil && name != "hidden" {
						t.Errorf("%s: %v\n%s", name, err, out)
						return
					}
					one.check(t, out)
				})
			}
		})
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("bridge:\n%s\nserver:\n%s", s.LogTail("bridge"), s.LogTail("chaperone"))
		}
	})
}

// startEverything starts server-everything over HTTP and waits until it answers.
func startEverything(ctx context.Context, t *testing.T, s *demo.Stage, node, server string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	must(t, l.Close())
	said, err := os.Create(filepath.Join(s.Dir, "everything.log"))
	must(t, err)
	cmd := exec.CommandContext(context.WithoutCancel(ctx), node, server, "streamableHttp")
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, said, said
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir, "PORT=" + port}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone already
		_ = cmd.Wait()         // killed is what it says
		said.Close()
	})
	at := "http://127.0.0.1:" + port + "/mcp"
	for range 300 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
		must(t, err)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			return at
		}
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("server-everything did not start:\n%s", s.LogTail("everything"))
	return ""
}
