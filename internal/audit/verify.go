// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"chaperone/internal/fault"
)

// Options of Verify.
type Options struct {
	// PinnedCheckpoint is a signed checkpoint that was kept away from the log. Without one, a record that was cut back to an
	// older genuine checkpoint cannot be told from one that never grew.
	PinnedCheckpoint []byte
	// Key is the log's public key, kept away from the log. Without it the export's own is used, which proves no more than that
	// the export agrees with itself.
	Key string
}

// Verify checks an export offline: the checkpoint's signature, the Merkle tree that golang.org/x/mod/sumdb/tlog computes from the
// committed entries, every hash tile, entry bundle and record against that tree, every part against the salted digest in its leaf, and
// the pinned checkpoint against the tree.
//
// An export holds every record three times (its row, its entry, its hash in a tile). The copy that leads to the signed root is
// the truth; what differs from it is named by position, event id, and field or part. Where no copy leads there, the report says so
// and names where the copies disagree.
//
// The error is for what could not be read at all (Invalid: log_key, no_export); everything found is in the Report.
func Verify(export fs.FS, opts Options) (Report, error) {
	v := verifier{fs: export, Report: Report{Pinned: -1, Findings: []Finding{}}, erased: make(map[int64][]Erased)}
	key, err := v.key(opts.Key)
	if err != nil {
		return Report{}, err
	}
	raw, err := fs.ReadFile(export, CheckpointFile)
	if err != nil {
		return Report{}, noExport(CheckpointFile, err)
	}
	cp, err := OpenCheckpoint(raw, key)
	if fault.CodeOf(err) == "log_key" {
		return Report{}, err
	}
	if err != nil {
		f, _ := errors.AsType[*fault.Error](err)
		v.find(Finding{Kind: FoundCheckpoint, Position: -1, File: CheckpointFile, Says: f.Msg})
		v.note("without a checkpoint that holds there is nothing to check the records against, so they were not looked at")
		return v.Report, nil
	}
	v.Origin, v.Size, v.Root = cp.Origin, cp.Size, cp.Root.String()
	if len(cp.Others) > 0 {
		v.note("the checkpoint also carries signatures that were not checked: %s", strings.Join(cp.Others, ", "))
	}
	if err := v.inventory(); err != nil {
		return Report{}, err
	}
	v.readTiles()
	v.readEntries()
	if err := v.readRows(); err != nil {
		return Report{}, err
	}
	v.settle(cp)
	v.compareLog()
	v.compareRows()
	v.compareErased()
	v.pinned(opts.PinnedCheckpoint, key)
	return v.Report, nil
}

// verifier holds the three copies of every leaf hash, by position; the zero hash means "not there". limit is the number of positions
// for which any copy has anything, at most Size, so that a checkpoint alone cannot make it large.
type verifier struct {
	Report
	fs      fs.FS
	files   map[string]bool // under tile/
	limit   int64
	tiles   []tlog.Hash // level 0
	entries []tlog.Hash
	rows    []tlog.Hash
	table   []rowFacts
	gone    []Finding          // parts marked as erased
	lost    []Restored         // what rows say was lost in a restore
	erased  map[int64][]Erased // what rows say was erased, by their position

	truth  []tlog.Hash // the committed leaf hashes, nil if no copy leads to the root
	hashes stored      // the whole tree of truth
}

func noExport(name string, err error) error {
	return fault.New(fault.Invalid, "audit.Verify", "no_export", "the export has no readable %s", name).
		WithFix("give the directory that `chaperone audit export` wrote").WithCause(err)
}

func (v *verifier) key(given string) (string, error) {
	given = strings.TrimSpace(given)
	own, err := fs.ReadFile(v.fs, KeyFile)
	switch {
	case given == "" && err != nil:
		return "", noExport(KeyFile, err)
	case given == "":
		v.note("the log's key was taken from the export itself, which proves only that the export agrees with itself; give the key that you got at enrolment")
		return string(own), nil
	case err != nil:
		v.find(Finding{Kind: FoundCheckpoint, Position: -1, File: KeyFile, Says: "the file is missing"})
	case string(own) != given+"\n":
		v.find(Finding{Kind: FoundCheckpoint, Position: -1, File: KeyFile, Says: "the export names another key than the one you gave"})
	}
	return given, nil
}

// inventory lists the files of the log, names those that do not belong to a tree of this size, and bounds the work by what is
// there: the size alone, which a stranger may have signed, cannot make it large.
func (v *verifier) inventory() error {
	v.files = make(map[string]bool)
	return fs.WalkDir(v.fs, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return noExport(path, err)
		}
		if d.IsDir() {
			return nil
		}
		switch path {
		case CheckpointFile, RecordsFile, KeyFile, ReadmeFile:
			return nil
		}
		level, n, width, ok := ParseTilePath(path)
		if !ok || width != widthAt(v.Size, level, n) {
			v.find(Finding{Kind: FoundExtra, Position: -1, File: path, Says: "the file does not belong to a log of this size"})
			return nil
		}
		v.files[path] = true
		if level <= 0 {
			v.limit = max(v.limit, n<<tileHeight+int64(width))
		}
		return nil
	})
}

// readTiles takes the leaf hashes from the tiles of level 0.
func (v *verifier) readTiles() {
	v.tiles = make([]tlog.Hash, v.limit)
	v.each(0, func(n int64, width int) {
		b, ok := v.read(TilePath(0, n, width))
		if ok && len(b) == width*tlog.HashSize {
			for i := range width {
				v.tiles[n<<tileHeight+int64(i)] = tlog.Hash(b[i*tlog.HashSize:])
			}
		}
	})
}

// readEntries computes the leaf hashes of the entry bundles.
func (v *verifier) readEntries() {
	v.entries = make([]tlog.Hash, v.limit)
	v.each(-1, func(n int64, width int) {
		b, ok := v.read(EntriesPath(n, width))
		if !ok {
			return
		}
		entries, rest := splitBundle(b, width)
		for i, e := range entries {
			v.entries[n<<tileHeight+int64(i)] = tlog.RecordHash(e)
		}
		if len(entries) < width || len(rest) > 0 {
			v.find(Finding{Kind: FoundMalformed, Position: -1, File: EntriesPath(n, width), Says: "the bundle does not hold the entries that belong in it, and nothing else"})
		}
	})
}

// each visits the tiles of a level within the limit. Those beyond it are not there at all, and are named as truncated.
func (v *verifier) each(level int, visit func(n int64, width int)) {
	count := v.limit
	if level > 0 {
		count = v.Size >> (tileHeight * level)
		count = min(count, v.limit>>(tileHeight*level)+1)
	}
	for n := int64(0); n<<tileHeight < count; n++ {
		if width := widthAt(v.Size, level, n); width > 0 {
			visit(n, width)
		}
	}
}

// read returns a file of the log, or names it as missing.
func (v *verifier) read(path string) ([]byte, bool) {
	if !v.files[path] {
		v.find(Finding{Kind: FoundLog, Position: -1, File: path, Says: "the file is missing"})
		return nil, false
	}
	b, err := fs.ReadFile(v.fs, path)
	if err != nil {
		v.find(Finding{Kind: FoundLog, Position: -1, File: path, Says: "the file cannot be read"})
		return nil, false
	}
	return b, true
}

// splitBundle splits a bundle into at most width entries and what follows them (C2SP tlog-tiles: two bytes of length, then the
// entry).
func splitBundle(b []byte, width int) (entries [][]byte, rest []byte) {
	for len(entries) < width && len(b) >= 2 {
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			break
		}
		entries = append(entries, b[2:2+n])
		b = b[2+n:]
	}
	return entries, b
}

// stored is a tree's hashes in the order of tlog's hash storage.
type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(s)) {
			return nil, errors.New("no such hash")
		}
		out[i] = s[x]
	}
	return out, nil
}

// grow returns the whole tree over the leaf hashes.
func grow(leaves []tlog.Hash) (stored, error) {
	s := make(stored, 0, tlog.StoredHashCount(int64(len(leaves))))
	for i, h := range leaves {
		more, err := tlog.StoredHashesForRecordHash(int64(i), h, s)
		if err != nil {
			return nil, err
		}
		s = append(s, more...)
	}
	return s, nil
}

// settle finds the truth: the leaf hashes that lead to the signed root.
func (v *verifier) settle(cp Checkpoint) {
	if v.limit < v.Size {
		v.find(Finding{Kind: FoundTruncated, Position: v.limit, To: v.Size - 1,
			Says: "the checkpoint covers these records, and the export has neither the records nor their place in the log"})
		v.note("the end is missing, so the root cannot be computed; the copies of the rest were compared with one another only")
		return
	}
	for _, leaves := range [][]tlog.Hash{v.compose(), v.tiles, v.entries, v.rows} {
		tree, err := grow(leaves)
		if err != nil {
			continue
		}
		if root, err := tlog.TreeHash(v.Size, tree); err == nil && root == cp.Root {
			v.truth, v.hashes = leaves, tree
			return
		}
	}
	v.find(Finding{Kind: FoundRewritten, Position: -1, File: CheckpointFile,
		Says: "no copy of the records leads to the root that the checkpoint signs; below is where the copies disagree with one another"})
}

// compose takes every bundle from the copy that its hash one level up vouches for, else every leaf from the majority of its copies.
func (v *verifier) compose() []tlog.Hash {
	parents := make([]tlog.Hash, v.limit>>tileHeight)
	v.each(1, func(n int64, width int) {
		if b, err := fs.ReadFile(v.fs, TilePath(1, n, width)); err == nil && len(b) == width*tlog.HashSize {
			for i := range width {
				if at := n<<tileHeight + int64(i); at < int64(len(parents)) {
					parents[at] = tlog.Hash(b[i*tlog.HashSize:])
				}
			}
		}
	})
	out := make([]tlog.Hash, v.limit)
	for from := int64(0); from < v.limit; from += tileWidth {
		to := min(from+tileWidth, v.limit)
		a, b, c := v.tiles[from:to], v.entries[from:to], v.rows[from:to]
		if equal(a, b) && equal(a, c) {
			copy(out[from:to], a)
			continue
		}
		if vouched := v.vouched(parents, from, to); vouched != nil {
			copy(out[from:to], vouched)
			continue
		}
		for i := range a {
			switch {
			case b[i] == c[i] && b[i] != (tlog.Hash{}):
				out[from+int64(i)] = b[i]
			case a[i] != (tlog.Hash{}):
				out[from+int64(i)] = a[i]
			case b[i] != (tlog.Hash{}):
				out[from+int64(i)] = b[i]
			default:
				out[from+int64(i)] = c[i]
			}
		}
	}
	return out
}

func (v *verifier) vouched(parents []tlog.Hash, from, to int64) []tlog.Hash {
	at := from >> tileHeight
	if to-from < tileWidth || at >= int64(len(parents)) {
		return nil
	}
	for _, leaves := range [][]tlog.Hash{v.tiles[from:to], v.entries[from:to], v.rows[from:to]} {
		if tree, err := grow(leaves); err == nil {
			if root, err := tlog.TreeHash(tileWidth, tree); err == nil && root == parents[at] {
				return leaves
			}
		}
	}
	return nil
}

func equal(a, b []tlog.Hash) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// compareLog checks every tile and bundle against the truth, byte for byte.
func (v *verifier) compareLog() {
	if v.truth == nil {
		for i := range v.tiles {
			if a, b := v.tiles[i], v.entries[i]; a != b {
				v.find(Finding{Kind: FoundLog, Position: int64(i), ID: v.name(int64(i)), Says: "the entry and its hash in the tile disagree"})
			}
		}
		return
	}
	for i, h := range v.truth {
		if e := v.entries[i]; e != h && e != (tlog.Hash{}) {
			v.find(Finding{Kind: FoundEdited, Position: int64(i), ID: v.name(int64(i)), File: v.pathOf(-1, int64(i)), Says: "the entry in the log's bundle is not what was committed"})
		}
	}
	for level := 0; v.Size>>(tileHeight*level) > 0; level++ {
		v.each(level, func(n int64, width int) {
			path := TilePath(level, n, width)
			got, err := fs.ReadFile(v.fs, path)
			if err != nil {
				if level > 0 { // level 0 was named when it was read
					v.find(Finding{Kind: FoundLog, Position: -1, File: path, Says: "the file is missing"})
				}
				return
			}
			want, err := tlog.ReadTileData(tlog.Tile{H: tileHeight, L: level, N: n, W: width}, v.hashes)
			if err != nil || bytes.Equal(got, want) {
				return
			}
			f := Finding{Kind: FoundLog, Position: -1, File: path, Says: "the hashes in the tile are not those of the tree"}
			if i := differAt(got, want); level == 0 && i >= 0 {
				f.Position = n<<tileHeight + int64(i)
				f.ID = v.name(f.Position)
			}
			v.find(f)
		})
	}
}

// differAt returns the first hash in which two tiles of one length differ, -1 if their lengths do.
func differAt(a, b []byte) int {
	if len(a) != len(b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i / tlog.HashSize
		}
	}
	return -1
}

func (v *verifier) pathOf(level int, position int64) string {
	n := position >> tileHeight
	return tilePath(level, n, widthAt(v.Size, level, n))
}

// pinned checks the tree against the checkpoint that was kept elsewhere.
func (v *verifier) pinned(raw []byte, key string) {
	if len(raw) == 0 {
		v.note("no checkpoint that was kept elsewhere was given, so a log that was cut back to an older genuine checkpoint cannot be told from one that never grew")
		return
	}
	old, err := OpenCheckpoint(raw, key)
	if err != nil {
		f, _ := errors.AsType[*fault.Error](err)
		v.find(Finding{Kind: FoundCheckpoint, Position: -1, Says: "the pinned checkpoint: " + f.Msg})
		return
	}
	v.Pinned = old.Size
	switch {
	case old.Size > v.Size:
		v.find(Finding{Kind: FoundTruncated, Position: v.Size, To: old.Size - 1, File: CheckpointFile,
			Says: "the pinned checkpoint covers these records and the export's checkpoint does not: the end of the log was cut off"})
	case v.truth == nil:
		v.note("the pinned checkpoint could not be compared, since no copy of the records leads to the signed root")
	case old.Size > 0:
		v.extends(old)
	}
}

func (v *verifier) extends(old Checkpoint) {
	rewritten := Finding{Kind: FoundRewritten, Position: 0, To: old.Size - 1,
		Says: "the pinned checkpoint signs other records: the log was written again, and signed again, after it was pinned"}
	root, err := tlog.TreeHash(v.Size, v.hashes)
	if err != nil {
		v.find(rewritten)
		return
	}
	if old.Size == v.Size {
		if old.Root != root {
			v.find(rewritten)
		}
		return
	}
	proof, err := tlog.ProveTree(v.Size, old.Size, v.hashes)
	if err != nil || tlog.CheckTree(proof, v.Size, root, old.Size, old.Root) != nil {
		v.find(rewritten)
	}
}
