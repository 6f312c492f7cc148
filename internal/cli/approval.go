// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"chaperone/internal/api/client"
	"chaperone/internal/approval"
	"chaperone/internal/fault"
)

func (c *cli) approval() *cobra.Command {
	cmd := &cobra.Command{Use: "approval", Short: "Approvals: see exactly what would run, and decide"}
	var state string
	ls := lister(c, &cobra.Command{Use: "list", Short: "List approvals, newest first", Args: cobra.NoArgs},
		func(ctx context.Context, cl *client.Client, _ []string, p client.Page) (client.List[client.Approval], error) {
			return cl.Approvals(ctx, state, p)
		},
		column[client.Approval]{"approval", func(a client.Approval) string { return a.ID.String() }},
		column[client.Approval]{"state", func(a client.Approval) string { return string(a.State) }},
		column[client.Approval]{"agent", func(a client.Approval) string { return a.AgentName }},
		column[client.Approval]{"call", func(a client.Approval) string { return a.Call.Server + "/" + a.Call.Tool }},
		column[client.Approval]{"needs", func(a client.Approval) string { return needs(a.Require) }},
		column[client.Approval]{"until", func(a client.Approval) string { return when(a.Binding.NotAfter) }})
	ls.Flags().StringVar(&state, "state", "", "pending, approved, denied, expired, cancelled or consumed")
	cmd.AddCommand(ls)
	cmd.AddCommand(&cobra.Command{Use: "show APPROVAL", Short: "Show exactly what would run, nothing cut", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		a, err := c.readApproval(cmd, args[0])
		if err != nil {
			return err
		}
		return c.showApproval(a)
	}})
	for _, v := range []struct {
		use     string
		verdict approval.Verdict
		short   string
	}{
		{"approve", approval.Yes, "Consent to this exact call, once"},
		{"deny", approval.No, "Refuse; one refusal is enough"},
	} {
		var reason, binding string
		var yes bool
		decide := &cobra.Command{Use: v.use + " APPROVAL", Short: v.short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.readApproval(cmd, args[0])
			if err != nil {
				return err
			}
			if binding == "" {
				// What is signed is what was just shown: without --binding the payload is printed and must be confirmed.
				if !yes {
					if !c.tty() {
						return usage("this is no terminal: nobody sees the payload and nobody can confirm it").
							WithFix("pass --binding with the digest that `chaperone approval show %s` prints, or --yes", args[0])
					}
					if err := c.confirm(a, v.use); err != nil {
						return err
					}
				}
				binding = a.BindingDigest
			}
			body := client.Decide{Verdict: v.verdict, Reason: reason, BindingDigest: binding, Channel: "cli"}
			out, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.Approval, error) {
				return cl.Decide(ctx, args[0], body)
			})
			if err != nil {
				return err
			}
			return c.show(out, [2]string{"approval", out.ID.String()}, [2]string{"state", string(out.State)}, [2]string{"decided", fmt.Sprint(len(out.Decisions))})
		}}
		decide.Flags().StringVar(&reason, "reason", "", "why, for the record")
		decide.Flags().StringVar(&binding, "binding", "", "the binding digest that was shown; the decision is refused if it differs")
		decide.Flags().BoolVar(&yes, "yes", false, "do not show and ask, whatever the payload is")
		cmd.AddCommand(decide)
	}
	return cmd
}

func (c *cli) readApproval(cmd *cobra.Command, id string) (client.Approval, error) {
	return fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.Approval, error) { return cl.Approval(ctx, id) })
}

func (c *cli) confirm(a client.Approval, verb string) error {
	if err := c.showApproval(a); err != nil {
		return err
	}
	fmt.Fprintf(c.errOut, "\nType %q to %s this call: ", verb, verb)
	var answer string
	if _, err := fmt.Fscanln(c.in, &answer); err != nil || answer != verb {
		return fault.New(fault.Invalid, "cli", "not_confirmed", "nothing was decided").WithFix("run the command again and type %q", verb)
	}
	return nil
}

func (c *cli) showApproval(a client.Approval) error {
	if c.output == "json" {
		return c.json(a)
	}
	var rules, excluded, decided []string
	for _, r := range a.Binding.Rules {
		rules = append(rules, r.ID+": "+r.Reason)
	}
	for _, x := range a.Excluded {
		excluded = append(excluded, x.Person+" ("+x.Why+")")
	}
	for _, d := range a.Decisions {
		decided = append(decided, fmt.Sprintf("%s said %s at %s", d.Person, d.Verdict, when(d.At)))
	}
	if err := c.show(a,
		[2]string{"approval", a.ID.String()}, [2]string{"state", string(a.State)},
		[2]string{"agent", fmt.Sprintf("%s, owned by %s", a.AgentName, a.AgentOwner)}, [2]string{"for", a.Purpose}, [2]string{"opened by", openedBy(a)},
		[2]string{"run", a.Call.Run.String() + ", " + a.Label},
		[2]string{"wants to call", a.Call.Server + "/" + a.Call.Tool}, [2]string{"at", a.Call.Endpoint},
		[2]string{"effect", strings.TrimSuffix(a.Call.Effect+", "+strings.Join(a.Call.Stakes, ", "), ", ")},
		[2]string{"held by", strings.Join(rules, "; ")}, [2]string{"needs", needs(a.Require)}, [2]string{"may not decide", strings.Join(excluded, ", ")},
		[2]string{"decided", strings.Join(decided, "; ")}, [2]string{"until", when(a.Binding.NotAfter)},
		[2]string{"you may decide", mayDecide(a)}, [2]string{"binding", a.BindingDigest}); err != nil {
		return err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, a.Call.Arguments, "", "  "); err != nil {
		return fault.Wrap("cli.approval", err)
	}
	_, err := fmt.Fprintf(c.out, "\nexactly this will run:\n%s\n", clean(pretty.String()))
	return err
}

// openedBy says whose words the purpose is.
func openedBy(a client.Approval) string {
	if a.Requester == "" {
		return "the agent itself; what it is for is the agent's own statement"
	}
	return a.Requester
}

func mayDecide(a client.Approval) string {
	if a.May {
		return "yes"
	}
	return "no: " + a.Why
}

func needs(require []approval.Requirement) string {
	var out []string
	for _, r := range require {
		out = append(out, fmt.Sprintf("%d of %s", r.Number, r.Group))
	}
	return strings.Join(out, " and ")
}
