// SPDX-License-Identifier: Apache-2.0

// Package ledger keeps the tile log that commits to the event table: a Merkle tree over the leaves in the order of their
// positions, with signed checkpoints (C2SP tlog-tiles), written by a follower of the table. It decides that what is signed is what the
// table says; it never decides what an event is, and never changes a leaf.
package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"k8s.io/klog/v2"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
)

// Config says with what key the log signs and how often.
type Config struct {
	// Signer signs checkpoints; its name is the log's origin. Key is its public half in the text form of signed notes.
	Signer note.Signer
	Key    string
	// Interval is how long after a change a checkpoint is published; 0 = 200 ms, at least 100 ms.
	Interval time.Duration
	// Gather is how long the follower waits after a commit for more, so that a busy table makes few writes (each
	// writes the last bundle anew and syncs five files); 0 = 200 ms.
	Gather time.Duration
	// Poll is how often the table is read when nothing wakes the follower; 0 = 1 s.
	Poll time.Duration
	// Now is the clock of Lag; nil = time.Now.
	Now func() time.Time
	// Log receives what the follower has to say; nil = nothing.
	Log *slog.Logger
}

// The files that tessera's POSIX driver keeps, relative to the log's directory.
const (
	lockFile      = ".lock" // ours: one process at a time
	stateDir      = ".state"
	treeStateFile = stateDir + "/treeState"
)

// batch is how many leaves are handed over at once. One batch is one flush of tessera's queue, but for rare timing.
const batch = 512

// Log is an open log directory. It is safe for concurrent use. Run may be called once.
type Log struct {
	dir  string
	root *os.Root
	lock *os.File
	cfg  Config

	size  atomic.Uint64 // integrated
	floor atomic.Int64  // while a lost log is made again: checkpoints of fewer records are withheld; else 0

	guard *guard

	mu      sync.Mutex
	running bool
	ran     bool
	caught  time.Time // when the follower last knew that it had everything
	behind  time.Time // since when an event waits; zero = none known
}

// Open opens the log directory, making it (mode 0700) if it is absent, and checks that what it holds hangs together: the
// tree's right edge, its root and the published checkpoint. It takes the directory for this process and starts nothing. Close gives
// it back.
//
// Codes: log_in_use (Conflict), log_origin (Conflict: the published checkpoint is signed by another key or for another trust
// domain), log_damaged (Internal: the directory contradicts itself).
func Open(_ context.Context, dir string, cfg Config) (_ *Log, err error) {
	const op = "ledger.Open"
	if cfg.Interval < 100*time.Millisecond {
		cfg.Interval = 200 * time.Millisecond
	}
	if cfg.Gather <= 0 {
		cfg.Gather = 200 * time.Millisecond
	}
	if cfg.Poll <= 0 {
		cfg.Poll = time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(op, dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, unusable(op, dir, err)
	}
	l := &Log{dir: dir, root: root, cfg: cfg, caught: cfg.Now()}
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	if l.lock, err = root.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, unusable(op, dir, err)
	}
	if err := syscall.Flock(int(l.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fault.New(fault.Conflict, op, "log_in_use", "another process uses the log in %s", dir).
			WithFix("stop it first").WithCause(err)
	}
	published, err := l.published()
	if err != nil {
		return nil, err
	}
	tree, err := l.load()
	if err != nil {
		return nil, err
	}
	if err := l.agree(tree, published); err != nil {
		return nil, err
	}
	l.size.Store(uint64(tree.size))
	l.guard = newGuard(cfg.Signer, tree, published)
	return l, nil
}

// Close gives the directory back. It does not end Run: cancel its context first.
func (l *Log) Close() error {
	var err error
	if l.lock != nil {
		err = l.lock.Close()
	}
	return errors.Join(err, l.root.Close())
}

// Size returns the number of leaves in the tree.
func (l *Log) Size() uint64 { return l.size.Load() }

// Checkpoint returns the newest published checkpoint. Codes: log_empty (NotFound: nothing was ever published) and
// log_catching_up (Unavailable: a lost log is being made again from the table).
func (l *Log) Checkpoint() ([]byte, error) { return l.Read(audit.CheckpointFile) }

// Read returns a public file of the log: "checkpoint", or a hash tile by its path ("tile/0/x001/234.p/5"). Entry bundles are
// not public. Any other path is NotFound, "log_no_file", before the disk is asked.
func (l *Log) Read(path string) ([]byte, error) {
	const op = "ledger.Read"
	if path == audit.CheckpointFile {
		b, err := l.root.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.New(fault.NotFound, op, "log_empty", "the log has no checkpoint yet").WithFix("try again in a moment")
		}
		if err != nil {
			return nil, fault.Wrap(op, err)
		}
		if floor := l.floor.Load(); floor > 0 {
			if cp, err := audit.OpenCheckpoint(b, l.cfg.Key); err != nil || cp.Size < floor {
				return nil, fault.New(fault.Unavailable, op, "log_catching_up", "the log is being made again from the event table").WithFix("try again in a moment")
			}
			l.floor.CompareAndSwap(floor, 0)
		}
		return b, nil
	}
	if level, _, _, ok := audit.ParseTilePath(path); ok && level >= 0 {
		b, err := l.root.ReadFile(path)
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Wrap(op, err)
		}
	}
	return nil, fault.New(fault.NotFound, op, "log_no_file", "the log has no public file of this name").WithFix("ask for checkpoint or tile/<level>/<number>")
}

// Lag returns how long the oldest event that is not yet in the tree has waited; 0 if there is none. Where the follower does not
// run, it is the time since it last knew that it had everything, since nobody can say that there is none.
func (l *Log) Lag(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.running:
		return max(0, now.Sub(l.caught))
	case l.behind.IsZero():
		// The follower looks once a Poll; one that has not for long hangs, and nobody knows what waits.
		if quiet := now.Sub(l.caught); quiet > 5*l.cfg.Poll {
			return quiet
		}
		return 0
	}
	return max(0, now.Sub(l.behind))
}

// waiting notes that an event of the moment at is not in the tree yet.
func (l *Log) waiting(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.behind.IsZero() || at.Before(l.behind) {
		l.behind = at
	}
}

// current notes that everything that was committed at the moment at is in the tree.
func (l *Log) current(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.caught, l.behind = at, time.Time{}
}

// published reads the last checkpoint of the directory; the zero value if there is none.
func (l *Log) published() (audit.Checkpoint, error) {
	const op = "ledger.Open"
	raw, err := l.root.ReadFile(audit.CheckpointFile)
	if errors.Is(err, fs.ErrNotExist) {
		return audit.Checkpoint{}, nil
	}
	if err != nil {
		return audit.Checkpoint{}, unusable(op, l.dir, err)
	}
	cp, err := audit.OpenCheckpoint(raw, l.cfg.Key)
	if err != nil {
		return cp, fault.New(fault.Conflict, op, "log_origin", "the checkpoint in %s is not signed by this deployment's log key as %s", l.dir, l.cfg.Signer.Name()).
			WithFix("put back the keys directory and the trust domain that the log was made with").WithCause(err)
	}
	return cp, nil
}

// load reads the right edge of the tree. tessera keeps size and root in its state file; every hash is checked against that root.
func (l *Log) load() (frontier, error) {
	const op = "ledger.Open"
	raw, err := l.root.ReadFile(treeStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return frontier{}, nil // new, or lost
	}
	if err != nil {
		return frontier{}, unusable(op, l.dir, err)
	}
	var state struct {
		Size int64  `json:"size"`
		Root []byte `json:"root"`
	}
	if err := json.Unmarshal(raw, &state); err != nil || len(state.Root) != tlog.HashSize || state.Size < 0 {
		return frontier{}, l.damaged("the state of its tree cannot be read").WithCause(err)
	}
	tree, err := edge(state.Size, l.tiles(tlog.Tree{N: state.Size, Hash: tlog.Hash(state.Root)}))
	if err != nil || tree.root() != tlog.Hash(state.Root) {
		return frontier{}, l.damaged("its tiles do not lead to the root of its tree").WithCause(err)
	}
	return tree, nil
}

// agree checks that the tree extends the published checkpoint. A tree that is smaller is being made again; then the guard compares
// when it gets there.
func (l *Log) agree(tree frontier, published audit.Checkpoint) error {
	if tree.size < published.Size || published.Size == 0 {
		return nil
	}
	then, err := edge(published.Size, l.tiles(tlog.Tree{N: tree.size, Hash: tree.root()}))
	if err != nil || then.root() != published.Root {
		return l.damaged("its tree does not extend the checkpoint that it published").WithCause(err)
	}
	return nil
}

func (l *Log) tiles(tree tlog.Tree) tlog.HashReader {
	return tlog.TileHashReader(tree, tileReader{l.root})
}

func (l *Log) damaged(says string) *fault.Error {
	return fault.New(fault.Conflict, "ledger.Open", "log_damaged", "the log in %s is damaged: %s", l.dir, says).
		WithFix("move the directory away; it is made again from the event table at the next start")
}

func unusable(op, dir string, err error) error {
	return fault.New(fault.Unavailable, op, "log_unusable", "the log directory %s cannot be used", dir).
		WithFix("check that it exists, belongs to this user and has space").WithCause(err)
}

// LibraryLog hands what the tile-log library says (it uses a logger of the whole process) to log. Call it once, before the first
// Open.
func LibraryLog(log *slog.Logger) { klog.SetSlogLogger(log) }

// tileReader reads hash tiles from the directory for tlog, which checks them.
type tileReader struct{ root *os.Root }

func (tileReader) Height() int                     { return 8 }
func (tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		b, err := readTile(r.root, t.L, t.N, t.W)
		if err != nil {
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}

// readTile reads a hash tile of the given width, from the full one where the partial one is gone.
func readTile(root *os.Root, level int, n int64, width int) ([]byte, error) {
	b, err := root.ReadFile(audit.TilePath(level, n, width))
	if errors.Is(err, fs.ErrNotExist) {
		b, err = root.ReadFile(audit.TilePath(level, n, 256))
	}
	if err != nil {
		return nil, err
	}
	if len(b) < width*tlog.HashSize {
		return nil, io.ErrUnexpectedEOF
	}
	return b[:width*tlog.HashSize], nil
}
