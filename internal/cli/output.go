// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// column is one column of a table.
type column[T any] struct {
	head string
	cell func(T) string
}

// list prints items as a table, or as {"items": [...]} with -o json.
func list[T any](c *cli, items []T, columns ...column[T]) error {
	if c.output == "json" {
		if items == nil {
			items = []T{}
		}
		return c.json(map[string]any{"items": items})
	}
	if len(items) == 0 {
		fmt.Fprintln(c.errOut, "none")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
	heads := make([]string, len(columns))
	for i, col := range columns {
		heads[i] = strings.ToUpper(col.head)
	}
	fmt.Fprintln(w, strings.Join(heads, "\t"))
	for _, item := range items {
		cells := make([]string, len(columns))
		for i, col := range columns {
			cells[i] = line(col.cell(item))
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// show prints one thing: its JSON with -o json, otherwise the lines.
func (c *cli) show(item any, lines ...[2]string) error {
	if c.output == "json" {
		return c.json(item)
	}
	w := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
	for _, l := range lines {
		if l[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", l[0], line(l[1]))
		}
	}
	return w.Flush()
}

func (c *cli) json(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// clean makes what others wrote safe to print: control characters (and so terminal escapes), bidirectional marks, zero-width and
// tag characters are shown as their code point, nothing is dropped and nothing is cut.
func clean(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, "<U+%04X>", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// line is clean for what stands in a line or a cell of its own: line breaks and tabs are shown too, or what an agent wrote could look
// like lines that this program wrote.
func line(s string) string { return breaks.Replace(clean(s)) }

var breaks = strings.NewReplacer("\n", "<U+000A>", "\t", "<U+0009>", "\u2028", "<U+2028>", "\u2029", "<U+2029>")

func hidden(r rune) bool {
	return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Co, r) || r == '\uFFFD' ||
		r >= 0xFE00 && r <= 0xFE0F || r >= 0xE0100 && r <= 0xE01EF || r == 0x115F || r == 0x1160 || r == 0x3164)
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func words(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ",")
}
