// SPDX-License-Identifier: Apache-2.0

package internal_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// source is one Go file of the tree.
type source struct {
	name  string // path from the root of the repository
	room  string // the room under internal, or the first part of the path elsewhere ("cmd", "examples", "e2e", "internal" itself)
	inner bool   // whether it lies under internal, in a room
	test  bool
	lines int
	text  []byte
	ast   *ast.File
	fset  *token.FileSet
}

func (s *source) at(n ast.Node) string {
	return s.name + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// imports yields the paths that the file imports, each with its place.
func (s *source) imports() map[string]string {
	out := map[string]string{}
	for _, spec := range s.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			out[p] = s.at(spec)
		}
	}
	return out
}

// uses reports where the file mentions pkg.name, pkg being the import path whose last element is its name.
func (s *source) uses(pkg string, names ...string) []string {
	local := ""
	for _, spec := range s.ast.Imports {
		if p, _ := strconv.Unquote(spec.Path.Value); p == pkg {
			local = path.Base(pkg)
			if spec.Name != nil {
				local = spec.Name.Name
			}
		}
	}
	if local == "" {
		return nil
	}
	var out []string
	ast.Inspect(s.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == local && slices.Contains(names, sel.Sel.Name) {
			out = append(out, s.at(sel)+": "+path.Base(pkg)+"."+sel.Sel.Name)
		}
		return true
	})
	return out
}

// load reads every Go file of the tree, without testdata, hidden directories and what a build leaves.
func load(root fs.FS) ([]*source, []string) {
	var all []*source
	var broken []string
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := path.Base(name); d.IsDir() && name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "build" || base == "node_modules") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		s := &source{name: name, test: strings.HasSuffix(name, "_test.go"), lines: bytes.Count(text, []byte("\n")), text: text, fset: token.NewFileSet()}
		dir := path.Dir(name)
		s.room, s.inner = strings.CutPrefix(dir, "internal/")
		if !s.inner {
			s.room, _, _ = strings.Cut(dir, "/")
		}
		if s.ast, err = parser.ParseFile(s.fset, name, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			broken = append(broken, name+": "+err.Error())
			return nil
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		broken = append(broken, err.Error())
	}
	return all, broken
}

// packages groups the files without tests by directory, in order.
func packages(all []*source) [][]*source {
	by := map[string][]*source{}
	for _, s := range all {
		if !s.test {
			by[path.Dir(s.name)] = append(by[path.Dir(s.name)], s)
		}
	}
	var names []string
	for name := range by {
		names = append(names, name)
	}
	slices.Sort(names)
	var out [][]*source
	for _, name := range names {
		out = append(out, by[name])
	}
	return out
}

// ofHouse returns the room of an import path of ours.
func ofHouse(p string) (string, bool) { return strings.CutPrefix(p, "chaperone/internal/") }

// under reports whether p is prefix or lies beneath it.
func under(p, prefix string) bool { return p == prefix || strings.HasPrefix(p, prefix+"/") }

// foreign reports whether an import path is neither ours nor of the standard library, whose first element has no dot.
func foreign(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	return strings.Contains(first, ".")
}
