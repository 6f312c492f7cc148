// SPDX-License-Identifier: Apache-2.0

//go:build unix

package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

const nobody = 65534

// otherUser prepares a home and returns how a process is started under a user that cannot read Chaperone's keys. Only root can
// start a process as somebody else; others get the note that says so.
func otherUser(home string) (func(*exec.Cmd), string, error) {
	if err := os.MkdirAll(filepath.Join(home, "state"), 0o700); err != nil {
		return nil, "", err
	}
	if os.Geteuid() != 0 {
		return nil, ", under your own user, who could read Chaperone's keys (run separate users in earnest)", nil
	}
	if at := closed(filepath.Dir(home)); at != "" {
		return nil, ", under your own user, since another one could not enter " + at, nil
	}
	for _, dir := range []string{home, filepath.Join(home, "state")} {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			return nil, "", err
		}
	}
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}, ", under a user of its own", nil
}

// closed returns the first directory on the way to dir that others may not pass through, "" if there is none.
func closed(dir string) string {
	for {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o001 == 0 {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}
