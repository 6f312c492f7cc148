// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"regexp"
	"strings"

	"chaperone/internal/catalog"
)

// find describes what is called. A resource that is not described itself may be one of a described template; a URI that fits two
// templates is nobody's.
func (c *call) find(kind catalog.ItemKind, name string) (catalog.Described, bool) {
	if reserved(kind, name) {
		return catalog.Described{}, false
	}
	d, ok := c.snap.Catalog.Describe(c.req.Server, kind, name)
	if ok || kind != catalog.KindResource {
		return d, ok
	}
	var fits []catalog.Described
	for _, d := range c.snap.Catalog.Items() {
		if d.Entry.Server == c.req.Server && d.Entry.Kind == catalog.KindTemplate && matches(d.Entry.Name, name) {
			fits = append(fits, d)
		}
	}
	if len(fits) != 1 {
		return catalog.Described{}, false
	}
	return fits[0], true
}

// reserved reports whether a tool took a name that would be read as something else of the server. A server chooses its tools' names.
func reserved(kind catalog.ItemKind, name string) bool {
	if kind != catalog.KindTool {
		return false
	}
	for _, p := range []string{"method:", "prompt:", "resource:", "template:"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

var variable = regexp.MustCompile(`\{([^{}]*)\}`)

// matches reports whether a URI is one of a template (RFC 6570), for the two simple forms: {name} stands for one path segment, {+name}
// for any rest without query and fragment. A template with another form matches nothing, nor does one that two neighbouring
// variables make ambiguous, nor a URI with dot segments.
func matches(template, uri string) bool {
	if strings.Contains(template, "}{") || strings.Contains("/"+uri+"/", "/../") || strings.Contains("/"+uri+"/", "/./") {
		return false
	}
	expr, at := "^", 0
	for _, m := range variable.FindAllStringSubmatchIndex(template, -1) {
		name := template[m[2]:m[3]]
		expr += regexp.QuoteMeta(template[at:m[0]])
		switch {
		case name == "" || strings.ContainsAny(name, ",:*?&#;./"):
			return false
		case strings.HasPrefix(name, "+"):
			expr += `[^?#\x00-\x20]+`
		default:
			expr += `[^/?#\x00-\x20]+`
		}
		at = m[1]
	}
	re, err := regexp.Compile(expr + regexp.QuoteMeta(template[at:]) + "$")
	return err == nil && at > 0 && re.MatchString(uri)
}
