// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"chaperone/internal/canon"
)

// rowFacts is what is kept of a line of records.jsonl.
type rowFacts struct {
	position int64
	hash     tlog.Hash
	id       string
	line     int
}

// outline is the part of a leaf that verification reads. What it says counts only for a leaf whose hash is committed.
type outline struct {
	ID    string                `json:"id"`
	Type  string                `json:"type"`
	Parts map[string]PartDigest `json:"parts"`
	Data  json.RawMessage       `json:"data"`
}

// readRows takes the leaf hashes of records.jsonl and checks each row against its own leaf: the id, and every part.
func (v *verifier) readRows() error {
	f, err := v.fs.Open(RecordsFile)
	if err != nil {
		return noExport(RecordsFile, err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	last := int64(-1)
	for line := 1; ; line++ {
		b, err := in.ReadBytes('\n')
		if len(b) == 0 && errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return noExport(RecordsFile, err)
		}
		r, err := parseRow(b)
		if err != nil {
			v.find(Finding{Kind: FoundMalformed, Position: -1, File: RecordsFile, Line: line, Says: "the line is not one that an export writes"})
			continue
		}
		facts := rowFacts{position: r.Position, hash: tlog.RecordHash(r.Leaf), id: r.ID, line: line}
		v.table = append(v.table, facts)
		v.Records++
		v.checkRow(r, line)
		if r.Position <= last {
			v.find(Finding{Kind: FoundReordered, Position: r.Position, ID: r.ID, File: RecordsFile, Line: line, Says: "the record stands behind a later one"})
		}
		last = max(last, r.Position)
	}
	// A row may reach beyond what the files bear out, but no further than the number of rows makes likely.
	if bound := int64(len(v.table))*2 + 1<<16; last < bound {
		v.limit = max(v.limit, min(v.Size, last+1))
	}
	grown := func(s []tlog.Hash) []tlog.Hash { return append(s, make([]tlog.Hash, v.limit-int64(len(s)))...) }
	v.tiles, v.entries = grown(v.tiles), grown(v.entries)
	v.rows = make([]tlog.Hash, v.limit)
	for _, r := range v.table {
		if r.position >= 0 && r.position < v.limit {
			v.rows[r.position] = r.hash
		}
	}
	return nil
}

// checkRow compares a row with its own leaf.
func (v *verifier) checkRow(r row, line int) {
	at := Finding{Position: r.Position, ID: r.ID, File: RecordsFile, Line: line}
	found := func(kind, part, format string, args ...any) {
		f := at
		f.Kind, f.Part, f.Says = kind, part, fmt.Sprintf(format, args...)
		v.find(f)
	}
	var leaf outline
	if err := json.Unmarshal(r.Leaf, &leaf); err != nil {
		found(FoundMalformed, "", "the leaf is not JSON")
		return
	}
	if leaf.ID != r.ID {
		found(FoundEdited, "", "the row's id is not its leaf's, %s", leaf.ID)
	}
	switch leaf.Type {
	case RestoreAccepted:
		var lost Restored
		if json.Unmarshal(leaf.Data, &lost) == nil {
			v.lost = append(v.lost, Restored{From: lost.From, To: min(lost.To, r.Position-1), TreeSize: r.Position})
		}
	case PartsErased:
		var e Erased
		if json.Unmarshal(leaf.Data, &e) == nil {
			v.erased[r.Position] = append(v.erased[r.Position], e)
		}
	}
	seen := make(map[string]bool, len(r.Parts))
	for _, p := range r.Parts {
		want, known := leaf.Parts[p.Name]
		switch {
		case !known || seen[p.Name]:
			found(FoundPart, p.Name, "the leaf knows no such part, or knows it once")
		case p.Erased != "" && len(p.Bytes) > 0:
			found(FoundPart, p.Name, "the part is marked as erased and is still there")
		case p.Erased != "":
			f := at
			f.Kind, f.Part, f.Says = FoundPart, p.Name, "the part is marked as erased ("+p.Erased+"), and no event on the record says so"
			v.gone = append(v.gone, f)
		case p.digest() != want: // with the size, no byte can move between salt and part
			found(FoundPart, p.Name, "the part, or its salt, is not what the leaf's digest says")
		default:
			v.Parts++
		}
		seen[p.Name] = true
	}
	for name := range leaf.Parts {
		if !seen[name] {
			found(FoundPart, name, "the part is missing")
		}
	}
}

// compareRows names every record that is not where, or what, was committed.
func (v *verifier) compareRows() {
	if v.truth == nil {
		v.disagreements()
		return
	}
	covered := make([]bool, v.Size)
	var strange []rowFacts
	for _, r := range v.table {
		switch {
		case r.position < 0 || r.position >= v.Size || v.truth[r.position] != r.hash:
			strange = append(strange, r)
		case covered[r.position]:
			v.find(Finding{Kind: FoundInserted, Position: r.position, ID: r.id, File: RecordsFile, Line: r.line, Says: "the record stands there twice"})
		default:
			covered[r.position] = true
		}
	}
	strange = v.moved(strange, covered)
	for _, r := range strange {
		f := Finding{Kind: FoundInserted, Position: r.position, ID: r.id, File: RecordsFile, Line: r.line, Says: "the record was never committed"}
		if r.position >= 0 && r.position < v.Size && !covered[r.position] {
			covered[r.position] = true
			f.Kind, f.Says = FoundEdited, "the record is not what was committed"
			if id := v.name(r.position); id != "" {
				f.ID = id
			}
			f.Fields = v.differences(r)
		}
		v.find(f)
	}
	v.missing(covered)
}

// moved names the records that were committed at another position than they are given at, a run of equal distance at a time, and returns the
// rest.
func (v *verifier) moved(strange []rowFacts, covered []bool) (rest []rowFacts) {
	if len(strange) == 0 {
		return nil
	}
	home := make(map[tlog.Hash]int64, v.Size)
	for i, h := range v.truth {
		home[h] = int64(i)
	}
	run := Finding{Position: -1}
	distance := int64(0)
	flush := func() {
		if run.Position >= 0 {
			v.find(run)
		}
		run = Finding{Position: -1}
	}
	for _, r := range strange {
		at, known := home[r.hash]
		switch {
		case !known:
			rest = append(rest, r)
			continue
		case covered[at]:
			flush()
			v.find(Finding{Kind: FoundInserted, Position: r.position, ID: r.id, File: RecordsFile, Line: r.line,
				Says: fmt.Sprintf("the record is a second copy of the one at %d", at)})
			continue
		}
		covered[at] = true
		if run.Position >= 0 && run.To+1 == at && r.position-at == distance {
			run.To, run.ID = at, ""
			continue
		}
		flush()
		distance = r.position - at
		run = Finding{Kind: FoundReordered, Position: at, To: at, ID: r.id, File: RecordsFile, Line: r.line,
			Says: fmt.Sprintf("given as record %d on", r.position)}
	}
	flush()
	return rest
}

// missing names the positions that no row covers.
func (v *verifier) missing(covered []bool) {
	end := v.Size // of what is there: a gap that reaches it is a cut
	for end > 0 && !covered[end-1] {
		end--
	}
	for from := int64(0); from < v.Size; from++ {
		if covered[from] {
			continue
		}
		if lost, ok := v.declared(from); ok {
			v.note("records %d to %d were lost when a restored database was accepted (record %d says so); the log still commits to them and has their leaves, their parts are gone", lost.From, lost.To, lost.TreeSize)
			from = lost.To
			continue
		}
		f := Finding{Kind: FoundRemoved, Position: from, To: from, ID: v.name(from), File: RecordsFile, Says: "the log commits to the record, and it is not there"}
		if from >= end {
			f.Kind, f.To, f.Says = FoundTruncated, v.Size-1, "the log commits to these records, and they were cut off"
			v.find(f)
			return
		}
		v.find(f)
	}
}

// declared returns the lost range that a committed event says starts at the position.
func (v *verifier) declared(from int64) (Restored, bool) {
	for _, l := range v.lost {
		if v.genuine(l.TreeSize) && l.From == from && l.To >= from && l.To+1 == l.TreeSize {
			return l, true
		}
	}
	return Restored{}, false
}

// compareErased counts the parts whose erasure a later committed event declares, and names the others.
func (v *verifier) compareErased() {
	for _, f := range v.gone {
		declared := false
		for at, all := range v.erased {
			declared = declared || at > f.Position && v.genuine(at) && slices.ContainsFunc(all, func(e Erased) bool {
				return e.From <= f.Position && f.Position <= e.To && (len(e.Names) == 0 || slices.Contains(e.Names, f.Part))
			})
		}
		if declared {
			v.Erased++
			continue
		}
		v.find(f)
	}
	if v.Erased > 0 {
		v.note("%d parts were erased, as events on the record declare; their digests stay", v.Erased)
	}
}

// genuine reports whether the row at a position is what was committed there.
func (v *verifier) genuine(position int64) bool {
	return v.truth != nil && position >= 0 && position < v.Size && v.rows[position] == v.truth[position]
}

// disagreements names where the rows differ from the log when nothing tells who is right.
func (v *verifier) disagreements() {
	for i, h := range v.rows {
		e := v.entries[i]
		switch {
		case h == (tlog.Hash{}) && e != (tlog.Hash{}):
			v.find(Finding{Kind: FoundRemoved, Position: int64(i), ID: v.name(int64(i)), File: RecordsFile, Says: "the log has an entry here, and the record is not there"})
		case h != e:
			v.find(Finding{Kind: FoundEdited, Position: int64(i), ID: v.name(int64(i)), File: RecordsFile, Says: "the record and the log's entry disagree"})
		}
	}
	for _, r := range v.table {
		if r.position < 0 || r.position >= v.limit {
			v.find(Finding{Kind: FoundInserted, Position: r.position, ID: r.id, File: RecordsFile, Line: r.line, Says: "the record stands outside the log"})
		}
	}
}

// entry returns the leaf at a position from the log's bundle, nil if there is none.
func (v *verifier) entry(position int64) []byte {
	b, err := fs.ReadFile(v.fs, v.pathOf(-1, position))
	if err != nil {
		return nil
	}
	entries, _ := splitBundle(b, tileWidth)
	if i := int(position & (tileWidth - 1)); i < len(entries) {
		return entries[i]
	}
	return nil
}

// name returns the event id of the record committed at a position, from whichever copy is the committed one; empty if none is.
func (v *verifier) name(position int64) string {
	if len(v.Findings) >= maxFindings {
		return "" // the finding will only be counted
	}
	var leaf outline
	e := v.entry(position)
	if e != nil && (v.truth == nil || tlog.RecordHash(e) == v.truth[position]) && json.Unmarshal(e, &leaf) == nil {
		return leaf.ID
	}
	i := slices.IndexFunc(v.table, func(r rowFacts) bool {
		return r.position == position && (v.truth == nil || r.hash == v.truth[position])
	})
	if i >= 0 {
		return v.table[i].id
	}
	return ""
}

// differences returns the members in which an edited row's leaf differs from the committed one, where the log still has it.
func (v *verifier) differences(r rowFacts) []string {
	if len(v.Findings) >= maxFindings {
		return nil
	}
	committed := v.entry(r.position)
	if committed == nil || tlog.RecordHash(committed) != v.truth[r.position] {
		return nil
	}
	given := v.leafAt(r.line)
	a, errA := canon.Parse(committed, canon.Limits{})
	b, errB := canon.Parse(given, canon.Limits{})
	if errA != nil || errB != nil {
		return []string{"not readable"}
	}
	out := differ("", a, b)
	if len(out) > 20 {
		out = append(out[:20], "...")
	}
	return out
}

// differ lists the members that are not the same in both objects, one level into objects that both have.
func differ(prefix string, a, b *canon.Node) (out []string) {
	names := make([]string, 0, len(a.Members)+len(b.Members))
	for _, m := range slices.Concat(a.Members, b.Members) {
		names = append(names, m.Key)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		x, y := a.Get(name), b.Get(name)
		switch {
		case x != nil && y != nil && bytes.Equal(x.Raw, y.Raw):
		case prefix == "" && x != nil && y != nil && x.Kind == canon.Object && y.Kind == canon.Object:
			out = append(out, differ(name+".", x, y)...)
		default:
			out = append(out, prefix+name)
		}
	}
	return out
}

// leafAt reads the leaf of one line again.
func (v *verifier) leafAt(line int) []byte {
	f, err := v.fs.Open(RecordsFile)
	if err != nil {
		return nil
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for n := 1; ; n++ {
		b, err := in.ReadBytes('\n')
		if n == line {
			r, err := parseRow(b)
			if err != nil {
				return nil
			}
			return r.Leaf
		}
		if err != nil {
			return nil
		}
	}
}
