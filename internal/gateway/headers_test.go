// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"chaperone/internal/fault"
)

func TestDefinitionCheck(t *testing.T) {
	const def = `{"name":"pay","inputSchema":{"type":"object","properties":{
		"to":{"type":"string","x-mcp-header":"To"},
		"amount":{"type":"integer","x-mcp-header":"Amount"},
		"urgent":{"type":"boolean","x-mcp-header":"Urgent"},
		"more":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"Note":{"type":"string"}}},
		"list":{"type":"array","x-mcp-header":"List"},
		"free":{"type":"string"}}}}`
	tests := []struct {
		name, args string
		header     map[string]string
		code       string
	}{
		{"nothing", `{}`, nil, ""},
		{"none at all", ``, nil, ""},
		{"text", `{"to":"a"}`, map[string]string{"To": "a"}, ""},
		{"text in base64", `{"to":"é"}`, map[string]string{"To": "=?base64?w6k=?="}, ""},
		{"text that looks like base64", `{"to":"=?base64?w6k=?="}`, map[string]string{"To": "=?base64?w6k=?="}, "header_mismatch"},
		{"broken base64", `{"to":"a"}`, map[string]string{"To": "=?base64?w6k?="}, "header_mismatch"},
		{"another text", `{"to":"a"}`, map[string]string{"To": "b"}, "header_mismatch"},
		{"another case", `{"to":"a"}`, map[string]string{"To": "A"}, "header_mismatch"},
		{"missing", `{"to":"a"}`, nil, "header_mismatch"},
		{"too much", `{}`, map[string]string{"To": "a"}, "header_mismatch"},
		{"null and header", `{"to":null}`, map[string]string{"To": "null"}, "header_mismatch"},
		{"null", `{"to":null}`, nil, ""},
		{"integer", `{"amount":42}`, map[string]string{"Amount": "42"}, ""},
		{"integer, other spelling", `{"amount":42.0}`, map[string]string{"Amount": "42"}, ""},
		{"another integer", `{"amount":42}`, map[string]string{"Amount": "43"}, "header_mismatch"},
		{"an integer no double holds", `{"amount":9007199254740993}`, map[string]string{"Amount": "9007199254740993"}, "header_mismatch"},
		{"fraction", `{"amount":1.5}`, map[string]string{"Amount": "1.5"}, "header_mismatch"},
		{"boolean", `{"urgent":true}`, map[string]string{"Urgent": "true"}, ""},
		{"boolean in another case", `{"urgent":true}`, map[string]string{"Urgent": "True"}, "header_mismatch"},
		{"nested", `{"more":{"region":"eu"}}`, map[string]string{"Region": "eu"}, ""},
		{"nested, missing", `{"more":{"region":"eu"}}`, nil, "header_mismatch"},
		{"nested in nothing", `{"more":7}`, map[string]string{"Region": "eu"}, "header_mismatch"},
		{"a list", `{"list":[1]}`, map[string]string{"List": "[1]"}, "header_mismatch"},
		{"a header nobody asked for", `{}`, map[string]string{"Other": "x"}, "header_mismatch"},
		{"a header nobody asked for, beside one that is", `{"to":"a"}`, map[string]string{"To": "a", "Other": "x"}, "header_mismatch"},
		{"an argument in another case", `{"To":"a"}`, nil, "argument_case"},
		{"an argument in both cases", `{"free":"a","FREE":"b"}`, nil, "argument_case"},
		{"nested argument in another case", `{"more":{"note":"x"}}`, nil, "argument_case"},
		{"unknown argument", `{"other":"x"}`, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			for k, v := range tt.header {
				h.Set("Mcp-Param-"+k, v)
			}
			err := definitionCheck(h, []byte(tt.args), true)([]byte(def))
			if tt.code == "" && err != nil || tt.code != "" && fault.CodeOf(err) != tt.code {
				t.Errorf("got %v, want %q", err, tt.code)
			}
			if err := definitionCheck(h, []byte(tt.args), false)([]byte(def)); (err != nil) != (tt.code == "argument_case") {
				t.Errorf("in the era of sessions: %v", err)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{
		rpc("tools/call", `{"name":"pay","arguments":{"to":"a"}}`), rpc("tools/list", "{"+meta26+"}"), `{"jsonrpc":"2.0","id":1,"result":{}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, `{"jsonrpc":"2.0","id":"\u0061","method":"resources/read","params":{"uri":"a:b","Name":1}}`,
	} {
		f.Add([]byte(s), "", "tools/call", "pay")
		f.Add([]byte(s), "2026-07-28", "tools/call", "pay")
		f.Add([]byte(s), "2025-11-25", "", "=?base64?cGF5?=")
	}
	d := New(Deps{}, Config{PublicURL: "http://127.0.0.1", SessionKey: make([]byte, 32), Body: 1 << 16, Depth: 32})
	f.Fuzz(func(t *testing.T, body []byte, version, method, name string) {
		h := http.Header{"Mcp-Protocol-Version": {version}, "Mcp-Method": {method}, "Mcp-Name": {name}}
		env, no := d.read(body, h)
		if no != nil {
			if no.Code == "" || no.Fix == "" || no.Msg == "" {
				t.Fatalf("a refusal without words: %v", no)
			}
			if b := no.message(env.id, env.era); len(b) == 0 {
				t.Fatal("no answer")
			}
			return
		}
		if (env.method == "") == (env.answer == nil) {
			t.Fatal("neither a request nor an answer")
		}
		if env.id != nil && !strings.Contains(string(body), string(env.id)) {
			t.Fatal("the id is not the caller's own bytes")
		}
		if env.era == eraStateless && version != eraStateless {
			t.Fatalf("era %s under the header %q", env.era, version)
		}
	})
}

func TestPassedOn(t *testing.T) {
	h := http.Header{"Accept": {"a"}, "Mcp-Method": {"m"}, "Mcp-Param-To": {"x"}, "Authorization": {"DPoP x"}, "X-Other": {"1"}}
	for _, tt := range []struct {
		era  string
		tool bool
		want []string
	}{
		{eraStateless, true, []string{"Accept", "Mcp-Method", "Mcp-Param-To"}},
		{eraStateless, false, []string{"Accept", "Mcp-Method"}}, // there is no schema that the parameter could be held against
		{eraSessions, true, []string{"Accept"}},
	} {
		if got := slices.Sorted(maps.Keys(passedOn(h, tt.era, tt.tool))); !slices.Equal(got, tt.want) {
			t.Errorf("%s, tool %v: %v, want %v", tt.era, tt.tool, got, tt.want)
		}
	}
}
