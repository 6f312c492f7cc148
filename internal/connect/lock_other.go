// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package connect

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// lock takes an exclusive lock by making a file, waiting up to ten seconds for other bridges, and returns its release.
func lock(path string) (func(), error) {
	for range 100 {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return func() { f.Close(); os.Remove(path) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fs.ErrExist
}
