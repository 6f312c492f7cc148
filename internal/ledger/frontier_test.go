// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
)

func leaf(i int) tlog.Hash { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))) }

// tree returns tlog's own hashes over n leaves.
func tree(n int) tlog.HashReader {
	var stored []tlog.Hash
	r := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, _ error) {
		for _, i := range at {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for i := range n {
		more, err := tlog.StoredHashesForRecordHash(int64(i), leaf(i), r)
		if err != nil {
			panic(err)
		}
		stored = append(stored, more...)
	}
	return r
}

// The frontier's root is tlog's, however it was reached.
func TestFrontier(t *testing.T) {
	const most = 1100
	hashes := tree(most)
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.IntRange(0, most).Draw(t, "from")
		to := rapid.IntRange(from, most).Draw(t, "to")
		f, err := edge(int64(from), hashes)
		if err != nil {
			t.Fatal(err)
		}
		kept := f.clone()
		for i := from; i < to; i++ {
			f.add(leaf(i))
		}
		want, err := tlog.TreeHash(int64(to), hashes)
		if err != nil || f.root() != want || f.size != int64(to) {
			t.Fatalf("root of %d from %d is not tlog's", to, from)
		}
		if want, _ := tlog.TreeHash(int64(from), hashes); kept.root() != want {
			t.Fatal("a clone changed with its origin")
		}
	})
}

func text(size int, root tlog.Hash) []byte { return fmt.Appendf(nil, "x/log\n%d\n%s\n", size, root) }

func newTestGuard(t testing.TB, size int, published audit.Checkpoint) *guard {
	t.Helper()
	skey, _, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{1}, 64)), "x/log")
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	f, err := edge(int64(size), tree(size))
	if err != nil {
		t.Fatal(err)
	}
	return newGuard(s, f, published)
}

// The guard signs the roots that it computed itself, of every size between what is there and what was handed over, and nothing else.
func TestGuardSignsWhatTheTableSays(t *testing.T) {
	rootOf := func(n int) tlog.Hash { h, _ := tlog.TreeHash(int64(n), tree(n)); return h }
	g := newTestGuard(t, 300, audit.Checkpoint{})
	if _, err := g.Sign(text(300, rootOf(300))); fault.CodeOf(err) != "log_closed" {
		t.Errorf("signed while nobody follows: %v", err)
	}
	g.allow(true)
	g.expect([]tlog.Hash{leaf(300), leaf(301), leaf(302)})
	for n := 300; n <= 303; n++ {
		if _, err := g.Sign(text(n, rootOf(n))); err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
	if _, err := g.Sign(text(0, tlog.Hash(sha256.Sum256(nil)))); err != nil {
		t.Errorf("the empty tree: %v", err)
	}
	for name, msg := range map[string][]byte{
		"a wrong root":           text(302, rootOf(301)),
		"an older size":          text(299, rootOf(299)),
		"a size not handed over": text(304, rootOf(304)),
		"another log":            bytes.Replace(text(303, rootOf(303)), []byte("x/log"), []byte("y/log"), 1),
		"no checkpoint":          []byte("x"),
		"a size with a tail":     bytes.Replace(text(303, rootOf(303)), []byte("303"), []byte("303 "), 1),
	} {
		g := newTestGuard(t, 300, audit.Checkpoint{})
		g.allow(true)
		g.expect([]tlog.Hash{leaf(300), leaf(301), leaf(302)})
		if sig, err := g.Sign(msg); fault.CodeOf(err) != "log_order" || sig != nil {
			t.Errorf("%s: %v", name, err)
		}
		if g.tampering() == nil {
			t.Errorf("%s raised no alarm", name)
		}
		if _, err := g.Sign(text(303, rootOf(303))); fault.CodeOf(err) != "log_order" {
			t.Errorf("%s: it signs on: %v", name, err)
		}
		if g.added(3) == nil {
			t.Errorf("%s: the follower goes on", name)
		}
	}
}

func TestGuardMeetsThePublishedCheckpoint(t *testing.T) {
	for _, tt := range []struct {
		name string
		root tlog.Hash
		code string
	}{
		{"the same", func() tlog.Hash { h, _ := tlog.TreeHash(7, tree(7)); return h }(), ""},
		{"another", leaf(1), "log_diverged"},
	} {
		g := newTestGuard(t, 5, audit.Checkpoint{Size: 7, Root: tt.root})
		g.allow(true)
		g.expect([]tlog.Hash{leaf(5), leaf(6), leaf(7)})
		if err := g.added(3); (err == nil) != (tt.code == "") || err != nil && fault.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestGuardReached(t *testing.T) {
	g := newTestGuard(t, 5, audit.Checkpoint{})
	g.expect([]tlog.Hash{leaf(5), leaf(6), leaf(7)})
	for n := 5; n <= 8; n++ {
		f, _ := edge(int64(n), tree(n))
		if done, err := g.reached(f); err != nil || done != n-5 {
			t.Errorf("%d: %d %v", n, done, err)
		}
	}
	for _, n := range []int{0, 4, 9} {
		f, _ := edge(int64(n), tree(n))
		if _, err := g.reached(f); fault.CodeOf(err) != "log_order" {
			t.Errorf("%d: %v", n, err)
		}
	}
	f, _ := edge(6, tree(6))
	f.nodes[0][0]++
	if _, err := g.reached(f); fault.CodeOf(err) != "log_order" {
		t.Errorf("another tree: %v", err)
	}
}
