// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
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

// clean makes a text of several lines that others wrote safe to print: control characters (and so terminal escapes), bidirectional
// marks, zero-width, filler and tag characters are shown as their code point, nothing is dropped and nothing is cut.
func clean(s string) string {
	return visible(s, func(r rune) bool { return hidden(r) && r != '\n' && r != '\t' })
}

// line is clean for what stands in a line or a cell of its own: line breaks and tabs are shown too, or what an agent wrote could look
// like lines that this program wrote.
func line(s string) string { return visible(s, hidden) }

func visible(s string, show func(rune) bool) string {
	if !strings.ContainsFunc(s, show) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if show(r) {
			fmt.Fprintf(&b, "<U+%04X>", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// hidden reports whether a terminal shows nothing for r, or something else than r: Unicode's controls, formats, separators of lines
// and private use, all that it calls ignorable by default, a blank that is no space, and what stands for bytes that are not UTF-8.
func hidden(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) ||
		r == utf8.RuneError || r == 0x2800
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
