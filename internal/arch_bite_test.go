// SPDX-License-Identifier: Apache-2.0

package internal_test

import (
	"strings"
	"testing"
	"testing/fstest"
)

const (
	spdx = "// SPDX-License-Identifier: Apache-2.0\n\n"
	doc  = "// Package p decides p; it never decides q.\n"
)

// TestTheLawsBite gives each law a tree that breaks it and demands that it says so, and a tree like it that does not.
func TestTheLawsBite(t *testing.T) {
	tests := []struct {
		law, name, file, body string
		says                  string // "" = the law is kept
	}{
		{"rooms are known", "a new wing", "internal/run/extra/x.go", "package extra", "CONTRIBUTING.md"},
		{"rooms are known", "a room of the list", "internal/duty/x.go", "package duty", ""},

		{"imports go down", "domain imports domain", "internal/run/x.go", `package run; import _ "chaperone/internal/policy"`, "run (domain) must not import policy (domain)"},
		{"imports go down", "domain imports a road", "internal/run/x.go", `package run; import _ "chaperone/internal/enforce"`, "run (domain) must not import enforce"},
		{"imports go down", "domain imports ground", "internal/run/x.go", `package run; import _ "chaperone/internal/label"`, ""},
		{"imports go down", "five rooms", "internal/run/x.go", "package run; import (_ \"chaperone/internal/label\"; _ \"chaperone/internal/id\"; _ \"chaperone/internal/canon\"; _ \"chaperone/internal/fault\"; _ \"chaperone/internal/telemetry\")", "imports 5 rooms"},
		{"imports go down", "ground imports domain", "internal/fault/x.go", `package fault; import _ "chaperone/internal/run"`, "fault (ground) must not import run"},
		{"imports go down", "road imports its cellar", "internal/enforce/x.go", `package enforce; import _ "chaperone/internal/upstream"`, "enforce (road) must not import upstream (cellar)"},
		{"imports go down", "road imports the contract", "internal/enforce/x.go", `package enforce; import _ "chaperone/internal/store"`, ""},
		{"imports go down", "road imports the dialect", "internal/enforce/x.go", `package enforce; import _ "chaperone/internal/store/sql"`, "must not import store/sql"},
		{"imports go down", "road imports a road", "internal/enforce/x.go", `package enforce; import _ "chaperone/internal/admit"`, "must not import admit"},
		{"imports go down", "cellar imports a road", "internal/upstream/x.go", `package upstream; import _ "chaperone/internal/enforce"`, "must not import enforce"},
		{"imports go down", "door imports the store", "internal/api/x.go", `package api; import _ "chaperone/internal/store"`, "must not import store"},
		{"imports go down", "door imports a door", "internal/api/x.go", `package api; import _ "chaperone/internal/gateway"`, "must not import gateway"},
		{"imports go down", "anybody imports app", "internal/api/x.go", `package api; import _ "chaperone/internal/app"`, "must not import app"},
		{"imports go down", "a room reads the configuration", "internal/gateway/x.go", `package gateway; import _ "chaperone/internal/config"`, "must not import config"},
		{"imports go down", "app reads it", "internal/app/x.go", `package app; import _ "chaperone/internal/config"`, ""},
		{"imports go down", "the product imports its tests", "internal/gateway/x.go", `package gateway; import _ "chaperone/internal/needs"`, "must not import needs"},
		{"imports go down", "an example imports the house", "examples/office/x.go", `package main; import _ "chaperone/internal/id"`, "outside the house"},
		{"imports go down", "main imports a room", "cmd/chaperone/x.go", `package main; import _ "chaperone/internal/enforce"`, "main knows app"},

		{"dependencies have a passport", "an unknown module", "internal/run/x.go", `package run; import _ "example.org/left/pad"`, "no passport"},
		{"dependencies have a passport", "an unknown module in a test", "internal/run/x_test.go", `package run; import _ "example.org/left/pad"`, "no passport"},
		{"dependencies have a passport", "Cedar elsewhere", "internal/enforce/x.go", `package enforce; import _ "github.com/cedar-policy/cedar-go/types"`, "does not admit it to enforce"},
		{"dependencies have a passport", "Cedar at home", "internal/policy/x.go", `package policy; import _ "github.com/cedar-policy/cedar-go/types"`, ""},
		{"dependencies have a passport", "SQL in a road", "internal/enforce/x.go", `package enforce; import _ "database/sql"`, "does not admit it"},
		{"dependencies have a passport", "HTTP in the domain", "internal/identity/x.go", `package identity; import _ "net/http"`, "does not admit it"},
		{"dependencies have a passport", "HTTP in a road", "internal/enforce/x.go", `package enforce; import _ "net/http/httputil"`, "does not admit it"},
		{"dependencies have a passport", "HTTP in a door", "internal/gateway/x.go", `package gateway; import _ "net/http"`, ""},
		{"dependencies have a passport", "rapid in the product", "internal/run/x.go", `package run; import _ "pgregory.net/rapid"`, "does not admit it"},
		{"dependencies have a passport", "rapid in a test", "internal/run/x_test.go", `package run; import _ "pgregory.net/rapid"`, ""},
		{"dependencies have a passport", "cgo", "internal/run/x.go", `package run; import "C"`, "does not admit it"},
		{"dependencies have a passport", "unsafe", "internal/run/x.go", `package run; import _ "unsafe"`, "does not admit it"},

		{"the domain is pure", "a file is read", "internal/run/x.go", `package run; import _ "os"`, "no I/O"},
		{"the domain is pure", "the clock is read", "internal/run/x.go", "package run; import \"time\"\nvar start = time.Now()", "time.Now in the domain"},
		{"the domain is pure", "under another name", "internal/run/x.go", "package run; import clock \"time\"\nfunc f() { clock.Sleep(1) }", "time.Sleep in the domain"},
		{"the domain is pure", "a duration", "internal/run/x.go", "package run; import \"time\"\nconst life = 5 * time.Minute", ""},
		{"the domain is pure", "a road reads the clock", "internal/enforce/x.go", "package enforce; import \"time\"\nvar _ = time.Now()", ""},

		{"roads hold no wire JSON", "a road decodes", "internal/enforce/x.go", "package enforce; import \"encoding/json\"\nfunc f() { json.Unmarshal(nil, nil) }", "json.Unmarshal in a road"},
		{"roads hold no wire JSON", "a road carries bytes", "internal/enforce/x.go", "package enforce; import \"encoding/json\"\ntype T struct{ A json.RawMessage }", ""},
		{"context carries no values", "identity through context", "internal/gateway/x.go", "package gateway; import \"context\"\nvar _ = context.WithValue(nil, 1, 2)", "context.WithValue"},

		{"one package comment", "none", "internal/run/x.go", "package run", "no package comment"},
		{"one package comment", "no boundary", "internal/run/x.go", "// Package run decides runs.\npackage run", "what it never does"},
		{"one package comment", "both", "internal/run/x.go", doc + "package run", ""},

		{"licence header", "none", "internal/run/x_test.go", "-\npackage run", "first line must be"},
		{"licence header", "there", "internal/run/x.go", "package run", ""},

		{"no init and no package state", "init", "internal/run/x.go", "package run\nfunc init() {}", "init"},
		{"no init and no package state", "a method of that name", "internal/run/x.go", "package run\ntype t int\nfunc (t) init() {}", ""},
		{"no init and no package state", "a map made", "internal/run/x.go", "package run\nvar cache = make(map[string]int)", "cache is made to be filled"},
		{"no init and no package state", "an empty map", "internal/run/x.go", "package run\nvar cache = map[string]int{}", "cache is an empty map"},
		{"no init and no package state", "a nil map", "internal/run/x.go", "package run\nvar cache map[string]int", "cache is an empty map"},
		{"no init and no package state", "a list", "internal/run/x.go", "package run\nvar all []int", "all is an empty list"},
		{"no init and no package state", "a mutex", "internal/run/x.go", "package run\nimport \"sync\"\nvar mu sync.Mutex", "mu is shared state"},
		{"no init and no package state", "a pool", "internal/run/x.go", "package run\nimport \"sync\"\nvar pool = sync.Pool{}", "pool is shared state"},
		{"no init and no package state", "an atomic pointer", "internal/run/x.go", "package run\nimport \"sync/atomic\"\nvar p atomic.Pointer[int]", "p is shared state"},
		{"no init and no package state", "a pointer", "internal/run/x.go", "package run\nvar x = &struct{ n int }{}", "x is a pointer"},
		{"no init and no package state", "tables and sentinels", "internal/run/x.go", "package run\nimport (\"errors\"; \"regexp\"; \"embed\")\nvar (\n words = []string{\"a\"}\n rank = map[string]int{\"a\": 1}\n errGone = errors.New(\"gone\")\n form = regexp.MustCompile(\"a\")\n files embed.FS\n _ error = (*e)(nil)\n)", ""},

		{"interfaces are small", "seven methods", "internal/run/x.go", "package run\ntype Store interface { A(); B(); C(); D(); E(); F(); G() }", "run.Store has 7 methods"},
		{"interfaces are small", "seven with an embedded one", "internal/run/x.go", "package run\ntype Half interface { A(); B(); C(); D() }\ntype Store interface { Half; E(); F(); G() }", "run.Store has 7 methods"},
		{"interfaces are small", "six", "internal/run/x.go", "package run\ntype Store interface { A(); B(); C(); D(); E(); F() }", ""},
		{"interfaces are small", "the transaction", "internal/store/x.go", "package store\ntype Tx interface { A(); B(); C(); D(); E(); F(); G() }", ""},

		{"sizes", "a long file", "internal/run/x_test.go", "package run" + strings.Repeat("\n", 600), "has 603 lines"},
		{"sizes", "at the bound", "internal/run/x.go", "package run" + strings.Repeat("\n", 597), ""},

		{"names mean something", "a manager", "internal/run/x.go", "package run\ntype RunManager struct{}", "manager"},
		{"names mean something", "a package of that name", "internal/util/x.go", "package util", "util"},
		{"names mean something", "a word that only contains it", "internal/run/x.go", "package run\ntype Commonality struct{}", ""},
	}
	for _, tt := range tests {
		t.Run(tt.law+"/"+tt.name, func(t *testing.T) {
			text := spdx + tt.body + "\n"
			if body, without := strings.CutPrefix(tt.body, "-\n"); without {
				text = body + "\n"
			}
			all, broken := load(fstest.MapFS{tt.file: &fstest.MapFile{Data: []byte(text)}})
			if len(broken) > 0 {
				t.Fatal(broken)
			}
			var check func([]*source) []string
			for _, law := range laws {
				if law.name == tt.law {
					check = law.check
				}
			}
			if check == nil {
				t.Fatal("no such law")
			}
			found := strings.Join(check(all), "\n")
			if tt.says == "" && found != "" || !strings.Contains(found, tt.says) {
				t.Errorf("the law says %q, want %q", found, tt.says)
			}
		})
	}
}

// TestCountsBite: what needs more than one file.
func TestCountsBite(t *testing.T) {
	two := fstest.MapFS{
		"internal/run/a.go": &fstest.MapFile{Data: []byte(spdx + doc + "package run\n")},
		"internal/run/b.go": &fstest.MapFile{Data: []byte(spdx + doc + "package run\n")},
	}
	all, _ := load(two)
	if found := strings.Join(packageComments(all), ""); !strings.Contains(found, "2 package comments") {
		t.Errorf("two package comments: %q", found)
	}
	many := fstest.MapFS{}
	for _, room := range []string{"run", "enforce"} {
		for i := range 13 {
			many["internal/"+room+"/f"+string(rune('a'+i))+".go"] = &fstest.MapFile{Data: []byte(spdx + "package " + room + strings.Repeat("\n", 100))}
		}
	}
	all, _ = load(many)
	if found := strings.Join(sizes(all), "\n"); !strings.Contains(found, "internal/run has 13 files") || strings.Contains(found, "enforce has 13 files") {
		t.Errorf("thirteen files: %q", found)
	}
	for i := range 13 {
		name := "internal/run/f" + string(rune('a'+i)) + ".go"
		many[name] = &fstest.MapFile{Data: []byte(spdx + "package run" + strings.Repeat("\n", 220))}
	}
	all, _ = load(many)
	if found := strings.Join(sizes(all), "\n"); !strings.Contains(found, "internal/run has 2886 lines") {
		t.Errorf("many lines: %q", found)
	}
}
