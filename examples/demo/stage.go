// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Stage is a deployment in processes of its own: `chaperone up`, an office, and agents, all under one directory. Everything is
// done through the command line that people use. The end-to-end tests use it too.
type Stage struct {
	Bin    string // the chaperone binary
	Dir    string // everything the stage writes
	Secret string // the office's bearer credential; no agent may ever see it
	Public string // URL of the agents' door
	API    string // URL of the people's door
	Office string // URL of the office
	Level  string // log level of the server

	Protocol string // what the newest agent negotiated
	pinned   int

	cleanup []func()
	mu      sync.Mutex
	errs    []*os.File
}

// NewStage prepares a stage with free ports and a fresh secret. Nothing runs yet.
func NewStage(bin, dir string) (*Stage, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	return &Stage{Bin: bin, Dir: dir, Secret: "office-" + rand.Text(), Level: "info",
		Public: "http://127.0.0.1:" + ports[0], API: "http://127.0.0.1:" + ports[1], Office: "http://127.0.0.1:" + ports[2] + "/mcp"}, nil
}

func freePorts(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		out = append(out, port)
	}
	return out, nil
}

// Environ is what every process of the stage starts with: a home of its own and the two URLs, no secret.
func (s *Stage) Environ() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir, "XDG_DATA_HOME=" + filepath.Join(s.Dir, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(s.Dir, "config"), "NO_COLOR=1",
		"CHAPERONE_PUBLIC_URL=" + s.Public, "CHAPERONE_API_URL=" + s.API,
		"CHAPERONE_LISTEN_AGENTS=" + strings.TrimPrefix(s.Public, "http://"), "CHAPERONE_LISTEN_PEOPLE=" + strings.TrimPrefix(s.API, "http://"),
		"CHAPERONE_LOG_LEVEL=" + s.Level, "CHAPERONE_LIMITS_HOLD=8s"}
}

// Proc is a started process.
type Proc struct {
	Cmd   *exec.Cmd
	Stdin io.WriteCloser
	Lines *bufio.Reader // standard output

	once sync.Once
	done chan struct{}
	err  error
}

// Start runs the binary with the arguments. Its standard error goes to <name>.log in the stage's directory.
func (s *Stage) Start(ctx context.Context, name string, adjust func(*exec.Cmd), args ...string) (*Proc, error) {
	cmd := exec.CommandContext(ctx, s.Bin, args...)
	cmd.Env = s.Environ()
	cmd.Dir = s.Dir
	logFile, err := os.OpenFile(filepath.Join(s.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = logFile
	s.mu.Lock()
	s.errs = append(s.errs, logFile)
	s.mu.Unlock()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if adjust != nil {
		adjust(cmd)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Proc{Cmd: cmd, Stdin: in, Lines: bufio.NewReaderSize(out, 1<<20), done: make(chan struct{})}
	s.mu.Lock()
	s.cleanup = append(s.cleanup, p.Stop)
	s.mu.Unlock()
	return p, nil
}

// Stop ends the process in good order, or after ten seconds by force.
func (p *Proc) Stop() {
	p.Stdin.Close()
	_ = p.Cmd.Process.Signal(os.Interrupt) // it may be gone already
	timer := time.AfterFunc(10*time.Second, func() { _ = p.Cmd.Process.Kill() })
	defer timer.Stop()
	p.wait()
}

// Kill ends the process as a crash would.
func (p *Proc) Kill() {
	_ = p.Cmd.Process.Kill() // it may be gone already
	p.wait()
}

func (p *Proc) wait() {
	p.once.Do(func() { p.err = p.Cmd.Wait(); close(p.done) })
	<-p.done
}

// JSON reads the next line of standard output into v.
func (p *Proc) JSON(v any) error {
	line, err := p.Lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the process ended before it answered: %w", err)
	}
	return json.Unmarshal(line, v)
}

// Close ends every process, newest first.
func (s *Stage) Close() {
	s.mu.Lock()
	cleanup := s.cleanup
	s.cleanup = nil
	s.mu.Unlock()
	for i := len(cleanup) - 1; i >= 0; i-- {
		cleanup[i]()
	}
	for _, f := range s.errs {
		f.Close()
	}
}

// Up starts the deployment and waits until it answers. On the very first start the operator's login code comes with it.
func (s *Stage) Up(ctx context.Context) (*Proc, Started, error) {
	p, err := s.Start(ctx, "chaperone", nil, "up", "-o", "json")
	if err != nil {
		return nil, Started{}, err
	}
	var st Started
	if err := p.JSON(&st); err != nil {
		return nil, st, fmt.Errorf("chaperone up did not start: %w\n%s", err, s.LogTail("chaperone"))
	}
	go io.Copy(io.Discard, p.Lines)
	return p, st, nil
}

// Started is the line that `chaperone up -o json` prints when all doors answer.
type Started struct {
	PublicURL     string   `json:"public_url"`
	APIURL        string   `json:"api_url"`
	FirstOperator string   `json:"first_operator"`
	LoginCode     string   `json:"login_code"`
	Notes         []string `json:"notes"`
}

// StartOffice starts the office. Its credential goes in by standard input, never by argument or environment.
func (s *Stage) StartOffice(ctx context.Context, args ...string) (*Proc, error) {
	u := strings.TrimSuffix(strings.TrimPrefix(s.Office, "http://"), "/mcp")
	p, err := s.Start(ctx, "office", nil, append([]string{"demo-part", "office", "--listen", u}, args...)...)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(p.Stdin, s.Secret+"\n"); err != nil {
		return nil, err
	}
	var ready struct{ Listening string }
	if err := p.JSON(&ready); err != nil {
		return nil, fmt.Errorf("the office did not start: %w\n%s", err, s.LogTail("office"))
	}
	return p, nil
}

// Refusal is a command's error envelope and exit code.
type Refusal struct {
	Kind, Code, Message, Hint string
	Exit                      int
	Command                   string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("chaperone %s: %s (%s, exit %d)", r.Command, r.Message, r.Code, r.Exit)
}

// Do runs one command as a person and decodes its JSON into out (nil = ignored). A refusal comes back as *Refusal.
func (s *Stage) Do(ctx context.Context, person, stdin string, out any, args ...string) error {
	cmd := exec.CommandContext(ctx, s.Bin, append(args, "-o", "json", "--profile", person)...)
	cmd.Env, cmd.Dir = s.Environ(), s.Dir
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r := &Refusal{Exit: exit.ExitCode(), Command: strings.Join(args, " ")}
		if jerr := json.Unmarshal(stderr.Bytes(), r); jerr != nil {
			r.Message = stderr.String()
		}
		return r
	}
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		return fmt.Errorf("chaperone %s: %w in %q", strings.Join(args, " "), err, stdout.String())
	}
	return nil
}

// LogTail returns the last lines of a process's standard error, for messages.
func (s *Stage) LogTail(name string) string {
	b, err := os.ReadFile(filepath.Join(s.Dir, name+".log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}
