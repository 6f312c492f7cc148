// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"chaperone/internal/api/client"
	"chaperone/internal/people"
)

func (c *cli) person() *cobra.Command {
	cmd := &cobra.Command{Use: "person", Short: "The people of this deployment: operators, approvers, auditors"}
	cmd.AddCommand(lister(c, &cobra.Command{Use: "list", Short: "List people", Args: cobra.NoArgs},
		func(ctx context.Context, cl *client.Client, _ []string, p client.Page) (client.List[client.Person], error) {
			return cl.People(ctx, p)
		},
		column[client.Person]{"name", func(p client.Person) string { return p.Name }},
		column[client.Person]{"roles", func(p client.Person) string { return words(strs(p.Roles)) }},
		column[client.Person]{"groups", func(p client.Person) string { return words(p.Groups) }},
		column[client.Person]{"state", func(p client.Person) string {
			if p.Suspended {
				return "suspended"
			}
			return "active"
		}},
		column[client.Person]{"keys", func(p client.Person) string { return fmt.Sprint(len(p.Keys)) }},
		column[client.Person]{"since", func(p client.Person) string { return when(p.CreatedAt) }}))
	var roles, groups []string
	var email string
	add := &cobra.Command{Use: "add NAME", Short: "Add a person and print their single-use login code", Args: cobra.ExactArgs(1),
		Example: "chaperone person add ada --role approver --group finance",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := client.AddPerson{Name: args[0], Email: email, Groups: groups}
			for _, r := range roles {
				in.Roles = append(in.Roles, people.Role(r))
			}
			out, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.PersonCode, error) { return cl.AddPerson(ctx, in) })
			if err != nil {
				return err
			}
			return c.showCode(out, out.Code, out.ExpiresAt, "the person runs", "chaperone login --profile "+args[0]+" --code "+out.Code)
		}}
	add.Flags().StringSliceVar(&roles, "role", nil, "operator, approver or auditor; may be repeated")
	add.Flags().StringSliceVar(&groups, "group", nil, "a group that approval rules name; may be repeated")
	add.Flags().StringVar(&email, "email", "", "e-mail address, shown to others")
	cmd.AddCommand(add)
	for _, v := range []struct {
		verb, short string
		do          func(*client.Client, context.Context, string, string) (client.Person, error)
	}{
		{"suspend", "Stop a person: their credentials die at once", (*client.Client).SuspendPerson},
		{"resume", "Let a suspended person back in", (*client.Client).ResumePerson},
	} {
		var reason string
		sub := &cobra.Command{Use: v.verb + " NAME", Short: v.short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			out, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.Person, error) {
				return v.do(cl, ctx, args[0], reason)
			})
			if err != nil {
				return err
			}
			return c.show(out, [2]string{"name", out.Name}, [2]string{"suspended", fmt.Sprint(out.Suspended)})
		}}
		reasonFlag(sub, &reason)
		cmd.AddCommand(sub)
	}
	cmd.AddCommand(&cobra.Command{Use: "code NAME", Short: "Print a new single-use login code, for a new machine or key", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.PersonCode, error) {
				return cl.PersonCode(ctx, args[0])
			})
			if err != nil {
				return err
			}
			return c.showCode(out, out.Code, out.ExpiresAt, "the person runs", "chaperone login --profile "+args[0]+" --code "+out.Code)
		}})
	return cmd
}

func (c *cli) showCode(out any, code string, expires time.Time, who, command string) error {
	return c.show(out, [2]string{"code", code}, [2]string{"expires", when(expires)}, [2]string{who, command})
}
