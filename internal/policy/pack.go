// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"embed"
	"io/fs"
)

//go:embed pack/*.cedar
var pack embed.FS

// DefaultFiles returns the shipped pack: agents.cedar, flow.cedar and people.cedar. It is safe unedited; docs/policy.md tells why
// each rule is there.
func DefaultFiles() map[string]string {
	out := map[string]string{}
	files, _ := fs.Glob(pack, "pack/*.cedar")
	for _, f := range files {
		b, err := pack.ReadFile(f)
		if err == nil {
			out[f[len("pack/"):]] = string(b)
		}
	}
	return out
}
