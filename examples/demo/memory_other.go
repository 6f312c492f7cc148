// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package demo

import "errors"

func searchAgent(int, string, string) (string, int, error) {
	return "", 0, errors.New("only Linux shows a process's memory under /proc")
}
