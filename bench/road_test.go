// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chaperone/examples/demo"
)

// catalogue describes the one tool twice: as a read of the server echo, and as an effect of the server post, which is the same process.
const catalogue = `version: 1
servers:
  echo:
    tools:
      echo: {effect: read, source: {integrity: trusted, level: internal}}
  post:
    tools:
      echo: {effect: write, source: {integrity: trusted, level: internal}}
`

// BenchmarkRoad makes the same call straight to the server, through a plain reverse proxy, and through the gateway with the shipped
// policies, SQLite, the log and a fresh proof for every call, once as a read (one commit) and once as an effect (two), and asks for
// credentials. Each is a process of its own, and every answer is checked.
func BenchmarkRoad(b *testing.B) {
	at, upstream := start(b, "server")
	through, proxy := start(b, "proxy", upstreamEnv+"="+at)
	a, gateway := deployment(b, at)
	h := newHTTP()
	free := func(*http.Request) error { return nil }
	ignore := func(*http.Response) {}
	for _, w := range []way{
		{"direct", poster(h, at, free, ignore), 0, upstream},
		{"proxy", poster(h, through, free, ignore), proxy, upstream},
		{"gateway-read", a.caller(b, "echo"), gateway, upstream},
		{"gateway-effect", a.caller(b, "post"), gateway, upstream},
		{"issue", func(int64) error { _, err := a.fetch("echo"); return err }, gateway, 0},
	} {
		for _, callers := range []int{1, 16} {
			b.Run(key(w.name, callers), func(b *testing.B) { w.measure(b, callers) })
		}
	}
}

// deployment starts `chaperone up` of the shipped binary, with the server behind it and an agent in an open run.
func deployment(b *testing.B, upstream string) (*agent, int) {
	b.Helper()
	ctx, dir := context.Background(), b.TempDir()
	bin := filepath.Join(dir, "chaperone")
	build := exec.Command("go", "build", "-o", bin, "chaperone/cmd/chaperone")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	s, err := demo.NewStage(bin, dir)
	if err != nil {
		b.Fatal(err)
	}
	s.Level = "warn"
	b.Cleanup(s.Close)
	p, err := s.Start(ctx, "chaperone", profiling(b), "up", "-o", "json")
	if err != nil {
		b.Fatal(err)
	}
	var up demo.Started
	if err := p.JSON(&up); err != nil {
		b.Fatalf("%v\n%s", err, s.LogTail("chaperone"))
	}
	go io.Copy(io.Discard, p.Lines)
	if err := s.People(ctx, up); err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(dir, "catalogue.yaml")
	if err := os.WriteFile(file, []byte(catalogue), 0o600); err != nil {
		b.Fatal(err)
	}
	do := func(person string, out any, args ...string) {
		b.Helper()
		if err := s.Do(ctx, person, "", out, args...); err != nil {
			b.Fatal(err)
		}
	}
	for _, server := range []string{"echo", "post"} {
		do("nora", nil, "server", "add", server, "--url", upstream, "--allow-loopback")
	}
	do("nora", nil, "catalog", "apply", file)
	for _, server := range []string{"echo", "post"} {
		do("nora", nil, "server", "pin", server, "--all")
	}
	do("nora", nil, "type", "put", "parrot", "--description", "says it again", "--reads", "echo/echo", "--writes", "post/echo")
	do("nora", nil, "agent", "register", "polly", "--type", "parrot", "--owner", "nora", "--purpose", "to be measured")
	var code struct{ Code string }
	do("nora", &code, "agent", "join-code", "polly")
	var run struct{ ID string }
	do("olaf", &run, "run", "open", "--agent", "polly", "--purpose", "to be measured", "--steps", "100000")
	return enrol(b, strings.TrimSuffix(s.Public, "/"), code.Code, run.ID), p.Cmd.Process.Pid
}

// profiling puts this binary in the place of the shipped one where a profile is asked for.
func profiling(b *testing.B) func(*exec.Cmd) {
	path := os.Getenv(profileEnv)
	if path == "" {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	return func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args = self, []string{self}
		cmd.Env = append(cmd.Env, partEnv+"=gateway", profileEnv+"="+path)
	}
}
