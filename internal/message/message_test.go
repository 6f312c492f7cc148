// SPDX-License-Identifier: Apache-2.0

package message_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/message"
)

func parse(t testing.TB, s string) *canon.Node {
	t.Helper()
	doc, err := canon.Parse([]byte(s), canon.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want message.Seen
	}{
		"result":       {`{"jsonrpc":"2.0","id":1,"result":{}}`, message.Seen{Kind: message.Result, ID: "1"}},
		"string id":    {`{"jsonrpc":"2.0","id":"\u0061","result":{}}`, message.Seen{Kind: message.Result, ID: `"a"`}},
		"float id":     {`{"jsonrpc":"2.0","id":1.0,"result":{}}`, message.Seen{Kind: message.Result, ID: "1"}},
		"tool failed":  {`{"jsonrpc":"2.0","id":1,"result":{"isError":true}}`, message.Seen{Kind: message.Result, ID: "1", Failed: true}},
		"error":        {`{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x"}}`, message.Seen{Kind: message.Error, ID: "1", Failed: true}},
		"no id error":  {`{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x"}}`, message.Seen{Kind: message.Error, Failed: true}},
		"notification": {`{"jsonrpc":"2.0","method":"notifications/progress"}`, message.Seen{Kind: message.Notification, Method: "notifications/progress"}},
		"request":      {`{"jsonrpc":"2.0","id":7,"method":"roots/list"}`, message.Seen{Kind: message.Request, ID: "7", Method: "roots/list"}},
		"task":         {`{"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"t1"}}}`, message.Seen{Kind: message.Result, ID: "1", Task: "t1"}},
		"asks": {`{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":"s","inputRequests":{"b":{"method":"roots/list"},"a":{"method":"elicitation/create"}}}}`,
			message.Seen{Kind: message.Result, ID: "1", Waits: true, State: "s", Asks: []string{"elicitation/create", "roots/list"}}},
		"names": {`{"jsonrpc":"2.0","id":1,"result":{"instructions":"be good","serverInfo":{"name":"o"}}}`,
			message.Seen{Kind: message.Result, ID: "1", Names: true, Instructions: "be good", ServerInfo: []byte(`{"name":"o"}`)}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := message.Read(parse(t, c.in))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	for _, in := range []string{
		`[]`, `{}`, `{"jsonrpc":"1.0","id":1,"result":{}}`, `{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`, `{"jsonrpc":"2.0","id":1}`,
		`{"jsonrpc":"2.0","id":{},"result":{}}`, `{"jsonrpc":"2.0","result":{}}`, `{"jsonrpc":"2.0","id":1,"method":"x","result":{}}`,
		`{"jsonrpc":"2.0","id":null,"method":"x"}`, `{"jsonrpc":"2.0","id":1,"result":"x"}`, `{"jsonrpc":"2.0","method":""}`,
	} {
		if _, err := message.Read(parse(t, in)); fault.CodeOf(err) != "bad_message" {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestKeep(t *testing.T) {
	in := ` {"jsonrpc":"2.0","id":1,"result":{"tools":[ {"name":"a","x":1.50},{"name":"b"}, {"n":1}],"nextCursor":"c","cacheScope":"public"}} `
	raw := []byte(in)
	got, err := message.Keep(raw, parse(t, in), message.Tools, true, func(name string, def []byte) bool {
		return name == "a" && string(def) == `{"name":"a","x":1.50}`
	})
	if err != nil {
		t.Fatal(err)
	}
	want := ` {"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","x":1.50}],"nextCursor":"c","cacheScope":"private"}} `
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if string(raw) != in {
		t.Error("the input was written to")
	}
	got, err = message.Keep(raw, parse(t, in), message.Tools, false, func(string, []byte) bool { return false })
	if err != nil || !bytes.Contains(got, []byte(`"tools":[]`)) {
		t.Errorf("%s %v", got, err)
	}
	plain := `{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}`
	got, err = message.Keep([]byte(plain), parse(t, plain), message.Tools, true, nil)
	if err != nil || string(got) != `{"jsonrpc":"2.0","id":1,"result":{"tools":[],"cacheScope":"private"}}` {
		t.Errorf("%s %v", got, err)
	}
	odd := `{"jsonrpc":"2.0","id":1,"result":{"tools":{"name":"a"}}}`
	if _, err := message.Keep([]byte(odd), parse(t, odd), message.Tools, true, nil); fault.CodeOf(err) != "bad_message" {
		t.Error(err)
	}
}

func TestStates(t *testing.T) {
	res := `{"jsonrpc":"2.0","id":1,"result":{"requestState":"inner","n":1e400}}`
	got, err := message.SetResultState([]byte(res), parse(t, res), "outer")
	if err != nil || string(got) != `{"jsonrpc":"2.0","id":1,"result":{"requestState":"outer","n":1e400}}` {
		t.Errorf("%s %v", got, err)
	}
	req := `{"jsonrpc":"2.0","id":1,"params":{"name":"a","requestState":"outer","inputResponses":{},"arguments":{"n":1.50}}}`
	got, err = message.SetRequestState([]byte(req), parse(t, req), "inner")
	if err != nil || string(got) != `{"jsonrpc":"2.0","id":1,"params":{"name":"a","requestState":"inner","inputResponses":{},"arguments":{"n":1.50}}}` {
		t.Errorf("%s %v", got, err)
	}
	got, err = message.SetRequestState([]byte(req), parse(t, req), "")
	if err != nil || string(got) != `{"jsonrpc":"2.0","id":1,"params":{"name":"a","arguments":{"n":1.50}}}` {
		t.Errorf("%s %v", got, err)
	}
}

func TestBare(t *testing.T) {
	in := `{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"now obey","data":{"x":"me"}}}`
	got, err := message.Bare([]byte(in), parse(t, in))
	if err != nil || string(got) != `{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}` {
		t.Errorf("%s %v", got, err)
	}
	in = `{"jsonrpc":"2.0","id":1,"error":{"message":"now obey"}}`
	if _, err := message.Bare([]byte(in), parse(t, in)); fault.CodeOf(err) != "bad_message" {
		t.Error(err)
	}
}

func FuzzKeep(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"},{"name":"b"}],"cacheScope":"public"}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"b"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := canon.Parse(raw, canon.Limits{})
		if err != nil {
			return
		}
		if _, err := message.Read(doc); err != nil {
			return
		}
		out, err := message.Keep(raw, doc, message.Tools, true, func(name string, _ []byte) bool { return name == "a" })
		if err != nil {
			return
		}
		after, err := canon.Parse(out, canon.Limits{Bytes: canon.DefaultBytes * 2})
		if err != nil {
			t.Fatalf("%q became %q: %v", raw, out, err)
		}
		if list := after.Get("result").Get("tools"); list != nil {
			for _, item := range list.Items {
				if name, _ := item.Get("name").String(); name != "a" {
					t.Fatalf("%q kept %q", raw, name)
				}
			}
		}
	})
}
