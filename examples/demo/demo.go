// SPDX-License-Identifier: Apache-2.0

// Package demo is the story of one agent at work, told by real processes: a server, an office, and an agent that is the official
// MCP client behind a bridge. It decides nothing and never makes a fact up: every line that states one is printed from an
// answer or a record, and an act whose outcome or rule differs from the script fails the demo.
package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Options say how the story is told.
type Options struct {
	Bin         string
	Interactive bool
	Keep        string   // directory to keep; "" = a temporary one that is removed
	Without     []string // policy rules to leave out, so that a test can see the demo fail
	Colour      bool
}

// Run tells the story to out. The error names the act that went otherwise.
func Run(ctx context.Context, out io.Writer, o Options) error {
	start := time.Now()
	dir := o.Keep
	if dir == "" {
		tmp, err := os.MkdirTemp("", "chaperone-demo-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		dir = tmp
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	bin, err := settle(o.Bin, dir)
	if err != nil {
		return err
	}
	stage, err := NewStage(bin, dir)
	if err != nil {
		return err
	}
	defer stage.Close()
	s := &story{Stage: stage, p: &printer{w: out, colour: o.Colour}, o: o}
	for _, act := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"Setting the stage", s.setUp},
		{"The agent reads what its type may read", s.permitted},
		{"It asks for too much, and hears why not", s.refused},
		{"A payment waits for a person who sees exactly what will run", s.approved},
		{"A poisoned mail gives orders; the honest task goes on", s.poisoned},
		{"The run ends, and everything it had is dead", s.ended},
		{"The record verifies, and names what somebody changed", s.recorded},
	} {
		s.p.act(act.title)
		if err := act.play(ctx); err != nil {
			return fmt.Errorf("act %d, %q: %w", s.p.n, act.title, err)
		}
	}
	s.p.end(time.Since(start))
	return nil
}

// settle copies the binary into the stage's directory, so that the agent's process can run it under another user.
func settle(bin, dir string) (string, error) {
	if os.Geteuid() != 0 {
		return bin, nil
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", err
	}
	from, err := os.Open(bin)
	if err != nil {
		return "", err
	}
	defer from.Close()
	path := filepath.Join(dir, "chaperone-binary")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return "", err
	}
	return path, to.Close()
}

// printer writes the story in plain words.
type printer struct {
	w      io.Writer
	colour bool
	n      int
}

const (
	bold  = "\x1b[1m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	amber = "\x1b[33m"
	dim   = "\x1b[2m"
	plain = "\x1b[0m"
)

func (p *printer) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return colour + text + plain
}

func (p *printer) act(title string) {
	p.n++
	fmt.Fprintf(p.w, "\n%s\n", p.paint(bold, fmt.Sprintf("%d. %s", p.n, title)))
}

func (p *printer) line(mark, colour, format string, args ...any) {
	fmt.Fprintf(p.w, "   %s %s\n", p.paint(colour, mark), fmt.Sprintf(format, args...))
}

func (p *printer) note(format string, args ...any) { p.line("·", dim, format, args...) }
func (p *printer) yes(format string, args ...any)  { p.line("+", green, format, args...) }
func (p *printer) no(format string, args ...any)   { p.line("x", red, format, args...) }
func (p *printer) wait(format string, args ...any) { p.line("?", amber, format, args...) }

func (p *printer) end(took time.Duration) {
	fmt.Fprintf(p.w, "\n%s\n", p.paint(bold, fmt.Sprintf("All %d acts went as written, in %s.", p.n, took.Round(100*time.Millisecond))))
}
