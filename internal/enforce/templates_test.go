// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"testing"
	"time"
)

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		template, uri string
		want          bool
	}{
		{"file:///dir/{name}", "file:///dir/a", true},
		{"file:///dir/{name}", "file:///dir/a/b", false},
		{"file:///dir/{name}", "file:///dir/", false},
		{"file:///dir/{name}", "file:///dir/..", false},
		{"file:///dir/{name}", "file:///dir/a\n", false},
		{"file:///dir/{name}", "xfile:///dir/a", false},
		{"file:///{+path}", "file:///a/b/c", true},
		{"file:///{+path}", "file:///a/../c", false},
		{"file:///{+path}", "file:///a?x", false},
		{"db://{table}/{row}", "db://t/1", true},
		{"db://{table}{row}", "db://t1", false},
		{"search{?q}", "search?q=1", false},
		{"a.b/{c}", "axb/1", false},
		{"plain", "plain", false}, // no variable: it is a resource, not a template
		{"{}", "x", false},
	} {
		if got := matches(c.template, c.uri); got != c.want {
			t.Errorf("%s ~ %s = %v", c.template, c.uri, got)
		}
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("file:///dir/{name}", "file:///dir/a")
	f.Fuzz(func(t *testing.T, template, uri string) { matches(template, uri) })
}

func TestLimiter(t *testing.T) {
	l := newLimiter()
	now := time.Unix(0, 0)
	for i := range strangersPerMinute + 5 {
		if ok, _ := l.admit(now); ok != (i < strangersPerMinute) {
			t.Fatalf("%d: %v", i, ok)
		}
	}
	if ok, held := l.admit(now.Add(time.Minute)); !ok || held != 5 {
		t.Errorf("%v, held %d", ok, held)
	}
}
