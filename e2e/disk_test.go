// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/approval"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/needs"
)

// TestFullDisk fills the file system that holds the data. Nothing goes through that could not be recorded, and everything does again
// once there is space, without a restart.
func TestFullDisk(t *testing.T) {
	needs.Root(t)
	var ballast string
	c := crashStage(t, func(data string) {
		if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=24m"); err != nil {
			needs.Skip(t, "a tmpfs cannot be mounted here: %v", err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(data, syscall.MNT_DETACH) }) // the process may still be in it
		ballast = filepath.Join(data, "ballast")
	})
	c.diskOut(t, func() {
		f, err := os.Create(ballast)
		must(t, err)
		defer f.Close()
		for _, size := range []int{1 << 20, 4 << 10, 1} {
			for b := make([]byte, size); err == nil; _, err = f.Write(b) {
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			err = nil
		}
	}, func() { must(t, os.Remove(ballast)) })
}

// TestReadOnlyDatabase makes the database's files unwritable under the running program.
func TestReadOnlyDatabase(t *testing.T) {
	needs.Root(t)
	chattr := needs.Program(t, "chattr")
	c := crashStage(t)
	set := func(flag string) error {
		files, err := filepath.Glob(filepath.Join(c.s.Dir, "data", "chaperone", "chaperone.db*"))
		must(t, err)
		if len(files) < 2 {
			t.Fatalf("the database's files are %q", files)
		}
		return exec.Command(chattr, append([]string{flag}, files...)...).Run()
	}
	if err := set("+i"); err != nil {
		needs.Skip(t, "files cannot be made immutable here: %v", err)
	}
	t.Cleanup(func() { _ = set("-i") }) // else the directory could not be removed
	must(t, set("-i"))
	c.diskOut(t, func() { must(t, set("+i")) }, func() { must(t, set("-i")) })
}

// diskOut takes the disk away and gives it back, and looks at what goes through meanwhile: nothing.
func (c *crashed) diskOut(t *testing.T, take, give func()) {
	t.Helper()
	ctx := t.Context()
	asked := c.text("pay")
	which := c.mustAsk(t, "pay", asked)
	shown, err := c.ada.Approval(ctx, which)
	must(t, err)
	c.mustDo(t, "note", c.text("note"))
	if r, err := c.ada.Ready(ctx); err != nil || !r.Ready {
		t.Fatalf("not ready to begin with: %+v %v", r, err)
	}

	take()
	quick := func(what string, began time.Time) {
		t.Helper()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s took %s to be refused", what, took)
		}
	}
	for _, tool := range []string{"look", "note", "pay"} {
		text, began := c.text(tool), time.Now()
		r := c.do(ctx, tool, text, nil)
		quick(tool, began)
		if code := diskCode(r.body); r.err != nil || r.done(text) || code != "store_unavailable" {
			t.Errorf("%s was answered %q (HTTP %d, %v), want store_unavailable", tool, r.body, r.status, r.err)
		}
		if tool != "look" && c.far.heard(text) > 0 {
			t.Errorf("%s reached the server", tool)
		}
	}
	began := time.Now()
	_, err = c.ada.Decide(ctx, which, client.Decide{Verdict: approval.Yes, BindingDigest: shown.BindingDigest, Channel: "api"})
	quick("a decision", began)
	if !fault.Is(err, fault.Unavailable) || !strings.HasPrefix(fault.CodeOf(err), "store_") {
		t.Errorf("a decision was answered %v, want store_...", err)
	}
	began = time.Now()
	status, body := c.askToken(t)
	quick("a credential", began)
	if status == http.StatusOK || !strings.Contains(body, "store_") {
		t.Errorf("a credential was asked for and answered HTTP %d %s, want store_...", status, body)
	}
	r, err := c.ada.Ready(ctx)
	must(t, err)
	for _, one := range r.Checks {
		if one.Name == "store" && one.OK {
			t.Error("/readyz calls the store well")
		}
	}
	if r.Ready {
		t.Error("/readyz is green")
	}

	give()
	began = time.Now()
	for text := c.text("note"); ; text = c.text("note") {
		if c.do(ctx, "note", text, nil).done(text) {
			break
		}
		if time.Since(began) > 5*time.Second {
			t.Fatalf("nothing goes through five seconds after the disk was back\n%s", c.s.LogTail("chaperone"))
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.mustDo(t, "look", c.text("look"))
	must(t, c.approve(ctx, which))
	c.mustDo(t, "pay", asked)
	if status, body := c.askToken(t); status != http.StatusOK {
		t.Errorf("no credential: HTTP %d %s", status, body)
	}
	for {
		r, err := c.ada.Ready(ctx)
		must(t, err)
		if r.Ready {
			break
		}
		if time.Since(began) > 15*time.Second {
			t.Fatalf("/readyz stays red: %+v", r.Checks)
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.account(t)
}

// diskCode is the named reason in a JSON-RPC error.
func diskCode(body string) string {
	var answer struct {
		Error struct{ Data struct{ Code string } }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return ""
	}
	return answer.Error.Data.Code
}

// askToken asks for a credential once more than it takes to learn the issuer's nonce.
func (c *crashed) askToken(t *testing.T) (status int, body string) {
	t.Helper()
	h := c.agent
	for range 2 {
		assertion, err := identity.MintAssertion(h.key, h.clientID, h.issuer, time.Now())
		must(t, err)
		a := h.sendOnce(t.Context(), letter{url: h.issuer + "/token", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
			body: url.Values{"grant_type": {"client_credentials"}, "client_id": {h.clientID}, "client_assertion": {assertion},
				"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "resource": {c.s.Public + "/mcp/far"},
				"authorization_details": {`[{"type":"chaperone_run","run":"` + c.run + `"}]`}}.Encode()})
		if status, body = a.status, a.body; !strings.Contains(body, "use_dpop_nonce") {
			break
		}
	}
	return status, body
}
