// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"io"
	"io/fs"
	"os"
	"syscall"

	"chaperone/internal/fault"
)

// maxFile bounds a key file, in bytes; none needs 1 KiB.
const maxFile = 64 << 10

// directory is the open keys directory; every path is taken inside it.
type directory struct {
	root *os.Root
	path string
}

// private refuses a directory that others may enter or that another user owns.
func (d directory) private() error {
	const op = "keyring.Open"
	info, err := d.root.Stat(".")
	if err != nil {
		return fault.Wrap(op, err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fault.New(fault.Invalid, op, "keys_dir_open", "the keys directory %s has mode %#o: others may open it", d.path, perm).
			WithFix("chmod 700 %s", d.path)
	}
	if !mine(info) {
		return fault.New(fault.Invalid, op, "keys_dir_owner", "the keys directory %s belongs to another user", d.path).
			WithFix("run as its owner, or use a directory of your own")
	}
	return nil
}

func mine(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == os.Geteuid()
}

func (d directory) has(name string) bool {
	_, err := d.root.Lstat(name)
	return err == nil
}

// read returns a key file, which must be a regular file of the owner that nobody else may read.
func (d directory) read(name string) ([]byte, error) {
	const op = "keyring.Open"
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if os.IsNotExist(err) {
		return nil, fault.New(fault.Invalid, op, "key_missing", "the keys directory %s holds no %s", d.path, name).
			WithFix("put %s back from its copy; a new one would orphan what the old one sealed or signed", name)
	}
	if err != nil {
		return nil, bad(name, "cannot be opened: it leads out of the directory, or is not the user's own").WithCause(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	if !info.Mode().IsRegular() {
		return nil, bad(name, "is not a regular file")
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 || !mine(info) {
		return nil, fault.New(fault.Invalid, op, "key_file_open", "the key file %s/%s has mode %#o or another owner: others may read it", d.path, name, perm).
			WithFix("chmod 600 %s/%s", d.path, name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	if len(b) > maxFile {
		return nil, bad(name, "is too large")
	}
	return b, nil
}

// write makes a new file and returns when it is on the disk.
func (d directory) write(name string, b []byte) (err error) {
	const op = "keyring.Open"
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.Wrap(op, err)
	}
	defer func() {
		if e := f.Close(); err == nil && e != nil {
			err = fault.Wrap(op, e)
		}
	}()
	if _, err := f.Write(b); err != nil {
		return fault.Wrap(op, err)
	}
	return fault.Wrap(op, f.Sync())
}

// locked runs fn while no other process fills the directory. The lock ends with the process that holds it.
func (d directory) locked(fn func() error) error {
	f, err := d.root.Open(".")
	if err != nil {
		return fault.Wrap("keyring.Open", err)
	}
	defer f.Close()
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return fault.Wrap("keyring.Open", err)
	}
	return fn()
}

// sync puts the directory's names on the disk.
func (d directory) sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return fault.Wrap("keyring.Open", err)
	}
	defer f.Close()
	return fault.Wrap("keyring.Open", f.Sync())
}
