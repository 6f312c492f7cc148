// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"

	"chaperone/internal/canon"
)

// The files of an export, beside the hash tiles and entry bundles under tile/.
const (
	CheckpointFile = "checkpoint"
	RecordsFile    = "records.jsonl"
	KeyFile        = "log.vkey"
	ReadmeFile     = "README.txt"
)

// row is a line of records.jsonl. Leaf is the committed bytes in base64, never re-encoded.
type row struct {
	Position int64  `json:"position"`
	ID       string `json:"id"`
	Leaf     []byte `json:"leaf"`
	Parts    []Part `json:"parts"`
}

// AppendRow appends the record's line of records.jsonl, newline included. The line has one form only: members sorted by name, no
// white space, base64 with padding, parts in the record's order.
func AppendRow(dst []byte, r Record) []byte {
	return appendRow(dst, row{Position: r.Position, ID: r.ID.String(), Leaf: r.Leaf, Parts: r.Parts})
}

func appendRow(dst []byte, r row) []byte {
	dst = appendText(append(dst, `{"id":`...), r.ID)
	dst = appendBytes(append(dst, `,"leaf":`...), r.Leaf)
	if len(r.Parts) > 0 {
		dst = append(dst, `,"parts":[`...)
		for i, p := range r.Parts {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, '{')
			if len(p.Bytes) > 0 {
				dst = append(appendBytes(append(dst, `"bytes":`...), p.Bytes), ',')
			}
			if p.Erased != "" {
				dst = append(appendText(append(dst, `"erased":`...), p.Erased), ',')
			}
			dst = appendText(append(dst, `"name":`...), p.Name)
			dst = appendBytes(append(dst, `,"salt":`...), p.Salt)
			dst = append(dst, '}')
		}
		dst = append(dst, ']')
	}
	dst = append(dst, `,"position":`...)
	return append(strconv.AppendInt(dst, r.Position, 10), '}', '\n')
}

func appendText(dst []byte, s string) []byte {
	b, err := canon.Marshal(s)
	if err != nil { // only for a text that is not UTF-8; such a line is never equal to one that was read
		return append(dst, `""`...)
	}
	return append(dst, b...)
}

func appendBytes(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

var errRow = errors.New("not a line that an export writes")

// parseRow reads a line and refuses every byte that AppendRow would not have written.
func parseRow(line []byte) (row, error) {
	var r row
	if err := json.Unmarshal(line, &r); err != nil {
		return row{}, errRow
	}
	if !bytes.Equal(appendRow(make([]byte, 0, len(line)), r), line) {
		return row{}, errRow
	}
	return r, nil
}
