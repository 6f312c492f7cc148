// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/run"
	"chaperone/internal/store"
	"chaperone/internal/store/storetest"
)

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t) })
}

func set(name, value string) func(store.Tx) error {
	return func(tx store.Tx) error { return tx.Meta().Set(name, value) }
}

func value(t *testing.T, db *DB, name string) (out string) {
	t.Helper()
	if err := db.View(context.Background(), func(tx store.Tx) (err error) { out, err = tx.Meta().Get(name); return err }); err != nil {
		t.Fatal(err)
	}
	return out
}

func want(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	if !fault.Is(err, kind) || fault.CodeOf(err) != code {
		t.Fatalf("error is %v; want %s %q", err, kind, code)
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "chaperone.db")
	db := openAt(t, path)
	if err := db.Ready(context.Background()); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{dir: 0o700, filepath.Dir(dir): 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600} {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != mode {
			t.Errorf("%s has mode %o; want %o", name, st.Mode().Perm(), mode)
		}
	}
	db.Close()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	openAt(t, path)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("a database that others could read was left so: %v %v", st.Mode(), err)
	}
}

func TestOpenRefuses(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	_, err := Open(ctx, Config{})
	want(t, err, fault.Invalid, "no_path")
	_, err = Open(ctx, Config{Path: dir})
	want(t, err, fault.Unavailable, "store_open")
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(ctx, Config{Path: garbage})
	want(t, err, fault.Unavailable, "store_corrupt")
}

func TestOpenRefusesNewerDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chaperone.db")
	db := openAt(t, path)
	if err := db.Update(context.Background(), func(tx store.Tx) error {
		_, err := tx.(*transaction).exec("test", "INSERT INTO migrations (version, name) VALUES (9999, 'from the future')")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	_, err := Open(context.Background(), Config{Path: path})
	want(t, err, fault.Conflict, "database_newer")
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Fix == "" {
		t.Errorf("%v names no fix", err)
	}
}

func TestOpenNeedsDurability(t *testing.T) {
	db := open(t)
	ctx := context.Background()
	if _, err := db.writer.exec(ctx, "PRAGMA synchronous = 1"); err != nil {
		t.Fatal(err)
	}
	want(t, db.dialect.check(ctx, db.writer), fault.Unavailable, "store_not_durable")
}

func TestOddPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%20e&f", "chaperone.db")
	db := openAt(t, path)
	if err := db.Update(context.Background(), set("a", "1")); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if got := value(t, openAt(t, path), "a"); got != "1" {
		t.Errorf("after reopening a is %q", got)
	}
}

func TestMigrationsAreNumbered(t *testing.T) {
	all, err := steps(sqliteDialect())
	if err != nil || len(all) == 0 {
		t.Fatalf("%d migrations, %v", len(all), err)
	}
}

func TestEventQueriesUseAnIndex(t *testing.T) {
	db := open(t)
	now := time.Now()
	for name, f := range map[string]audit.Filter{
		"integer primary key": {After: 5}, "integer primary key (newest)": {Newest: true}, "sqlite_autoindex_events_1": {ID: id.NewEvent(now)},
		"events_type": {Type: "call.decided"}, "events_agent": {Agent: id.NewAgent(now)}, "events_run": {Run: id.NewRun(now)},
		"events_decision": {Decision: id.NewDecision(now)}, "events_approval": {Approval: id.NewApproval(now), Newest: true},
	} {
		var plan string
		if err := db.View(context.Background(), func(tx store.Tx) error {
			text, args := eventQuery(f, f.After, -1, 10)
			return tx.(*transaction).query("test", "EXPLAIN QUERY PLAN "+text, func(r *sql.Rows) error {
				var a, b, c int
				var detail string
				if err := r.Scan(&a, &b, &c, &detail); err != nil {
					return err
				}
				plan += detail + "; "
				return nil
			}, args...)
		}); err != nil {
			t.Fatal(err)
		}
		index, _, _ := strings.Cut(name, " (")
		if !strings.Contains(strings.ToLower(plan), "search events using "+strings.TrimPrefix("index "+index, "index integer")) &&
			!strings.Contains(strings.ToLower(plan), index) || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%s: %s", name, plan)
		}
	}
}

// A budget is never overspent, whatever is spent at once, and what is left at the end is what the successes took.
func TestBudgetsProperty(t *testing.T) {
	db := open(t)
	stakes := []string{"money", "access", "unbounded"}
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(0, 12)
		r := run.Run{
			ID: id.NewRun(time.Now()), State: run.Active,
			Budgets: run.Budgets{Steps: limit.Draw(t, "steps"), Bytes: limit.Draw(t, "bytes"), Calls: map[string]int64{
				"money": limit.Draw(t, "money"), "access": limit.Draw(t, "access"),
			}},
		}
		spends := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) run.Spend {
			return run.Spend{
				Steps: rapid.Int64Range(0, 3).Draw(t, "n"), Bytes: rapid.Int64Range(0, 3).Draw(t, "b"),
				Stakes: rapid.SliceOfN(rapid.SampledFrom(stakes), 0, 3).Draw(t, "stakes"),
			}
		}), 1, 20).Draw(t, "spends")
		if err := db.Update(context.Background(), func(tx store.Tx) error { return tx.Runs().Insert(r) }); err != nil {
			t.Fatal(err)
		}
		errs := make([]error, len(spends))
		var wg sync.WaitGroup
		for i, sp := range spends {
			wg.Go(func() {
				errs[i] = db.Update(context.Background(), func(tx store.Tx) error { return tx.Runs().Spend(r.ID, sp) })
			})
		}
		wg.Wait()
		var got run.Run
		if err := db.View(context.Background(), func(tx store.Tx) (err error) { got, err = tx.Runs().Run(r.ID); return err }); err != nil {
			t.Fatal(err)
		}
		sum := run.Spent{Calls: map[string]int64{}}
		for i, sp := range spends {
			if errs[i] != nil {
				if !fault.Is(errs[i], fault.Limited) {
					t.Fatal(errs[i])
				}
				// What was refused does not fit at the end either: counters only grow.
				if got.Suffices(sp) == nil {
					t.Fatalf("%+v was refused (%v) although it fits beside %+v", sp, errs[i], got.Spent)
				}
				continue
			}
			sum.Steps, sum.Bytes = sum.Steps+sp.Steps, sum.Bytes+sp.Bytes
			for _, s := range sp.Stakes {
				sum.Calls[s]++
			}
		}
		if sum.Steps != got.Spent.Steps || sum.Bytes != got.Spent.Bytes || sum.Steps > r.Budgets.Steps || sum.Bytes > r.Budgets.Bytes {
			t.Fatalf("successes took %+v, the run says %+v, the budget is %+v", sum, got.Spent, r.Budgets)
		}
		for _, s := range stakes {
			most, bounded := r.Budgets.Calls[s]
			if sum.Calls[s] != got.Spent.Calls[s] || bounded && sum.Calls[s] > most {
				t.Fatalf("%s: successes took %d, the run says %d, the budget is %d", s, sum.Calls[s], got.Spent.Calls[s], most)
			}
		}
	})
}
