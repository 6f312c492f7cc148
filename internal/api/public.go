// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"html"
	"net/http"
	"regexp"
	"strings"

	"chaperone/internal/api/client"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// approvalText is the whole page of an approval: how to see and decide it, and nothing of what it is about. It is shown to
// anybody who has the link, so it looks nothing up.
const approvalText = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Approval</title></head>
<body><h1>An agent waits for approval</h1>
<p>This page shows nothing of the call. Look at exactly what would run, then decide, with your own key:</p>
<pre>chaperone approval show %ID%
chaperone approval approve %ID%
chaperone approval deny %ID%</pre>
<p>Whoever asked for the call, owns the agent, or changed what enables it in the last 24 hours cannot approve it.</p>
</body></html>
`

func (d *Door) approvalPage(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	quiet(h)
	which, err := id.ParseApproval(r.PathValue("id"))
	if err != nil {
		d.problem(w, r, fault.New(fault.NotFound, "api", "no_such_page", "this is not the link of an approval").WithFix("copy the whole link"))
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write([]byte(strings.ReplaceAll(approvalText, "%ID%", html.EscapeString(which.String())))) // the reader has gone
}

func (d *Door) healthz(w http.ResponseWriter, _ *http.Request) {
	quiet(w.Header())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n")) // the asker has gone
}

func (d *Door) ready(ctx context.Context) client.Readiness {
	out := client.Readiness{Ready: true, Checks: []client.Check{}}
	if d.Checks == nil {
		return client.Readiness{Checks: []client.Check{{Name: "checks", Detail: "this process was started without checks"}}}
	}
	for _, c := range d.Checks.Check(ctx) {
		out.Ready = out.Ready && c.OK
		out.Checks = append(out.Checks, c)
	}
	return out
}

func (d *Door) readyz(w http.ResponseWriter, r *http.Request) {
	quiet(w.Header())
	out := d.ready(r.Context())
	status := http.StatusOK
	if !out.Ready {
		status = http.StatusServiceUnavailable
	}
	d.write(w, r, status, "application/json", out)
}

// tilePath is the path of a hash tile (C2SP tlog-tiles). Entry bundles (tile/entries/...) are only in exports, so that the
// record's contents are not public.
var tilePath = regexp.MustCompile(`^tile/([0-9]|[1-5][0-9]|6[0-3])/((x[0-9]{3}/)*[0-9]{3})(\.p/([1-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?$`)

func (d *Door) logFile(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/log/")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	media := "application/octet-stream"
	switch {
	case path == "checkpoint":
		media = "text/plain; charset=utf-8"
		w.Header().Set("Cache-Control", "no-cache")
	case !tilePath.MatchString(path):
		quiet(w.Header())
		d.problem(w, r, fault.New(fault.NotFound, "api", "no_such_file", "the log publishes checkpoint and hash tiles only").
			WithFix("for the entries, export the record: chaperone audit export"))
		return
	case strings.Contains(path, ".p/"):
		w.Header().Set("Cache-Control", "no-cache")
	default:
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	b, err := d.Log.Read(path)
	if err != nil {
		quiet(w.Header())
		d.problem(w, r, err)
		return
	}
	w.Header().Set("Content-Type", media)
	_, _ = w.Write(b) // the reader has gone
}
