// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

const origin = "chaperone.internal/log"

// keys returns the log's key pair, the same in every test.
func keys(t testing.TB) (note.Signer, string) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)), origin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return s, vkey
}

// records makes n records whose ids, leaves and salts are all different and the same in every test.
func records(t testing.TB, n int) []audit.Record {
	t.Helper()
	var out []audit.Record
	for i := range n {
		ev := callEvent()
		ev.ID = numbered(i)
		if i%3 == 0 {
			ev = personEvent()
			ev.ID = numbered(i)
		}
		salt := byte(0)
		s, err := audit.Seal(ev, func() []byte {
			salt++
			sum := sha256.Sum256([]byte{byte(i), byte(i >> 8), salt})
			return sum[:]
		})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, audit.Record{Position: int64(i), ID: ev.ID, Leaf: s.Leaf, Parts: s.Parts})
	}
	return out
}

// numbered returns an event id that holds a number.
func numbered(i int) id.Event {
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	s := []byte(fixed.event.String())
	for k := 24; k > 18; k-- { // the random tail
		s[k] = digits[i&31]
		i >>= 5
	}
	return read[id.Event](string(s))
}

// export lays records out as ledger does, by means of tlog alone.
func export(t testing.TB, recs []audit.Record) fstest.MapFS {
	t.Helper()
	out := fstest.MapFS{}
	_, vkey := keys(t)
	put := func(path string, b []byte) { out[path] = &fstest.MapFile{Data: b} }
	put("log.vkey", []byte(vkey+"\n"))
	put("README.txt", []byte("how to verify\n"))
	var rows []byte
	for _, r := range recs {
		if r.Leaf != nil {
			rows = audit.AppendRow(rows, r)
		}
	}
	put("records.jsonl", rows)
	layLog(t, out, leavesOf(recs))
	return out
}

func leavesOf(recs []audit.Record) (out [][]byte) {
	for _, r := range recs {
		out = append(out, r.Leaf)
	}
	return out
}

// layLog writes the checkpoint, tiles and bundles of the leaves.
func layLog(t testing.TB, out fstest.MapFS, leaves [][]byte) {
	t.Helper()
	maps.DeleteFunc(out, func(path string, _ *fstest.MapFile) bool { return strings.HasPrefix(path, "tile/") })
	put := func(path string, b []byte) { out[path] = &fstest.MapFile{Data: b} }
	hashes := treeOf(t, leaves)
	size := int64(len(leaves))
	for n := 0; n*256 < len(leaves); n++ {
		var b []byte
		some := leaves[n*256 : min(len(leaves), n*256+256)]
		for _, l := range some {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(l))), l...)
		}
		put(audit.EntriesPath(int64(n), len(some)), b)
	}
	for _, tile := range tlog.NewTiles(8, 0, size) {
		b, err := tlog.ReadTileData(tile, hashes)
		if err != nil {
			t.Fatal(err)
		}
		put(audit.TilePath(tile.L, tile.N, tile.W), b)
	}
	put("checkpoint", checkpoint(t, leaves))
}

func treeOf(t testing.TB, leaves [][]byte) tlog.HashReader {
	t.Helper()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, _ error) {
		for _, i := range at {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for i, l := range leaves {
		more, err := tlog.StoredHashes(int64(i), l, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
	}
	return reader
}

func checkpoint(t testing.TB, leaves [][]byte) []byte {
	t.Helper()
	root, err := tlog.TreeHash(int64(len(leaves)), treeOf(t, leaves))
	if err != nil {
		t.Fatal(err)
	}
	return signed(t, fmt.Sprintf("%s\n%d\n%s\n", origin, len(leaves), root))
}

func signed(t testing.TB, text string) []byte {
	t.Helper()
	s, _ := keys(t)
	b, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func clone(in fstest.MapFS) fstest.MapFS {
	out := fstest.MapFS{}
	for path, f := range in {
		out[path] = &fstest.MapFile{Data: bytes.Clone(f.Data)}
	}
	return out
}

func verify(t testing.TB, export fs.FS, pinned []byte) audit.Report {
	t.Helper()
	_, vkey := keys(t)
	r, err := audit.Verify(export, audit.Options{Key: vkey, PinnedCheckpoint: pinned})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestIntactExports(t *testing.T) {
	for _, n := range []int{0, 1, 2, 255, 256, 257, 600} {
		recs := records(t, n)
		ex := export(t, recs)
		r := verify(t, ex, ex["checkpoint"].Data)
		if !r.OK() || r.Records != int64(n) || r.Size != int64(n) || r.Pinned != int64(n) || len(r.Notes) != 0 {
			t.Errorf("%d records: %s", n, r)
		}
		if n > 0 && !strings.HasPrefix(r.String(), fmt.Sprintf("intact: %d records", n)) {
			t.Errorf("%q", r)
		}
		for old := 0; old <= n; old += 1 + n/7 {
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
		if fault.CodeOf(err) != tt.code || newer {
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
