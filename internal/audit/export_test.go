// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chaperone/internal/audit"
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
