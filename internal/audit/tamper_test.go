// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"

	"chaperone/internal/audit"
)

// tampering is one way to change an export. Want is what each finding must name, as "kind position id part file".
type tampering struct {
	name   string
	change func(t *testing.T, ex fstest.MapFS, recs []audit.Record)
	want   []audit.Finding
	fields string
}

func rewrite(ex fstest.MapFS, recs []audit.Record) {
	var b []byte
	for _, r := range recs {
		b = audit.AppendRow(b, r)
	}
	ex["records.jsonl"].Data = b
}

func tamperings(recs []audit.Record) []tampering {
	name := func(i int64) string { return recs[i].ID.String() }
	copied := func() []audit.Record { return slices.Clone(recs) }
	return []tampering{
		{name: "a word in a leaf", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[10].Leaf = bytes.Replace(now[10].Leaf, []byte(`"outcome":"ok"`), []byte(`"outcome":"denied"`), 1)
			now[10].Leaf = bytes.Replace(now[10].Leaf, []byte(`"tool":"mail_send"`), []byte(`"tool":"mail_read"`), 1)
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundEdited, Position: 10, ID: name(10), File: "records.jsonl"}}, fields: "data.outcome tool"},
		{name: "a whole leaf exchanged for another's", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[7].Leaf, now[7].ID, now[7].Parts = now[8].Leaf, now[8].ID, now[8].Parts
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundInserted, Position: 7, ID: name(8)}, {Kind: audit.FoundRemoved, Position: 7, ID: name(7)}}},
		{name: "a row's id", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[7].ID = numbered(9999)
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundEdited, Position: 7, ID: numbered(9999).String(), File: "records.jsonl"}}},
		{name: "a record removed", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			rewrite(ex, slices.Delete(copied(), 5, 6))
		}, want: []audit.Finding{{Kind: audit.FoundRemoved, Position: 5, ID: name(5)}}},
		{name: "a record removed and the rest renumbered", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := slices.Delete(copied(), 5, 6)
			for i := range now {
				now[i].Position = int64(i)
			}
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundReordered, Position: 6, To: 299}, {Kind: audit.FoundRemoved, Position: 5, ID: name(5)}}},
		{name: "a record inserted", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ev := personEvent()
			ev.ID = numbered(7777)
			s, _ := audit.Seal(ev, counted())
			now := slices.Insert(copied(), 20, audit.Record{ID: ev.ID, Leaf: s.Leaf})
			for i := range now {
				now[i].Position = int64(i)
			}
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundReordered, Position: 20, To: 299}, {Kind: audit.FoundInserted, Position: 20, ID: numbered(7777).String()}}},
		{name: "a record appended", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ev := personEvent()
			ev.ID = numbered(7777)
			s, _ := audit.Seal(ev, counted())
			rewrite(ex, append(copied(), audit.Record{Position: 300, ID: ev.ID, Leaf: s.Leaf}))
		}, want: []audit.Finding{{Kind: audit.FoundInserted, Position: 300, ID: numbered(7777).String()}}},
		{name: "a record twice", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			rewrite(ex, slices.Insert(copied(), 20, recs[19]))
		}, want: []audit.Finding{{Kind: audit.FoundReordered, Position: 19, ID: name(19)}, {Kind: audit.FoundInserted, Position: 19, ID: name(19)}}},
		{name: "two lines swapped", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[30], now[31] = now[31], now[30]
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundReordered, Position: 30, ID: name(30)}}},
		{name: "two records swapped with their positions", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[30], now[32] = now[32], now[30]
			now[30].Position, now[32].Position = 30, 32
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundReordered, Position: 32, ID: name(32)}, {Kind: audit.FoundReordered, Position: 30, ID: name(30)}}},
		{name: "the last records cut off", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			rewrite(ex, recs[:290])
		}, want: []audit.Finding{{Kind: audit.FoundTruncated, Position: 290, To: 299, ID: name(290)}}},
		{name: "the last records cut off with their entries and hashes", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			rewrite(ex, recs[:200])
			for path := range ex {
				if strings.HasPrefix(path, "tile/") {
					delete(ex, path)
				}
			}
		}, want: []audit.Finding{{Kind: audit.FoundTruncated, Position: 200, To: 299}}},
		{name: "a part", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[10].Parts = slices.Clone(now[10].Parts)
			now[10].Parts[0].Bytes = []byte(`{"body":"hi","to":"eve@example.com"}`)
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundPart, Position: 10, ID: name(10), Part: "arguments"}}},
		{name: "a salt", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[10].Parts = slices.Clone(now[10].Parts)
			now[10].Parts[1].Salt = make([]byte, audit.SaltSize)
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundPart, Position: 10, ID: name(10), Part: "result"}}},
		{name: "salt and part shifted by a byte", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[10].Parts = slices.Clone(now[10].Parts)
			p := &now[10].Parts[1]
			p.Bytes = append([]byte{p.Salt[31]}, p.Bytes...)
			p.Salt = p.Salt[:31]
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundPart, Position: 10, ID: name(10), Part: "result"}}},
		{name: "a part taken away", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[10].Parts = now[10].Parts[:1]
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundPart, Position: 10, ID: name(10), Part: "result"}}},
		{name: "a part added", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[10].Parts = append(slices.Clone(now[10].Parts), audit.Part{Name: "request", Salt: make([]byte, 32), Bytes: []byte("x")})
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundPart, Position: 10, ID: name(10), Part: "request"}}},
		{name: "a part twice", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[10].Parts = append(slices.Clone(now[10].Parts), now[10].Parts[1])
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundPart, Position: 10, ID: name(10), Part: "result"}}},
		{name: "a part marked as erased that is still there", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[10].Parts = slices.Clone(now[10].Parts)
			now[10].Parts[1].Erased = "retention"
			rewrite(ex, now)
		}, want: []audit.Finding{{Kind: audit.FoundPart, Position: 10, ID: name(10), Part: "result"}}},
		{name: "white space in a line", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ex["records.jsonl"].Data = bytes.Replace(ex["records.jsonl"].Data, []byte(`,"position":12}`), []byte(`, "position":12}`), 1)
		}, want: []audit.Finding{{Kind: audit.FoundMalformed, Position: -1, File: "records.jsonl"}, {Kind: audit.FoundRemoved, Position: 12, ID: name(12)}}},
		{name: "no newline at the end", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ex["records.jsonl"].Data = bytes.TrimSuffix(ex["records.jsonl"].Data, []byte("\n"))
		}, want: []audit.Finding{{Kind: audit.FoundMalformed, Position: -1, File: "records.jsonl"}, {Kind: audit.FoundTruncated, Position: 299, ID: name(299)}}},
		{name: "an entry in the log", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			f := ex["tile/entries/000"]
			f.Data = bytes.Replace(f.Data, recs[40].Leaf, bytes.Replace(recs[40].Leaf, []byte("mailer"), []byte("maiIer"), 1), 1)
		}, want: []audit.Finding{{Kind: audit.FoundEdited, Position: 40, ID: name(40), File: "tile/entries/000"}}},
		{name: "an entry in the log and its record alike", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[40].Leaf = bytes.Replace(recs[40].Leaf, []byte("mailer"), []byte("maiIer"), 1)
			rewrite(ex, now)
			f := ex["tile/entries/000"]
			f.Data = bytes.Replace(f.Data, recs[40].Leaf, now[40].Leaf, 1)
		}, want: []audit.Finding{{Kind: audit.FoundEdited, Position: 40, File: "tile/entries/000"}, {Kind: audit.FoundEdited, Position: 40, ID: name(40), File: "records.jsonl"}}},
		{name: "an entry in the last, partial bundle and its record alike", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[280].Leaf = bytes.Replace(recs[280].Leaf, []byte("mailer"), []byte("maiIer"), 1)
			rewrite(ex, now)
			f := ex["tile/entries/001.p/44"]
			f.Data = bytes.Replace(f.Data, recs[280].Leaf, now[280].Leaf, 1)
		}, want: []audit.Finding{{Kind: audit.FoundEdited, Position: 280, File: "tile/entries/001.p/44"}, {Kind: audit.FoundEdited, Position: 280, ID: name(280), File: "records.jsonl"}}},
		{name: "everything written again but the checkpoint", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[40].Leaf = bytes.Replace(recs[40].Leaf, []byte("mailer"), []byte("maiIer"), 1)
			rewrite(ex, now)
			cp := ex["checkpoint"].Data
			layLog(t, ex, leavesOf(now))
			ex["checkpoint"].Data = cp
		}, want: []audit.Finding{{Kind: audit.FoundRewritten, Position: -1, File: "checkpoint"}}},
		{name: "everything written and signed again", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			now := copied()
			now[40].Leaf = bytes.Replace(recs[40].Leaf, []byte("mailer"), []byte("maiIer"), 1)
			rewrite(ex, now)
			layLog(t, ex, leavesOf(now))
		}, want: []audit.Finding{{Kind: audit.FoundRewritten, Position: 0, To: 299}}},
		{name: "a hash in a tile", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) { ex["tile/0/000"].Data[5*32+3]++ },
			want: []audit.Finding{{Kind: audit.FoundLog, Position: 5, ID: name(5), File: "tile/0/000"}}},
		{name: "a hash one level up", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) { ex["tile/1/000.p/1"].Data[3]++ },
			want: []audit.Finding{{Kind: audit.FoundLog, Position: -1, File: "tile/1/000.p/1"}}},
		{name: "a tile cut short", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ex["tile/0/000"].Data = ex["tile/0/000"].Data[:32*255]
		}, want: []audit.Finding{{Kind: audit.FoundLog, Position: -1, File: "tile/0/000"}}},
		{name: "a tile missing", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) { delete(ex, "tile/0/000") },
			want: []audit.Finding{{Kind: audit.FoundLog, Position: -1, File: "tile/0/000"}}},
		{name: "a tile missing one level up", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) { delete(ex, "tile/1/000.p/1") },
			want: []audit.Finding{{Kind: audit.FoundLog, Position: -1, File: "tile/1/000.p/1"}}},
		{name: "a bundle missing", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) { delete(ex, "tile/entries/000") },
			want: []audit.Finding{{Kind: audit.FoundLog, Position: -1, File: "tile/entries/000"}}},
		{name: "a bundle with a tail", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ex["tile/entries/000"].Data = append(ex["tile/entries/000"].Data, 0)
		}, want: []audit.Finding{{Kind: audit.FoundMalformed, Position: -1, File: "tile/entries/000"}}},
		{name: "a file too many", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ex["tile/0/002"] = &fstest.MapFile{Data: []byte("x")}
		},
			want: []audit.Finding{{Kind: audit.FoundExtra, Position: -1, File: "tile/0/002"}}},
		{name: "a foreign file", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ex["more/x"] = &fstest.MapFile{Data: []byte("x")}
		},
			want: []audit.Finding{{Kind: audit.FoundExtra, Position: -1, File: "more/x"}}},
		{name: "another key beside", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) { ex["log.vkey"].Data[5]++ },
			want: []audit.Finding{{Kind: audit.FoundCheckpoint, Position: -1, File: "log.vkey"}}},
		{name: "the key missing", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) { delete(ex, "log.vkey") },
			want: []audit.Finding{{Kind: audit.FoundCheckpoint, Position: -1, File: "log.vkey"}}},
		{name: "the checkpoint's size", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ex["checkpoint"].Data = bytes.Replace(ex["checkpoint"].Data, []byte("\n300\n"), []byte("\n299\n"), 1)
		}, want: []audit.Finding{{Kind: audit.FoundCheckpoint, Position: -1, File: "checkpoint"}}},
		{name: "a checkpoint of another log, signed with the key", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			ex["checkpoint"].Data = signed(t, strings.Replace(strings.Split(string(ex["checkpoint"].Data), "\n\n")[0]+"\n", origin, "other/log", 1))
		}, want: []audit.Finding{{Kind: audit.FoundCheckpoint, Position: -1, File: "checkpoint"}}},
		{name: "spare bits of the signature", change: func(t *testing.T, ex fstest.MapFS, _ []audit.Record) {
			b := ex["checkpoint"].Data
			i := bytes.LastIndex(b, []byte("=")) - 1
			b[i]++ // the two low bits of the last character before the padding are spare
		}, want: []audit.Finding{{Kind: audit.FoundCheckpoint, Position: -1, File: "checkpoint"}}},
	}
}

// Every way to tamper is found, and what is found names the record, the event and the part.
func TestTamperingIsNamed(t *testing.T) {
	recs := records(t, 300)
	whole := export(t, recs)
	pinned := whole["checkpoint"].Data
	for _, tt := range tamperings(recs) {
		t.Run(tt.name, func(t *testing.T) {
			ex := clone(whole)
			tt.change(t, ex, recs)
			r := verify(t, ex, pinned)
			if r.OK() || !strings.HasPrefix(r.String(), "NOT INTACT") {
				t.Fatalf("not found:\n%s", r)
			}
			for _, w := range tt.want {
				i := slices.IndexFunc(r.Findings, func(f audit.Finding) bool {
					return f.Kind == w.Kind && f.Position == w.Position && (w.To == 0 || f.To == w.To) && (w.ID == "" || f.ID == w.ID) &&
						f.Part == w.Part && (w.File == "" || f.File == w.File)
				})
				if i < 0 {
					t.Errorf("no finding %+v in:\n%s", w, r)
				} else if got := strings.Join(r.Findings[i].Fields, " "); got != tt.fields && tt.fields != "" {
					t.Errorf("fields %q, want %q", got, tt.fields)
				}
			}
			if extra := len(r.Findings) - len(tt.want); extra > 0 && !strings.Contains(tt.name, "hashes") {
				t.Errorf("%d findings beyond the expected:\n%s", extra, r)
			}
		})
	}
}

// At least a thousand random edits of a copy, of every file that is evidence: all are detected.
func TestRandomEditsAreDetected(t *testing.T) {
	for edits := randomEdits(t, 258); edits < 1000; {
		edits += randomEdits(t, 20)
	}
}

func randomEdits(t *testing.T, n int) (edits int) {
	recs := records(t, n)
	whole := export(t, recs)
	pinned := whole["checkpoint"].Data
	_, vkey := keys(t)
	var files []string
	for path := range whole {
		if path != "README.txt" {
			files = append(files, path)
		}
	}
	slices.Sort(files)
	rapid.Check(t, func(t *rapid.T) {
		ex := clone(whole)
		path := rapid.SampledFrom(files).Draw(t, "file")
		if rapid.IntRange(0, 1).Draw(t, "favour the records") == 0 {
			path = "records.jsonl"
		}
		b := ex[path].Data
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		switch rapid.IntRange(0, 4).Draw(t, "how") {
		case 0: // one byte
			b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "xor"))
		case 1: // some bytes taken out
			n := rapid.IntRange(1, min(len(b)-at, 400)).Draw(t, "n")
			b = slices.Delete(b, at, at+n)
		case 2: // some bytes put in
			b = slices.Insert(b, at, rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "new")...)
		case 3: // cut
			b = b[:at]
		case 4: // a line or block moved elsewhere
			n := rapid.IntRange(1, min(len(b)-at, 3000)).Draw(t, "n")
			block := bytes.Clone(b[at : at+n])
			rest := slices.Delete(b, at, at+n)
			to := rapid.IntRange(0, len(rest)).Draw(t, "to")
			b = slices.Insert(rest, to, block...)
		}
		if bytes.Equal(b, whole[path].Data) {
			return
		}
		ex[path].Data = b
		edits++
		if r, err := audit.Verify(ex, audit.Options{Key: vkey, PinnedCheckpoint: pinned}); err == nil && r.OK() {
			t.Fatalf("an edit of %s was not seen", path)
		}
	})
	return edits
}

// Random operations on whole records: removal, insertion, exchange, edit of a leaf or part. Each is detected, and each position that no
// longer has its record is named.
func TestRandomTamperingNamesPositions(t *testing.T) {
	recs := records(t, 40)
	whole := export(t, recs)
	rapid.Check(t, func(t *rapid.T) {
		now := slices.Clone(recs)
		at := rapid.IntRange(0, len(now)-1).Draw(t, "at")
		other := rapid.IntRange(0, len(now)-1).Filter(func(i int) bool { return i != at }).Draw(t, "other")
		named := []int64{int64(at)}
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0:
			now = slices.Delete(now, at, at+1)
		case 1:
			now[at].Leaf = bytes.Replace(now[at].Leaf, []byte(`2026-11-23T08:30:00.123Z`), []byte(`2026-11-23T08:30:00.124Z`), 1)
		case 2:
			now[at], now[other] = now[other], now[at]
			now[at].Position, now[other].Position = int64(at), int64(other)
			named = append(named, int64(other))
		case 3:
			if len(now[at].Parts) == 0 {
				return
			}
			now[at].Parts = slices.Clone(now[at].Parts)
			now[at].Parts[0].Bytes = []byte("x")
		}
		ex := maps.Clone(whole)
		var b []byte
		for _, r := range now {
			b = audit.AppendRow(b, r)
		}
		ex["records.jsonl"] = &fstest.MapFile{Data: b}
		_, vkey := keys(&testing.T{})
		r, err := audit.Verify(ex, audit.Options{Key: vkey})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range named {
			if !slices.ContainsFunc(r.Findings, func(f audit.Finding) bool {
				return f.Position <= p && p <= f.To && (f.ID == recs[p].ID.String() || f.To > f.Position)
			}) {
				t.Fatalf("record %d is not named:\n%s", p, r)
			}
		}
	})
}
