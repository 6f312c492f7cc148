// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chaperone/internal/api/client"
	"chaperone/internal/label"
)

// all asks for the longest page; a list that is longer says so.
var all = client.Page{Limit: 1000}

// fetch makes one request to the API as the signed-in person.
func fetch[T any](c *cli, cmd *cobra.Command, ask func(context.Context, *client.Client) (T, error)) (T, error) {
	cl, err := c.client()
	if err != nil {
		var none T
		return none, err
	}
	return ask(cmd.Context(), cl)
}

func reasonFlag(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "why, for the record")
}

// labelWords puts a label into a few words.
func labelWords(l label.Label) string {
	out := "trusted"
	if l.IsUntrusted() {
		out = "untrusted (" + strings.Join(l.Sources, ", ") + ")"
	}
	if l.Level.Rank() > 0 {
		out += ", " + string(l.Level)
	}
	return out
}

// cutTool splits server/tool.
func cutTool(s string) (server, tool string, ok bool) {
	server, tool, ok = strings.Cut(s, "/")
	return server, tool, ok && server != "" && tool != ""
}

// sorted returns the keys in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func strs[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}
