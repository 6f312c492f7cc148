// SPDX-License-Identifier: Apache-2.0

package bench

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
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"chaperone/internal/app"
	"chaperone/internal/config"
)

// partEnv makes this binary one of the parts: "server", "proxy URL" or "gateway".
const partEnv = "CHAPERONE_BENCH_PART"

// profileEnv names a file for a CPU profile of the gateway, which then runs in this binary and not in the shipped one. The heap's
// allocations go to the same name with .allocs.
const profileEnv = "CHAPERONE_BENCH_PROFILE"

// upstreamEnv tells the proxy where the server is.
const upstreamEnv = "CHAPERONE_BENCH_UPSTREAM"

func runPart(part string) error {
	switch part {
	case "server":
		return serve(echoServer())
	case "proxy":
		u, err := url.Parse(os.Getenv(upstreamEnv))
		if err != nil {
			return err
		}
		return serve(&httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = u.Scheme, u.Host, u.Host
			},
			Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		})
	case "gateway":
		return profiled()
	}
	return fmt.Errorf("no part %q", part)
}

// echoServer is a server of the official SDK with one tool. It answers in JSON and has no sessions.
func echoServer() http.Handler {
	type said struct {
		Text string `json:"text"`
	}
	s := mcp.NewServer(&mcp.Implementation{Name: "echo", Version: "1.0.0"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "echo", Description: "Says what it was told."},
		func(_ context.Context, _ *mcp.CallToolRequest, in said) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: in.Text}}}, nil, nil
		})
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true})
}

// serve answers on loopback until standard input ends, and says where.
func serve(h http.Handler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // whoever started this closes it to end it
		srv.Close()
	}()
	if err := json.NewEncoder(os.Stdout).Encode("http://" + l.Addr().String()); err != nil {
		return err
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// profiled is `chaperone up` with a profile of it.
func profiled() error {
	path := os.Getenv(profileEnv)
	conf, err := config.Load(config.Sources{Default: config.Default(os.Getenv("XDG_DATA_HOME"), os.Getenv("XDG_CONFIG_HOME")), Environ: os.Environ(),
		Ignore: []string{partEnv, profileEnv, upstreamEnv}})
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	a, err := app.New(ctx, conf, slog.New(slog.NewTextHandler(os.Stderr, nil)), app.Options{Version: "bench"})
	if err != nil {
		return err
	}
	err = a.Run(ctx, func(s app.Started) {
		_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"public_url": s.PublicURL, "api_url": s.APIURL, "login_code": s.LoginCode})
		_ = pprof.StartCPUProfile(f)
	})
	pprof.StopCPUProfile()
	if g, err := os.Create(path + ".allocs"); err == nil {
		_ = pprof.Lookup("allocs").WriteTo(g, 0)
		g.Close()
	}
	return errors.Join(err, a.Close())
}

// start runs this binary as a part and returns where it answers, and its process.
func start(b *testing.B, part string, environ ...string) (string, int) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), partEnv+"="+part), environ...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	var at string
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &at)
	}
	if err != nil {
		b.Fatalf("the %s did not start: %v", part, err)
	}
	return at, cmd.Process.Pid
}
