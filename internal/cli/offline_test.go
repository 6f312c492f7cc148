// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chaperone/internal/fault"
)

// pipeBuffer is a buffer that a command writes and a test reads.
type pipeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *pipeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *pipeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const cases = `agents:
  mailer: {type: assistant, kind: agent, owner: ana}
cases:
  - name: a read that the type lists
    principal: mailer
    action: office/note
    run: {in_type_reads: true}
    expect: {effect: permit, rule: read-by-type}
  - name: a payment
    principal: mailer
    action: office/pay
    expect: {effect: EFFECT, rule: default-deny}
`

func TestPolicyTestOffline(t *testing.T) {
	k := newDesk(t, nil)
	dir := t.TempDir()
	cat := write(t, filepath.Join(dir, "office.yaml"), catalogue)
	good := write(t, filepath.Join(dir, "good.yaml"), strings.Replace(cases, "EFFECT", "forbid", 1))
	bad := write(t, filepath.Join(dir, "bad.yaml"), strings.Replace(cases, "EFFECT", "permit", 1))
	var got struct {
		Items []struct {
			File, Name string
			OK         bool
			Faults     []string
		}
	}
	k.ok(&got, "policy", "test", "--catalog", cat, good)
	if len(got.Items) != 2 || !got.Items[0].OK || !got.Items[1].OK || got.Items[0].File != good {
		t.Errorf("%+v", got)
	}
	s := k.run("policy", "test", "--catalog", cat, good, bad)
	if s.code != exitFailed || !strings.Contains(s.err, "1 of 4 cases failed (cases_failed)") || !strings.Contains(s.out, "bad.yaml:") {
		t.Errorf("exit %d: %s%s", s.code, s.out, s.err)
	}

	// One's own policies, and what is wrong with them.
	own := filepath.Join(dir, "own")
	k.ok(nil, "policy", "default", own)
	k.ok(nil, "policy", "test", "--catalog", cat, "--policies", own, good)
	write(t, filepath.Join(own, "more.cedar"), `permit (principal, action, resource) when { context.nonsense };`)
	s = k.run("policy", "test", "--catalog", cat, "--policies", own, good)
	if s.code != exitFailed || !strings.Contains(s.err, "more.cedar:1: ") || !strings.Contains(s.err, "(policy_invalid)") {
		t.Errorf("exit %d: %s", s.code, s.err)
	}
	for _, r := range []struct {
		exit int
		code string
		args []string
	}{
		{exitUsage, "usage", []string{"policy", "test", filepath.Join(dir, "nowhere.yaml")}},
		{exitUsage, "usage", []string{"policy", "test", "--catalog", filepath.Join(dir, "nowhere.yaml"), good}},
		{exitUsage, "usage", []string{"policy", "test", "--policies", t.TempDir(), good}},
	} {
		k.refused(r.exit, r.code, r.args...)
	}
	if s := k.run("policy", "test", "--catalog", cat, write(t, filepath.Join(dir, "odd.yaml"), "cases:\n  - nmae: x\n")); s.code != exitFailed || !strings.Contains(s.err, "nmae") {
		t.Errorf("a misspelt key: exit %d, %s", s.code, s.err)
	}
}

func TestPolicyDefaultOverwritesNothing(t *testing.T) {
	k := newDesk(t, nil)
	dir := filepath.Join(t.TempDir(), "policies")
	var got struct {
		Dir   string
		Files []string
	}
	k.ok(&got, "policy", "default", dir)
	if len(got.Files) < 3 || got.Dir != dir {
		t.Errorf("%+v", got)
	}
	mine := filepath.Join(dir, got.Files[len(got.Files)-1])
	write(t, mine, "// mine")
	if err := os.Remove(filepath.Join(dir, got.Files[0])); err != nil {
		t.Fatal(err)
	}
	e := k.refused(exitUsage, "usage", "policy", "default", dir)
	if !strings.Contains(e["message"], "nothing is overwritten") {
		t.Errorf("%v", e)
	}
	if _, err := os.Stat(filepath.Join(dir, got.Files[0])); !os.IsNotExist(err) {
		t.Error("it began to write before it looked")
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "// mine" {
		t.Errorf("%s %v", b, err)
	}
}

// TestVerifyNamesWhatWasChanged, by exit code and by name, without a deployment.
func TestVerifyNamesWhatWasChanged(t *testing.T) {
	h := newHouse(t)
	h.openRun("leave a trace")
	checkpoint, err := h.d.Operator.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pinned := write(t, filepath.Join(dir, "checkpoint"), string(checkpoint))
	export := func(to string) string {
		t.Helper()
		to = filepath.Join(dir, to)
		h.ok(nil, "audit", "export", "--to", to, "--profile", "otto")
		return to
	}
	whole := export("whole")
	h.refused(exitUsage, "usage", "audit", "export", "--to", whole, "--profile", "otto") // nothing is overwritten
	edited, cut := export("edited"), export("cut")
	if err := h.d.Stop(); err != nil {
		t.Fatal(err)
	}
	records := func(of string) []string {
		b, err := os.ReadFile(filepath.Join(of, "records.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n")
	}
	lines := records(edited)
	var rec map[string]any
	last := len(lines) - 1
	if err := json.Unmarshal([]byte(lines[last]), &rec); err != nil {
		t.Fatal(err)
	}
	leaf, err := base64.StdEncoding.DecodeString(rec["leaf"].(string))
	if err != nil || !bytes.Contains(leaf, []byte(`"at":"20`)) {
		t.Fatalf("%v: %s", err, leaf)
	}
	rec["leaf"] = base64.StdEncoding.EncodeToString(bytes.Replace(leaf, []byte(`"at":"20`), []byte(`"at":"19`), 1))
	b, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	lines[last] = string(b) + "\n"
	write(t, filepath.Join(edited, "records.jsonl"), strings.Join(lines, ""))
	kept := records(cut)
	write(t, filepath.Join(cut, "records.jsonl"), strings.Join(kept[:len(kept)-2], ""))

	var report struct{ OK bool }
	k := newDesk(t, nil)
	k.ok(&report, "audit", "verify", whole, "--checkpoint", pinned)
	if s := k.ok(nil, "audit", "verify", whole); !report.OK || s.out == "" {
		t.Errorf("%+v %s", report, s.out)
	}
	e := k.refused(exitFailed, "record_changed", "audit", "verify", edited)
	if !strings.Contains(e["message"], "edited: record ") || !strings.Contains(e["message"], rec["id"].(string)) {
		t.Errorf("the record is not named: %v", e)
	}
	e = k.refused(exitFailed, "record_changed", "audit", "verify", cut, "--checkpoint", pinned)
	if e["hint"] == "" {
		t.Errorf("%v", e)
	}
	s := k.run("audit", "verify", edited, "-o", "json")
	if err := json.Unmarshal([]byte(s.out), &report); err != nil || report.OK || s.code != exitFailed {
		t.Errorf("exit %d, %v: %s", s.code, err, s.out)
	}
	k.refused(exitUsage, "usage", "audit", "verify", whole, "--checkpoint", filepath.Join(dir, "nowhere"))
	k.refused(exitFailed, "no_export", "audit", "verify", filepath.Join(dir, "nowhere"))
}

// TestExplainIsReachedBothWays: as a verb of its own and under policy.
func TestExplainIsReachedBothWays(t *testing.T) {
	h := newHouse(t)
	run := h.takenUp("pay ana", h.enrolled())
	s := h.run("grant", "request", run, "--profile", "nora", "--tool", "office/pay", "-o", "json")
	var asked struct{ Decision string }
	if err := json.Unmarshal([]byte(s.out), &asked); err != nil || asked.Decision == "" {
		t.Fatalf("%v: %s%s", err, s.out, s.err)
	}
	one := h.ok(nil, "explain", asked.Decision, "--profile", "nora")
	two := h.ok(nil, "policy", "explain", asked.Decision, "--profile", "nora")
	if one.out != two.out || !strings.Contains(one.out, "irreversible-needs-approval") || !strings.Contains(one.out, "what would turn it:") {
		t.Errorf("%s\n%s", one.out, two.out)
	}
}

func TestUntarStaysInItsDirectory(t *testing.T) {
	pack := func(names ...string) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, n := range names {
			h := &tar.Header{Name: n, Typeflag: tar.TypeReg, Size: 1, Mode: 0o777}
			if before, ok := strings.CutSuffix(n, "@"); ok {
				h = &tar.Header{Name: before, Typeflag: tar.TypeSymlink, Linkname: "/etc"}
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				_, _ = w.Write([]byte("x"))
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	dir := filepath.Join(t.TempDir(), "to")
	if n, err := untar(pack("a", "b/c", "link@"), dir); n != 2 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "link")); !os.IsNotExist(err) {
		t.Error("a link was made")
	}
	if info, err := os.Stat(filepath.Join(dir, "b", "c")); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	for _, name := range []string{"../out", "/abs", "a/../../out"} {
		to := filepath.Join(t.TempDir(), "to")
		if _, err := untar(pack(name), to); err == nil {
			t.Errorf("%s left the directory", name)
		}
	}
	cut := pack("a", "b")
	if _, err := untar(bytes.NewReader(cut.Bytes()[:1200]), filepath.Join(t.TempDir(), "cut")); fault.CodeOf(err) != "export_cut" {
		t.Errorf("%v", err)
	}
	if _, err := untar(pack("a"), dir); fault.CodeOf(err) != "usage" {
		t.Errorf("a directory that is not empty: %v", err)
	}
}
