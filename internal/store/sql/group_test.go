// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/store"
)

// together runs the functions as one group, in this order, and returns what each Update returned.
func together(t *testing.T, db *DB, fns ...func(store.Tx) error) []error {
	t.Helper()
	db.groupTime = time.Minute
	errs := make([]error, len(fns))
	inside := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		errs[0] = db.Update(context.Background(), func(tx store.Tx) error {
			close(inside)
			deadline := time.Now().Add(5 * time.Second)
			for waiting(db) < len(fns)-1 {
				if time.Now().After(deadline) {
					return errors.New("the others never came")
				}
				time.Sleep(100 * time.Microsecond)
			}
			return fns[0](tx)
		})
	})
	<-inside
	for i, fn := range fns[1:] {
		wg.Go(func() { errs[i+1] = db.Update(context.Background(), fn) })
		for i < len(fns)-2 && waiting(db) <= i { // the last one lets the first go on, and the queue empties
			time.Sleep(100 * time.Microsecond)
		}
	}
	wg.Wait()
	return errs
}

func waiting(db *DB) int {
	db.queue.mu.Lock()
	defer db.queue.mu.Unlock()
	return len(db.queue.waiting)
}

func TestClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chaperone.db")
	db := openAt(t, path)
	var mu sync.Mutex
	kept := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for n := 0; ; n++ {
				name := fmt.Sprint(i, ".", n)
				err := db.Update(context.Background(), set(name, "yes"))
				if err != nil {
					if fault.CodeOf(err) != "store_closed" {
						t.Errorf("Update while closing: %v", err)
					}
					return
				}
				mu.Lock()
				kept[name] = true
				mu.Unlock()
			}
		})
	}
	time.Sleep(30 * time.Millisecond)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := db.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	want(t, db.View(context.Background(), func(store.Tx) error { return nil }), fault.Unavailable, "store_closed")
	want(t, db.Ready(context.Background()), fault.Unavailable, "store_closed")
	want(t, db.Ping(context.Background()), fault.Unavailable, "store_closed")
	db = openAt(t, path)
	if len(kept) == 0 {
		t.Fatal("nothing was written")
	}
	for name := range kept {
		if value(t, db, name) != "yes" {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
}

func TestGroupSharesOneCommit(t *testing.T) {
	commits := 0
	db, err := Open(context.Background(), Config{Path: filepath.Join(t.TempDir(), "chaperone.db"), Trace: func(string) { commits++ }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var fns []func(store.Tx) error
	for i := range 2*groupCallers + 10 {
		fns = append(fns, set(fmt.Sprint(i), "yes"))
	}
	for _, err := range together(t, db, fns...) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if commits < 3 || commits > 10 {
		t.Errorf("%d callers took %d commits; want at least 3 (a group is bounded) and few", len(fns), commits)
	}
}

func TestNeighboursOfFailuresCommit(t *testing.T) {
	db := open(t)
	mine := errors.New("mine")
	twice := event(id.Agent{}, id.Run{})
	add := func(es ...audit.Sealed) func(store.Tx) error {
		return func(tx store.Tx) error {
			for _, e := range es {
				if err := tx.Events().Append(e); err != nil {
					return err
				}
			}
			return nil
		}
	}
	errs := together(t, db,
		add(event(id.Agent{}, id.Run{})),
		func(tx store.Tx) error {
			_ = tx.Meta().Set("failed", "yes")
			_ = tx.Events().Append(event(id.Agent{}, id.Run{}))
			return mine
		},
		func(tx store.Tx) error {
			_ = tx.Meta().Set("panicked", "yes")
			panic("oh")
		},
		add(twice),
		add(twice),
		add(event(id.Agent{}, id.Run{}), twice),
		set("after", "yes"),
		add(event(id.Agent{}, id.Run{})),
	)
	for i, code := range []string{"", "mine", "fn_panicked", "", "event_exists", "event_exists", "", ""} {
		switch {
		case code == "" && errs[i] != nil:
			t.Errorf("caller %d: %v", i, errs[i])
		case code == "mine" && !errors.Is(errs[i], mine), code != "" && code != "mine" && fault.CodeOf(errs[i]) != code:
			t.Errorf("caller %d: %v; want %s", i, errs[i], code)
		}
	}
	if value(t, db, "failed")+value(t, db, "panicked") != "" || value(t, db, "after") != "yes" {
		t.Error("a failed caller left something, or took a neighbour's work along")
	}
	checkRecord(t, db, 3)
}

// checkRecord demands n events at the positions 0 to n-1.
func checkRecord(t *testing.T, db *DB, n int64) map[string]int64 {
	t.Helper()
	at := map[string]int64{}
	if err := db.View(context.Background(), func(tx store.Tx) error {
		next, err := tx.Events().Next()
		if err != nil {
			return err
		}
		if n >= 0 && next != n {
			t.Errorf("next is %d; want %d", next, n)
		}
		expected := int64(0)
		for r, err := range tx.Events().Records(audit.Filter{After: -1, Limit: 1 << 30}) {
			if err != nil {
				return err
			}
			if r.Position != expected {
				t.Fatalf("position %d follows %d", r.Position, expected-1)
			}
			at[r.ID.String()] = r.Position
			expected++
		}
		if expected != next {
			t.Errorf("%d records, but next is %d", expected, next)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestFailedCommitFailsAll(t *testing.T) {
	db := open(t)
	failing := true
	db.failCommit = func() error {
		if failing {
			failing = false
			return errors.New("no")
		}
		return nil
	}
	ch := db.Committed()
	fns := []func(store.Tx) error{
		set("a", "1"),
		func(tx store.Tx) error { return tx.Events().Append(event(id.Agent{}, id.Run{})) },
		func(store.Tx) error { return errors.New("mine, perhaps because of what a neighbour wrote") },
	}
	for _, err := range together(t, db, fns...) {
		want(t, err, fault.Unavailable, "store_commit")
	}
	select {
	case <-ch:
		t.Error("Committed fired for a commit that failed")
	default:
	}
	if value(t, db, "a") != "" {
		t.Error("the failed commit is visible")
	}
	checkRecord(t, db, 0)
	for i, err := range together(t, db, fns[:2]...) {
		if err != nil {
			t.Errorf("caller %d of the next group: %v", i, err)
		}
	}
	checkRecord(t, db, 1)
}

func pragma(t *testing.T, db *DB, text string) {
	t.Helper()
	// The committer is idle, and hears of this before its next group.
	db.queue.mu.Lock()
	defer db.queue.mu.Unlock()
	if err := db.writer.query(context.Background(), "PRAGMA "+text, func(*sql.Rows) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestFullDisk(t *testing.T) {
	db := open(t)
	add := func(tx store.Tx) error { return tx.Events().Append(event(id.Agent{}, id.Run{})) }
	if err := db.Update(context.Background(), add); err != nil {
		t.Fatal(err)
	}
	pragma(t, db, "max_page_count = 1") // as small as it is now
	big := strings.Repeat("x", 1<<20)
	errs := together(t, db,
		func(tx store.Tx) error { return tx.Events().Append(event(id.Agent{}, id.Run{})) },
		set("big", big),
		func(tx store.Tx) error {
			_ = tx.Meta().Set("big", big) // an error that is swallowed is no success
			return nil
		},
		set("after", "1"),
	)
	want(t, errs[1], fault.Unavailable, "store_full")
	if errs[0] != nil {
		want(t, errs[0], fault.Unavailable, "store_commit")
	}
	want(t, errs[2], fault.Unavailable, "store_commit")
	if errs[3] == nil != (value(t, db, "after") == "1") {
		t.Errorf("the last caller was told %v, and after is %q", errs[3], value(t, db, "after"))
	}
	pragma(t, db, "max_page_count = 1000000")
	if err := db.Update(context.Background(), add); err != nil {
		t.Fatal(err)
	}
	if value(t, db, "big") != "" {
		t.Error("the change that did not fit is there")
	}
	n := int64(2)
	if errs[0] == nil {
		n++
	}
	checkRecord(t, db, n)
}

// An event on its own is written without a savepoint. When it breaks the transaction, those after it must not write outside of one.
func TestFullDiskAtALoneEvent(t *testing.T) {
	db := open(t)
	if err := db.Update(context.Background(), set("a", "0")); err != nil {
		t.Fatal(err)
	}
	pragma(t, db, "max_page_count = 1")
	big := event(id.Agent{}, id.Run{})
	big.Leaf = make([]byte, audit.MaxLeaf)
	errs := together(t, db, set("a", "1"), func(tx store.Tx) error { return tx.Events().Append(big) }, set("b", "1"))
	want(t, errs[0], fault.Unavailable, "store_commit")
	want(t, errs[1], fault.Unavailable, "store_full")
	if got := value(t, db, "a"); got != "0" {
		t.Errorf("a is %q although its caller was refused", got)
	}
	if got := value(t, db, "b"); (got == "1") != (errs[2] == nil) {
		t.Errorf("b is %q and its caller was told %v", got, errs[2])
	}
	checkRecord(t, db, 0)
}

func TestReadOnlyDatabase(t *testing.T) {
	db := open(t)
	pragma(t, db, "query_only = 1")
	want(t, db.Update(context.Background(), set("a", "1")), fault.Unavailable, "store_read_only")
	want(t, db.Ready(context.Background()), fault.Unavailable, "store_read_only")
	if err := db.Ping(context.Background()); err != nil {
		t.Errorf("reading: %v", err)
	}
	pragma(t, db, "query_only = 0")
	if err := db.Ready(context.Background()); err != nil {
		t.Error(err)
	}
}

// Every probe reaches the disk: SQLite writes nothing where a row is written over with itself.
func TestReadyWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chaperone.db")
	db := openAt(t, path)
	size := func() int64 {
		st, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	for range 3 {
		before := size()
		if err := db.Ready(context.Background()); err != nil {
			t.Fatal(err)
		}
		if size() == before {
			t.Error("the database was called ready, and nothing was written")
		}
	}
}

func TestAnotherWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chaperone.db")
	db, other := openAt(t, path), openAt(t, path)
	pragma(t, db, "busy_timeout = 50")
	inside, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := other.Update(context.Background(), func(tx store.Tx) error {
			close(inside)
			<-leave
			return tx.Events().Append(event(id.Agent{}, id.Run{}))
		}); err != nil {
			t.Error(err)
		}
	})
	<-inside
	want(t, db.Update(context.Background(), set("a", "1")), fault.Unavailable, "store_busy")
	close(leave)
	wg.Wait()
	// Positions go on from what the other wrote.
	if err := db.Update(context.Background(), func(tx store.Tx) error { return tx.Events().Append(event(id.Agent{}, id.Run{})) }); err != nil {
		t.Fatal(err)
	}
	checkRecord(t, db, 2)
}

// A caller that the committer has taken is past giving up: what it is told is what became of its change.
func TestTakenCallerWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chaperone.db")
	db, other := openAt(t, path), openAt(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	var result error
	var wg sync.WaitGroup
	if err := other.Update(context.Background(), func(store.Tx) error { // holds the database, so db's committer waits in BEGIN
		c := make(chan struct{})
		wg.Go(func() {
			close(c)
			result = db.Update(ctx, set("a", "1"))
		})
		<-c
		time.Sleep(50 * time.Millisecond) // until it is taken
		cancel()
		time.Sleep(20 * time.Millisecond)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if result != nil || value(t, db, "a") != "1" {
		t.Errorf("the caller was told %v; a is %q", result, value(t, db, "a"))
	}
}

func TestTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chaperone.db")
	var road []string
	db, err := Open(context.Background(), Config{Path: path, Trace: func(event string) { road = append(road, event) }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_ = db.View(context.Background(), func(store.Tx) error { road = append(road, "view"); return nil })
	if err := db.Update(context.Background(), func(store.Tx) error { road = append(road, "fn"); return nil }); err != nil {
		t.Fatal(err)
	}
	road = append(road, "returned")
	db.failCommit = func() error { return errors.New("no") }
	_ = db.Update(context.Background(), func(store.Tx) error { road = append(road, "fn"); return nil })
	if got := strings.Join(road, " "); got != "view fn commit returned fn" {
		t.Errorf("the road was: %s", got)
	}
}
