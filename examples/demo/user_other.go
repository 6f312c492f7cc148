// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package demo

import (
	"os"
	"os/exec"
	"path/filepath"
)

// otherUser prepares a home. On this platform the agent runs under the caller's own user.
func otherUser(home string) (func(*exec.Cmd), string, error) {
	return nil, ", under your own user, who could read Chaperone's keys", os.MkdirAll(filepath.Join(home, "state"), 0o700)
}
