// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

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
)

// LoadState opens the directory of an enrolled instance. NotFound, "not_enrolled" if there is none.
func LoadState(dir string) (*State, error) {
	b, err := os.ReadFile(filepath.Join(dir, enrolmentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "connect.LoadState", "not_enrolled", "no instance is enrolled in %s", dir).
			WithFix("ask an operator for `chaperone agent join-code NAME` and pass it with --join")
	}
	if err != nil {
		return nil, unreadable(dir, err)
	}
	s := &State{Dir: dir}
	if err := json.Unmarshal(b, &s.Enrolled); err != nil {
		return nil, unreadable(dir, err)
	}
	if s.key, err = readKey(dir); err != nil {
		return nil, err
	}
	return s, nil
}

// Enrol makes a key in the directory and binds it with a single-use join code. A directory that is already enrolled is returned as
// it is, unless fresh is true. Other bridges on the same directory wait for the lock.
func Enrol(ctx context.Context, dir string, fresh bool, bind func(ctx context.Context, key *identity.Key) (client.Enrolment, error)) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unreadable(dir, err)
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, unreadable(dir, err)
	}
	defer unlock()
	if s, err := LoadState(dir); err == nil && !fresh {
		return s, nil
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
	if err := writeFile(filepath.Join(dir, keyFile), key.MarshalPrivate()); err != nil {
		return nil, err
	}
	// The enrolment is written last: a directory with a key and no enrolment is not enrolled.
	if err := writeFile(filepath.Join(dir, enrolmentFile), b); err != nil {
		return nil, err
	}
	return &State{Dir: dir, Enrolled: enrolled, key: key}, nil
}

func readKey(dir string) (*identity.Key, error) {
	path := filepath.Join(dir, keyFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, unreadable(dir, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Invalid, "connect.LoadState", "key_file_open", "%s can be read by others", path).
			WithFix("chmod 600 %s; if others may have read it, enrol a new instance and revoke this one", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(dir, err)
	}
	return identity.ParseKey(b)
}

// writeFile replaces a file in one step, so that a crash leaves the old one or the new one.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return unreadable(filepath.Dir(path), err)
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
		return unreadable(filepath.Dir(path), err)
	}
	return nil
}

func unreadable(dir string, err error) error {
	return fault.New(fault.Invalid, "connect.State", "state_dir", "cannot use the state directory %s", dir).
		WithFix("give --state a directory that this user owns").WithCause(err)
}
