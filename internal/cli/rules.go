// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"chaperone/internal/api/client"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/policy"
	"chaperone/internal/secret"
)

func (c *cli) policy() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Policies: check, test, apply, and see what is in force"}
	cmd.AddCommand(lister(c, &cobra.Command{Use: "list", Short: "List the versions of the policies", Args: cobra.NoArgs},
		func(ctx context.Context, cl *client.Client, _ []string, p client.Page) (client.List[client.BundleInfo], error) {
			return cl.Policies(ctx, p)
		},
		column[client.BundleInfo]{"version", func(b client.BundleInfo) string { return fmt.Sprint(b.Version) }},
		column[client.BundleInfo]{"active", func(b client.BundleInfo) string { return fmt.Sprint(b.Active) }},
		column[client.BundleInfo]{"author", func(b client.BundleInfo) string { return b.Author }},
		column[client.BundleInfo]{"at", func(b client.BundleInfo) string { return when(b.At) }},
		column[client.BundleInfo]{"digest", func(b client.BundleInfo) string { return b.Digest }},
		column[client.BundleInfo]{"note", func(b client.BundleInfo) string { return b.Note }}))
	cmd.AddCommand(&cobra.Command{Use: "show", Short: "Print the policies in force", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		b, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (policy.Bundle, error) { return cl.ActivePolicy(ctx) })
		if err != nil {
			return err
		}
		if c.output == "json" {
			return c.json(b)
		}
		for _, name := range sorted(b.Files) {
			fmt.Fprintf(c.out, "// %s\n%s\n", line(name), clean(b.Files[name]))
		}
		return nil
	}})
	var note string
	apply := &cobra.Command{Use: "apply DIR|FILE...", Short: "Put policies in force; one fault and the old ones stay", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := cedarFiles(args)
			if err != nil {
				return err
			}
			b, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.BundleInfo, error) {
				return cl.ApplyPolicy(ctx, client.ApplyPolicy{Files: files, Note: note})
			})
			if err != nil {
				return c.withProblems(err)
			}
			return c.show(b, [2]string{"version", fmt.Sprint(b.Version)}, [2]string{"digest", b.Digest}, [2]string{"author", b.Author})
		}}
	apply.Flags().StringVar(&note, "note", "", "what changed and why, for the record")
	cmd.AddCommand(apply)
	cmd.AddCommand(&cobra.Command{Use: "check DIR|FILE...", Short: "Check policies against the deployment's definitions without applying them", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := cedarFiles(args)
			if err != nil {
				return err
			}
			got, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.Checked, error) {
				return cl.CheckPolicy(ctx, files)
			})
			if err != nil {
				return err
			}
			if err := list(c, got.Problems,
				column[policy.Problem]{"where", func(p policy.Problem) string { return fmt.Sprintf("%s:%d", p.File, p.Line) }},
				column[policy.Problem]{"rule", func(p policy.Problem) string { return p.Rule }},
				column[policy.Problem]{"code", func(p policy.Problem) string { return p.Code }},
				column[policy.Problem]{"what", func(p policy.Problem) string { return p.Msg }},
				column[policy.Problem]{"fix", func(p policy.Problem) string { return p.Fix }}); err != nil || got.OK {
				return err
			}
			return fault.New(fault.Invalid, "cli.policy", "policy_invalid", "%d problems; nothing was applied", len(got.Problems)).WithFix("mend each and check again")
		}})
	cmd.AddCommand(c.policyTest(), c.policyDefault(), c.explainCmd(), c.resetOperators())
	return cmd
}

// policyDefault writes the shipped pack to a directory, to be edited and applied.
func (c *cli) policyDefault() *cobra.Command {
	return &cobra.Command{Use: "default DIR", Short: "Write the shipped policies into a directory, to edit and apply", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			files := policy.DefaultFiles()
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return usage("cannot make %s: %v", args[0], err)
			}
			if there, err := os.ReadDir(args[0]); err != nil || len(there) > 0 {
				return usage("%s is not empty, and nothing is overwritten", args[0]).WithFix("give a new directory")
			}
			for _, name := range sorted(files) {
				path := filepath.Join(args[0], name)
				if err := os.WriteFile(path, []byte(files[name]), 0o644); err != nil {
					return usage("cannot write %s: %v", path, err)
				}
			}
			return c.show(map[string]any{"dir": args[0], "files": sorted(files)}, [2]string{"wrote", strings.Join(sorted(files), ", ")})
		}}
}

func (c *cli) withProblems(err error) error {
	r, ok := refusal(err)
	if !ok || len(r.Problem.Problems) == 0 || c.output == "json" {
		return err
	}
	for _, p := range r.Problem.Problems {
		fmt.Fprintln(c.errOut, problem(p))
	}
	return err
}

func problem(p policy.Problem) string {
	return line(fmt.Sprintf("%s:%d: %s: %s (%s)", p.File, p.Line, p.Rule, p.Msg, p.Code))
}

// cedarFiles reads files and the .cedar files of directories.
func cedarFiles(args []string) (map[string]string, error) {
	files := map[string]string{}
	for _, arg := range args {
		paths := []string{arg}
		if info, err := os.Stat(arg); err == nil && info.IsDir() {
			if paths, err = filepath.Glob(filepath.Join(arg, "*.cedar")); err != nil || len(paths) == 0 {
				return nil, usage("no .cedar file in %s", arg)
			}
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				return nil, usage("cannot read %s: %v", p, err)
			}
			name := filepath.Base(p)
			if _, twice := files[name]; twice {
				return nil, usage("two files are named %s", name)
			}
			files[name] = string(b)
		}
	}
	return files, nil
}

func (c *cli) catalog() *cobra.Command {
	cmd := &cobra.Command{Use: "catalog", Short: "The catalogue: what each tool does, and who says so"}
	var server string
	ls := &cobra.Command{Use: "show", Aliases: []string{"list"}, Short: "Show the catalogue", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		cat, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.Catalog, error) { return cl.Catalog(ctx) })
		if err != nil {
			return err
		}
		var entries []catalog.Entry
		for _, e := range cat.Items {
			if server == "" || e.Server == server {
				entries = append(entries, e)
			}
		}
		return list(c, entries,
			column[catalog.Entry]{"item", func(e catalog.Entry) string { return e.Server + "/" + e.Name }},
			column[catalog.Entry]{"kind", func(e catalog.Entry) string { return string(e.Kind) }},
			column[catalog.Entry]{"effect", func(e catalog.Entry) string { return string(e.Effect) + " (" + e.Origin["effect"] + ")" }},
			column[catalog.Entry]{"stakes", func(e catalog.Entry) string { return words(strs(e.Stakes)) }},
			column[catalog.Entry]{"answers are", func(e catalog.Entry) string { return labelWords(e.Source) }},
			column[catalog.Entry]{"sinks", func(e catalog.Entry) string {
				var out []string
				for _, s := range e.Sinks {
					out = append(out, s.Argument+":"+s.Type)
				}
				return words(out)
			}})
	}}
	ls.Flags().StringVar(&server, "server", "", "one server only")
	cmd.AddCommand(ls)
	cmd.AddCommand(&cobra.Command{Use: "apply FILE", Short: "Put catalogue entries in force", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		b, err := os.ReadFile(args[0])
		if err != nil {
			return usage("cannot read %s: %v", args[0], err)
		}
		got, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.Applied, error) { return cl.ApplyCatalog(ctx, b) })
		if err != nil {
			return err
		}
		return c.show(got, [2]string{"catalogue version", fmt.Sprint(got.Version)}, [2]string{"entries", fmt.Sprint(len(got.Items))})
	}})
	return cmd
}

func (c *cli) server() *cobra.Command {
	cmd := &cobra.Command{Use: "server", Short: "Servers: register an upstream, approve its definitions"}
	cmd.AddCommand(lister(c, &cobra.Command{Use: "list", Short: "List servers", Args: cobra.NoArgs},
		func(ctx context.Context, cl *client.Client, _ []string, p client.Page) (client.List[catalog.Server], error) {
			return cl.Servers(ctx, p)
		},
		column[catalog.Server]{"name", func(s catalog.Server) string { return s.Name }},
		column[catalog.Server]{"url", func(s catalog.Server) string { return s.URL }},
		column[catalog.Server]{"mode", func(s catalog.Server) string { return s.Mode }},
		column[catalog.Server]{"author", func(s catalog.Server) string { return s.Author }},
		column[catalog.Server]{"updated", func(s catalog.Server) string { return when(s.UpdatedAt) }}))
	var in client.PutServer
	for _, v := range []struct {
		verb, short string
		create      bool
	}{{"add", "Register a new upstream", true}, {"set", "Change a registered upstream", false}} {
		sub := &cobra.Command{Use: v.verb + " NAME", Short: v.short, Args: cobra.ExactArgs(1),
			Example: "chaperone server " + v.verb + " office --url https://office.example/mcp",
			RunE: func(cmd *cobra.Command, args []string) error {
				in.Create = v.create
				s, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (catalog.Server, error) {
					return cl.PutServer(ctx, args[0], in)
				})
				if err != nil {
					return err
				}
				return c.show(s, [2]string{"server", s.Name}, [2]string{"url", s.URL}, [2]string{"next", "chaperone server pin " + s.Name})
			}}
		sub.Flags().StringVar(&in.URL, "url", "", "its streamable HTTP endpoint")
		sub.Flags().BoolVar(&in.AllowLoopback, "allow-loopback", false, "the address may be loopback or private")
		sub.Flags().StringVar(&in.TLSName, "tls-name", "", "the name its certificate must carry, if not the URL's host")
		_ = sub.MarkFlagRequired("url") // fails only for a flag that does not exist
		cmd.AddCommand(sub)
	}
	var pin client.PinRequest
	pinCmd := &cobra.Command{Use: "pin NAME", Short: "Show what the server offers against what was approved; --all or --accept approves", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			got, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.PinAnswer, error) {
				return cl.Pin(ctx, args[0], pin)
			})
			if err != nil {
				return err
			}
			if c.output == "json" {
				return c.json(got)
			}
			if err := list(c, got.Items,
				column[client.PinItem]{"item", func(i client.PinItem) string { return i.Item }},
				column[client.PinItem]{"state", func(i client.PinItem) string { return i.State }},
				column[client.PinItem]{"approved", func(i client.PinItem) string { return fmt.Sprint(i.Accepted) }},
				column[client.PinItem]{"changes", func(i client.PinItem) string {
					var out []string
					for _, ch := range i.Changes {
						out = append(out, fmt.Sprintf("%s: %s -> %s", ch.Path, ch.Was, ch.Is))
					}
					return strings.Join(out, "; ")
				}}); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "shown set: %s (pass --expect to approve exactly this)\n", got.Digest)
			return nil
		}}
	pinCmd.Flags().StringArrayVar(&pin.Accept, "accept", nil, "approve one item, as tool:NAME; may be repeated")
	pinCmd.Flags().BoolVar(&pin.All, "all", false, "approve everything shown")
	pinCmd.Flags().StringVar(&pin.Expect, "expect", "", "the digest of the set that was shown; refused if it moved")
	cmd.AddCommand(pinCmd)
	return cmd
}

func (c *cli) secret() *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Upstream credentials: sealed, injected behind the gateway, never shown"}
	cmd.AddCommand(lister(c, &cobra.Command{Use: "list", Short: "List sealed credentials", Args: cobra.NoArgs},
		func(ctx context.Context, cl *client.Client, _ []string, p client.Page) (client.List[client.Secret], error) {
			return cl.Secrets(ctx, p)
		},
		column[client.Secret]{"server", func(s client.Secret) string { return s.Server }},
		column[client.Secret]{"goes as", func(s client.Secret) string { return strings.TrimSpace(string(s.Place) + " " + s.Name) }},
		column[client.Secret]{"version", func(s client.Secret) string { return fmt.Sprint(s.Version) }},
		column[client.Secret]{"owner", func(s client.Secret) string { return s.Owner }},
		column[client.Secret]{"updated", func(s client.Secret) string { return when(s.UpdatedAt) }}))
	var in client.PutSecret
	var place string
	put := &cobra.Command{Use: "put SERVER", Short: "Seal a server's credential, read from standard input", Args: cobra.ExactArgs(1),
		Example: "chaperone secret put office --place bearer < credential.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := io.ReadAll(io.LimitReader(c.in, 64<<10))
			if err != nil {
				return fault.Wrap("cli.secret", err)
			}
			in.Value, in.Place = strings.TrimRight(string(b), "\r\n"), secret.Place(place)
			s, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (client.Secret, error) {
				return cl.PutSecret(ctx, args[0], in)
			})
			if err != nil {
				return err
			}
			return c.show(s, [2]string{"sealed for", s.Server}, [2]string{"goes as", strings.TrimSpace(string(s.Place) + " " + s.Name)}, [2]string{"version", fmt.Sprint(s.Version)})
		}}
	put.Flags().StringVar(&place, "place", "bearer", "bearer, basic, header or query")
	put.Flags().StringVar(&in.Name, "name", "", "the header's or parameter's name")
	put.Flags().StringVar(&in.User, "user", "", "the user name (basic)")
	cmd.AddCommand(put)
	cmd.AddCommand(&cobra.Command{Use: "delete SERVER", Short: "Forget a server's credential", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		if _, err := fetch(c, cmd, func(ctx context.Context, cl *client.Client) (struct{}, error) {
			return struct{}{}, cl.DeleteSecret(ctx, args[0])
		}); err != nil {
			return err
		}
		return c.show(map[string]string{"server": args[0]}, [2]string{"forgotten", args[0]})
	}})
	return cmd
}
