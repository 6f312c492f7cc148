// SPDX-License-Identifier: Apache-2.0

package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"chaperone/internal/fault"
	"chaperone/internal/telemetry"
)

const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzcGlmZmU6Ly94In0.c2lnbmF0dXJl"

// canaries are credentials in the forms that must never be seen, each with the part that must not be in a line.
var canaries = []struct{ name, text, hidden string }{
	{"JWT", "got " + jwt + " back", "c2lnbmF0dXJl"},
	{"unsigned JWT", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjYW5hcnkifQ.", "eyJzdWIi"},
	{"PEM key", "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----", "MIGHAgEA"},
	{"PEM key cut short", "-----BEGIN EC PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49", "MIGHAgEA"},
	{"join code", "code jc_ABCDEFGHIJKLMNOPQRSTUVWXYZ", "ABCDEFGHIJ"},
	{"login code", "lc_ABCDEFGHIJKLMNOPQRSTUVWXYZ", "ABCDEFGHIJ"},
	{"bearer header", "Authorization: Bearer canarycanarycanary1234", "canarycanary"},
	{"basic header", "basic Y2FuYXJ5OmNhbmFyeWNhbmFyeQ==", "Y2FuYXJ5"},
	{"private JWK", `{"kty":"EC","d":"canarycanarycanarycanary"}`, "canarycanary"},
	{"form", "grant_type=x&client_secret=canarycanary&scope=y", "canarycanary"},
	{"password in a URL", "postgres://chaperone:canarycanary@db/x", "canarycanary"},
	{"note signer", "PRIVATE+KEY+chaperone.internal/log+abcd+canarycanary", "canarycanary"},
}

type holder struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Note     string `json:"note"`
	Inner    map[string]string
}

// loggers returns both formats at debug level and their common output.
func loggers(t *testing.T) (*bytes.Buffer, []*slog.Logger) {
	t.Helper()
	var out bytes.Buffer
	var all []*slog.Logger
	for _, format := range []string{"text", "json"} {
		l, err := telemetry.New(&out, telemetry.Config{Format: format, Level: "debug"})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return &out, all
}

func TestCredentialsInValues(t *testing.T) {
	for _, c := range canaries {
		t.Run(c.name, func(t *testing.T) {
			out, all := loggers(t)
			for _, l := range all {
				l.Info("message "+c.text, "plain", c.text, "err", fault.Wrap("x", errors.New(c.text)), "bytes", []byte(c.text))
				l.With("bound", c.text).WithGroup("g").Debug("m", slog.Group("h", "note", c.text), "any", holder{Note: c.text}, "list", []string{c.text})
			}
			if strings.Contains(out.String(), c.hidden) {
				t.Errorf("%s is shown:\n%s", c.hidden, out)
			}
			if n := strings.Count(out.String(), telemetry.Redacted); n < 16 {
				t.Errorf("%d places redacted, want at least 16:\n%s", n, out)
			}
		})
	}
}

func TestCredentialsByName(t *testing.T) {
	const canary = "plain-looking-canary"
	names := []string{"authorization", "Authorization", "DPoP", "dpop_proof", "DPoP-Nonce", "token", "access_token", "accessToken", "secret",
		"client_secret", "password", "code", "join_code", "private_key", "privateKey", "Set-Cookie", "credential", "upstream.secret", "jwk", "api_key"}
	for _, name := range names {
		out, all := loggers(t)
		for _, l := range all {
			l.Info("m", name, canary)
			l.Info("m", slog.Group(name, "x", canary))
			l.WithGroup(name).Info("m", "x", canary)
			l.Info("m", "map", map[string]any{"deep": []any{map[string]any{name: canary}}})
		}
		if strings.Contains(out.String(), canary) {
			t.Errorf("a value named %s is shown:\n%s", name, out)
		}
	}
	out, all := loggers(t)
	for _, l := range all {
		l.Info("m", "h", holder{Name: "n", Password: canary, Inner: map[string]string{"token": canary}})
	}
	if strings.Contains(out.String(), canary) || strings.Count(out.String(), "name") != 2 {
		t.Errorf("fields of a struct: %s", out)
	}
}

func TestHarmlessIsShown(t *testing.T) {
	out, all := loggers(t)
	for _, l := range all {
		l.Info("agent mailer asked", "run", "run_2ay3x7", "fault_code", "grant_used", "token_type", "DPoP", "token_endpoint", "http://127.0.0.1:7400/token",
			"credential_id", "cred-1", "decode", "ok", "n", 7, "err", errors.New("basic authentication is off"))
	}
	for _, want := range []string{"agent mailer asked", "run_2ay3x7", "grant_used", "DPoP", "http://127.0.0.1:7400/token", "cred-1", "decode", "basic authentication is off"} {
		if strings.Count(out.String(), want) < 2 {
			t.Errorf("%q is not in both lines:\n%s", want, out)
		}
	}
}

func TestJSONLinesAreWhole(t *testing.T) {
	var out bytes.Buffer
	l, err := telemetry.New(&out, telemetry.Config{Format: "json"})
	if err != nil {
		t.Fatal(err)
	}
	l.Debug("not shown at level info")
	l.Info("m", "level_of", slog.LevelWarn, "nil", nil, "struct", holder{Name: "n"}, "func", func() {})
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%s: %v", out.Bytes(), err)
	}
	if line["msg"] != "m" || line["level"] != "INFO" || !strings.HasSuffix(line["time"].(string), "Z") {
		t.Errorf("line = %v", line)
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := telemetry.New(nil, telemetry.Config{Format: "xml"}); fault.CodeOf(err) != "log_format" {
		t.Errorf("format xml: %v", err)
	}
	if _, err := telemetry.New(nil, telemetry.Config{Level: "loud"}); fault.CodeOf(err) != "log_level" {
		t.Errorf("level loud: %v", err)
	}
}

func TestSecretNeverPrints(t *testing.T) {
	s := telemetry.Secret("canary-canary")
	b, err := json.Marshal(map[string]any{"s": s, "p": &s})
	if err != nil {
		t.Fatal(err)
	}
	out, all := loggers(t)
	for _, l := range all {
		l.Info("m", "x", s, "y", &s, "z", []telemetry.Secret{s}, "w", struct{ S telemetry.Secret }{s})
	}
	all2 := fmt.Sprintf("%v %s %q %x %X %d %+v %#v %T %v %v", s, s, s, s, s, s, s, s, s, []telemetry.Secret{s}, struct{ S telemetry.Secret }{s}) + string(b) + out.String()
	for _, form := range []string{"canary", fmt.Sprintf("%x", "canary"), fmt.Sprintf("%X", "canary")} {
		if strings.Contains(all2, form) {
			t.Errorf("%s is printed: %s", form, all2)
		}
	}
	if s.Reveal() != "canary-canary" {
		t.Error("Reveal does not return the text")
	}
}
