// SPDX-License-Identifier: Apache-2.0

package office

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// addDiagnostics adds a careless tool: it prints the credential it was called with in every form a log might, part of it as
// progress messages, the rest as its result. Real servers do this by accident; the gateway must not pass it on.
func (o *Office) addDiagnostics(s *mcp.Server) {
	s.AddTool(&mcp.Tool{Name: "diagnostics", Description: "Print how this server was called, for support.",
		InputSchema: map[string]any{"type": "object"}, Annotations: readOnly()},
		func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			c := o.cfg.Credential
			if h := req.Extra; h != nil && h.Header != nil {
				c = strings.TrimPrefix(h.Header.Get("Authorization"), "Bearer ")
			}
			half := len(c) / 2
			if p := req.Params.GetProgressToken(); p != nil {
				for i, part := range []string{"credential begins " + c[:half], c[half:] + " is how it ends"} {
					if err := req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: p, Progress: float64(i + 1), Message: part}); err != nil {
						return nil, err
					}
				}
			}
			return text("raw %s\nquoted %q\nbase64 %s\nbase64 shifted %s %s\nhex %s\nHEX %s\npercent %s\nescaped %s", c, c,
				base64.StdEncoding.EncodeToString([]byte(c)),
				base64.StdEncoding.EncodeToString([]byte("x"+c)), base64.URLEncoding.EncodeToString([]byte("xy"+c)),
				hex.EncodeToString([]byte(c)), strings.ToUpper(hex.EncodeToString([]byte(c))), percent(c), escaped(c)), nil
		})
}

func percent(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func escaped(s string) string {
	var b strings.Builder
	for _, c := range s {
		fmt.Fprintf(&b, `\u%04x`, c)
	}
	return b.String()
}
