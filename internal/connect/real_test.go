// SPDX-License-Identifier: Apache-2.0

package connect_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
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
	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/people"
)

const catalogue = `version: 1
servers:
  office:
    tools:
      note: {effect: read, source: {integrity: trusted}}
      secret_plan: {effect: read, source: {integrity: trusted}}
      pay: {effect: irreversible, stakes: [money], source: {integrity: trusted}, sinks: [{argument: iban, type: iban}]}
`

// office is the official server with three tools; one of them mirrors an argument in a header.
func office() http.Handler {
	s := mcp.NewServer(&mcp.Implementation{Name: "office", Version: "1"}, nil)
	for _, name := range []string{"note", "secret_plan", "pay"} {
		s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"iban":{"type":"string"}}}`)},
			func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: r.Params.Name + " " + string(r.Params.Arguments) + " " + r.Extra.Header.Get("Mcp-Param-Region")}}}, nil
			})
	}
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFault(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind || fault.CodeOf(err) != code {
		t.Fatalf("got %v (%s), want %s %s", err, fault.CodeOf(err), kind, code)
	}
}

func deployment(t *testing.T) (*apptest.Deployment, string) {
	t.Helper()
	d := apptest.Start(t, func(d *apptest.Deployment) { d.Conf.Limits.Hold = 0 })
	d.Server("office", office(), catalogue)
	return d, d.Agent("clerk", "office/note", "office/pay")
}

func enrol(t *testing.T, d *apptest.Deployment, dir, code string) (*connect.State, error) {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return connect.Enrol(t.Context(), dir, false, func(ctx context.Context, k *identity.Key) (client.Enrolment, error) {
		return client.Enrol(ctx, d.Conf.PublicURL, k, code, client.Config{HTTP: &http.Client{Transport: tr}})
	})
}

func bridge(t *testing.T, d *apptest.Deployment, s *connect.State, change func(*connect.Config)) (*connect.Bridge, string) {
	t.Helper()
	cfg := connect.Config{Server: "office", Purpose: "take a note", APIURL: d.Conf.APIURL, Grace: 500 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	b := connect.New(s, cfg)
	run, err := b.Open(t.Context())
	must(t, err)
	return b, run
}

func words(r *mcp.CallToolResult) string {
	if r == nil || len(r.Content) == 0 {
		return ""
	}
	return r.Content[0].(*mcp.TextContent).Text
}

// over are the two ways to a bridge, each an unmodified official client.
var over = map[string]func(t *testing.T, b *connect.Bridge) mcp.Transport{
	"stdio": func(t *testing.T, b *connect.Bridge) mcp.Transport {
		in, toBridge := io.Pipe()
		fromBridge, out := io.Pipe()
		done := make(chan error, 1)
		go func() { done <- b.Stdio(t.Context(), in, out) }()
		t.Cleanup(func() {
			toBridge.Close()
			select {
			case err := <-done:
				must(t, err)
			case <-time.After(10 * time.Second):
				t.Error("the bridge did not end")
			}
			out.Close()
		})
		return &mcp.IOTransport{Reader: fromBridge, Writer: toBridge}
	},
	"loopback": func(t *testing.T, b *connect.Bridge) mcp.Transport {
		ctx, stop := context.WithCancel(t.Context())
		ready, done := make(chan string, 1), make(chan error, 1)
		go func() { done <- b.Listen(ctx, "localhost:0", func(url string) { ready <- url }) }()
		tr := &http.Transport{}
		t.Cleanup(func() {
			stop()
			must(t, <-done)
			tr.CloseIdleConnections()
		})
		return &mcp.StreamableClientTransport{Endpoint: <-ready, HTTPClient: &http.Client{Transport: tr}}
	},
}

// TestOfficialClientThroughTheBridge, over both ways and in both eras, with everything real behind it.
func TestOfficialClientThroughTheBridge(t *testing.T) {
	d, code := deployment(t)
	state, err := enrol(t, d, t.TempDir(), code)
	must(t, err)
	for way, transport := range over {
		for _, era := range []string{"2025-11-25", "2026-07-28"} {
			t.Run(way+" "+era, func(t *testing.T) {
				b, _ := bridge(t, d, state, nil)
				s, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(t.Context(), transport(t, b), &mcp.ClientSessionOptions{ProtocolVersion: era})
				must(t, err)
				defer s.Close()
				if got := s.InitializeResult().ProtocolVersion; got != era {
					t.Errorf("negotiated %s", got)
				}
				// Called before anything was listed: in the era of headers the bridge looks the definition up.
				args := map[string]any{"region": "süd"}
				res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "note", Arguments: args})
				if err != nil || res.IsError || !strings.HasPrefix(words(res), `note {"region":"süd"}`) {
					t.Fatalf("%s %v", words(res), err)
				}
				if mirrored := strings.HasSuffix(words(res), " =?base64?c8O8ZA==?="); mirrored != (era == "2026-07-28") {
					t.Errorf("the parameter's header: %s", words(res))
				}
				list, err := s.ListTools(t.Context(), nil)
				must(t, err)
				var names []string
				for _, x := range list.Tools {
					names = append(names, x.Name)
				}
				if slices.Sort(names); !slices.Equal(names, []string{"note", "pay"}) {
					t.Errorf("listed %v", names)
				}
				if _, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "secret_plan"}); err == nil {
					t.Error("a tool that the agent may not see was called")
				}
				res, err = s.CallTool(t.Context(), &mcp.CallToolParams{Name: "pay", Arguments: map[string]any{"iban": "no iban"}})
				if err != nil || !res.IsError || res.Meta["chaperone/outcome"] == nil {
					t.Errorf("%s %v", words(res), err)
				}
			})
		}
	}
}

// TestOneDirectoryIsOneInstance: the join code is used once, two bridges share the key, and each has a run of its own.
func TestOneDirectoryIsOneInstance(t *testing.T) {
	d, code := deployment(t)
	dir := t.TempDir()
	first, err := enrol(t, d, dir, code)
	must(t, err)
	again, err := enrol(t, d, dir, code)
	must(t, err)
	if first.Enrolled != again.Enrolled || first.Enrolled.AgentName != "clerk" || first.Enrolled.LogKey == "" {
		t.Errorf("%+v, then %+v", first.Enrolled, again.Enrolled)
	}
	_, one := bridge(t, d, first, nil)
	_, two := bridge(t, d, again, nil)
	_, cont := bridge(t, d, again, func(c *connect.Config) { c.Run = one })
	if one == two || cont != one {
		t.Errorf("runs %s, %s, and continued %s", one, two, cont)
	}
	list, err := d.Operator.Instances(t.Context(), "clerk", client.Page{})
	must(t, err)
	if len(list.Items) != 1 {
		t.Errorf("%d instances", len(list.Items))
	}
	for _, err := d.Operator.Checkpoint(t.Context()); err != nil; _, err = d.Operator.Checkpoint(t.Context()) {
		time.Sleep(20 * time.Millisecond) // a log that has just started is still catching up
	}
	bridge(t, d, again, func(c *connect.Config) { c.Run = one })
	r, err := d.Operator.Run(t.Context(), one)
	must(t, err)
	if r.Purpose != "take a note" || r.Clears() {
		t.Errorf("%+v: what the agent's own key states clears nothing", r)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "checkpoint")); err != nil || !strings.HasPrefix(string(b), d.Conf.TrustDomain+"/log\n") {
		t.Errorf("the record's checkpoint was not kept: %q %v", b, err)
	}

	// The used code binds nothing more; nor does one that was never given out.
	for _, code := range []string{code, "jc_00000000000000000000000000", "x", ""} {
		_, err := enrol(t, d, t.TempDir(), code)
		wantFault(t, err, fault.Unauthenticated, "join_code")
	}
}

// TestARunThatAPersonOpens is theirs: what they state may clear the values it names.
func TestARunThatAPersonOpens(t *testing.T) {
	d, code := deployment(t)
	state, err := enrol(t, d, t.TempDir(), code)
	must(t, err)
	olaf := d.Person("olaf", people.Operator)
	_, run := bridge(t, d, state, func(c *connect.Config) {
		c.OpenRun = func(ctx context.Context, agent, purpose string) (string, error) {
			r, err := olaf.OpenRun(ctx, client.OpenRun{Agent: agent, Purpose: purpose})
			return r.ID.String(), err
		}
	})
	r, err := d.Operator.Run(t.Context(), run)
	must(t, err)
	if r.Opener.Name != "olaf" || !r.Clears() {
		t.Errorf("%+v", r.Opener)
	}
}

// TestWhatEndsARunEndsItsBridge, with the words of the gateway.
func TestWhatEndsARunEndsItsBridge(t *testing.T) {
	d, code := deployment(t)
	state, err := enrol(t, d, t.TempDir(), code)
	must(t, err)
	b, run := bridge(t, d, state, nil)
	s, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(t.Context(), over["stdio"](t, b), nil)
	must(t, err)
	defer s.Close()
	call := func() error {
		_, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "note", Arguments: map[string]any{}})
		return err
	}
	must(t, call())
	_, err = d.Operator.EndRun(t.Context(), run, "done")
	must(t, err)
	if err := call(); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("after the end: %v", err)
	}
	_, err = connect.New(state, connect.Config{Server: "office", Run: run}).Open(t.Context())
	wantFault(t, err, fault.Unauthenticated, "run_ended")
	_, err = connect.New(state, connect.Config{Server: "office", Purpose: strings.Repeat("x", 5000)}).Open(t.Context())
	wantFault(t, err, fault.Invalid, "bad_purpose")
	_, err = d.Operator.SuspendAgent(t.Context(), "clerk", "look into it")
	must(t, err)
	_, err = connect.New(state, connect.Config{Server: "office"}).Open(t.Context())
	wantFault(t, err, fault.Suspended, "agent_suspended")
}

// TestTheBridgeOutlivesTheGateway: a restart costs a call under way and nothing after it.
func TestTheBridgeOutlivesTheGateway(t *testing.T) {
	d, code := deployment(t)
	state, err := enrol(t, d, t.TempDir(), code)
	must(t, err)
	b, _ := bridge(t, d, state, nil)
	s, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(t.Context(), over["stdio"](t, b), nil)
	must(t, err)
	defer s.Close()
	call := func() error {
		res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "note", Arguments: map[string]any{}})
		if err == nil && res.IsError {
			return fmt.Errorf("%s", words(res))
		}
		return err
	}
	must(t, call())
	must(t, d.Stop())
	if err := call(); err == nil || !strings.Contains(err.Error(), "chaperone_unreachable") && !strings.Contains(err.Error(), "answer_lost") {
		t.Errorf("while it is down: %v", err)
	}
	d.Run()
	must(t, call())
}
