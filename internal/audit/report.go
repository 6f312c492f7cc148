// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"strings"
	"unicode"
)

// The kinds of findings.
const (
	FoundCheckpoint = "checkpoint" // the signed statement itself does not hold
	FoundEdited     = "edited"     // a record is not what was committed
	FoundRemoved    = "removed"    // a committed record is not there
	FoundInserted   = "inserted"   // a record that was never committed, or stands there twice
	FoundReordered  = "reordered"  // a record stands where another was committed
	FoundTruncated  = "truncated"  // the end is missing
	FoundRewritten  = "rewritten"  // history before a checkpoint was changed
	FoundPart       = "part"       // matter beside a leaf is not what the leaf's digest says
	FoundLog        = "log"        // a file of the log is not what the tree says
	FoundMalformed  = "malformed"  // bytes that no export writes
	FoundExtra      = "extra"      // a file that does not belong there
)

// maxFindings bounds how many findings are kept; all are counted.
const maxFindings = 200

// Finding is one thing that is not as it was committed.
type Finding struct {
	Kind     string   `json:"kind"`
	Position int64    `json:"position"` // of the record, -1 for none
	To       int64    `json:"to"`       // last position, where one finding covers several; else equal to Position
	ID       string   `json:"id,omitempty"`
	Part     string   `json:"part,omitempty"`
	Fields   []string `json:"fields,omitempty"` // of an edited leaf: what differs
	File     string   `json:"file,omitempty"`
	Line     int      `json:"line,omitempty"` // of records.jsonl, from 1
	Says     string   `json:"says"`
}

// String names the record, the part and the file, and says what is wrong.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.Kind)
	switch {
	case f.Position >= 0 && f.To > f.Position:
		fmt.Fprintf(&b, ": records %d to %d", f.Position, f.To)
	case f.Position >= 0:
		fmt.Fprintf(&b, ": record %d", f.Position)
	}
	if f.ID != "" {
		fmt.Fprintf(&b, " (%s)", f.ID)
	}
	if f.Part != "" {
		fmt.Fprintf(&b, ", part %s", f.Part)
	}
	if f.File != "" {
		fmt.Fprintf(&b, ", %s", f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, " line %d", f.Line)
		}
	}
	b.WriteString(": " + f.Says)
	if len(f.Fields) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(f.Fields, ", "))
	}
	return clean(b.String())
}

// Report is what Verify found. Notes say in words what could not be seen or is worth knowing; they are no findings.
type Report struct {
	Origin   string    `json:"origin"`
	Size     int64     `json:"size"` // records that the checkpoint covers
	Root     string    `json:"root"` // base64
	Records  int64     `json:"records"`
	Parts    int64     `json:"parts"`
	Erased   int64     `json:"erased"`
	Pinned   int64     `json:"pinned"` // size of the pinned checkpoint, -1 = none was given
	Findings []Finding `json:"findings"`
	More     int64     `json:"more,omitempty"` // findings beyond those listed
	Notes    []string  `json:"notes,omitempty"`
}

// OK reports whether nothing was found. It says nothing about what the Notes say could not be seen.
func (r Report) OK() bool { return len(r.Findings) == 0 }

// String is the report in plain words, findings first.
func (r Report) String() string {
	var b strings.Builder
	if r.OK() {
		fmt.Fprintf(&b, "intact: %d records and %d parts of %s are what its log committed to\n", r.Records, r.Parts, clean(r.Origin))
	} else {
		fmt.Fprintf(&b, "NOT INTACT: %d findings\n", int64(len(r.Findings))+r.More)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "  and %d more\n", r.More)
	}
	if r.Root != "" {
		fmt.Fprintf(&b, "tree: %d records, root %s\n", r.Size, r.Root)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", clean(n))
	}
	return b.String()
}

func (r *Report) find(f Finding) {
	if f.To < f.Position {
		f.To = f.Position
	}
	if len(r.Findings) >= maxFindings {
		r.More++
		return
	}
	r.Findings = append(r.Findings, f)
}

func (r *Report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// clean makes text that came from an export safe to print: control characters become question marks.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return '?'
		}
		return r
	}, s)
}
