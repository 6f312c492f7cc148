// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"

	"chaperone/internal/api/client"
	"chaperone/internal/app"
	"chaperone/internal/app/apptest"
	"chaperone/internal/audit"
	"chaperone/internal/config"
	"chaperone/internal/connect"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind || fault.CodeOf(err) != code {
		t.Fatalf("got %v (%s), want %s %s", err, fault.CodeOf(err), kind, code)
	}
}

func database(c config.Config) string { return filepath.Join(c.Data, "chaperone.db") }

// start opens and closes a deployment, which shows what New refuses.
func start(t *testing.T, c config.Config) error {
	t.Helper()
	a, err := app.New(t.Context(), c, slog.New(slog.DiscardHandler), app.Options{})
	if err != nil {
		return err
	}
	return a.Close()
}

// copyDir copies what a stopped deployment wrote.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.RemoveAll(to))
	must(t, os.CopyFS(to, os.DirFS(from)))
	must(t, os.Chmod(to, 0o700))
}

// slow is a server whose tools take a moment, and say when one is under way.
func slow(begun chan<- struct{}, moment time.Duration) http.Handler {
	s := mcp.NewServer(&mcp.Implementation{Name: "office", Version: "1"}, nil)
	for _, name := range []string{"note", "pay"} {
		s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)},
			func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				select {
				case begun <- struct{}{}:
				default: // nobody counts
				}
				time.Sleep(moment)
				return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "noted"}}}, nil
			})
	}
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, &mcp.StreamableHTTPOptions{Stateless: true})
}

const catalogue = `version: 1
servers:
  office:
    tools:
      note: {effect: read, source: {integrity: trusted}}
      pay: {effect: irreversible, stakes: [money], source: {integrity: trusted}}
`

// session is the official client behind a bridge of the agent clerk, in a run that the operator opened.
func session(t *testing.T, d *apptest.Deployment, join string) (*mcp.ClientSession, string) {
	t.Helper()
	state, err := connect.Enrol(t.Context(), t.TempDir(), false, func(ctx context.Context, k *identity.Key) (client.Enrolment, error) {
		return client.Enrol(ctx, d.Conf.PublicURL, k, join, client.Config{})
	})
	must(t, err)
	b := connect.New(state, connect.Config{Server: "office", Purpose: "tests", Grace: 100 * time.Millisecond,
		OpenRun: func(ctx context.Context, agent, purpose string) (string, error) {
			r, err := d.Operator.OpenRun(ctx, client.OpenRun{Agent: agent, Purpose: purpose})
			return r.ID.String(), err
		}})
	run, err := b.Open(t.Context())
	must(t, err)
	in, toBridge := io.Pipe()
	fromBridge, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- b.Stdio(t.Context(), in, out); out.Close() }()
	t.Cleanup(func() { toBridge.Close(); <-done })
	s, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(t.Context(), &mcp.IOTransport{Reader: fromBridge, Writer: toBridge}, nil)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s, run
}

// TestKeysAreNeverMadeAnewForADatabase: what it holds sealed would never open again.
func TestKeysAreNeverMadeAnewForADatabase(t *testing.T) {
	d := apptest.Start(t, nil)
	must(t, d.Stop())
	away := d.Conf.Keys + ".away"
	must(t, os.Rename(d.Conf.Keys, away))
	wantCode(t, start(t, d.Conf), fault.NotFound, "keys_missing")
	if _, err := os.Stat(d.Conf.Keys); !os.IsNotExist(err) {
		t.Error("a keys directory was made")
	}
	_, err := app.ResetOperators(t.Context(), d.Conf, slog.New(slog.DiscardHandler), "nora", app.Options{})
	wantCode(t, err, fault.NotFound, "keys_missing")
	must(t, os.Rename(away, d.Conf.Keys))
	must(t, os.Chmod(d.Conf.Keys, 0o755))
	wantCode(t, start(t, d.Conf), fault.Invalid, "keys_dir_open")
	must(t, os.Chmod(d.Conf.Keys, 0o700))
	must(t, start(t, d.Conf))
}

func TestTheDataDirectoryIsOnesOwn(t *testing.T) {
	d := apptest.Start(t, nil)
	info, err := os.Stat(d.Conf.Data)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	second := apptest.Config(t)
	second.Data, second.Keys = d.Conf.Data, d.Conf.Keys
	wantCode(t, start(t, second), fault.Conflict, "log_in_use")
	_, err = app.ResetOperators(t.Context(), d.Conf, slog.New(slog.DiscardHandler), "nora", app.Options{})
	wantCode(t, err, fault.Conflict, "log_in_use")
	_, err = app.Restore(t.Context(), d.Conf, slog.New(slog.DiscardHandler), app.Options{})
	wantCode(t, err, fault.Conflict, "log_in_use")
	second.Data = filepath.Join(database(d.Conf), "below a file")
	wantCode(t, start(t, second), fault.Invalid, "data_dir")
}

// TestOfflineCommandsMakeNoDeployment where there was none to mend.
func TestOfflineCommandsMakeNoDeployment(t *testing.T) {
	c := apptest.Config(t)
	_, err := app.Restore(t.Context(), c, slog.New(slog.DiscardHandler), app.Options{})
	wantCode(t, err, fault.NotFound, "no_deployment")
	_, err = app.ResetOperators(t.Context(), c, slog.New(slog.DiscardHandler), "nora", app.Options{})
	wantCode(t, err, fault.NotFound, "no_deployment")
	for _, dir := range []string{c.Data, c.Keys} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s was made", dir)
		}
	}
}

// TestAnOccupiedPortIsSaid, and what was started until then ends.
func TestAnOccupiedPortIsSaid(t *testing.T) {
	for _, door := range []string{"agents", "people"} {
		t.Run(door, func(t *testing.T) {
			c := apptest.Config(t)
			addr := map[string]string{"agents": c.Listen.Agents, "people": c.Listen.People}[door]
			l, err := net.Listen("tcp", addr)
			must(t, err)
			defer l.Close()
			a, err := app.New(t.Context(), c, slog.New(slog.DiscardHandler), app.Options{})
			must(t, err)
			err = a.Run(t.Context(), func(app.Started) { t.Error("it says that it is ready") })
			wantCode(t, err, fault.Unavailable, "listen")
			if !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), door) {
				t.Errorf("%v", err)
			}
			must(t, a.Close())
		})
	}
}

// TestARestoredBackupIsRefusedAndAccepted: the log knows that the database forgot, and accepting it kills what may have been used since.
func TestARestoredBackupIsRefusedAndAccepted(t *testing.T) {
	begun := make(chan struct{}, 10)
	d := apptest.Start(t, nil)
	d.Server("office", slow(begun, 0), catalogue)
	join := d.Agent("clerk", "office/note", "office/pay")
	s, run := session(t, d, join)
	_, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "note"})
	must(t, err)
	olaf := d.Person("olaf", people.Operator)
	asked, err := d.Operator.AskGrant(t.Context(), run, client.AskGrant{Server: "office", Tool: "pay", Arguments: json.RawMessage(`{}`)})
	must(t, err)
	if asked.Approval == nil {
		t.Fatalf("%+v", asked)
	}
	must(t, d.Stop())
	_, err = app.Restore(t.Context(), d.Conf, slog.New(slog.DiscardHandler), app.Options{})
	wantCode(t, err, fault.Conflict, "log_not_ahead")

	backup := filepath.Join(t.TempDir(), "backup")
	copyDir(t, d.Conf.Data, backup)
	d.Run()
	_, err = olaf.SuspendPerson(t.Context(), "olaf", "lost his laptop") // will be lost with the backup
	if err != nil {
		_, err = d.Operator.SuspendPerson(t.Context(), "olaf", "lost his laptop")
	}
	must(t, err)
	must(t, d.Stop())
	size := events(t, d.Conf)

	// The database of the backup, the log of today.
	for _, name := range []string{"chaperone.db", "chaperone.db-wal", "chaperone.db-shm"} {
		must(t, os.RemoveAll(filepath.Join(d.Conf.Data, name)))
		if b, err := os.ReadFile(filepath.Join(backup, name)); err == nil {
			must(t, os.WriteFile(filepath.Join(d.Conf.Data, name), b, 0o600))
		}
	}
	forgot := size - events(t, d.Conf)
	if forgot < 1 {
		t.Fatal("the backup is not older")
	}
	err = start(t, d.Conf)
	wantCode(t, err, fault.Conflict, "log_ahead")
	if !strings.Contains(err.Error(), fmt.Sprintf("holds %d records that the database has not", forgot)) {
		t.Errorf("%v, want %d", err, forgot)
	}
	_, err = app.ResetOperators(t.Context(), d.Conf, slog.New(slog.DiscardHandler), "nora", app.Options{})
	wantCode(t, err, fault.Conflict, "log_ahead")

	words, err := app.Restore(t.Context(), d.Conf, slog.New(slog.DiscardHandler), app.Options{})
	must(t, err)
	if !strings.Contains(words, fmt.Sprintf("records %d to %d are lost and named so; ended 1 runs with their grants, cancelled 1 approvals, killed the credentials of 3 holders.", size-forgot, size-1)) {
		t.Errorf("%s", words)
	}
	_, err = app.Restore(t.Context(), d.Conf, slog.New(slog.DiscardHandler), app.Options{})
	wantCode(t, err, fault.Conflict, "log_not_ahead")
	d.Run()
	r, err := d.Operator.Run(t.Context(), run) // with a new credential: the old one is dead
	must(t, err)
	if r.State != "ended" || !strings.Contains(r.EndReason, "backup") {
		t.Errorf("the run is %s: %s", r.State, r.EndReason)
	}
	a, err := d.Operator.Approval(t.Context(), asked.Approval.ID.String())
	must(t, err)
	if a.State != "cancelled" || a.May {
		t.Errorf("the approval is %s", a.State)
	}
	grants, err := d.Operator.Grants(t.Context(), client.GrantQuery{Run: run})
	must(t, err)
	for _, g := range grants.Items {
		if g.State == "active" || g.State == "requested" {
			t.Errorf("a grant is still %s", g.State)
		}
	}
	if _, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "note"}); err == nil {
		t.Error("the agent goes on as if nothing had happened")
	}
	people, err := d.Operator.People(t.Context(), client.Page{})
	must(t, err)
	if i := slices.IndexFunc(people.Items, func(p client.Person) bool { return p.Name == "olaf" }); i < 0 || people.Items[i].Suspended {
		t.Error("the lost suspension should be undone, as the words of restore say")
	}
	list, err := d.Operator.Events(t.Context(), client.EventQuery{Type: "restore.accepted", Limit: 10})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].Position != int64(size) {
		t.Errorf("%+v", list.Items)
	}
	verified(t, d, size+1)
}

// events counts the events in a stopped deployment's database.
func events(t *testing.T, c config.Config) (n int) {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: database(c)})
	must(t, err)
	defer db.Close()
	must(t, db.View(t.Context(), func(tx store.Tx) error {
		next, err := tx.Events().Next()
		n = int(next)
		return err
	}))
	return n
}

// logSize is the size of the tree that the last checkpoint signs.
func logSize(t *testing.T, c config.Config) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.Data, "log", "checkpoint"))
	must(t, err)
	n, err := strconv.Atoi(strings.Split(string(b), "\n")[1])
	must(t, err)
	return n
}

func untar(t *testing.T, b []byte) string {
	t.Helper()
	dir := t.TempDir()
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		must(t, err)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		content, err := io.ReadAll(r)
		must(t, err)
		must(t, os.WriteFile(path, content, 0o600))
	}
}

// verified waits until a checkpoint covers so many records, exports the record and verifies it.
func verified(t *testing.T, d *apptest.Deployment, records int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); logSize(t, d.Conf) < records; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the last checkpoint covers %d of %d records", logSize(t, d.Conf), records)
		}
	}
	var b bytes.Buffer
	must(t, d.Operator.Export(t.Context(), &b))
	report, err := audit.Verify(os.DirFS(untar(t, b.Bytes())), audit.Options{})
	must(t, err)
	if !report.OK() {
		t.Errorf("%s", report)
	}
}

// TestShutdownLosesNothing: a call under way when the program is told to stop is answered, and what it recorded is in the log before the
// program ends.
func TestShutdownLosesNothing(t *testing.T) {
	begun := make(chan struct{}, 10)
	d := apptest.Start(t, nil)
	d.Server("office", slow(begun, 700*time.Millisecond), catalogue)
	s, _ := session(t, d, d.Agent("clerk", "office/note", ""))
	type end struct {
		res *mcp.CallToolResult
		err error
	}
	ended := make(chan end, 4)
	for range cap(ended) {
		go func() {
			res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "note"})
			ended <- end{res, err}
		}()
	}
	for range cap(ended) {
		<-begun
	}
	must(t, d.Stop())
	for range cap(ended) {
		if e := <-ended; e.err != nil || e.res.IsError {
			t.Errorf("a call under way was lost: %+v %v", e.res, e.err)
		}
	}
	size := events(t, d.Conf)
	checkpoint := logSize(t, d.Conf)
	if checkpoint != size {
		t.Errorf("the log has %d records and the database %d", checkpoint, size)
	}
	d.Run()
	list, err := d.Operator.Events(t.Context(), client.EventQuery{Type: "call.decided", Limit: 100})
	must(t, err)
	outcomes, err := d.Operator.Events(t.Context(), client.EventQuery{Type: "call.outcome", Limit: 100})
	must(t, err)
	if len(list.Items)+len(outcomes.Items) < 4 {
		t.Errorf("%d decisions and %d outcomes of 4 calls are on record", len(list.Items), len(outcomes.Items))
	}
	verified(t, d, size)
}

// TestTheLastRecordsReachTheLog: calls come in until the doors close, and the last of them, too, is in the log when the program ends.
func TestTheLastRecordsReachTheLog(t *testing.T) {
	begun := make(chan struct{}, 1)
	d := apptest.Start(t, nil)
	d.Server("office", slow(begun, 0), catalogue)
	s, _ := session(t, d, d.Agent("clerk", "office/note", ""))
	var all sync.WaitGroup
	var answered atomic.Int64
	for range 8 {
		all.Go(func() {
			for {
				if _, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "note"}); err != nil {
					return
				}
				answered.Add(1)
			}
		})
	}
	for answered.Load() < 40 {
		time.Sleep(time.Millisecond)
	}
	must(t, d.Stop())
	all.Wait()
	if size, signed := events(t, d.Conf), logSize(t, d.Conf); signed != size {
		t.Errorf("the log has %d records and the database %d", signed, size)
	}
}

// probe asks one door whether it is ready, and which checks are red.
func probe(t *testing.T, base string) (status int, red []string) {
	t.Helper()
	resp, err := http.Get(base + "/readyz")
	must(t, err)
	defer resp.Body.Close()
	var body struct {
		Ready  bool
		Checks []client.Check
	}
	must(t, json.NewDecoder(resp.Body).Decode(&body))
	for _, c := range body.Checks {
		if !c.OK {
			red = append(red, c.Name)
		}
	}
	if body.Ready != (resp.StatusCode == 200) {
		t.Errorf("HTTP %d and ready %v", resp.StatusCode, body.Ready)
	}
	return resp.StatusCode, red
}

// TestReadyzGoesRedAndRecovers with the clock, on both doors; healthz stays green, since a restart would not help.
func TestReadyzGoesRedAndRecovers(t *testing.T) {
	var shift atomic.Int64
	d := apptest.Start(t, func(d *apptest.Deployment) {
		d.Options.Now = func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }
	})
	doors := []string{d.Conf.PublicURL, d.Conf.APIURL}
	until := func(what string, want int, red string) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for {
			ok := true
			var seen strings.Builder
			for _, door := range doors {
				status, names := probe(t, door)
				seen.WriteString(fmt.Sprint(status, names, " "))
				ok = ok && status == want && (door == d.Conf.PublicURL || red == "" && len(names) == 0 || slices.Contains(names, red))
			}
			if ok {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s, want %d %s", what, seen.String(), want, red)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	until("at first", 200, "")
	code := d.LoginCode("nora", people.Operator)
	shift.Store(int64(-2 * time.Minute))
	key, err := identity.NewKey()
	must(t, err)
	_, err = client.Login(t.Context(), d.Conf.PublicURL, key, code, "x", client.Config{Now: d.Options.Now})
	wantCode(t, err, fault.Unavailable, "clock_stepped_back")
	until("the clock is two minutes back", 503, "clock")
	for _, door := range doors {
		resp, err := http.Get(door + "/healthz")
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s/healthz: %d", door, resp.StatusCode)
		}
	}
	shift.Store(0)
	until("and right again", 200, "")
	http.DefaultClient.CloseIdleConnections()
}

// TestTheFirstStartSaysHowToSignIn, and later ones do not once somebody has.
func TestTheFirstStartSaysHowToSignIn(t *testing.T) {
	d := apptest.New(t, nil)
	first := d.Run()
	if first.Operator == "" || first.LoginCode == "" || first.PublicURL != d.Conf.PublicURL || len(first.Notes) == 0 {
		t.Errorf("%+v", first)
	}
	must(t, d.Stop())
	again := d.Run() // nobody has signed in: there is a new code
	if again.LoginCode == "" || again.LoginCode == first.LoginCode {
		t.Errorf("%+v", again)
	}
	key, err := identity.NewKey()
	must(t, err)
	_, err = client.Login(t.Context(), d.Conf.PublicURL, key, again.LoginCode, "x", client.Config{})
	must(t, err)
	must(t, d.Stop())
	if third := d.Run(); third.LoginCode != "" {
		t.Errorf("%+v", third)
	}
	must(t, d.Stop())
	reset, err := app.ResetOperators(t.Context(), d.Conf, slog.New(slog.DiscardHandler), "nora", app.Options{})
	must(t, err)
	if reset.Code == "" {
		t.Errorf("%+v", reset)
	}
	d.Run()
	fresh, err := identity.NewKey()
	must(t, err)
	in, err := client.Login(t.Context(), d.Conf.PublicURL, fresh, reset.Code, "x", client.Config{})
	must(t, err)
	if in.Name != "nora" {
		t.Errorf("%+v", in)
	}
}
