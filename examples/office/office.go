// SPDX-License-Identifier: Apache-2.0

// Package office is a small real MCP server with believable data: mail, files and payments of one small firm. It decides
// nothing about who may call what (that is the gateway's work); it accepts whoever shows its one bearer credential and
// never anybody else. The demo and the end-to-end tests run it as a process of its own.
package office

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Config starts an office. Credential is the bearer credential that every request must carry.
type Config struct {
	Credential string
	Now        func() time.Time
	// Instructions, when set, replaces the server's instructions, and Changed alters the description of payment_send:
	// the tests use both to show that a changed definition is refused.
	Instructions string
	Changed      bool
}

// Mail is one message.
type Mail struct {
	ID      string `json:"id"`
	From    string `json:"from"`
	To      string `json:"to"`
	Subject string `json:"subject"`
	Date    string `json:"date"`
	Body    string `json:"body,omitempty"`
}

// Payment is one transfer out of the firm's account. Amount is in euro.
type Payment struct {
	ID        string  `json:"id"`
	IBAN      string  `json:"iban"`
	Recipient string  `json:"recipient"`
	Amount    float64 `json:"amount"`
	Reference string  `json:"reference"`
	Date      string  `json:"date"`
}

// Office holds the data. It is safe for concurrent use.
type Office struct {
	cfg Config

	mu       sync.Mutex
	mails    []Mail
	sent     []Mail
	files    map[string]string
	payments []Payment
}

// New returns an office with its opening data.
func New(cfg Config) *Office {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Office{cfg: cfg, mails: openingMails(), files: openingFiles(), payments: openingPayments()}
}

// Handler serves MCP in both protocol eras: sessions for revisions before 2026-07-28, stateless from there on.
func (o *Office) Handler() http.Handler {
	server := func(*http.Request) *mcp.Server { return o.server() }
	withSessions := mcp.NewStreamableHTTPHandler(server, &mcp.StreamableHTTPOptions{SessionTimeout: 10 * time.Minute})
	stateless := mcp.NewStreamableHTTPHandler(server, &mcp.StreamableHTTPOptions{Stateless: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if subtle.ConstantTimeCompare([]byte(got), []byte(o.cfg.Credential)) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the office wants its own credential", http.StatusUnauthorized)
			return
		}
		if r.Header.Get("MCP-Protocol-Version") >= "2026-07-28" {
			stateless.ServeHTTP(w, r)
			return
		}
		withSessions.ServeHTTP(w, r)
	})
}

func (o *Office) server() *mcp.Server {
	instructions := "The office of Birkenfeld & Sons, a joinery. Mail, files and payments."
	if o.cfg.Instructions != "" {
		instructions = o.cfg.Instructions
	}
	s := mcp.NewServer(&mcp.Implementation{Name: "office", Version: "1.0.0"}, &mcp.ServerOptions{Instructions: instructions})
	o.addMail(s)
	o.addFiles(s)
	o.addPayments(s)
	o.addDiagnostics(s)
	s.AddPrompt(&mcp.Prompt{Name: "month_end", Description: "How this office closes a month."},
		func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{
				Text: "List the open invoices, pay those that are due, answer the senders."}}}}, nil
		})
	s.AddResource(&mcp.Resource{URI: "office://handbook", Name: "handbook", MIMEType: "text/plain"},
		func(_ context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: req.Params.URI, MIMEType: "text/plain",
				Text: "Invoices are paid on the tenth. Two people know of every payment."}}}, nil
		})
	return s
}

func text(format string, args ...any) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprintf(format, args...)}}}
}

func readOnly() *mcp.ToolAnnotations {
	return &mcp.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: new(false)}
}
