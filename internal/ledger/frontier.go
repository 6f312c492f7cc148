// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"crypto/sha256"
	"encoding/base64"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
)

// frontier is the right edge of a tree: the roots of its perfect subtrees, largest first. It is all that appending and the root
// need (RFC 6962 §2.1).
type frontier struct {
	size  int64
	nodes []tlog.Hash
}

func (f *frontier) add(leaf tlog.Hash) {
	for range bits.TrailingZeros64(^uint64(f.size)) {
		last := len(f.nodes) - 1
		leaf = tlog.NodeHash(f.nodes[last], leaf)
		f.nodes = f.nodes[:last]
	}
	f.nodes = append(f.nodes, leaf)
	f.size++
}

func (f frontier) root() tlog.Hash {
	if f.size == 0 {
		return sha256.Sum256(nil)
	}
	h := f.nodes[len(f.nodes)-1]
	for _, n := range slices.Backward(f.nodes[:len(f.nodes)-1]) {
		h = tlog.NodeHash(n, h)
	}
	return h
}

func (f frontier) clone() frontier { return frontier{f.size, slices.Clone(f.nodes)} }

// edge reads the frontier of the first size leaves from a tree's hashes.
func edge(size int64, hashes tlog.HashReader) (frontier, error) {
	var at []int64
	for level, n := bits.Len64(uint64(size))-1, int64(0); level >= 0; level-- {
		if size>>level&1 == 1 {
			at = append(at, tlog.StoredHashIndex(level, n>>level))
			n += 1 << level
		}
	}
	if len(at) == 0 {
		return frontier{}, nil
	}
	nodes, err := hashes.ReadHashes(at)
	return frontier{size, nodes}, err
}

// guard is the log's signer. It signs a tree only if it computed the same root from the leaves of the event table itself, whatever the
// log on disk became, so that no checkpoint says what the table does not.
type guard struct {
	note.Signer

	mu      sync.Mutex
	open    bool
	tree    frontier    // what the table vouches for and the log has
	pending []tlog.Hash // what was handed to the log after it
	anchor  audit.Checkpoint
	broken  error
	alarm   chan struct{} // closed when broken
}

func newGuard(s note.Signer, tree frontier, published audit.Checkpoint) *guard {
	return &guard{Signer: s, tree: tree, anchor: published, alarm: make(chan struct{})}
}

// Sign implements note.Signer for checkpoints: origin, size and root, a line each.
func (g *guard) Sign(msg []byte) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return nil, fault.New(fault.Unavailable, "ledger.Sign", "log_closed", "the follower does not run")
	}
	if g.broken != nil {
		return nil, g.broken
	}
	lines := strings.Split(string(msg), "\n")
	if len(lines) < 3 || lines[0] != g.Name() {
		lines = []string{"", "", ""}
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	want, known := g.at(size)
	if root := lines[2]; err != nil || !known || root != base64.StdEncoding.EncodeToString(want[:]) {
		g.breakLocked(fault.New(fault.Conflict, "ledger.Sign", "log_order", "the log's tree of %d records is not the event table's; it was not signed", size).
			WithFix("stop, and move the log directory away; it is made again from the event table"))
		return nil, g.broken
	}
	return g.Signer.Sign(msg)
}

// at returns the root of the first size leaves, where the table vouches for it.
func (g *guard) at(size int64) (tlog.Hash, bool) {
	if size < g.tree.size || size > g.tree.size+int64(len(g.pending)) {
		// A log that is being made again publishes its empty tree first.
		return sha256.Sum256(nil), size == 0
	}
	f := g.tree.clone()
	for _, h := range g.pending[:size-g.tree.size] {
		f.add(h)
	}
	return f.root(), true
}

// expect tells what is about to be added after what is there.
func (g *guard) expect(leaves []tlog.Hash) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending = leaves
}

// added moves n expected leaves into the tree. It compares the tree with the checkpoint that was published before the log was
// opened, when it reaches its size.
func (g *guard) added(n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.pending[:n] {
		g.tree.add(h)
		if g.tree.size == g.anchor.Size && g.tree.root() != g.anchor.Root {
			g.breakLocked(fault.New(fault.Conflict, "ledger.Run", "log_diverged", "the event table's first %d records are not those that the published checkpoint signs", g.tree.size).
				WithFix("restore the database and the log from the same copy, or find out who changed the table"))
			return g.broken
		}
	}
	g.pending = nil
	return g.broken
}

// reached returns how many of the expected leaves a tree holds, which must be what the table vouches for.
func (g *guard) reached(tree frontier) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	want, known := g.at(tree.size)
	if !known || tree.size < g.tree.size || tree.root() != want {
		return 0, fault.New(fault.Conflict, "ledger.Run", "log_order", "the log's tree of %d records is not the event table's", tree.size).
			WithFix("stop, and move the log directory away; it is made again from the event table")
	}
	return int(tree.size - g.tree.size), nil
}

// root returns the root of the tree that the table vouches for.
func (g *guard) root() tlog.Hash {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tree.root()
}

// tampering returns why signing stopped for good, nil if it did not.
func (g *guard) tampering() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.broken
}

func (g *guard) allow(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = open
}

func (g *guard) breakLocked(err error) {
	if g.broken == nil {
		g.broken = err
		close(g.alarm)
	}
}
