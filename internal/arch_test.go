// SPDX-License-Identifier: Apache-2.0

// Package internal_test holds the laws of the house as tests. It decides whether a change keeps to the floors, passports and
// sizes of docs/architecture.md; it never decides what the rooms do. A law that is wrong is changed in docs/adr, with the
// reason, and here in the same commit.
package internal_test

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// laws are all of them by name; the tests below run each over the tree, and arch_bite_test.go over a tree that breaks it.
var laws = []struct {
	name  string
	check func([]*source) []string
}{
	{"rooms are known", unknownRooms},
	{"imports go down", imports},
	{"dependencies have a passport", strangers},
	{"the domain is pure", impurities},
	{"roads hold no wire JSON", wireJSON},
	{"context carries no values", contextValues},
	{"one package comment", packageComments},
	{"licence header", headers},
	{"no init and no package state", packageState},
	{"interfaces are small", interfaces},
	{"sizes", sizes},
	{"names mean something", names},
}

func TestLaws(t *testing.T) {
	all, broken := load(os.DirFS(".."))
	for _, b := range broken {
		t.Error(b)
	}
	if len(all) < 20 {
		t.Fatalf("only %d files found", len(all))
	}
	for _, law := range laws {
		t.Run(law.name, func(t *testing.T) {
			found := law.check(all)
			slices.Sort(found)
			for _, f := range found {
				t.Error(f)
			}
		})
	}
}

func unknownRooms(all []*source) (out []string) {
	for _, files := range packages(all) {
		s := files[0]
		if _, ok := rooms[s.room]; s.inner && !ok {
			out = append(out, "internal/"+s.room+" is no room of the house: see \"Where does my code go\" in CONTRIBUTING.md, then add it to internal/arch_rooms_test.go")
		}
	}
	return out
}

func imports(all []*source) (out []string) {
	own := map[string][]string{}
	for _, s := range all {
		if s.test {
			continue
		}
		for p, at := range s.imports() {
			to, ours := ofHouse(p)
			switch {
			case !ours && under(p, "chaperone/examples") && (s.room == "cmd" || s.room == "e2e"):
				// the demo is a command of the one binary
			case !ours && under(p, "chaperone"):
				out = append(out, at+": nothing imports "+p)
			case !ours:
			case !s.inner:
				if why := fromOutside(s, to); why != "" {
					out = append(out, at+": "+why)
				}
			default:
				if !slices.Contains(own[s.room], to) {
					own[s.room] = append(own[s.room], to)
				}
				if !mayImport(s.room, to) {
					out = append(out, fmt.Sprintf("%s: %s (%s) must not import %s (%s)", at, s.room, floorNames[rooms[s.room]], to, floorNames[rooms[to]]))
				}
			}
		}
	}
	for room, list := range own {
		if rooms[room] == domain && len(list) > maxOwnImports {
			out = append(out, fmt.Sprintf("internal/%s imports %d rooms (%s), %d are allowed", room, len(list), strings.Join(list, ", "), maxOwnImports))
		}
	}
	return out
}

// fromOutside says what is wrong with an import by cmd, examples or e2e, if anything is.
func fromOutside(s *source, to string) string {
	switch s.room {
	case "cmd":
		if to == "app" || to == "cli" || to == "config" || rooms[to] == ground {
			return ""
		}
		return "main knows app, cli, config and the ground, not " + to
	case "e2e":
		return ""
	}
	return s.room + " stands outside the house and imports no room of it, not " + to
}

func mayImport(from, to string) bool {
	if from == to || mayAlso[from][to] != "" {
		return true
	}
	f, t := rooms[from], rooms[to]
	switch {
	case to == "config", t == workshop:
		return false
	case f == workshop:
		return true
	case f == hall:
		return to != "cli"
	case f == domain:
		return slices.Contains(groundForDomain, to)
	case f == door:
		return t == ground || t == domain || t == road
	}
	return t == ground || t == domain && f > domain
}

func strangers(all []*source) (out []string) {
	for _, s := range all {
		for p, at := range s.imports() {
			var let []string
			known := false
			for prefix, list := range passports {
				if under(p, prefix) {
					let, known = list, true
				}
			}
			switch {
			case !known && foreign(p):
				out = append(out, at+": "+p+" has no passport; see docs/dependencies.md")
			case !known || s.test || s.room == "e2e" || s.inner && slices.Contains(let, s.room):
			case s.inner && rooms[s.room] == door && slices.Contains(let, "doors"):
			case !s.inner && slices.Contains(let, s.room):
			default:
				out = append(out, fmt.Sprintf("%s: the passport of %s does not admit it to %s", at, p, s.room))
			}
		}
	}
	return out
}

func impurities(all []*source) (out []string) {
	for _, s := range all {
		if s.test || !s.inner || rooms[s.room] != domain {
			continue
		}
		for p, at := range s.imports() {
			if slices.Contains(impure, p) && mayDoIO[s.room] == "" {
				out = append(out, at+": a domain room does no I/O, but imports "+p)
			}
		}
		for _, use := range s.uses("time", clocks...) {
			out = append(out, use+" in the domain; the moment is a parameter")
		}
	}
	return out
}

func wireJSON(all []*source) (out []string) {
	for _, s := range all {
		if s.inner && !s.test && rooms[s.room] == road {
			for _, use := range s.uses("encoding/json", "Marshal", "MarshalIndent", "Unmarshal", "NewDecoder", "NewEncoder") {
				out = append(out, use+" in a road; doors speak JSON, digests are canon's")
			}
		}
	}
	return out
}

func contextValues(all []*source) (out []string) {
	for _, s := range all {
		if s.inner && !s.test && s.room != "telemetry" {
			for _, use := range s.uses("context", "WithValue") {
				out = append(out, use+"; context carries deadline and trace only")
			}
		}
	}
	return out
}

func packageComments(all []*source) (out []string) {
	for _, files := range packages(all) {
		var docs []*source
		for _, s := range files {
			if s.ast.Doc != nil {
				docs = append(docs, s)
			}
		}
		dir := path.Dir(files[0].name)
		switch {
		case len(docs) == 0:
			out = append(out, dir+" has no package comment")
		case len(docs) > 1:
			out = append(out, fmt.Sprintf("%s has %d package comments: %s and %s", dir, len(docs), docs[0].name, docs[1].name))
		case files[0].inner || files[0].room == "cmd":
			text := strings.ToLower(docs[0].ast.Doc.Text())
			if !strings.Contains(text, "decide") || !strings.Contains(text, "never") {
				out = append(out, docs[0].name+": the package comment must say what the room decides and what it never does")
			}
		}
	}
	return out
}

func headers(all []*source) (out []string) {
	for _, s := range all {
		if !strings.HasPrefix(string(s.text), "// SPDX-License-Identifier: Apache-2.0\n\n") {
			out = append(out, s.name+": the first line must be \"// SPDX-License-Identifier: Apache-2.0\", and an empty one must follow")
		}
	}
	return out
}

func packageState(all []*source) (out []string) {
	for _, s := range all {
		if s.test || !s.inner {
			continue
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				out = append(out, s.at(f)+": init; app composes the house")
			}
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					var value ast.Expr
					if i < len(v.Values) {
						value = v.Values[i]
					}
					if why := mutable(v.Type, value); why != "" && name.Name != "_" {
						out = append(out, s.at(name)+": "+name.Name+" is "+why+"; state belongs in a struct that app makes")
					}
				}
			}
		}
	}
	return out
}

// mutable says why a package variable looks like state. Tables (literals) and results of functions (sentinel errors,
// regular expressions) pass; nobody writes to those.
func mutable(typ, value ast.Expr) string {
	switch t := typ.(type) {
	case *ast.SelectorExpr:
		if x, ok := t.X.(*ast.Ident); ok && (x.Name == "sync" || x.Name == "atomic") {
			return "shared state (" + x.Name + "." + t.Sel.Name + ")"
		}
	case *ast.IndexExpr: // atomic.Pointer[T]
		return mutable(t.X, value)
	case *ast.MapType:
		if value == nil {
			return "an empty map to be filled"
		}
	case *ast.ArrayType:
		if value == nil {
			return "an empty list to be filled"
		}
	case *ast.StarExpr:
		if value == nil {
			return "a pointer to be set"
		}
	}
	switch v := value.(type) {
	case *ast.CallExpr:
		if f, ok := v.Fun.(*ast.Ident); ok && (f.Name == "make" || f.Name == "new") {
			return "made to be filled (" + f.Name + ")"
		}
	case *ast.UnaryExpr:
		if v.Op == token.AND {
			return "a pointer to something mutable"
		}
	case *ast.CompositeLit:
		if m, ok := v.Type.(*ast.MapType); ok && len(v.Elts) == 0 {
			return "an empty map to be filled " + fmt.Sprint(m.Key)
		}
		if v.Type != nil {
			if _, ok := v.Type.(*ast.SelectorExpr); ok {
				return mutable(v.Type, nil)
			}
		}
	}
	return ""
}

func interfaces(all []*source) (out []string) {
	for _, files := range packages(all) {
		if !files[0].inner {
			continue
		}
		types := map[string]*ast.InterfaceType{}
		where := map[string]string{}
		for _, s := range files {
			ast.Inspect(s.ast, func(n ast.Node) bool {
				if t, ok := n.(*ast.TypeSpec); ok {
					if i, ok := t.Type.(*ast.InterfaceType); ok {
						types[t.Name.Name], where[t.Name.Name] = i, s.at(t)
					}
				}
				return true
			})
		}
		for name, i := range types {
			full := files[0].ast.Name.Name + "." + name
			if n := methods(types, i, 0); n > maxMethods && manyMethods[full] == "" {
				out = append(out, fmt.Sprintf("%s: %s has %d methods, %d are allowed", where[name], full, n, maxMethods))
			}
		}
	}
	return out
}

// methods counts an interface's methods, with those of interfaces of the same package that it embeds.
func methods(types map[string]*ast.InterfaceType, i *ast.InterfaceType, depth int) int {
	n := 0
	for _, m := range i.Methods.List {
		n += len(m.Names)
		if id, ok := m.Type.(*ast.Ident); ok && len(m.Names) == 0 && types[id.Name] != nil && depth < 8 {
			n += methods(types, types[id.Name], depth+1)
		}
	}
	return n
}

func sizes(all []*source) (out []string) {
	for _, s := range all {
		if s.lines > maxFileLines {
			out = append(out, fmt.Sprintf("%s has %d lines, %d are allowed (aim at 400)", s.name, s.lines, maxFileLines))
		}
	}
	for _, files := range packages(all) {
		total := 0
		for _, s := range files {
			total += s.lines
		}
		dir := path.Dir(files[0].name)
		if total > maxPackageLines && manyLines[files[0].room] == "" {
			out = append(out, fmt.Sprintf("%s has %d lines, %d are allowed", dir, total, maxPackageLines))
		}
		if len(files) > maxPackageFiles && manyFiles[files[0].room] == "" {
			out = append(out, fmt.Sprintf("%s has %d files, %d are allowed", dir, len(files), maxPackageFiles))
		}
	}
	return out
}

func names(all []*source) (out []string) {
	bad := func(name string) string {
		for _, word := range words(name) {
			if slices.Contains(badWords, word) {
				return word
			}
		}
		return ""
	}
	for _, s := range all {
		if word := bad(s.ast.Name.Name); word != "" && s.inner {
			out = append(out, s.name+": the package name says "+word+"; see docs/glossary.md")
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && bad(f.Name.Name) != "" {
				out = append(out, s.at(f)+": the name "+f.Name.Name+" says "+bad(f.Name.Name)+"; see docs/glossary.md")
			}
			if g, ok := d.(*ast.GenDecl); ok {
				for _, spec := range g.Specs {
					if t, ok := spec.(*ast.TypeSpec); ok && bad(t.Name.Name) != "" {
						out = append(out, s.at(t)+": the name "+t.Name.Name+" says "+bad(t.Name.Name)+"; see docs/glossary.md")
					}
				}
			}
		}
	}
	return out
}

// words splits a Go name at its capitals.
func words(name string) []string {
	var out []string
	start := 0
	for i, r := range name {
		if i > start && unicode.IsUpper(r) {
			out = append(out, strings.ToLower(name[start:i]))
			start = i
		}
	}
	return append(out, strings.ToLower(name[start:]))
}

// TestDependenciesAreDocumented: each direct module of go.mod has a passport and a section in docs/dependencies.md.
func TestDependenciesAreDocumented(t *testing.T) {
	mod, err := os.Open("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	defer mod.Close()
	doc, err := os.ReadFile("../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for lines := bufio.NewScanner(mod); lines.Scan(); {
		fields := strings.Fields(strings.TrimPrefix(lines.Text(), "require "))
		if len(fields) != 2 || !strings.HasPrefix(fields[1], "v") {
			continue // not a direct requirement
		}
		found++
		has := false
		for prefix := range passports {
			has = has || under(prefix, fields[0]) || under(fields[0], prefix)
		}
		if !has {
			t.Errorf("%s has no passport in internal/arch_rooms_test.go", fields[0])
		}
		if !strings.Contains(string(doc), "`"+fields[0]+"`") {
			t.Errorf("%s is not explained in docs/dependencies.md", fields[0])
		}
	}
	if found < 10 {
		t.Errorf("only %d direct modules found in go.mod", found)
	}
}

// TestSizesReport prints the size of every package; see it with -v.
func TestSizesReport(t *testing.T) {
	all, _ := load(os.DirFS(".."))
	t.Logf("%-32s %-7s %6s %6s %8s", "package", "floor", "files", "lines", "largest")
	lines := 0
	for _, files := range packages(all) {
		total, largest := 0, 0
		for _, s := range files {
			total += s.lines
			largest = max(largest, s.lines)
		}
		lines += total
		level := ""
		if files[0].inner {
			level = floorNames[rooms[files[0].room]]
		}
		t.Logf("%-32s %-7s %6d %6d %8d", path.Dir(files[0].name), level, len(files), total, largest)
	}
	tests := 0
	for _, s := range all {
		if s.test {
			tests += s.lines
		}
	}
	t.Logf("%d lines of product, %d of tests", lines, tests)
}
