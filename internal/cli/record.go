// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chaperone/internal/api/client"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
)

// envelope is what lists show of a record's leaf.
type envelope struct {
	Type      string          `json:"type"`
	Stream    string          `json:"stream"`
	At        time.Time       `json:"at"`
	Actor     audit.Actor     `json:"actor"`
	AgentName string          `json:"agent_name"`
	Run       string          `json:"run"`
	Server    string          `json:"server"`
	Tool      string          `json:"tool"`
	Subject   string          `json:"subject"`
	Decision  string          `json:"decision"`
	Data      json.RawMessage `json:"data"`
}

func (c *cli) audit() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "The record: follow it, query it, export it, verify it anywhere"}
	var q client.EventQuery
	ls := &cobra.Command{Use: "query", Short: "Query the record", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		q.Newest = q.After == ""
		page, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.List[client.Event], error) {
			return cl.Events(ctx, q)
		})
		if err != nil {
			return err
		}
		if page.Next != "" {
			fmt.Fprintf(c.errOut, "there is more: --after %s\n", line(page.Next))
		}
		return c.events(page.Items)
	}}
	f := ls.Flags()
	f.StringVar(&q.Stream, "stream", "", "agent or people")
	f.StringVar(&q.Type, "type", "", "one type of event, see docs/events.md")
	f.StringVar(&q.Agent, "agent", "", "events of one agent")
	f.StringVar(&q.Run, "run", "", "events of one run")
	f.StringVar(&q.Decision, "decision", "", "events of one decision")
	f.StringVar(&q.Approval, "approval", "", "events of one approval")
	f.StringVar(&q.After, "after", "", "only positions after this one, oldest first")
	f.IntVar(&q.Limit, "limit", 100, "how many")
	cmd.AddCommand(ls)
	cmd.AddCommand(&cobra.Command{Use: "tail", Short: "Follow the record as it grows", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return c.tail(cmd) }})

	var to string
	export := &cobra.Command{Use: "export", Short: "Export the record into a directory that verifies anywhere", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		cl, err := c.client()
		if err != nil {
			return err
		}
		r, w := io.Pipe()
		go func() { w.CloseWithError(cl.Export(cmd.Context(), w)) }()
		n, err := untar(r, to)
		r.CloseWithError(err)
		if err != nil {
			return err
		}
		return c.show(map[string]any{"dir": to, "files": n}, [2]string{"exported to", to}, [2]string{"verify with", "chaperone audit verify " + to})
	}}
	export.Flags().StringVar(&to, "to", "", "an empty or new directory")
	_ = export.MarkFlagRequired("to") // fails only for a flag that does not exist
	cmd.AddCommand(export)
	cmd.AddCommand(c.verify())
	return cmd
}

func (c *cli) events(list_ []client.Event) error {
	if c.output == "json" {
		return list(c, list_)
	}
	type row struct {
		client.Event
		e envelope
	}
	rows := make([]row, len(list_))
	for i, ev := range list_ {
		rows[i].Event = ev
		_ = json.Unmarshal(ev.Leaf, &rows[i].e) // a leaf that this version cannot read still shows its position
	}
	return list(c, rows,
		column[row]{"pos", func(r row) string { return fmt.Sprint(r.Position) }},
		column[row]{"at", func(r row) string { return when(r.e.At) }},
		column[row]{"type", func(r row) string { return r.e.Type }},
		column[row]{"who", func(r row) string { return r.e.Actor.Name }},
		column[row]{"about", func(r row) string {
			return strings.Trim(strings.Join([]string{r.e.Subject, strings.Trim(r.e.Server+"/"+r.e.Tool, "/"), r.e.Decision}, " "), " ")
		}},
		column[row]{"run", func(r row) string { return r.e.Run }})
}

func (c *cli) tail(cmd *cobra.Command) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	newest, err := cl.Events(cmd.Context(), client.EventQuery{Newest: true, Limit: 1})
	if err != nil {
		return err
	}
	after := int64(-1)
	if len(newest.Items) > 0 {
		after = newest.Items[0].Position
	}
	for {
		page, err := cl.Events(cmd.Context(), client.EventQuery{After: fmt.Sprint(after), Limit: 500})
		if cmd.Context().Err() != nil {
			return nil // whoever follows has seen enough
		}
		if err != nil {
			return err
		}
		for _, e := range page.Items {
			after = e.Position
			if c.output == "json" {
				if err := json.NewEncoder(c.out).Encode(e); err != nil {
					return err
				}
				continue
			}
			var env envelope
			_ = json.Unmarshal(e.Leaf, &env) // as in events
			fmt.Fprintf(c.out, "%d  %s  %-22s %s  %s %s\n", e.Position, when(env.At), env.Type, line(env.Actor.Name), line(strings.Trim(env.Server+"/"+env.Tool, "/")), line(env.Subject))
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// untar writes the export's files under dir, which must be empty; names that would leave it are refused.
func untar(r io.Reader, dir string) (int, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, usage("cannot make %s: %v", dir, err)
	}
	if old, err := os.ReadDir(dir); err != nil || len(old) > 0 {
		return 0, usage("%s is not empty", dir).WithFix("give a new directory")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fault.Wrap("cli.export", err)
	}
	defer root.Close()
	t, n := tar.NewReader(r), 0
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			if _, ok := errors.AsType[*fault.Error](err); ok {
				return n, err
			}
			return n, fault.New(fault.Unavailable, "cli.export", "export_cut", "the export ended early").WithFix("export again into a new directory").WithCause(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(h.Name), 0o700); err != nil {
			return n, fault.Wrap("cli.export", err)
		}
		f, err := root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return n, fault.Wrap("cli.export", err)
		}
		_, err = io.Copy(f, t)
		if err = errors.Join(err, f.Close()); err != nil {
			return n, fault.Wrap("cli.export", err)
		}
		n++
	}
}

func (c *cli) explainCmd() *cobra.Command {
	return &cobra.Command{Use: "explain DECISION", Short: "Tell why a decision fell as it did, in the words of the policy", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.Explanation, error) {
				return cl.Explain(ctx, args[0])
			})
			if err != nil {
				return err
			}
			if c.output == "json" {
				return c.json(e)
			}
			if err := c.show(e, [2]string{"decision", e.Decision.String()}, [2]string{"record", fmt.Sprint(e.Position)}, [2]string{"at", when(e.At)},
				[2]string{"asked by", e.Actor}, [2]string{"outcome", e.Effect}, [2]string{"code", e.Code}, [2]string{"approval", e.Approval.String()}, [2]string{"grant", e.Grant.String()}); err != nil {
				return err
			}
			for _, r := range e.Reasons {
				fmt.Fprintf(c.out, "\nrule %s (%s): %s\n", line(r.Rule), r.Effect, line(r.Text))
				if r.Source != "" {
					fmt.Fprintf(c.out, "%s:%d\n%s\n", line(r.File), r.Line, clean(r.Source))
				}
			}
			if len(e.Lift) > 0 {
				fmt.Fprintf(c.out, "\nwhat would turn it:\n")
				for _, l := range e.Lift {
					fmt.Fprintf(c.out, "- %s\n", line(l))
				}
			}
			return nil
		}}
}

func (c *cli) doctor() *cobra.Command {
	return &cobra.Command{Use: "doctor", Short: "Find what is set up wrongly, and say what to do", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		d, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.Doctor, error) { return cl.Doctor(ctx) })
		if err != nil {
			return err
		}
		if err := list(c, d.Items,
			column[client.Finding]{"severity", func(f client.Finding) string { return f.Severity }},
			column[client.Finding]{"what", func(f client.Finding) string { return f.Message }},
			column[client.Finding]{"about", func(f client.Finding) string { return f.Subject }},
			column[client.Finding]{"fix", func(f client.Finding) string { return f.Fix }}); err != nil || d.OK {
			return err
		}
		return fault.New(fault.Invalid, "cli.doctor", "doctor", "there are errors").WithFix("mend them in the order shown")
	}}
}

func refusal(err error) (*client.Refusal, bool) { return errors.AsType[*client.Refusal](err) }

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
				fmt.Fprint(c.out, clean(report.String()))
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
