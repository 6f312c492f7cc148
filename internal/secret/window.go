// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"encoding/binary"
	"slices"
)

// windows is a set of byte strings, each at least one byte long, that a text is searched for at every position. The first bytes of
// each (at most eight) are kept in a bit filter, so that text without any of them is passed at a few nanoseconds a byte.
type windows struct {
	by     map[uint64][]string // by the first head bytes
	head   int                 // bytes of the key, at most 8
	fold   bool                // compare ASCII letters without case
	all    []string
	filter [1024]uint64
}

// add puts every run of n bytes of s into the set; a shorter s as a whole.
func (w *windows) add(s []byte, n int) {
	n = min(n, len(s))
	if n == 0 {
		return
	}
	for i := 0; i+n <= len(s); i++ {
		w.all = append(w.all, string(s[i:i+n]))
	}
}

// build makes the index once everything is added.
func (w *windows) build() {
	w.head = 8
	for _, s := range w.all {
		w.head = min(w.head, len(s))
	}
	w.by = make(map[uint64][]string, len(w.all))
	for _, s := range w.all {
		k := w.key([]byte(s))
		if !slices.Contains(w.by[k], s) {
			w.by[k] = append(w.by[k], s)
		}
		h := slot(k)
		w.filter[h>>6] |= 1 << (h & 63)
	}
}

func slot(k uint64) uint64 { return k * 0x9e3779b97f4a7c15 >> 48 }

// key packs the first head bytes of b, which has that many.
func (w *windows) key(b []byte) uint64 {
	var k uint64
	if len(b) >= 8 {
		k = binary.LittleEndian.Uint64(b)
		if w.head < 8 {
			k &= 1<<(8*w.head) - 1
		}
	} else {
		for i := range w.head {
			k |= uint64(b[i]) << (8 * i)
		}
	}
	if w.fold {
		k |= 0x2020202020202020
	}
	return k
}

// at reports the length of the longest member that b has at i, 0 for none.
func (w *windows) at(b []byte, i int) int {
	k := w.key(b[i:])
	if h := slot(k); w.filter[h>>6]&(1<<(h&63)) == 0 {
		return 0
	}
	longest := 0
	for _, s := range w.by[k] {
		if len(s) > longest && len(b)-i >= len(s) && w.same(b[i:i+len(s)], s) {
			longest = len(s)
		}
	}
	return longest
}

func (w *windows) same(b []byte, s string) bool {
	if !w.fold {
		return string(b) == s
	}
	for i := range b {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// each calls found for every position of b where a member stands, with the longest that does, until found returns false; it
// reports whether it came to the end.
func (w *windows) each(b []byte, found func(from, to int) bool) bool {
	if len(w.all) == 0 {
		return true
	}
	for i := 0; i+w.head <= len(b); i++ {
		if n := w.at(b, i); n > 0 && !found(i, i+n) {
			return false
		}
	}
	return true
}

func sortSpans(s []span) {
	slices.SortFunc(s, func(a, b span) int {
		if a.from != b.from {
			return a.from - b.from
		}
		return a.to - b.to
	})
}
