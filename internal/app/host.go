// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"os"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/govern"
)

// checks is what /readyz tells: each says whether the process can do its work now.
type checks struct{ a *App }

// Check implements api.Checks.
func (c checks) Check(ctx context.Context) []client.Check {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	now := c.a.opts.Now()
	var out []client.Check
	add := func(name string, err error) {
		one := client.Check{Name: name, OK: err == nil}
		if err != nil {
			one.Detail = err.Error()
		}
		out = append(out, one)
	}
	add("store", c.a.db.Ready(ctx))
	var late error
	if lag := c.a.tree.Lag(now); lag > c.a.conf.Limits.RecordLag {
		late = fmt.Errorf("the log is %s behind the database: effects are refused (record_behind)", lag.Round(time.Second))
	}
	add("record", late)
	_, err := c.a.library.Current()
	add("policy", err)
	var stale error
	if age := c.a.index.Age(now); age > c.a.conf.Limits.Lease {
		stale = fmt.Errorf("the revocation view is %s old: effects are refused (revocation_stale)", age.Round(time.Second))
	}
	add("revocations", stale)
	add("clock", c.a.admit.Healthy())
	return out
}

// host tells doctor what only the composed program knows.
type host struct{ a *App }

// Findings implements govern.Host.
func (h host) Findings(ctx context.Context) []govern.Finding {
	var out []govern.Finding
	for _, c := range checks(h).Check(ctx) {
		if !c.OK {
			out = append(out, govern.Finding{Code: "not_ready_" + c.Name, Severity: govern.Error, Subject: c.Name, Message: c.Detail, Fix: "mend it before anything else: effects are refused meanwhile"})
		}
	}
	if r := h.a.library.Refused(); r != nil {
		p := r.Problems[0]
		out = append(out, govern.Finding{Code: "policy_refused", Severity: govern.Error, Subject: fmt.Sprintf("policy %d", r.PolicyVersion),
			Message: fmt.Sprintf("policy %d does not go with catalogue %d: %s", r.PolicyVersion, r.CatalogVersion, p.Msg), Fix: fmt.Sprintf("mend %s line %d and apply it again", p.File, p.Line)})
	}
	if info, err := os.Stat(h.a.conf.Keys); err == nil && info.Mode().Perm()&0o077 != 0 {
		out = append(out, govern.Finding{Code: "keys_dir_open", Severity: govern.Error, Subject: h.a.conf.Keys, Message: "the keys directory can be read by others", Fix: "chmod 700 " + h.a.conf.Keys})
	}
	return append(out, govern.Finding{Code: "one_process", Severity: govern.Note, Subject: fmt.Sprintf("uid %d", os.Getuid()),
		Message: "all roles run in one process: an agent under this user id could read the keys", Fix: "run agents under another user id"})
}
