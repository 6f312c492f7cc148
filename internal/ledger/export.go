// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/store"
)

// Record is the log together with the table that it commits to, for those who export it.
type Record struct {
	*Log
	Store store.Store
}

// Export writes the record as a tar archive of the files that Log.Export lays out.
func (r Record) Export(ctx context.Context, w io.Writer) error { return r.Log.Tar(ctx, r.Store, w) }

// Tar writes an export as a tar archive, by way of a private directory.
func (l *Log) Tar(ctx context.Context, st store.Store, w io.Writer) error {
	const op = "ledger.Tar"
	dir, err := os.MkdirTemp("", "chaperone-export-")
	if err != nil {
		return fault.Wrap(op, err)
	}
	defer os.RemoveAll(dir)
	if err := l.Export(ctx, st, dir); err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if err := t.AddFS(os.DirFS(dir)); err != nil {
		return fault.Wrap(op, err)
	}
	return fault.Wrap(op, t.Close())
}

// Export writes the whole record into dir, which must be empty or absent: the newest checkpoint, the hash tiles and entry bundles
// of its tree, every record with its parts, the log's public key and a README. All agree with that one checkpoint while the log grows on.
// Codes: export_dir (Invalid: the directory is not empty), log_empty, log_catching_up.
func (l *Log) Export(ctx context.Context, st store.Store, dir string) error {
	const op = "ledger.Export"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unusable(op, dir, err)
	}
	out, err := os.OpenRoot(dir)
	if err != nil {
		return unusable(op, dir, err)
	}
	defer out.Close()
	if names, err := fs.ReadDir(out.FS(), "."); err != nil || len(names) > 0 {
		return fault.New(fault.Invalid, op, "export_dir", "%s is not an empty directory", dir).WithFix("name a new one").WithCause(err)
	}
	raw, err := l.Checkpoint()
	if err != nil {
		return err
	}
	cp, err := audit.OpenCheckpoint(raw, l.cfg.Key)
	if err != nil {
		return err
	}
	if err := l.copyLog(ctx, out, cp.Size); err != nil {
		return fault.Wrap(op, err)
	}
	if err := writeRecords(ctx, st, out, cp.Size); err != nil {
		return fault.Wrap(op, err)
	}
	for name, b := range map[string][]byte{
		audit.CheckpointFile: raw, audit.KeyFile: []byte(l.cfg.Key + "\n"), audit.ReadmeFile: []byte(readme(cp.Origin)),
	} {
		if err := out.WriteFile(name, b, 0o600); err != nil {
			return unusable(op, dir, err)
		}
	}
	return nil
}

// copyLog copies the tiles and bundles of a tree of size records. A partial file that was dropped because the log has filled it since is
// cut from the full one.
func (l *Log) copyLog(ctx context.Context, out *os.Root, size int64) error {
	for name := range audit.Tiles(size) {
		if err := ctx.Err(); err != nil {
			return err
		}
		level, n, width, _ := audit.ParseTilePath(name)
		var b []byte
		var err error
		if level >= 0 {
			b, err = readTile(l.root, level, n, width)
		} else {
			b, err = readBundle(l.root, n, width)
		}
		if err != nil {
			return l.damaged("the file " + name + " cannot be read").WithCause(err)
		}
		if err := out.MkdirAll(path.Dir(name), 0o700); err != nil {
			return err
		}
		if err := out.WriteFile(name, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// readBundle reads the first width entries of a bundle.
func readBundle(root *os.Root, n int64, width int) ([]byte, error) {
	b, err := root.ReadFile(audit.EntriesPath(n, width))
	if errors.Is(err, fs.ErrNotExist) {
		b, err = root.ReadFile(audit.EntriesPath(n, 256))
	}
	if err != nil {
		return nil, err
	}
	end := 0
	for range width {
		if len(b) < end+2 {
			return nil, io.ErrUnexpectedEOF
		}
		end += 2 + int(binary.BigEndian.Uint16(b[end:]))
	}
	if len(b) < end {
		return nil, io.ErrUnexpectedEOF
	}
	return b[:end], nil
}

// writeRecords writes the rows of the first size positions, a page a view.
func writeRecords(ctx context.Context, st store.Store, out *os.Root, size int64) (err error) {
	f, err := out.OpenFile(audit.RecordsFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	const page = 128
	for after := int64(-1); after < size-1; {
		var lines []byte
		last := after
		err := st.View(ctx, func(tx store.Tx) error {
			lines, last = lines[:0], after // View may run it again
			for r, err := range tx.Events().Records(audit.Filter{After: after, Limit: page}) {
				if err != nil {
					return err
				}
				if r.Position >= size {
					return nil
				}
				lines, last = audit.AppendRow(lines, r), r.Position
			}
			return nil
		})
		if err != nil {
			return err
		}
		if last == after {
			break // what is missing here, verify names
		}
		if _, err := w.Write(lines); err != nil {
			return err
		}
		after = last
	}
	return w.Flush()
}

func readme(origin string) string {
	return strings.ReplaceAll(`This is an export of the record of ORIGIN.

checkpoint      the signed size and root of the log (C2SP tlog-checkpoint)
tile/           the log: hash tiles, and the committed leaves under tile/entries/ (C2SP tlog-tiles)
records.jsonl   every record: position, id, the committed leaf in base64, and the parts beside it with their salts
log.vkey        the log's public key (C2SP signed-note); compare it with the one you were given

Verify it, on any machine, without the product's server:

    chaperone audit verify DIR --key 'the key you were given' --checkpoint FILE

where FILE is a checkpoint of this log that you kept. Without one, a log that was cut back to an older genuine checkpoint
cannot be told from one that never grew.

A verifier that others wrote checks checkpoint and tiles:

    go run github.com/transparency-dev/tessera/cmd/fsck@v1.0.4 --storage_url=file:///path/to/DIR/ --public_key=DIR/log.vkey --ui=false

A leaf is RFC 8785 JSON. Its member "parts" holds, for each part, SHA-256(salt || bytes) in hex and the size.
`, "ORIGIN", origin)
}
