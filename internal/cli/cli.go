// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line: noun and verb, tables or JSON, one error envelope and fixed exit codes. It decides how
// things are shown and asked for; it never decides what is allowed, and everything it does on a running deployment goes
// through the API by the person's own key.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"charm.land/fang/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"chaperone/internal/config"
	"chaperone/internal/fault"
)

// Programs are the long-running parts, filled by main, so that the commands know no concrete room.
type Programs struct {
	// Up runs everything in one process until ctx ends. Ready is called once all doors answer.
	Up func(ctx context.Context, c config.Config, log *slog.Logger, ready func(Started)) error
	// Demo runs the story. Its arguments are what follows `demo`.
	Demo func(ctx context.Context, out io.Writer, d DemoOptions) error
	// DemoPart runs one of the demo's own processes (office, agent); it is not shown in help.
	DemoPart func(ctx context.Context, part string, args []string) error
	// Restore accepts a database that is behind its log.
	Restore func(ctx context.Context, c config.Config, out io.Writer) error
	// ResetOperators makes a fresh operator, offline, with the sealing key.
	ResetOperators func(ctx context.Context, c config.Config, name string) (code string, err error)
}

// Started says what a running deployment told at its start.
type Started struct {
	PublicURL, APIURL string
	FirstOperator     string // name, on the very first start
	LoginCode         string // single use, on the very first start
	Notes             []string
}

// DemoOptions are the demo's flags.
type DemoOptions struct {
	Interactive bool
	Keep        string   // directory to keep; "" = a temporary one
	Without     []string // policy rules to leave out, for the test that the demo can fail
	Colour      bool
}

// Exit codes (docs/cli.md).
const (
	exitFailed      = 1
	exitUsage       = 2
	exitDenied      = 3
	exitPending     = 4
	exitUnreachable = 5
)

type cli struct {
	p       Programs
	in      io.Reader
	out     io.Writer
	errOut  io.Writer
	output  string // table | json
	profile string
	conf    string
	set     []string
	tty     func() bool // whether a person can be asked
}

// Run parses and runs one command line and returns its exit code.
func Run(ctx context.Context, p Programs, version string, args []string, in io.Reader, out, errOut io.Writer) int {
	c := &cli{p: p, in: in, out: out, errOut: errOut, output: asked(args), tty: func() bool { return isTerminal(in) && isTerminal(out) }}
	return c.exec(ctx, version, args)
}

func (c *cli) exec(ctx context.Context, version string, args []string) int {
	root := c.root()
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.errOut)
	err := fang.Execute(ctx, root, fang.WithVersion(version), fang.WithoutManpage(), fang.WithErrorHandler(func(io.Writer, fang.Styles, error) {}))
	if err == nil {
		return 0
	}
	return c.explain(err)
}

// asked is the output that a command line asks for, as far as can be told before it is known to be sound: whoever wants JSON wants the
// error of a misspelt flag in JSON too.
func asked(args []string) string {
	for i, a := range args {
		for _, flag := range []string{"-o", "--output"} {
			if a == "--" {
				return "table"
			}
			if a == flag && i+1 < len(args) && args[i+1] == "json" || a == flag+"=json" || a == "-ojson" {
				return "json"
			}
		}
	}
	return "table"
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "chaperone",
		Short:         "A zero-trust control plane and gateway for AI agents",
		Long:          "Chaperone gives every agent an identity of its own, decides every step by policy, asks a person before what cannot be undone,\nand keeps a record that cannot be quietly changed. Start with `chaperone demo`.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := root.PersistentFlags()
	before := c.output
	f.StringVarP(&c.output, "output", "o", "table", "how lists and results are printed: table or json")
	f.StringVar(&c.profile, "profile", envOr("CHAPERONE_PROFILE", "default"), "which signed-in person speaks")
	f.StringVar(&c.conf, "config", os.Getenv("CHAPERONE_CONFIG"), "configuration file")
	f.StringArrayVar(&c.set, "set", nil, "set one configuration key, as key=value; may be repeated")
	c.output = before // the flag's default is set by its parsing; until then, what the line seems to ask for
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed("output") {
			c.output = "table"
		}
		if c.output != "table" && c.output != "json" {
			return usage("-o %q is neither table nor json", c.output)
		}
		if cmd.Flags().Changed("set") || cmd.Flags().Changed("config") { // what is wrong with them is said whether they matter or not
			_, err := c.config()
			return err
		}
		return nil
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%v", err).WithFix("see `%s --help`", cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: "start", Title: "Start"}, &cobra.Group{ID: "agents", Title: "Agents and what they do"},
		&cobra.Group{ID: "decide", Title: "People and decisions"}, &cobra.Group{ID: "rules", Title: "Rules and servers"}, &cobra.Group{ID: "record", Title: "The record"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add("start", c.demo(), c.up(), c.login(), c.connect(), c.doctor(), c.restore())
	add("agents", c.agent(), c.agentType(), c.run(), c.grant())
	add("decide", c.person(), c.approval(), c.explainCmd())
	add("rules", c.policy(), c.catalog(), c.server(), c.secret())
	add("record", c.audit())
	root.AddCommand(c.demoPart())
	root.SetHelpCommand(help(root))
	for _, noun := range root.Commands() {
		if noun.HasSubCommands() {
			nounAlone(noun)
		}
	}
	return root
}

// nounAlone makes a noun without a verb show its help, and one with a wrong verb say so.
func nounAlone(noun *cobra.Command) {
	noun.Args = cobra.ArbitraryArgs
	noun.SuggestionsMinimumDistance = 2
	noun.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		e := usage("unknown command %q for %q", args[0], cmd.CommandPath()).WithFix("see `%s --help`", cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			e = e.WithFix("did you mean `%s %s`?", cmd.CommandPath(), near[0])
		}
		return e
	}
}

func help(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "help [COMMAND]", Short: "Help about any command", RunE: func(_ *cobra.Command, args []string) error {
		cmd, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return usage("unknown command %q", strings.Join(args, " "))
		}
		return cmd.Help()
	}}
}

// explain prints the one error envelope and picks the exit code.
func (c *cli) explain(err error) int {
	kind, code, msg, fix := fault.KindOf(err), fault.CodeOf(err), "", ""
	exit := exitFailed
	if e, ok := errors.AsType[*fault.Error](err); ok {
		msg, fix = e.Msg, e.Fix
		if e.Err != nil && kind == fault.Internal {
			msg = e.Error()
		}
	} else {
		msg, code = err.Error(), "failed"
		for _, own := range []string{"unknown command", "unknown flag", "accepts ", "requires ", "required flag"} {
			if strings.HasPrefix(msg, own) { // the command line parser's own words
				kind, code, fix = fault.Invalid, "usage", "see `chaperone --help`"
			}
		}
	}
	switch {
	case code == "usage":
		exit = exitUsage
	case code == "pending":
		exit = exitPending
	case kind == fault.Denied || kind == fault.Suspended || kind == fault.Unauthenticated:
		exit = exitDenied
	case code == "chaperone_unreachable":
		exit = exitUnreachable
	}
	if c.output == "json" {
		enc := json.NewEncoder(c.errOut)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(map[string]string{"kind": kind.String(), "code": code, "message": msg, "hint": fix, "docs": "docs/cli.md#errors"})
		return exit
	}
	fmt.Fprintf(c.errOut, "%s (%s)\n", clean(msg), line(code))
	if fix != "" {
		fmt.Fprintf(c.errOut, "next: %s\n", clean(fix))
	}
	return exit
}

func usage(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "cli", "usage", format, args...).WithFix("see `chaperone --help`")
}

// config loads the configuration for commands that run or reach a deployment.
func (c *cli) config() (config.Config, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return config.Config{}, fault.New(fault.Invalid, "cli.config", "no_home", "no home directory").WithFix("set HOME, or XDG_DATA_HOME and XDG_CONFIG_HOME")
	}
	for _, s := range c.set {
		if !strings.Contains(s, "=") {
			return config.Config{}, usage("--set %q is not key=value", s).WithFix("write it as --set limits.hold=20s; docs/configuration.md lists every key")
		}
	}
	return config.Load(config.Sources{
		Default: config.Default(envOr("XDG_DATA_HOME", filepath.Join(home, ".local", "share")), configHome(home)),
		File:    c.conf, Environ: os.Environ(), Flags: c.settings(),
		Ignore: []string{"CHAPERONE_CONFIG", "CHAPERONE_PROFILE", "CHAPERONE_REQUIRE_ALL", "CHAPERONE_SHARED", "CHAPERONE_NODE_PACKAGES"},
	})
}

// settings are the --set flags.
func (c *cli) settings() map[string]string {
	out := map[string]string{}
	for _, s := range c.set {
		if key, value, ok := strings.Cut(s, "="); ok {
			out[key] = value
		}
	}
	return out
}

func configHome(home string) string { return envOr("XDG_CONFIG_HOME", filepath.Join(home, ".config")) }

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// isTerminal reports whether an input or output is a terminal.
func isTerminal(x any) bool {
	f, ok := x.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// coloured reports whether w is a terminal that wants colour (NO_COLOR and CLICOLOR are honoured).
func coloured(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("CLICOLOR") != "0"
}
