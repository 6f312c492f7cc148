// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
)

// verify works offline and needs no deployment: anybody with an export can run it.
func (c *cli) verify() *cobra.Command {
	var checkpoint, key string
	cmd := &cobra.Command{Use: "verify DIR", Short: "Verify an export offline, and name what was changed", Args: cobra.ExactArgs(1),
		Long: "Verify checks an export against its own signed checkpoint. Without --checkpoint, a record that was cut back to an older genuine\ncheckpoint cannot be told from one that never grew; with a checkpoint kept apart (every bridge keeps one) it can.",
		RunE: func(_ *cobra.Command, args []string) error {
			opts := audit.Options{Key: key}
			if checkpoint != "" {
				b, err := os.ReadFile(checkpoint)
				if err != nil {
					return usage("cannot read the checkpoint %s: %v", checkpoint, err)
				}
				opts.PinnedCheckpoint = b
			}
			report, err := audit.Verify(os.DirFS(args[0]), opts)
			if err != nil {
				return err
			}
			if c.output == "json" {
				if err := c.json(struct {
					OK bool `json:"ok"`
					audit.Report
				}{report.OK(), report}); err != nil {
					return err
				}
			} else {
				fmt.Fprint(c.out, report.String())
			}
			if report.OK() {
				return nil
			}
			var said []string
			for _, f := range report.Findings[:min(3, len(report.Findings))] {
				said = append(said, f.String())
			}
			return fault.New(fault.Invalid, "cli.verify", "record_changed", "%s", strings.Join(said, "; ")).
				WithFix("keep this export and the last checkpoint as they are; compare with an earlier export")
		}}
	cmd.Flags().StringVar(&checkpoint, "checkpoint", "", "a checkpoint that was kept apart from the record")
	cmd.Flags().StringVar(&key, "key", "", "the log's public key, if known from elsewhere (default: the export's own)")
	return cmd
}
