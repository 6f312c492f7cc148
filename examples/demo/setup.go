// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

//go:embed office.cedar
var officePolicy string

//go:embed office.yaml
var officeCatalogue string

// story is one telling.
type story struct {
	*Stage
	p     *printer
	o     Options
	agent *Proc
	run   string
}

const purpose = `Pay invoice 2043 of Hallmann Print, 1240.00 euro, to DE89370400440532013000, and tell ana@hallmann-print.example that it is on its way.`

// setUp starts everything and makes three people: nora sets up, olaf opens the run, ada approves.
func (s *story) setUp(ctx context.Context) error {
	_, up, err := s.Up(ctx)
	if err != nil {
		return err
	}
	s.p.note("chaperone runs at %s and %s, the office at %s: three processes with the agent's", up.PublicURL, up.APIURL, s.Stage.Office)
	for _, n := range up.Notes {
		s.p.note("%s", n)
	}
	if _, err := s.StartOffice(ctx); err != nil {
		return err
	}
	if err := s.People(ctx, up); err != nil {
		return err
	}
	s.p.note("three people: nora sets up, olaf opens the run, ada approves; each has a key of their own")
	if err := s.Rules(ctx, s.o.Without); err != nil {
		return err
	}
	s.p.note("the office's credential is sealed; its %d definitions are pinned; the shipped policies and one of the office's own are in force", s.pinned)
	return s.Clerk(ctx)
}

// People signs in the first operator, who adds nora, olaf and ada; each binds a key of their own.
func (s *Stage) People(ctx context.Context, up Started) error {
	if err := s.Do(ctx, "operator", "", nil, "login", "--code", up.LoginCode); err != nil {
		return err
	}
	for _, p := range []struct{ name, roles string }{{"nora", "operator"}, {"olaf", "operator,approver"}, {"ada", "approver,auditor"}} {
		var made struct{ Code string }
		if err := s.Do(ctx, "operator", "", &made, "person", "add", p.name, "--role", p.roles); err != nil {
			return err
		}
		if err := s.Do(ctx, p.name, "", nil, "login", "--code", made.Code); err != nil {
			return err
		}
	}
	return nil
}

// Rules registers the office, seals its credential, pins its definitions, and puts catalogue and policies in force, without the
// named rules.
func (s *Stage) Rules(ctx context.Context, without []string) error {
	catalogue := filepath.Join(s.Dir, "office.yaml")
	if err := os.WriteFile(catalogue, []byte(officeCatalogue), 0o600); err != nil {
		return err
	}
	policies := filepath.Join(s.Dir, "policies")
	if err := s.Do(ctx, "nora", "", nil, "policy", "default", policies); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(policies, "office.cedar"), []byte(officePolicy), 0o600); err != nil {
		return err
	}
	for _, rule := range without {
		if err := dropRule(policies, rule); err != nil {
			return err
		}
	}
	if err := s.Do(ctx, "nora", "", nil, "server", "add", "office", "--url", s.Office, "--allow-loopback"); err != nil {
		return err
	}
	if err := s.Do(ctx, "nora", s.Secret, nil, "secret", "put", "office", "--place", "bearer"); err != nil {
		return err
	}
	if err := s.Do(ctx, "nora", "", nil, "catalog", "apply", catalogue); err != nil {
		return err
	}
	var pins struct{ Items []json.RawMessage }
	if err := s.Do(ctx, "nora", "", &pins, "server", "pin", "office", "--all"); err != nil {
		return err
	}
	s.pinned = len(pins.Items)
	if err := s.Do(ctx, "nora", "", nil, "policy", "apply", policies, "--note", "the shipped pack and the office's limit"); err != nil {
		return err
	}
	return s.Do(ctx, "nora", "", nil, "type", "put", "bookkeeper", "--description", "reads the office's mail and files, pays and answers",
		"--reads", "office/mail_list,office/mail_read,office/file_list,office/file_read,office/payment_list,office/diagnostics",
		"--writes", "office/payment_send,office/mail_send")
}

var ruleStart = regexp.MustCompile(`(?m)^@id\("([^"]+)"\)`)

// dropRule cuts one rule, from its @id to the next rule's or the end of the file.
func dropRule(dir, rule string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.cedar"))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		starts := ruleStart.FindAllSubmatchIndex(b, -1)
		for i, m := range starts {
			if string(b[m[2]:m[3]]) != rule {
				continue
			}
			end := len(b)
			if i+1 < len(starts) {
				end = starts[i+1][0]
			}
			return os.WriteFile(f, append(b[:m[0]:m[0]], b[end:]...), 0o600)
		}
	}
	return fmt.Errorf("no rule %q to leave out", rule)
}

// Clerk registers the agent, opens a run for it as olaf, and starts its process under another user where that is possible.
func (s *story) Clerk(ctx context.Context) error {
	if err := s.Do(ctx, "nora", "", nil, "agent", "register", "clerk", "--type", "bookkeeper", "--owner", "nora", "--purpose", "pays and files supplier invoices"); err != nil {
		return err
	}
	var code struct{ Code string }
	if err := s.Do(ctx, "nora", "", &code, "agent", "join-code", "clerk"); err != nil {
		return err
	}
	var r struct{ ID string }
	if err := s.Do(ctx, "olaf", "", &r, "run", "open", "--agent", "clerk", "--purpose", purpose); err != nil {
		return err
	}
	s.run = r.ID
	s.p.note("olaf opens run %s for the agent clerk: %q", r.ID, purpose)
	home := filepath.Join(s.Dir, "agent")
	adjust, as, err := otherUser(home)
	if err != nil {
		return err
	}
	if s.agent, err = s.StartAgent(ctx, home, adjust, "", "--run", r.ID, "--join", code.Code); err != nil {
		return err
	}
	s.p.note("the agent's process is the official MCP client, speaking %s through `chaperone connect`%s; it made its own key and bound it with a single-use code", s.Protocol, as)
	return nil
}

// StartAgent starts the agent's process with a bridge to the office. protocol "" = the newest both speak.
func (s *Stage) StartAgent(ctx context.Context, home string, adjust func(*exec.Cmd), protocol string, bridge ...string) (*Proc, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	args := append([]string{"demo-part", "agent", protocol, s.Bin, "connect", "--state", filepath.Join(home, "state"), "--server", "office"}, bridge...)
	p, err := s.Start(ctx, "agent", func(cmd *exec.Cmd) {
		cmd.Dir = home
		cmd.Env = append(cmd.Env, "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, "config"), "XDG_DATA_HOME="+filepath.Join(home, "data"))
		if adjust != nil {
			adjust(cmd)
		}
	}, args...)
	if err != nil {
		return nil, err
	}
	var hello reply
	if err := p.JSON(&hello); err != nil {
		return nil, fmt.Errorf("the agent did not connect: %w\n%s", err, s.LogTail("agent"))
	}
	if hello.Failure != "" {
		return nil, fmt.Errorf("the agent did not connect: %s\n%s", hello.Failure, s.LogTail("agent"))
	}
	s.Protocol = hello.Protocol
	return p, nil
}

// Tell gives the agent's process an order and reads its reply.
func (p *Proc) Tell(op, tool string, args map[string]any) (reply, error) {
	b, err := json.Marshal(order{Op: op, Tool: tool, Args: args})
	if err != nil {
		return reply{}, err
	}
	if _, err := p.Stdin.Write(append(b, '\n')); err != nil {
		return reply{}, err
	}
	var r reply
	return r, p.JSON(&r)
}

func quoted(args map[string]any) string {
	b, err := json.Marshal(args)
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}
