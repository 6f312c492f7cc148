// SPDX-License-Identifier: Apache-2.0

// Command chaperone is the whole product in one binary. It decides nothing: it hands the command line to cli and the long-running
// parts to app, and never does work of its own.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"chaperone/examples/demo"
	"chaperone/examples/office"
	"chaperone/internal/app"
	"chaperone/internal/cli"
	"chaperone/internal/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, programs(), version(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func programs() cli.Programs {
	return cli.Programs{Up: up, Demo: runDemo, DemoPart: demoPart, Restore: restore, ResetOperators: resetOperators}
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return "development"
}

func up(ctx context.Context, c config.Config, log *slog.Logger, ready func(cli.Started)) error {
	app.LibraryLog(log)
	a, err := app.New(ctx, c, log, app.Options{Version: version()})
	if err != nil {
		return err
	}
	err = a.Run(ctx, func(s app.Started) {
		ready(cli.Started{PublicURL: s.PublicURL, APIURL: s.APIURL, FirstOperator: s.Operator, LoginCode: s.LoginCode, Notes: s.Notes})
	})
	return errors.Join(err, a.Close())
}

func restore(ctx context.Context, c config.Config, out io.Writer) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	app.LibraryLog(log)
	said, err := app.Restore(ctx, c, log, app.Options{Version: version()})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, said)
	return err
}

func resetOperators(ctx context.Context, c config.Config, name string) (string, error) {
	first, err := app.ResetOperators(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil)), name, app.Options{Version: version(), Now: time.Now})
	return first.Code, err
}

func runDemo(ctx context.Context, out io.Writer, o cli.DemoOptions) error {
	bin, err := os.Executable()
	if err != nil {
		return err
	}
	return demo.Run(ctx, out, demo.Options{Bin: bin, Interactive: o.Interactive, Keep: o.Keep, Without: o.Without, Colour: o.Colour})
}

// demoPart runs one of the demo's own processes.
func demoPart(ctx context.Context, part string, args []string) error {
	switch part {
	case "office":
		return runOffice(ctx, args)
	case "agent":
		if len(args) < 2 {
			return errors.New("demo-part agent wants a protocol and a bridge")
		}
		return demo.Agent(ctx, args[1:], args[0], os.Stdin, os.Stdout)
	}
	return fmt.Errorf("no demo part %q", part)
}

// runOffice serves the office. Its credential comes from a file, or else it is the first line of standard input, and then the office
// ends when standard input does.
func runOffice(ctx context.Context, args []string) error {
	var cfg office.Config
	addr, file := "127.0.0.1:0", ""
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--listen" && i+1 < len(args):
			i++
			addr = args[i]
		case args[i] == "--credential" && i+1 < len(args):
			i++
			file = args[i]
		case args[i] == "--changed":
			cfg.Changed = true
		case args[i] == "--instructions" && i+1 < len(args):
			i++
			cfg.Instructions = args[i]
		default:
			return fmt.Errorf("the office does not know %q", args[i])
		}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	credential, err := officeCredential(file, stop)
	if err != nil {
		return err
	}
	cfg.Credential = credential
	mux := http.NewServeMux()
	mux.Handle("/mcp", office.New(cfg).Handler())
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		srv.Close()
	}()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"listening": "http://" + l.Addr().String() + "/mcp"}); err != nil {
		return err
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// officeCredential reads the credential. Without a file, stop is called when standard input ends: whoever started the office closes
// its input to end it.
func officeCredential(file string, stop func()) (string, error) {
	if file != "" {
		b, err := os.ReadFile(file)
		return strings.TrimSpace(string(b)), err
	}
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		stop()
	}()
	return strings.TrimSpace(line), nil
}
