// SPDX-License-Identifier: Apache-2.0

//go:build unix

package connect

import (
	"os"
	"syscall"
)

// lock takes an exclusive lock on a file, waiting for other bridges, and returns its release.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
