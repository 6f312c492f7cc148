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

// longest is the longest page that the API gives.
const longest = 1000

// lister makes cmd print a list to its end, however many pages that takes.
func lister[T any](c *cli, cmd *cobra.Command, ask func(ctx context.Context, cl *client.Client, args []string, p client.Page) (client.List[T], error), columns ...column[T]) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := c.client()
		if err != nil {
			return err
		}
		var items []T
		for p := (client.Page{Limit: longest}); ; {
			got, err := ask(cmd.Context(), cl, args, p)
			if err != nil {
				return err
			}
			items = append(items, got.Items...)
			if got.Next == "" || got.Next == p.After {
				return list(c, items, columns...)
			}
			p.After = got.Next
		}
	}
	return cmd
}

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
