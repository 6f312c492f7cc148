// SPDX-License-Identifier: Apache-2.0

// Package telemetry sets up structured logs whose handler redacts credentials. It decides what a log line may show; it never
// decides what happens, and it is not the record (that is audit's). Redaction here is the second net: whoever holds a secret
// does not log it, and types that hold one are Secret or have a LogValue of their own.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"

	"chaperone/internal/fault"
)

// Redacted stands where a credential stood.
const Redacted = "[redacted]"

// Config says how logs are written. The zero value is text from level info up.
type Config struct {
	// Format is "text" or "json"; empty is text.
	Format string
	// Level is "debug", "info", "warn" or "error"; empty is info.
	Level string
}

// New returns a logger that writes to w, one line a record, times in UTC. The logger is safe for concurrent use if w is not
// written to by anybody else. Errors: Invalid, "log_format" or "log_level".
func New(w io.Writer, cfg Config) (*slog.Logger, error) {
	var level slog.Level
	if cfg.Level != "" {
		if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
			return nil, fault.New(fault.Invalid, "telemetry.New", "log_level", "the log level %q is not known", cfg.Level).
				WithFix("set it to debug, info, warn or error")
		}
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: replace}
	switch cfg.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fault.New(fault.Invalid, "telemetry.New", "log_format", "the log format %q is not known", cfg.Format).
		WithFix("set it to text or json")
}

// Secret is a text that prints as [redacted] however it is printed, logged or marshalled, except as the key of a map, where
// encoding/json looks at the text alone. Compare it in constant time.
type Secret string

// Reveal returns the text itself. Whoever calls it answers for where it goes.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (Secret) String() string { return Redacted }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return Redacted }

// Format implements fmt.Formatter, because a verb that does not fit a string would print it otherwise.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, Redacted) }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements encoding.TextMarshaler, and so JSON and YAML.
func (Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
