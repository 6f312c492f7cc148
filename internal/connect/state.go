// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// State is the instance's directory: its key, its enrolment, the last checkpoint.
type State struct {
	Dir      string
	Enrolled client.Enrolment
	key      *identity.Key
}

const (
	keyFile        = "key.jwk"
	enrolmentFile  = "instance.json"
	checkpointFile = "checkpoint"
	lockFile       = "lock"
)

// enrolTime bounds an enrolment, the wait for another bridge's included.
const enrolTime = time.Minute

var errBusy = errors.New("another bridge holds the lock")

// LoadState opens the directory of an enrolled instance. NotFound, "not_enrolled" if there is none.
func LoadState(dir string) (*State, error) {
	b, err := os.ReadFile(filepath.Join(dir, enrolmentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "connect.LoadState", "not_enrolled", "no instance is enrolled in %s", dir).
			WithFix("ask an operator for `chaperone agent join-code NAME` and pass it with --join")
	}
	if err != nil {
		return nil, unusable(dir, err)
	}
	s := &State{Dir: dir}
	if err := json.Unmarshal(b, &s.Enrolled); err != nil || s.Enrolled.ClientID == "" || s.Enrolled.Issuer == "" {
		return nil, fault.New(fault.Invalid, "connect.LoadState", "state_damaged", "%s is not what enrolment wrote", filepath.Join(dir, enrolmentFile)).
			WithFix("enrol again: --new-instance --join CODE").WithCause(err)
	}
	if s.key, err = ReadKey(dir); err != nil {
		return nil, err
	}
	return s, nil
}

// Enrol makes a key in the directory and binds it with a single-use join code. A directory that is already enrolled is returned as
// it is, unless fresh is true; one that cannot be read is an error, never enrolled over. Other bridges on the same directory wait.
func Enrol(ctx context.Context, dir string, fresh bool, bind func(ctx context.Context, key *identity.Key) (client.Enrolment, error)) (*State, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTime)
	defer cancel()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(dir, err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, lockFile))
	if err != nil {
		return nil, unusable(dir, err)
	}
	defer unlock()
	old, err := LoadState(dir)
	if !fresh && fault.CodeOf(err) != "not_enrolled" {
		return old, err
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, fault.Wrap("connect.Enrol", err)
	}
	enrolled, err := bind(ctx, key)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(enrolled, "", "  ")
	if err != nil {
		return nil, fault.Wrap("connect.Enrol", err)
	}
	if old == nil || old.Enrolled.LogKey != enrolled.LogKey {
		// Another log: what was seen of the former one says nothing about it, and is not thrown away.
		path := filepath.Join(dir, checkpointFile)
		if err := os.Rename(path, path+".former"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, unusable(dir, err)
		}
	}
	if err := KeepKey(dir, key, enrolmentFile, b); err != nil {
		return nil, err
	}
	return &State{Dir: dir, Enrolled: enrolled, key: key}, nil
}

// ReadKey reads the key that lies in a directory. Invalid: "key_file_open" when others can read it, "key_file" when it is not there or is no
// key.
func ReadKey(dir string) (*identity.Key, error) {
	path := filepath.Join(dir, keyFile)
	broken := func(err error) error {
		return fault.New(fault.Invalid, "connect.ReadKey", "key_file", "%s is not a key that can be read", path).
			WithFix("bind a new key with a new single-use code").WithCause(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, broken(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Invalid, "connect.ReadKey", "key_file_open", "%s can be read by others", path).
			WithFix("if nobody has read it, chmod 600 %s; else bind a new key with a new code and have this one revoked", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, broken(err)
	}
	key, err := identity.ParseKey(b)
	if err != nil {
		return nil, broken(err)
	}
	return key, nil
}

// KeepKey writes a key, and the file that says whose it is, into a directory that only this user can read. That file goes first and comes last:
// a crash on the way never leaves one holder's name with another's key.
func KeepKey(dir string, key *identity.Key, holder string, b []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unusable(dir, err)
	}
	if err := os.Remove(filepath.Join(dir, holder)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unusable(dir, err)
	}
	if err := writeFile(filepath.Join(dir, keyFile), key.MarshalPrivate()); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, holder), b)
}

// writeFile replaces a file in one step, so that a crash leaves the old one or the new one. Only this user can read it.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return unusable(filepath.Dir(path), err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return unusable(filepath.Dir(path), err)
	}
	return nil
}

func unusable(dir string, err error) error {
	return fault.New(fault.Invalid, "connect.State", "state_dir", "cannot use the directory %s: %v", dir, err).
		WithFix("it must be a directory that this user owns").WithCause(err)
}
