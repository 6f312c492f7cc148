// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"chaperone/internal/api/client"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/grant"
	"chaperone/internal/run"
)

func (c *cli) run() *cobra.Command {
	cmd := &cobra.Command{Use: "run", Short: "Runs: one task's life, from purpose to end"}
	var state, agent string
	ls := lister(c, &cobra.Command{Use: "list", Short: "List runs, newest first", Args: cobra.NoArgs},
		func(ctx context.Context, cl *client.Client, _ []string, p client.Page) (client.List[run.Run], error) {
			return cl.Runs(ctx, client.RunQuery{Agent: agent, State: state, Page: p})
		},
		column[run.Run]{"run", func(r run.Run) string { return r.ID.String() }},
		column[run.Run]{"agent", func(r run.Run) string { return r.AgentName }},
		column[run.Run]{"opened by", func(r run.Run) string { return r.Opener.Name }},
		column[run.Run]{"state", func(r run.Run) string { return string(r.State) }},
		column[run.Run]{"steps", func(r run.Run) string { return fmt.Sprintf("%d/%d", r.Spent.Steps, r.Budgets.Steps) }},
		column[run.Run]{"label", func(r run.Run) string { return labelWords(r.Label) }},
		column[run.Run]{"ends", func(r run.Run) string { return when(r.ExpiresAt) }},
		column[run.Run]{"purpose", func(r run.Run) string { return r.Purpose }})
	ls.Flags().StringVar(&state, "state", "", "active, suspended, ended or expired")
	ls.Flags().StringVar(&agent, "agent", "", "runs of one agent")
	cmd.AddCommand(ls)
	cmd.AddCommand(&cobra.Command{Use: "show RUN", Short: "Show one run", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		r, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (run.Run, error) { return cl.Run(ctx, args[0]) })
		if err != nil {
			return err
		}
		return c.showRun(r)
	}})
	var in struct {
		agent, purpose, plan, parent string
		steps                        int64
		life                         time.Duration
	}
	open := &cobra.Command{Use: "open", Short: "Open a run for an agent; what you state may clear the values it names", Args: cobra.NoArgs,
		Example: `chaperone run open --agent clerk --purpose "Pay invoice 2043 to DE89370400440532013000 and tell ana@hallmann-print.example"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body := client.OpenRun{Agent: in.agent, Purpose: in.purpose, Parent: in.parent,
				Budgets: run.Budgets{Steps: in.steps, Seconds: int64(in.life.Seconds())}}
			if in.plan != "" {
				b, err := os.ReadFile(in.plan)
				if err != nil {
					return usage("cannot read the plan %s: %v", in.plan, err)
				}
				if err := canon.Decode(b, canon.Limits{}, &body.Plan); err != nil {
					return fault.Wrap("cli.run", err)
				}
			}
			r, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (run.Run, error) { return cl.OpenRun(ctx, body) })
			if err != nil {
				return err
			}
			return c.showRun(r)
		}}
	f := open.Flags()
	f.StringVar(&in.agent, "agent", "", "the agent that will work")
	f.StringVar(&in.purpose, "purpose", "", "what the run is for, at most 4 KiB")
	f.StringVar(&in.plan, "plan", "", "a JSON file with the plan's steps")
	f.StringVar(&in.parent, "parent", "", "the run that this one is a part of")
	f.Int64Var(&in.steps, "steps", 0, "most calls, denied ones too (default 200)")
	f.DurationVar(&in.life, "life", 0, "longest life (default 1h)")
	_ = open.MarkFlagRequired("agent")   // fails only for a flag that does not exist
	_ = open.MarkFlagRequired("purpose") // likewise
	cmd.AddCommand(open)
	var reason string
	end := &cobra.Command{Use: "end RUN", Short: "End a run: everything it holds dies with it", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		r, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (run.Run, error) { return cl.EndRun(ctx, args[0], reason) })
		if err != nil {
			return err
		}
		return c.showRun(r)
	}}
	reasonFlag(end, &reason)
	cmd.AddCommand(end)
	return cmd
}

func (c *cli) showRun(r run.Run) error {
	clears := "no: the agent stated it"
	if r.Clears() {
		clears = "yes: " + r.Opener.Name + " stated it"
	}
	return c.show(r, [2]string{"run", r.ID.String()}, [2]string{"agent", r.AgentName}, [2]string{"opened by", fmt.Sprintf("%s (%s)", r.Opener.Name, r.Opener.Kind)},
		[2]string{"purpose", r.Purpose}, [2]string{"clears values", clears}, [2]string{"state", string(r.State)}, [2]string{"label", labelWords(r.Label)},
		[2]string{"steps", fmt.Sprintf("%d of %d", r.Spent.Steps, r.Budgets.Steps)}, [2]string{"ends", when(r.ExpiresAt)}, [2]string{"ended", r.EndReason})
}

func (c *cli) grant() *cobra.Command {
	cmd := &cobra.Command{Use: "grant", Short: "Grants: permission for one exact call"}
	columns := []column[grant.Grant]{
		{"grant", func(g grant.Grant) string { return g.ID.String() }},
		{"run", func(g grant.Grant) string { return g.Run.String() }},
		{"tool", func(g grant.Grant) string { return g.Server + "/" + g.Tool }},
		{"asked by", func(g grant.Grant) string { return string(g.Origin) }},
		{"state", func(g grant.Grant) string { return string(g.State) }},
		{"until", func(g grant.Grant) string { return when(g.NotAfter) }},
	}
	var state, of string
	ls := lister(c, &cobra.Command{Use: "list", Short: "List grants, newest first", Args: cobra.NoArgs},
		func(ctx context.Context, cl *client.Client, _ []string, p client.Page) (client.List[grant.Grant], error) {
			return cl.Grants(ctx, client.GrantQuery{Run: of, State: state, Page: p})
		},
		columns...)
	ls.Flags().StringVar(&state, "state", "", "requested, active, used, released, expired or revoked")
	ls.Flags().StringVar(&of, "run", "", "grants of one run")
	cmd.AddCommand(ls)
	var tool, args string
	request := &cobra.Command{Use: "request RUN", Short: "Ask ahead for one exact call of a run", Args: cobra.ExactArgs(1),
		Example: `chaperone grant request run_... --tool office/payment_send --arguments '{"iban":"DE89...","amount":1240,...}'`,
		RunE: func(cmd *cobra.Command, pos []string) error {
			server, name, ok := cutTool(tool)
			if !ok {
				return usage("--tool %q is not server/tool", tool)
			}
			if !json.Valid([]byte(args)) {
				return usage("--arguments is not JSON")
			}
			g, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.GrantAnswer, error) {
				return cl.AskGrant(ctx, pos[0], client.AskGrant{Server: server, Tool: name, Arguments: json.RawMessage(args)})
			})
			if err != nil {
				return err
			}
			lines := [][2]string{{"state", g.State}, {"decision", g.Decision}, {"reason", g.Reason}}
			if g.Grant != nil {
				lines = append(lines, [2]string{"grant", g.Grant.ID.String()}, [2]string{"until", when(g.Grant.NotAfter)})
			}
			if err := c.show(g, lines...); err != nil || g.Approval == nil {
				return err
			}
			return fault.New(fault.Denied, "cli", "pending", "the grant waits for approval %s", g.Approval.ID).WithFix("chaperone approval show %s", g.Approval.ID)
		}}
	request.Flags().StringVar(&tool, "tool", "", "the tool, as server/tool")
	request.Flags().StringVar(&args, "arguments", "{}", "the exact arguments, as JSON")
	_ = request.MarkFlagRequired("tool") // fails only for a flag that does not exist
	cmd.AddCommand(request)
	var reason string
	revoke := &cobra.Command{Use: "revoke GRANT", Short: "Take a grant back", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, pos []string) error {
		g, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (grant.Grant, error) {
			return cl.RevokeGrant(ctx, pos[0], reason)
		})
		if err != nil {
			return err
		}
		return c.show(g, [2]string{"grant", g.ID.String()}, [2]string{"state", string(g.State)})
	}}
	reasonFlag(revoke, &reason)
	cmd.AddCommand(revoke)
	return cmd
}
