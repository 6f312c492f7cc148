// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chaperone/internal/fault"
)

// maxCheckpoint bounds a checkpoint, in bytes.
const maxCheckpoint = 64 << 10

// Checkpoint is a signed statement that the log called Origin has Size records with this root (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
	// Others are the names of keys whose signatures stand on it but were not checked.
	Others []string
}

// OpenCheckpoint checks a checkpoint's signature with the log's key, in the text form of signed notes, and reads it. The
// origin must be the key's name. Codes, both Invalid: log_key, checkpoint_invalid.
func OpenCheckpoint(raw []byte, key string) (Checkpoint, error) {
	const op = "audit.OpenCheckpoint"
	invalid := func(format string, args ...any) *fault.Error {
		return fault.New(fault.Invalid, op, "checkpoint_invalid", format, args...).WithFix("get the checkpoint again from somebody who kept it")
	}
	v, err := note.NewVerifier(strings.TrimSuffix(key, "\n"))
	if err != nil {
		return Checkpoint{}, fault.New(fault.Invalid, op, "log_key", "the log's public key cannot be read").
			WithFix("give the key as it was printed at enrolment: name+hash+key")
	}
	if len(raw) > maxCheckpoint {
		return Checkpoint{}, invalid("the checkpoint is too large")
	}
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		if _, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
			return Checkpoint{}, invalid("the checkpoint is not signed by %s", v.Name())
		}
		if _, ok := errors.AsType[*note.InvalidSignatureError](err); ok {
			return Checkpoint{}, invalid("the checkpoint's signature by %s is wrong: its text was changed", v.Name())
		}
		return Checkpoint{}, invalid("the checkpoint is not a signed note")
	}
	// note.Open lets spare bits of base64 pass; one checkpoint has one spelling.
	for _, s := range n.Sigs {
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return Checkpoint{}, invalid("the checkpoint's signature is not in canonical form")
		}
	}
	lines := strings.SplitN(n.Text, "\n", 4)
	if len(lines) < 4 || lines[0] != v.Name() {
		return Checkpoint{}, invalid("the checkpoint is of %q, not of the log %s", lines[0], v.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, invalid("the checkpoint's size is not a number")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, invalid("the checkpoint's root is not a hash")
	}
	cp := Checkpoint{Origin: lines[0], Size: size, Root: tlog.Hash(root)}
	for _, s := range n.UnverifiedSigs {
		cp.Others = append(cp.Others, s.Name)
	}
	return cp, nil
}

// CheckConsistency checks that the tree of the checkpoint fresh extends the tree of the checkpoint kept, of the same log, and
// reports whether it is newer. Kept may be empty: then only the signature is checked. tile fetches a hash tile of the log by its path
// ("tile/0/x001/234.p/5"); its faults of kind Unavailable are returned as they are.
//
// Codes, all Invalid: log_key and checkpoint_invalid for fresh; log_inconsistent when the log is smaller than it was or its
// history was changed, or when what it serves does not prove the contrary.
func CheckConsistency(key string, kept, fresh []byte, tile func(path string) ([]byte, error)) (newer bool, err error) {
	now, err := OpenCheckpoint(fresh, key)
	if err != nil {
		return false, err
	}
	if len(kept) == 0 {
		return true, nil
	}
	before, err := OpenCheckpoint(kept, key)
	if err != nil {
		return false, err
	}
	broken := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "audit.CheckConsistency", "log_inconsistent", format, args...).
			WithFix("keep both checkpoints: together they prove that the record was changed, and tell whoever relies on it")
	}
	switch {
	case now.Size < before.Size:
		return false, broken("the log had %d records and now shows %d", before.Size, now.Size)
	case now.Size == before.Size && now.Root != before.Root:
		return false, broken("two different logs of %d records carry the same signature", now.Size)
	case now.Size == before.Size:
		return false, nil
	case before.Size == 0:
		return true, nil
	}
	tiles := &tileReader{fetch: tile}
	proof, err := tlog.ProveTree(now.Size, before.Size, tlog.TileHashReader(tlog.Tree{N: now.Size, Hash: now.Root}, tiles))
	if err != nil {
		if fault.Is(tiles.err, fault.Unavailable) {
			return false, tiles.err
		}
		return false, broken("the log does not prove that its %d records extend the %d seen before", now.Size, before.Size)
	}
	if tlog.CheckTree(proof, now.Size, now.Root, before.Size, before.Root) != nil {
		return false, broken("the first %d records of the log are not the ones seen before", before.Size)
	}
	return true, nil
}

// tileHeight is the height of every tile: 256 hashes wide (C2SP tlog-tiles).
const tileHeight = 8

// tileWidth is the number of hashes or entries in a full tile.
const tileWidth = 1 << tileHeight

// TilePath returns the path of a hash tile, of which width hashes are filled, 1 to 256.
func TilePath(level int, n int64, width int) string {
	return "tile/" + strconv.Itoa(level) + "/" + tileName(n, width)
}

// EntriesPath returns the path of a bundle of width entries.
func EntriesPath(n int64, width int) string { return "tile/entries/" + tileName(n, width) }

func tileName(n int64, width int) string {
	name := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		name = fmt.Sprintf("x%03d/%s", n%1000, name)
	}
	if width < tileWidth {
		name += ".p/" + strconv.Itoa(width)
	}
	return name
}

// Tiles returns the paths of a log of size records: first its entry bundles, then its hash tiles, lowest level first.
func Tiles(size int64) iter.Seq[string] {
	return func(yield func(string) bool) {
		for level := -1; level <= 0 || size>>(tileHeight*level) > 0; level++ {
			for n := int64(0); ; n++ {
				width := widthAt(size, level, n)
				if width == 0 {
					break
				}
				if !yield(tilePath(level, n, width)) {
					return
				}
			}
		}
	}
}

// widthAt returns how much of the tile is filled in a tree of size records; level -1 are the entry bundles. 0 = no such tile.
func widthAt(size int64, level int, n int64) int {
	count := size
	if level > 0 {
		count = size >> (tileHeight * level)
	}
	return int(max(0, min(tileWidth, count-n<<tileHeight)))
}

func tilePath(level int, n int64, width int) string {
	if level < 0 {
		return EntriesPath(n, width)
	}
	return TilePath(level, n, width)
}

// maxLevel is the highest level of a tile in a tree of less than 2^63 records.
const maxLevel = 7

// ParseTilePath reads what TilePath and EntriesPath write, and nothing else; level -1 are the entry bundles.
func ParseTilePath(path string) (level int, n int64, width int, ok bool) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > 100 {
		return 0, 0, 0, false
	}
	first, rest, _ := strings.Cut(rest, "/")
	if level = -1; first != "entries" {
		l, err := strconv.ParseUint(first, 10, 8)
		if err != nil || l > maxLevel {
			return 0, 0, 0, false
		}
		level = int(l)
	}
	name, part, partial := strings.Cut(rest, ".p/")
	if width = tileWidth; partial {
		w, err := strconv.ParseUint(part, 10, 9)
		if err != nil || w == 0 || w >= tileWidth {
			return 0, 0, 0, false
		}
		width = int(w)
	}
	for _, group := range strings.Split(name, "/") {
		digits, err := strconv.ParseUint(strings.TrimPrefix(group, "x"), 10, 10)
		if err != nil || digits > 999 || n > math.MaxInt64/1000-1 {
			return 0, 0, 0, false
		}
		n = n*1000 + int64(digits)
	}
	if n >= 1<<(63-tileHeight) {
		return 0, 0, 0, false
	}
	return level, n, width, tilePath(level, n, width) == path
}

// tileReader implements tlog.TileReader over paths. TileHashReader checks every tile against the tree it was given.
type tileReader struct {
	fetch func(path string) ([]byte, error)
	err   error // the first error of fetch
}

func (r *tileReader) Height() int { return tileHeight }

func (r *tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		b, err := r.fetch(TilePath(t.L, t.N, t.W))
		if err != nil && t.W < tileWidth {
			// A partial tile may be gone once the full one is there.
			if full, e := r.fetch(TilePath(t.L, t.N, tileWidth)); e == nil {
				b, err = full, nil
			}
		}
		if err == nil && len(b) > t.W*tlog.HashSize {
			b = b[:t.W*tlog.HashSize]
		}
		if err == nil && len(b) < t.W*tlog.HashSize {
			err = errors.New("short tile")
		}
		if err != nil {
			if r.err == nil {
				r.err = err
			}
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}
