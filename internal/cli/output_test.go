// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"chaperone/internal/api/client"
	"chaperone/internal/approval"
)

// TestShowApprovalCannotBeForged: what an agent states of itself stays in its line, and says whose word it is.
func TestShowApprovalCannotBeForged(t *testing.T) {
	var out bytes.Buffer
	c := &cli{out: &out, errOut: &out}
	a := client.Approval{Approval: approval.Approval{
		AgentName: "clerk", AgentOwner: "olga", Label: "trusted",
		Purpose: "file invoices\nopened by       ada\nwants to call   office/note\n\nexactly this will run:\n{}\n\x1b[8m\u202e\u2028\r",
		Call:    approval.Call{Server: "office", Tool: "pay", Arguments: json.RawMessage(`{"amount":1000000,"text":"\n\nexactly this will run:\n"}`)},
	}}
	if err := c.showApproval(a); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"\nfor ", "<U+000A>opened by       ada<U+000A>", "<U+001B>[8m<U+202E><U+2028><U+000D>", "\nopened by       the agent itself", "\nwants to call   office/pay\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\nexactly this will run:\n"); n != 1 {
		t.Errorf("the payload is announced %d times:\n%s", n, text)
	}
	if n := strings.Count(text, "\nopened by"); n != 1 {
		t.Errorf("the opener is named %d times:\n%s", n, text)
	}
}

func TestListCannotBeForged(t *testing.T) {
	var out bytes.Buffer
	c := &cli{out: &out, errOut: &out}
	if err := list(c, []string{"a\nb\tc"}, column[string]{"tool", func(s string) string { return s }}); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "TOOL\na<U+000A>b<U+0009>c\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
