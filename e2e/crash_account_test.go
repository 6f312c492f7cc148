// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/approval"
	"chaperone/internal/audit"
	"chaperone/internal/grant"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

// crashEvent is what the tests read of a record.
type crashEvent struct {
	Type, Step, Grant, Approval string
	Data                        struct{ Outcome, Class, JTI string }
	position                    int64
	text                        string // of the arguments, where they lie beside it
}

func crashRead(position int64, leaf, arguments []byte) (crashEvent, error) {
	e := crashEvent{position: position}
	if err := json.Unmarshal(leaf, &e); err != nil {
		return e, err
	}
	var args struct{ Text string }
	if len(arguments) > 0 {
		if err := json.Unmarshal(arguments, &args); err != nil {
			return e, err
		}
	}
	e.text = args.Text
	return e, nil
}

// recent reads the newest events of the run.
func (c *crashed) recent(t *testing.T) []crashEvent {
	t.Helper()
	page, err := c.ada.Events(t.Context(), client.EventQuery{Run: c.run, Newest: true, Limit: 40})
	must(t, err)
	var out []crashEvent
	for _, e := range page.Items {
		var args []byte
		for _, p := range e.Parts {
			if p.Name == "arguments" {
				args = []byte(p.Text)
			}
		}
		one, err := crashRead(e.Position, e.Leaf, args)
		must(t, err)
		out = append(out, one)
	}
	return out
}

// crashTrail is what the record says of one text.
type crashTrail struct {
	intents, outcomes, whole, asked, consumed int
}

func crashTrailOf(events []crashEvent, text string) (out crashTrail) {
	steps := map[string]bool{}
	for _, e := range events {
		if e.text == text {
			steps[e.Step] = true
		}
	}
	for _, e := range events {
		if !steps[e.Step] {
			continue
		}
		switch {
		case e.Type == audit.CallIntent:
			out.intents++
		case e.Type == audit.CallOutcome && e.Data.Outcome == audit.OutcomeOK:
			out.outcomes++
		case e.Type == audit.CallDecided && e.Data.Outcome == audit.OutcomeOK:
			out.whole++
		case e.Type == audit.CallDecided && e.Data.Outcome == audit.OutcomePending:
			out.asked++
		case e.Type == audit.ApprovalConsumed:
			out.consumed++
		}
	}
	return out
}

// account waits until the log has caught up, exports the record, verifies it against every checkpoint that was ever seen, and holds
// what the database, the client and the far server know against it.
func (c *crashed) account(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	before, err := c.ada.Status(ctx)
	must(t, err)
	c.settled(t, before.Events)
	var raw bytes.Buffer
	must(t, c.ada.Export(ctx, &raw))
	export := crashUntar(t, &raw)
	for _, pinned := range append(c.pinned, nil) {
		report, err := audit.Verify(export, audit.Options{PinnedCheckpoint: pinned})
		must(t, err)
		if !report.OK() || report.Records < before.Events {
			t.Fatalf("the record does not verify, or has %d of %d records:\n%s", report.Records, before.Events, report)
		}
	}
	events := crashRecords(t, export)
	for i, e := range events {
		if e.position != int64(i) {
			t.Fatalf("position %d follows %d", e.position, i-1)
		}
	}
	c.holdBudgets(t, events)
	c.holdRows(t, events)
	c.mu.Lock()
	defer c.mu.Unlock()
	trails := crashTrails(events)
	for text, tool := range c.acked {
		if got := trails[text]; tool == "look" && got.whole == 0 || tool != "look" && (got.intents == 0 || got.outcomes == 0) {
			t.Errorf("%s %s was released to the client and the record has %+v", tool, text, got)
		}
	}
	c.far.mu.Lock()
	defer c.far.mu.Unlock()
	for text, n := range c.far.told {
		if got := trails[text]; !strings.HasPrefix(text, "look") && !strings.HasPrefix(text, "warm") && got.intents < n {
			t.Errorf("%s reached the server %d times and the record has %+v", text, n, got)
		}
	}
}

// settled waits until the published checkpoint covers n records.
func (c *crashed) settled(t *testing.T, n int64) {
	t.Helper()
	for range 200 {
		raw, err := c.ada.Checkpoint(t.Context())
		if lines := strings.Split(string(raw), "\n"); err == nil && len(lines) > 1 {
			if size, err := strconv.ParseInt(lines[1], 10, 64); err == nil && size >= n {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the log did not catch up with %d records in ten seconds\n%s", n, c.s.LogTail("chaperone"))
}

// holdBudgets compares the steps that the run has spent with those on the record.
func (c *crashed) holdBudgets(t *testing.T, events []crashEvent) {
	t.Helper()
	asked := map[string]bool{}
	for _, e := range events {
		if e.Type == audit.ApprovalRequested {
			asked[e.Step] = true
		}
	}
	var want int64
	for _, e := range events {
		switch {
		case e.Type == audit.CallIntent, e.Type == audit.CallRefused,
			e.Type == audit.CallDecided && e.text != "" && (e.Data.Outcome == audit.OutcomeOK || e.Data.Outcome == audit.OutcomeError),
			e.Type == audit.CallDecided && e.Data.Outcome == audit.OutcomePending && asked[e.Step]:
			want++
		}
	}
	r, err := c.ada.Run(t.Context(), c.run)
	must(t, err)
	if r.Spent.Steps != want {
		t.Errorf("the run has spent %d steps, the record has %d", r.Spent.Steps, want)
	}
}

// holdRows compares every grant of the run and every approval, as the database has them, with their events: used once at most, and
// no call asked about twice at a time. It looks past the API, whose lists end at a thousand.
func (c *crashed) holdRows(t *testing.T, events []crashEvent) {
	t.Helper()
	used, released, consumed, requested := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	intents := 0
	for _, e := range events {
		switch e.Type {
		case audit.GrantUsed:
			used[e.Grant]++
		case audit.GrantReleased:
			released[e.Grant]++
		case audit.CallIntent:
			intents++
		case audit.ApprovalConsumed:
			consumed[e.Approval]++
		case audit.ApprovalRequested:
			requested[e.Approval]++
		}
	}
	once := map[bool]int{true: 1}
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(c.s.Dir, "data", "chaperone", "chaperone.db")})
	must(t, err)
	defer db.Close()
	rows, pending := 0, map[string]int{}
	must(t, db.View(t.Context(), func(tx store.Tx) error {
		for g, err := range tx.Grants().Grants(grant.Filter{Limit: 1 << 30}) {
			if err != nil {
				return err
			}
			rows++
			key := g.ID.String()
			if used[key] != 1 || released[key] != once[g.State == grant.Released] || g.State != grant.Used && g.State != grant.Released {
				t.Errorf("grant %s is %s; the record has it used %d times and released %d times", key, g.State, used[key], released[key])
			}
		}
		for a, err := range tx.Approvals().Approvals(approval.Filter{Limit: 1 << 30}) {
			if err != nil {
				return err
			}
			key := a.ID.String()
			if requested[key] != 1 || consumed[key] != once[a.State == approval.Consumed] {
				t.Errorf("approval %s is %s; the record has it requested %d times and consumed %d times", key, a.State, requested[key], consumed[key])
			}
			if a.State == approval.Pending {
				if pending[a.CallDigest]++; pending[a.CallDigest] > 1 {
					t.Errorf("approval %s asks a second time about the same call", key)
				}
			}
		}
		return nil
	}))
	if rows != len(used) || rows != intents {
		t.Errorf("%d grants, %d used on the record, %d intents", rows, len(used), intents)
	}
}

func crashUntar(t *testing.T, r io.Reader) fs.FS {
	t.Helper()
	out := fstest.MapFS{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		if h.Typeflag == tar.TypeReg {
			b, err := io.ReadAll(in)
			must(t, err)
			out[h.Name] = &fstest.MapFile{Data: b}
		}
	}
}

func crashRecords(t *testing.T, export fs.FS) []crashEvent {
	t.Helper()
	raw, err := fs.ReadFile(export, audit.RecordsFile)
	must(t, err)
	var out []crashEvent
	for line := range bytes.Lines(raw) {
		var row struct {
			Position int64
			Leaf     []byte
			Parts    []struct {
				Name  string
				Bytes []byte
			}
		}
		must(t, json.Unmarshal(line, &row))
		var args []byte
		for _, p := range row.Parts {
			if p.Name == "arguments" {
				args = p.Bytes
			}
		}
		e, err := crashRead(row.Position, row.Leaf, args)
		must(t, err)
		out = append(out, e)
	}
	return out
}

func crashTrails(events []crashEvent) map[string]crashTrail {
	by := map[string][]crashEvent{} // by step
	texts := map[string][]string{}
	for _, e := range events {
		if e.Step == "" {
			continue
		}
		if e.text != "" {
			texts[e.text] = append(texts[e.text], e.Step)
		}
		by[e.Step] = append(by[e.Step], e)
	}
	out := map[string]crashTrail{}
	for text, steps := range texts {
		var all []crashEvent
		seen := map[string]bool{}
		for _, s := range steps {
			if !seen[s] {
				all = append(all, by[s]...)
				seen[s] = true
			}
		}
		out[text] = crashTrailOf(all, text)
	}
	return out
}
