// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"chaperone/internal/api/client"
	"chaperone/internal/identity"
)

func (c *cli) agent() *cobra.Command {
	cmd := &cobra.Command{Use: "agent", Short: "Agents: register, enrol, suspend, resume, retire"}
	columns := []column[identity.Agent]{
		{"name", func(a identity.Agent) string { return a.Name }},
		{"type", func(a identity.Agent) string { return a.Type }},
		{"kind", func(a identity.Agent) string { return string(a.Kind) }},
		{"owner", func(a identity.Agent) string { return a.Owner }},
		{"state", func(a identity.Agent) string { return string(a.State) }},
		{"expires", func(a identity.Agent) string { return when(a.ExpiresAt) }},
		{"purpose", func(a identity.Agent) string { return a.Purpose }},
	}
	cmd.AddCommand(lister(c, &cobra.Command{Use: "list", Short: "List agents", Args: cobra.NoArgs},
		func(ctx context.Context, cl *client.Client, _ []string, p client.Page) (client.List[identity.Agent], error) {
			return cl.Agents(ctx, p)
		},
		columns...))
	cmd.AddCommand(&cobra.Command{Use: "show NAME", Short: "Show one agent", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		a, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (identity.Agent, error) { return cl.Agent(ctx, args[0]) })
		if err != nil {
			return err
		}
		return c.showAgent(a)
	}})
	var in struct {
		kind, typ, owner, purpose, env string
		life                           time.Duration
		orchestrator                   bool
	}
	register := &cobra.Command{Use: "register NAME", Short: "Register an agent with an owner, a purpose and an end", Args: cobra.ExactArgs(1),
		Example: `chaperone agent register clerk --type bookkeeper --owner ada --purpose "pays and files supplier invoices"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			body := client.Register{Name: args[0], Type: in.typ, Kind: identity.AgentKind(in.kind), Owner: in.owner, Purpose: in.purpose,
				Environment: in.env, Orchestrator: in.orchestrator, ExpiresAt: time.Now().Add(in.life).UTC().Truncate(time.Second)}
			a, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (identity.Agent, error) { return cl.Register(ctx, body) })
			if err != nil {
				return err
			}
			return c.showAgent(a)
		}}
	f := register.Flags()
	f.StringVar(&in.typ, "type", "", "agent type (see `chaperone type list`)")
	f.StringVar(&in.kind, "kind", "agent", "agent, service or pipeline")
	f.StringVar(&in.owner, "owner", "", "the person who answers for it")
	f.StringVar(&in.purpose, "purpose", "", "what it is for")
	f.StringVar(&in.env, "environment", "", "for example production; policy may use it")
	f.DurationVar(&in.life, "life", 90*24*time.Hour, "until its registration must be renewed")
	f.BoolVar(&in.orchestrator, "orchestrator", false, "may open runs for other agents (kind service only)")
	for _, name := range []string{"type", "owner", "purpose"} {
		_ = register.MarkFlagRequired(name) // fails only for a flag that does not exist
	}
	cmd.AddCommand(register)
	cmd.AddCommand(&cobra.Command{Use: "join-code NAME", Short: "Print a single-use code with which one instance binds its own key", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.JoinCode, error) {
				return cl.JoinCode(ctx, args[0])
			})
			if err != nil {
				return err
			}
			return c.showCode(out, out.Code, out.ExpiresAt, "the agent's machine runs", "chaperone connect --state DIR --server SERVER --join "+out.Code)
		}})
	for _, v := range []struct {
		verb, short string
		do          func(*client.Client, context.Context, string, string) (identity.Agent, error)
	}{
		{"suspend", "Stop an agent: its runs, credentials and grants die at once", (*client.Client).SuspendAgent},
		{"resume", "Let a suspended agent work again", (*client.Client).ResumeAgent},
		{"retire", "End an agent for good; its name is never used again", (*client.Client).RetireAgent},
	} {
		var reason string
		sub := &cobra.Command{Use: v.verb + " NAME", Short: v.short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			a, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (identity.Agent, error) {
				return v.do(cl, ctx, args[0], reason)
			})
			if err != nil {
				return err
			}
			return c.showAgent(a)
		}}
		reasonFlag(sub, &reason)
		cmd.AddCommand(sub)
	}
	cmd.AddCommand(lister(c, &cobra.Command{Use: "instances NAME", Short: "List the running copies of an agent", Args: cobra.ExactArgs(1)},
		func(ctx context.Context, cl *client.Client, args []string, p client.Page) (client.List[identity.Instance], error) {
			return cl.Instances(ctx, args[0], p)
		},
		column[identity.Instance]{"instance", func(i identity.Instance) string { return i.ID.String() }},
		column[identity.Instance]{"key", func(i identity.Instance) string { return i.JKT }},
		column[identity.Instance]{"enrolled", func(i identity.Instance) string { return when(i.EnrolledAt) }},
		column[identity.Instance]{"by", func(i identity.Instance) string { return i.EnrolledBy }},
		column[identity.Instance]{"revoked", func(i identity.Instance) string { return when(i.RevokedAt) }},
		column[identity.Instance]{"carries", func(i identity.Instance) string { return labelWords(i.Carried) }}))
	var reason string
	revoke := &cobra.Command{Use: "revoke-instance ID", Short: "End one running copy for good", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		out, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (identity.Instance, error) {
			return cl.RevokeInstance(ctx, args[0], reason)
		})
		if err != nil {
			return err
		}
		return c.show(out, [2]string{"instance", out.ID.String()}, [2]string{"revoked", when(out.RevokedAt)})
	}}
	reasonFlag(revoke, &reason)
	cmd.AddCommand(revoke)
	return cmd
}

func (c *cli) showAgent(a identity.Agent) error {
	return c.show(a, [2]string{"name", a.Name}, [2]string{"id", a.ID.String()}, [2]string{"type", a.Type}, [2]string{"kind", string(a.Kind)},
		[2]string{"owner", a.Owner}, [2]string{"purpose", a.Purpose}, [2]string{"environment", a.Environment}, [2]string{"state", string(a.State)},
		[2]string{"reason", a.StateReason}, [2]string{"expires", when(a.ExpiresAt)})
}

func (c *cli) agentType() *cobra.Command {
	cmd := &cobra.Command{Use: "type", Short: "Agent types: what agents of one kind of work may read and write"}
	columns := []column[identity.Type]{
		{"name", func(t identity.Type) string { return t.Name }},
		{"reads", func(t identity.Type) string { return words(t.Reads) }},
		{"writes", func(t identity.Type) string { return words(t.Writes) }},
		{"description", func(t identity.Type) string { return t.Description }},
	}
	cmd.AddCommand(lister(c, &cobra.Command{Use: "list", Short: "List agent types", Args: cobra.NoArgs},
		func(ctx context.Context, cl *client.Client, _ []string, p client.Page) (client.List[identity.Type], error) {
			return cl.Types(ctx, p)
		},
		columns...))
	var t client.PutType
	put := &cobra.Command{Use: "put NAME", Short: "Define or change an agent type", Args: cobra.ExactArgs(1),
		Example: "chaperone type put bookkeeper --reads office/mail_read,office/file_read --writes office/payment_send",
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (identity.Type, error) {
				return cl.PutType(ctx, args[0], t)
			})
			if err != nil {
				return err
			}
			return c.show(out, [2]string{"name", out.Name}, [2]string{"reads", words(out.Reads)}, [2]string{"writes", words(out.Writes)},
				[2]string{"author", out.Author}, [2]string{"updated", when(out.UpdatedAt)})
		}}
	put.Flags().StringVar(&t.Description, "description", "", "what agents of this type do")
	put.Flags().StringSliceVar(&t.Reads, "reads", nil, "tools whose answers it may read, as server/tool or server/*")
	put.Flags().StringSliceVar(&t.Writes, "writes", nil, "tools with effects it may ask for, as server/tool or server/*")
	cmd.AddCommand(put)
	return cmd
}
