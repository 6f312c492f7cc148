// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/sumdb/tlog"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

func TestIntactExports(t *testing.T) {
	for _, n := range []int{0, 1, 2, 255, 256, 257, 520} {
		recs := records(t, n)
		ex := export(t, recs)
		r := verify(t, ex, ex["checkpoint"].Data)
		if !r.OK() || r.Records != int64(n) || r.Size != int64(n) || r.Pinned != int64(n) || len(r.Notes) != 0 {
			t.Errorf("%d records: %s", n, r)
		}
		if n > 0 && !strings.HasPrefix(r.String(), fmt.Sprintf("intact: %d records", n)) {
			t.Errorf("%q", r)
		}
		for old := 0; old <= n; old += 1 + n/3 {
			if r := verify(t, ex, checkpoint(t, leavesOf(recs[:old]))); !r.OK() || r.Pinned != int64(old) {
				t.Errorf("%d records, %d pinned: %s", n, old, r)
			}
		}
	}
}

func TestReportSaysWhatItCannotSee(t *testing.T) {
	ex := export(t, records(t, 5))
	r, err := audit.Verify(ex, audit.Options{})
	if err != nil || !r.OK() {
		t.Fatal(err, r)
	}
	for _, words := range []string{"cut back to an older genuine checkpoint cannot be told", "key was taken from the export itself"} {
		if !strings.Contains(r.String(), words) {
			t.Errorf("the report does not say %q:\n%s", words, r)
		}
	}
	// The words are true: a log cut back to an older genuine checkpoint passes, and is seen with the pinned one.
	short := export(t, records(t, 3))
	if r := verify(t, short, nil); !r.OK() {
		t.Errorf("%s", r)
	}
	r = verify(t, short, ex["checkpoint"].Data)
	if len(r.Findings) != 1 || r.Findings[0].Kind != audit.FoundTruncated || r.Findings[0].Position != 3 || r.Findings[0].To != 4 {
		t.Errorf("%s", r)
	}
}

// An erased part is a note where a later committed event declares it, and a finding where none does.
func TestErasedParts(t *testing.T) {
	declares := func(e audit.Erased) audit.Record {
		ev := personEvent()
		ev.ID, ev.Type, ev.Data = numbered(888), audit.PartsErased, e
		s, err := audit.Seal(ev, counted())
		if err != nil {
			t.Fatal(err)
		}
		return audit.Record{Position: 4, ID: ev.ID, Leaf: s.Leaf}
	}
	erase := func(recs []audit.Record) fstest.MapFS {
		recs = slices.Clone(recs)
		for _, i := range []int{1, 5} {
			recs[i].Parts = slices.Clone(recs[i].Parts)
			recs[i].Parts[0].Bytes, recs[i].Parts[0].Erased = nil, "retention"
		}
		return export(t, recs)
	}
	recs := records(t, 6)
	want := func(name string, ex fstest.MapFS, erased int64, named ...int64) {
		t.Helper()
		r := verify(t, ex, nil)
		var got []int64
		for _, f := range r.Findings {
			if f.Kind == audit.FoundPart && f.Part == "arguments" && f.ID == recs[f.Position].ID.String() {
				got = append(got, f.Position)
			}
		}
		if r.Erased != erased || !slices.Equal(got, named) {
			t.Errorf("%s: %s", name, r)
		}
	}
	want("undeclared", erase(recs), 0, 1, 5)
	plain := slices.Clone(recs)
	recs[4] = declares(audit.Erased{From: 0, To: 5, Reason: "retention"})
	want("declared before it, and one after", erase(recs), 1, 5)
	forged := export(t, plain)
	forged["records.jsonl"] = erase(recs)["records.jsonl"]
	want("declared by an event that was never committed", forged, 0, 1, 5)
	recs[4] = declares(audit.Erased{From: 0, To: 5, Names: []string{"result"}, Reason: "retention"})
	want("another part", erase(recs), 0, 1, 5)
	recs[4] = declares(audit.Erased{From: 2, To: 5, Reason: "retention"})
	want("another range", erase(recs), 0, 1, 5)
}

// After restore --accept the lost range has entries in the log and no rows; the committed event that declares it makes it a note.
func TestRestoredRange(t *testing.T) {
	recs := records(t, 10)
	restored := func(from, to int64) audit.Record {
		ev := personEvent()
		ev.ID, ev.Type, ev.Data = numbered(888), audit.RestoreAccepted, audit.Restored{From: from, To: to, TreeSize: to + 1}
		s, err := audit.Seal(ev, counted())
		if err != nil {
			t.Fatal(err)
		}
		return audit.Record{Position: 6, ID: ev.ID, Leaf: s.Leaf}
	}
	without := func(ex fstest.MapFS, recs []audit.Record, positions ...int64) fstest.MapFS {
		rewrite(ex, slices.DeleteFunc(slices.Clone(recs), func(r audit.Record) bool { return slices.Contains(positions, r.Position) }))
		return ex
	}
	recs[6] = restored(4, 5)
	r := verify(t, without(export(t, recs), recs, 4, 5), nil)
	if !r.OK() || !strings.Contains(r.String(), "records 4 to 5 were lost when a restored database was accepted") {
		t.Errorf("%s", r)
	}
	r = verify(t, without(export(t, recs), recs, 3, 4, 5), nil)
	if len(r.Findings) != 1 || r.Findings[0].Kind != audit.FoundRemoved || r.Findings[0].Position != 3 {
		t.Errorf("%s", r)
	}
	// An event that was never committed declares nothing.
	honest := records(t, 10)
	ex := export(t, honest)
	honest[6] = restored(4, 5)
	r = verify(t, without(ex, honest, 4, 5), nil)
	if len(r.Findings) != 3 {
		t.Errorf("%s", r)
	}
}

func TestVerifyRefusesWhatIsNoExport(t *testing.T) {
	_, vkey := keys(t)
	ex := export(t, records(t, 3))
	for _, tt := range []struct {
		name, code string
		drop, key  string
	}{
		{"no checkpoint", "no_export", "checkpoint", vkey},
		{"no records", "no_export", "records.jsonl", vkey},
		{"no key at all", "no_export", "log.vkey", ""},
		{"a key that is none", "log_key", "", "abc"},
	} {
		bad := clone(ex)
		delete(bad, tt.drop)
		if _, err := audit.Verify(bad, audit.Options{Key: tt.key}); fault.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	r, err := audit.Verify(ex, audit.Options{Key: vkey, PinnedCheckpoint: []byte("x")})
	if err != nil || len(r.Findings) != 1 || r.Findings[0].Kind != audit.FoundCheckpoint {
		t.Errorf("%v %s", err, r)
	}
}

// A size that a stranger signed makes nothing large.
func TestHugeSize(t *testing.T) {
	ex := export(t, records(t, 3))
	root, _ := tlog.TreeHash(3, treeOf(t, leavesOf(records(t, 3))))
	ex["checkpoint"].Data = signed(t, fmt.Sprintf("%s\n%d\n%s\n", origin, int64(1)<<62, root))
	r := verify(t, ex, nil)
	if r.OK() || !slices.ContainsFunc(r.Findings, func(f audit.Finding) bool { return f.Kind == audit.FoundTruncated }) {
		t.Errorf("%s", r)
	}
	rows := records(t, 3)
	rows[2].Position = 1 << 60
	rewrite(ex, rows)
	if r := verify(t, ex, nil); r.OK() {
		t.Errorf("%s", r)
	}
}

func TestReportHidesControlCharacters(t *testing.T) {
	recs := records(t, 3)
	recs[1].Parts = slices.Clone(recs[1].Parts)
	recs[1].Parts[0].Bytes, recs[1].Parts[0].Erased = nil, "\x1b[2J\u202e"
	ex := export(t, recs)
	ex["\x1b[2J"] = &fstest.MapFile{}
	if s := verify(t, ex, nil).String(); strings.ContainsAny(s, "\x1b\u202e") {
		t.Errorf("%q", s)
	}
}

func TestManyFindingsAreCounted(t *testing.T) {
	recs := records(t, 700)
	ex := export(t, recs)
	now := slices.Clone(recs)
	for i := range now {
		now[i].Leaf = bytes.Replace(now[i].Leaf, []byte(`.123Z`), []byte(`.124Z`), 1)
	}
	rewrite(ex, now)
	r := verify(t, ex, nil)
	if len(r.Findings) != 200 || r.More != 500 || !strings.Contains(r.String(), "and 500 more") {
		t.Errorf("%d %d", len(r.Findings), r.More)
	}
}

func TestConsistency(t *testing.T) {
	recs := records(t, 700)
	_, vkey := keys(t)
	ex := export(t, recs)
	fetch := func(path string) ([]byte, error) {
		b, err := fs.ReadFile(ex, path)
		if err != nil {
			return nil, fault.New(fault.Unavailable, "test", "log_unreachable", "no %s", path)
		}
		return b, nil
	}
	fresh := ex["checkpoint"].Data
	for _, old := range []int{0, 1, 255, 256, 257, 512, 699} {
		newer, err := audit.CheckConsistency(vkey, checkpoint(t, leavesOf(recs[:old])), fresh, fetch)
		if err != nil || !newer {
			t.Errorf("%d: %t %v", old, newer, err)
		}
	}
	if newer, err := audit.CheckConsistency(vkey, nil, fresh, nil); !newer || err != nil {
		t.Errorf("first: %t %v", newer, err)
	}
	if newer, err := audit.CheckConsistency(vkey, fresh, fresh, nil); newer || err != nil {
		t.Errorf("same: %t %v", newer, err)
	}
	other := slices.Clone(leavesOf(recs))
	other[3] = []byte("another")
	down := func(string) ([]byte, error) {
		return nil, fault.New(fault.Unavailable, "test", "log_unreachable", "down")
	}
	wrong := func(path string) ([]byte, error) {
		b, err := fetch(path)
		if err == nil {
			b = bytes.Clone(b)
			b[0]++
		}
		return b, err
	}
	for _, tt := range []struct {
		name, code  string
		kept, fresh []byte
		fetch       func(string) ([]byte, error)
	}{
		{"shrunk", "log_inconsistent", fresh, checkpoint(t, leavesOf(recs[:600])), fetch},
		{"same size, another tree", "log_inconsistent", checkpoint(t, other), fresh, fetch},
		{"history changed", "log_inconsistent", checkpoint(t, other[:300]), fresh, fetch},
		{"tiles of another tree", "log_inconsistent", checkpoint(t, leavesOf(recs[:300])), fresh, wrong},
		{"unreachable", "log_unreachable", checkpoint(t, leavesOf(recs[:300])), fresh, down},
		{"not signed", "checkpoint_invalid", fresh, bytes.Replace(fresh, []byte("700"), []byte("701"), 1), fetch},
		{"kept is damaged", "checkpoint_invalid", []byte("x"), fresh, fetch},
	} {
		newer, err := audit.CheckConsistency(vkey, tt.kept, tt.fresh, tt.fetch)
		if fault.CodeOf(err) != tt.code || newer || tt.name == "shrunk" && !strings.Contains(err.Error(), "had 700 records and now shows 600") {
			t.Errorf("%s: %t %v", tt.name, newer, err)
		}
	}
	if _, err := audit.CheckConsistency("x", nil, fresh, nil); fault.CodeOf(err) != "log_key" {
		t.Errorf("bad key: %v", err)
	}
	// A partial tile that the log has since filled is read from the full one.
	big, small := export(t, recs[:512]), export(t, recs[:300])
	big["tile/1/000.p/1"] = small["tile/1/000.p/1"]
	asked := ""
	_, err := audit.CheckConsistency(vkey, checkpoint(t, leavesOf(recs[:100])), checkpoint(t, leavesOf(recs[:300])), func(path string) ([]byte, error) {
		asked += path + " "
		return fs.ReadFile(big, path)
	})
	if err != nil || !strings.Contains(asked, "tile/0/001.p/44 tile/0/001 ") {
		t.Errorf("%v: asked for %s", err, asked)
	}
}

func TestTilePaths(t *testing.T) {
	for _, tt := range []struct {
		level, n int64
		width    int
		want     string
	}{{0, 0, 256, "tile/0/000"}, {0, 1, 5, "tile/0/001.p/5"}, {1, 1234067, 256, "tile/1/x001/x234/067"}, {2, 1000, 1, "tile/2/x001/000.p/1"}} {
		if got := audit.TilePath(int(tt.level), tt.n, tt.width); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
	if got := audit.EntriesPath(1234067, 3); got != "tile/entries/x001/x234/067.p/3" {
		t.Error(got)
	}
	want := map[string]bool{}
	for _, tile := range tlog.NewTiles(8, 0, 70_000) {
		want[audit.TilePath(tile.L, tile.N, tile.W)] = true
	}
	for path := range audit.Tiles(70_000) {
		if !strings.HasPrefix(path, "tile/entries/") {
			if !want[path] {
				t.Errorf("%s is not a tile of 70,000 records", path)
			}
			delete(want, path)
		}
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}

func FuzzVerifyRecords(f *testing.F) {
	recs := records(f, 6)
	whole := export(f, recs)
	_, vkey := keys(f)
	f.Add(whole["records.jsonl"].Data, whole["tile/entries/000.p/6"].Data, whole["tile/0/000.p/6"].Data)
	f.Fuzz(func(t *testing.T, rows, entries, tile []byte) {
		ex := maps.Clone(whole)
		ex["records.jsonl"] = &fstest.MapFile{Data: rows}
		ex["tile/entries/000.p/6"] = &fstest.MapFile{Data: entries}
		ex["tile/0/000.p/6"] = &fstest.MapFile{Data: tile}
		r, err := audit.Verify(ex, audit.Options{Key: vkey})
		if err != nil {
			t.Fatal(err)
		}
		same := bytes.Equal(rows, whole["records.jsonl"].Data) && bytes.Equal(entries, whole["tile/entries/000.p/6"].Data) && bytes.Equal(tile, whole["tile/0/000.p/6"].Data)
		if r.OK() != same {
			t.Fatalf("same %t, ok %t:\n%s", same, r.OK(), r)
		}
		_ = r.String()
	})
}

func FuzzCheckpoint(f *testing.F) {
	_, vkey := keys(f)
	good := checkpoint(f, [][]byte{[]byte("a")})
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		cp, err := audit.OpenCheckpoint(b, vkey)
		if err == nil && !bytes.HasPrefix(b, good) {
			t.Fatalf("opened a checkpoint that was not signed: %+v", cp)
		}
	})
}

// The report's JSON has lists, never null, and names of its own.
func TestReportJSON(t *testing.T) {
	ex := export(t, records(t, 3))
	rewrite(ex, records(t, 3)[:2])
	b, err := json.Marshal(verify(t, ex, nil))
	if err != nil {
		t.Fatal(err)
	}
	n, err := canon.Parse(b, canon.Limits{})
	if err != nil || n.Get("findings").Items[0].Get("kind").Text != "truncated" {
		t.Errorf("%v %s", err, b)
	}
}

func BenchmarkVerify(b *testing.B) {
	recs := records(b, 20_000)
	ex := export(b, recs)
	_, vkey := keys(b)
	for b.Loop() {
		r, err := audit.Verify(ex, audit.Options{Key: vkey})
		if err != nil || !r.OK() {
			b.Fatal(err, r)
		}
	}
	b.ReportMetric(float64(b.N*len(recs))/b.Elapsed().Seconds(), "records/s")
}

func FuzzTilePath(f *testing.F) {
	for _, seed := range []string{"tile/0/000", "tile/1/x001/234.p/5", "tile/entries/000.p/255", "tile/0/../000", "tile/00/000"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		level, n, width, ok := audit.ParseTilePath(path)
		if !ok {
			return
		}
		again := audit.EntriesPath(n, width)
		if level >= 0 {
			again = audit.TilePath(level, n, width)
		}
		if again != path || !fs.ValidPath(path) || strings.ContainsAny(path, "\\\x00") || n < 0 || width < 1 || width > 256 {
			t.Fatalf("%q was read as %d %d %d", path, level, n, width)
		}
	})
}
