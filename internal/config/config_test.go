// SPDX-License-Identifier: Apache-2.0

package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/fault"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

func defaults() Config { return Default("/var/lib", "/etc") }

func TestLoadOrder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "chaperone.yaml")
	if err := os.WriteFile(file, []byte("trust_domain: from.file\nlimits:\n  hold: 10s\nlog:\n  level: warn\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(Sources{Default: defaults(), File: file,
		Environ: []string{"CHAPERONE_LIMITS_HOLD=20s", "CHAPERONE_LOG_LEVEL=error", "CHAPERONE_REQUIRE_ALL=1", "HOME=/x"},
		Ignore:  []string{"CHAPERONE_REQUIRE_ALL"}, Flags: map[string]string{"log.level": "debug"}})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.TrustDomain, want.Limits.Hold, want.Log.Level = "from.file", 20*time.Second, "debug"
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("file < environment < flags does not hold (-want +got):\n%s", d)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		yaml string
		want []string
	}{
		"unknown key":          {"lissen:\n  agents: x\n", []string{`unknown key "lissen.agents"`, `"listen.agents"`}},
		"duplicate key":        {"data: /a\ndata: /b\n", []string{"already defined"}},
		"off loopback":         {"listen:\n  agents: 0.0.0.0:7400\n", []string{"nothing listens off loopback"}},
		"plain http elsewhere": {"public_url: http://gate.example\n", []string{"plain http to a host that is not loopback"}},
		"keys beside data":     {"data: /d\nkeys: /d/keys\n", []string{"lies inside data"}},
		"all faults at once":   {"log:\n  level: loud\nlimits:\n  hold: 2m\n", []string{`log.level "loud"`, "limits.hold 2m0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "chaperone.yaml")
			if err := os.WriteFile(file, []byte(tt.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(Sources{Default: defaults(), File: file})
			if fault.CodeOf(err) != "bad_config" {
				t.Fatalf("code %q, want bad_config (%v)", fault.CodeOf(err), err)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error does not say %q: %v", w, err)
				}
			}
		})
	}
}

// TestReference holds docs/configuration.md against the struct comments. Run with -update to rewrite it.
func TestReference(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "configuration.md")
	want := reference(t)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("docs/configuration.md is behind the code; run go test ./internal/config -run TestReference -update\n%s", d)
	}
}

func reference(t *testing.T) string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{} // "Config.Data" -> comment
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			ts, ok := s.(*ast.TypeSpec)
			if !ok {
				continue
			}
			st, ok := ts.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, fl := range st.Fields.List {
				docs[ts.Name.Name+"."+fl.Names[0].Name] = strings.Join(strings.Fields(fl.Doc.Text()), " ")
			}
		}
	}
	var b strings.Builder
	b.WriteString("# Configuration\n\nGenerated from the comments in `internal/config/config.go`. One YAML file (`--config`, `CHAPERONE_CONFIG`), then the\nenvironment, then flags; each key may be set in any of them. Unknown keys are refused, and all faults are reported at once.\nWith no configuration at all, everything runs on loopback.\n\n| key | environment | default | what it is |\n|---|---|---|---|\n")
	var walk func(typ reflect.Type, val reflect.Value, path string)
	walk = func(typ reflect.Type, val reflect.Value, path string) {
		for i := range typ.NumField() {
			fd := typ.Field(i)
			key := strings.TrimPrefix(path+"."+fd.Tag.Get("koanf"), ".")
			if fd.Type.Kind() == reflect.Struct {
				walk(fd.Type, val.Field(i), key)
				continue
			}
			doc := docs[typ.Name()+"."+fd.Name]
			if doc == "" {
				t.Errorf("%s.%s has no comment", typ.Name(), fd.Name)
			}
			def := fmt.Sprint(val.Field(i).Interface())
			switch key {
			case "data":
				def = "$XDG_DATA_HOME/chaperone"
			case "keys":
				def = "$XDG_CONFIG_HOME/chaperone/keys"
			}
			fmt.Fprintf(&b, "| `%s` | `%s%s` | `%s` | %s |\n", key, prefix, strings.ToUpper(strings.ReplaceAll(key, ".", "_")), def, doc)
		}
	}
	walk(reflect.TypeFor[Config](), reflect.ValueOf(defaults()), "")
	return b.String()
}
