// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/policy"
)

// policyTest runs cases offline: the tools come from a catalogue file, since no deployment is asked.
func (c *cli) policyTest() *cobra.Command {
	var policies []string
	var catalogue string
	cmd := &cobra.Command{Use: "test CASES...", Short: "Run YAML cases against policies, offline (docs/policy.md)", Args: cobra.MinimumNArgs(1),
		Example: "chaperone policy test --policies ./policies --catalog office.yaml cases.yaml",
		RunE: func(_ *cobra.Command, args []string) error {
			files := policy.DefaultFiles()
			if len(policies) > 0 {
				var err error
				if files, err = cedarFiles(policies); err != nil {
					return err
				}
			}
			var tools []policy.Tool
			if catalogue != "" {
				b, err := os.ReadFile(catalogue)
				if err != nil {
					return usage("cannot read %s: %v", catalogue, err)
				}
				entries, err := catalog.ParseYAML(b)
				if err != nil {
					return err
				}
				tools = toolsOf(entries)
			}
			set, problems := policy.Compile(files, tools)
			for _, p := range problems {
				fmt.Fprintln(c.errOut, problem(p))
			}
			if len(problems) > 0 {
				return fault.New(fault.Invalid, "cli.policy", "policy_invalid", "%d problems in the policies", len(problems)).WithFix("mend each and test again")
			}
			return c.runCases(set, args)
		}}
	cmd.Flags().StringArrayVar(&policies, "policies", nil, "directory or file of policies (default: the shipped ones)")
	cmd.Flags().StringVar(&catalogue, "catalog", "", "catalogue file that names the tools of the cases")
	return cmd
}

func (c *cli) runCases(set *policy.Set, paths []string) error {
	type result struct {
		File string `json:"file"`
		policy.CaseResult
	}
	var all []result
	failed := 0
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return usage("cannot read %s: %v", path, err)
		}
		got, err := policy.RunCases(set, b)
		if err != nil {
			return err
		}
		for _, r := range got {
			all = append(all, result{path, r})
			if !r.OK {
				failed++
			}
		}
	}
	if err := list(c, all,
		column[result]{"case", func(r result) string { return r.Name }},
		column[result]{"at", func(r result) string { return fmt.Sprintf("%s:%d", r.File, r.Line) }},
		column[result]{"result", func(r result) string {
			if r.OK {
				return "ok"
			}
			return strings.Join(r.Faults, "; ")
		}}); err != nil || failed == 0 {
		return err
	}
	return fault.New(fault.Invalid, "cli.policy", "cases_failed", "%d of %d cases failed", failed, len(all)).WithFix("mend the policy or the case")
}

// toolsOf makes the schema's tools from catalogue entries alone: without pinned definitions every argument counts as unmapped.
func toolsOf(entries []catalog.Entry) []policy.Tool {
	var out []policy.Tool
	seen := map[string]bool{}
	for _, op := range entries {
		e := catalog.Describe(op, true, nil)
		if !seen[e.Server] {
			seen[e.Server] = true
			out = append(out, policy.Tool{Server: e.Server, Kind: policy.KindServer})
		}
		out = append(out, policy.Tool{Server: e.Server, Name: e.Name, Kind: string(e.Kind), Groups: policy.GroupsOf(string(e.Effect), strs(e.Stakes), len(e.Sinks) > 0)})
	}
	return out
}
