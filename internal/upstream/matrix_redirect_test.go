// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"chaperone/internal/fault"
)

// A row of the enforcement matrix that this room holds. testdata/mutants removes its guard and expects its line here. The
// redirects carry a message of their own, as a page would: it is not passed on either.

func TestMatrix_UpstreamRedirect(t *testing.T) {
	var elsewhere atomic.Int32
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(target.Close)
	for _, status := range []int{300, 301, 302, 303, 307, 308} {
		s := local(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", target.URL)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			w.Write([]byte(`{"jsonrpc":"2.0","id":1,"result":{}}`))
		})
		c := newClient(t, Config{})
		f := post(s, `{}`)
		f.Injection = bearer()
		x, err := c.Forward(t.Context(), f)
		if err == nil {
			msgs, rest := all(t, x)
			t.Errorf("a redirect with status %d was taken for an answer of %d messages (%v), want upstream_redirect", status, len(msgs), rest)
		} else if fault.CodeOf(err) != "upstream_redirect" {
			t.Errorf("a redirect with status %d: %v, want upstream_redirect", status, err)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}
