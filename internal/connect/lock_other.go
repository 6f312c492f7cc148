// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package connect

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// staleLock is how old a lock must be to have been left by a crash: nobody holds one as long.
const staleLock = 2 * time.Minute

// lock takes an exclusive lock by making a file, waiting for other bridges as long as ctx allows, and returns its release.
func lock(ctx context.Context, path string) (func(), error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return func() { f.Close(); os.Remove(path) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > staleLock {
			_ = os.Remove(path) // whoever is quicker makes it anew
			continue
		}
		select {
		case <-ctx.Done():
			return nil, errBusy
		case <-time.After(50 * time.Millisecond):
		}
	}
}
