// SPDX-License-Identifier: Apache-2.0

package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"chaperone/internal/fault"
	"chaperone/internal/secret"
)

const canary = "canary-0123456789-upstream"

func TestValueNeverPrints(t *testing.T) {
	v := secret.NewValue(canary)
	inj := secret.Injection{Server: "office", Place: secret.Bearer, Value: v, Version: 3}
	var logs bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&logs, nil))
	log.Info("m", "value", v, "injection", inj, "pointer", &inj)
	slog.New(slog.NewTextHandler(&logs, nil)).Info("m", "value", v, "injection", inj, "pointer", &inj)
	var out strings.Builder
	for _, x := range []any{v, &v, inj, &inj, []secret.Value{v}, map[string]secret.Injection{"a": inj}, struct{ V secret.Value }{v}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %q %x\n", x, x, x, x, x, x)
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	all := out.String() + logs.String()
	for _, form := range []string{canary, canary[:8], fmt.Sprintf("%x", canary)} {
		if strings.Contains(all, form) {
			t.Errorf("%q was printed:\n%s", form, all)
		}
	}
	if !strings.Contains(all, "[redacted]") {
		t.Error("nothing was redacted, so nothing was printed at all")
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name string
		in   secret.Injection
		code string
	}{
		{"bearer", secret.Injection{Place: secret.Bearer, Value: secret.NewValue(canary)}, ""},
		{"basic", secret.Injection{Place: secret.Basic, User: "svc", Value: secret.NewValue(canary)}, ""},
		{"header", secret.Injection{Place: secret.Header, Name: "X-Api-Key", Value: secret.NewValue(canary)}, ""},
		{"query", secret.Injection{Place: secret.Query, Name: "key", Value: secret.NewValue("with space & more")}, ""},
		{"no place", secret.Injection{Value: secret.NewValue(canary)}, "secret_place"},
		{"bearer with a name", secret.Injection{Place: secret.Bearer, Name: "X", Value: secret.NewValue(canary)}, "secret_name"},
		{"basic without a user", secret.Injection{Place: secret.Basic, Value: secret.NewValue(canary)}, "secret_user"},
		{"basic with a colon", secret.Injection{Place: secret.Basic, User: "a:b", Value: secret.NewValue(canary)}, "secret_user"},
		{"bearer with a user", secret.Injection{Place: secret.Bearer, User: "a", Value: secret.NewValue(canary)}, "secret_user"},
		{"header without a name", secret.Injection{Place: secret.Header, Value: secret.NewValue(canary)}, "secret_name"},
		{"header with a line end", secret.Injection{Place: secret.Header, Name: "X-A\r\nHost", Value: secret.NewValue(canary)}, "secret_name"},
		{"authorization as header", secret.Injection{Place: secret.Header, Name: "authorization", Value: secret.NewValue(canary)}, "secret_name"},
		{"host as header", secret.Injection{Place: secret.Header, Name: "Host", Value: secret.NewValue(canary)}, "secret_name"},
		{"content-length as header", secret.Injection{Place: secret.Header, Name: "Content-Length", Value: secret.NewValue(canary)}, "secret_name"},
		{"mcp header", secret.Injection{Place: secret.Header, Name: "Mcp-Session-Id", Value: secret.NewValue(canary)}, "secret_name"},
		{"query with an ampersand", secret.Injection{Place: secret.Query, Name: "a&b", Value: secret.NewValue(canary)}, "secret_name"},
		{"too short", secret.Injection{Place: secret.Bearer, Value: secret.NewValue("1234567")}, "secret_short"},
		{"too long", secret.Injection{Place: secret.Bearer, Value: secret.NewValue(strings.Repeat("x", 9000))}, "secret_long"},
		{"line end", secret.Injection{Place: secret.Header, Name: "X-Api-Key", Value: secret.NewValue("abcdefgh\r\nX: y")}, "secret_value"},
		{"space around", secret.Injection{Place: secret.Bearer, Value: secret.NewValue(" abcdefgh")}, "secret_value"},
		{"control character", secret.Injection{Place: secret.Query, Name: "key", Value: secret.NewValue("abcdefgh\x00")}, "secret_value"},
		{"not UTF-8", secret.Injection{Place: secret.Query, Name: "key", Value: secret.NewValue("abcdefgh\xff")}, "secret_value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.in.Check()
			if tt.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if fault.CodeOf(err) != tt.code || !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v, want Invalid %s", err, tt.code)
			}
		})
	}
}
