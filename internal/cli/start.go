// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"chaperone/internal/api/client"
	"chaperone/internal/connect"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/telemetry"
)

func (c *cli) up() *cobra.Command {
	return &cobra.Command{Use: "up", Short: "Run everything in one process, on loopback, with no configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := c.config()
			if err != nil {
				return err
			}
			log, err := telemetry.New(c.errOut, telemetry.Config{Level: conf.Log.Level, Format: conf.Log.Format})
			if err != nil {
				return err
			}
			return c.p.Up(cmd.Context(), conf, log, func(s Started) { c.started(s) })
		}}
}

func (c *cli) started(s Started) {
	if c.output == "json" {
		_ = json.NewEncoder(c.out).Encode(map[string]any{"public_url": s.PublicURL, "api_url": s.APIURL,
			"first_operator": s.FirstOperator, "login_code": s.LoginCode, "notes": s.Notes})
		return
	}
	fmt.Fprintf(c.out, "agents' door   %s\npeople's door  %s\n", s.PublicURL, s.APIURL)
	if s.LoginCode != "" {
		fmt.Fprintf(c.out, "\nthis is the first start; sign in as %s within ten minutes:\n  chaperone login --code %s\n", s.FirstOperator, s.LoginCode)
	}
	for _, n := range s.Notes {
		fmt.Fprintf(c.out, "note: %s\n", n)
	}
}

func (c *cli) demo() *cobra.Command {
	var o DemoOptions
	cmd := &cobra.Command{Use: "demo", Short: "See the whole story in under a minute: permitted, refused, approved, poisoned, ended, recorded", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Colour = coloured(c.out)
			return c.p.Demo(cmd.Context(), c.out, o)
		}}
	cmd.Flags().BoolVar(&o.Interactive, "interactive", false, "wait for you to approve the payment from a second terminal")
	cmd.Flags().StringVar(&o.Keep, "keep", "", "keep everything the demo writes in this directory")
	cmd.Flags().StringSliceVar(&o.Without, "without", nil, "leave out a policy rule, to see the demo fail")
	_ = cmd.Flags().MarkHidden("without") // fails only for a flag that does not exist
	return cmd
}

func (c *cli) demoPart() *cobra.Command {
	return &cobra.Command{Use: "demo-part PART", Hidden: true, DisableFlagParsing: true, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.p.DemoPart(cmd.Context(), args[0], args[1:]) }}
}

func (c *cli) connect() *cobra.Command {
	var in struct{ state, server, join, purpose, run, listen string }
	var asMe, fresh bool
	cmd := &cobra.Command{Use: "connect", Short: "Bridge an MCP client to a server through the gateway, over stdio or loopback HTTP", Args: cobra.NoArgs,
		Long: "Put this command where an MCP client expects a server's command. It holds the instance's key, opens a run (or continues one),\nkeeps the credential fresh, and carries messages. With --listen it serves HTTP on loopback under an unguessable path instead.",
		Example: `chaperone connect --state ./clerk --server office --join jc_...        # the first time
chaperone connect --state ./clerk --server office --purpose "file today's invoices"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := c.config()
			if err != nil {
				return err
			}
			if in.run != "" && (in.purpose != "" || asMe) {
				return usage("--run continues a run, which has its purpose and its opener already").WithFix("leave out --purpose and --as-person, or leave out --run")
			}
			if in.state == "" {
				home, err := os.UserHomeDir()
				if err != nil {
					return usage("no home directory; give --state")
				}
				in.state = filepath.Join(envOr("XDG_STATE_HOME", filepath.Join(home, ".local", "state")), "chaperone", "agent")
			}
			log, err := telemetry.New(c.errOut, telemetry.Config{Level: conf.Log.Level, Format: conf.Log.Format})
			if err != nil {
				return err
			}
			state, err := c.enrolled(cmd.Context(), in.state, conf.PublicURL, in.join, fresh)
			if err != nil {
				return err
			}
			cfg := connect.Config{Server: in.server, Purpose: in.purpose, Run: in.run, APIURL: conf.APIURL, Log: log}
			if in.run == "" {
				if cfg.OpenRun, err = c.opener(asMe, state.Enrolled.Issuer); err != nil {
					return err
				}
			}
			b := connect.New(state, cfg)
			runID, err := b.Open(cmd.Context())
			if err != nil {
				return err
			}
			log.Info("run_open", "run", runID, "agent", state.Enrolled.AgentName, "server", in.server)
			if in.listen == "" {
				return b.Stdio(cmd.Context(), c.in, c.out)
			}
			return b.Listen(cmd.Context(), in.listen, func(url string) {
				if c.output == "json" {
					_ = json.NewEncoder(c.out).Encode(map[string]string{"url": url, "run": runID})
					return
				}
				fmt.Fprintln(c.out, url)
			})
		}}
	f := cmd.Flags()
	f.StringVar(&in.state, "state", "", "directory of the instance's key (default $XDG_STATE_HOME/chaperone/agent)")
	f.StringVar(&in.server, "server", "", "the server's name at the gateway")
	f.StringVar(&in.join, "join", "", "single-use join code, the first time")
	f.BoolVar(&fresh, "new-instance", false, "bind a new key even if the directory holds one (needs --join)")
	f.StringVar(&in.purpose, "purpose", "", "what this run is for")
	f.StringVar(&in.run, "run", "", "continue this run instead of opening one")
	f.StringVar(&in.listen, "listen", "", "serve HTTP on this loopback address instead of stdio, for example 127.0.0.1:0")
	f.BoolVar(&asMe, "as-person", false, "open the run under the signed-in person's key (--profile), so that the purpose counts")
	_ = cmd.MarkFlagRequired("server") // fails only for a flag that does not exist
	return cmd
}

// enrolled loads the instance's state, or makes it with the join code.
func (c *cli) enrolled(ctx context.Context, dir, issuer, join string, fresh bool) (*connect.State, error) {
	if join == "" {
		return connect.LoadState(dir)
	}
	return connect.Enrol(ctx, dir, fresh, func(ctx context.Context, key *identity.Key) (client.Enrolment, error) {
		return client.Enrol(ctx, issuer, key, join, client.Config{})
	})
}

// opener returns how a run is opened by the person who is signed in at this deployment, or nil when the agent opens it itself. A
// profile that is there and cannot be used is an error: its owner would believe that they had opened the run.
func (c *cli) opener(asMe bool, issuer string) (func(context.Context, string, string) (string, error), error) {
	cl, who, err := c.signedIn()
	switch {
	case fault.CodeOf(err) == "not_logged_in" && !asMe:
		return nil, nil
	case err != nil:
		return nil, err
	case who.Issuer != issuer && !asMe:
		return nil, nil
	case who.Issuer != issuer:
		return nil, usage("%s is signed in at %s, and the agent is enrolled at %s", who.Name, who.Issuer, issuer).WithFix("give the --profile that is signed in there")
	}
	return func(ctx context.Context, agent, purpose string) (string, error) {
		r, err := cl.OpenRun(ctx, client.OpenRun{Agent: agent, Purpose: purpose})
		if err != nil {
			return "", err
		}
		return r.ID.String(), nil
	}, nil
}

func (c *cli) restore() *cobra.Command {
	var accept bool
	cmd := &cobra.Command{Use: "restore", Short: "Accept a restored database that is behind its log (offline)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !accept {
				return usage("restore needs --accept").WithFix("it revokes all credentials, grants and pending approvals, and names the lost range in the record; add --accept to do so")
			}
			conf, err := c.config()
			if err != nil {
				return err
			}
			return c.p.Restore(cmd.Context(), conf, c.out)
		}}
	cmd.Flags().BoolVar(&accept, "accept", false, "yes, the events after the backup are lost")
	return cmd
}

// resetOperators is the way back in when no operator can sign in any more.
func (c *cli) resetOperators() *cobra.Command {
	var name string
	cmd := &cobra.Command{Use: "reset-operators", Short: "Make a fresh operator, offline, with the sealing key", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := c.config()
			if err != nil {
				return err
			}
			code, err := c.p.ResetOperators(cmd.Context(), conf, name)
			if err != nil {
				return err
			}
			return c.show(map[string]string{"name": name, "code": code}, [2]string{"operator", name}, [2]string{"code", code})
		}}
	cmd.Flags().StringVar(&name, "name", "operator", "the operator's name")
	return cmd
}
