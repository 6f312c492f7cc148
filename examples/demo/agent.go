// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// order is what the story asks of the agent's process, one JSON object a line.
type order struct {
	Op   string         `json:"op"` // tools | call | end
	Tool string         `json:"tool,omitempty"`
	Args map[string]any `json:"args,omitempty"`
}

// reply is what came back, one JSON object a line. Fields are taken from the protocol's answer, nothing is made up here.
type reply struct {
	Protocol   string          `json:"protocol,omitempty"`
	Tools      []string        `json:"tools,omitempty"`
	Text       string          `json:"text,omitempty"`
	Structured json.RawMessage `json:"structured,omitempty"`
	Meta       map[string]any  `json:"meta,omitempty"`
	IsError    bool            `json:"is_error,omitempty"`
	Failure    string          `json:"failure,omitempty"` // a protocol error, or a connection that is gone
}

// Agent is the demo's agent: the official MCP SDK client behind `chaperone connect`, an unmodified client as far as the gateway can
// tell. It reads orders from in and writes replies to out. bridge is the command line of the bridge.
func Agent(ctx context.Context, bridge []string, protocol string, in io.Reader, out io.Writer) error {
	client := mcp.NewClient(&mcp.Implementation{Name: "demo-agent", Version: "1.0.0"}, &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{}})
	cmd := exec.CommandContext(ctx, bridge[0], bridge[1:]...)
	cmd.Stderr = os.Stderr
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: cmd}, &mcp.ClientSessionOptions{ProtocolVersion: protocol})
	enc := json.NewEncoder(out)
	if err != nil {
		return errors.Join(enc.Encode(reply{Failure: err.Error()}), err)
	}
	defer session.Close()
	if err := enc.Encode(reply{Protocol: session.InitializeResult().ProtocolVersion}); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return fmt.Errorf("order: %w", err)
		}
		if o.Op == "end" {
			return nil
		}
		if err := enc.Encode(carryOut(ctx, session, o)); err != nil {
			return err
		}
	}
	return lines.Err()
}

func carryOut(ctx context.Context, session *mcp.ClientSession, o order) reply {
	switch o.Op {
	case "tools":
		var r reply
		for tool, err := range session.Tools(ctx, nil) {
			if err != nil {
				return reply{Failure: words(err)}
			}
			r.Tools = append(r.Tools, tool.Name)
		}
		return r
	case "call":
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: o.Tool, Arguments: o.Args})
		if err != nil {
			return reply{Failure: words(err)}
		}
		r := reply{IsError: res.IsError, Meta: res.Meta}
		var text strings.Builder
		for _, c := range res.Content {
			if t, ok := c.(*mcp.TextContent); ok {
				text.WriteString(t.Text)
			}
		}
		r.Text = text.String()
		if res.StructuredContent != nil {
			b, err := json.Marshal(res.StructuredContent)
			if err != nil {
				return reply{Failure: err.Error()}
			}
			r.Structured = b
		}
		return r
	}
	return reply{Failure: fmt.Sprintf("unknown order %q", o.Op)}
}

// words are the message of a protocol error and, behind it, the data that the gateway gave with it.
func words(err error) string {
	e, ok := errors.AsType[*jsonrpc.Error](err)
	if !ok || len(e.Data) == 0 {
		return err.Error()
	}
	return e.Message + " " + string(e.Data)
}
