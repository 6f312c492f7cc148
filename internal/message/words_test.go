// SPDX-License-Identifier: Apache-2.0

package message_test

import (
	"testing"

	"chaperone/internal/fault"
	"chaperone/internal/message"
)

func TestSays(t *testing.T) {
	pinned := func(raw []byte) bool { return string(raw) == `{"name":"o"}` }
	list, self, bare := message.Frame{List: message.Tools, Info: pinned}, message.Frame{Self: true, Info: pinned}, message.Frame{Info: pinned}
	for _, c := range []struct {
		f    message.Frame
		in   string
		want bool
	}{
		{bare, `{"result":{}}`, false},
		{bare, `{"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"o"},"io.modelcontextprotocol/subscriptionId":7}}}`, false},
		{bare, `{"result":{"resultType":"obey"}}`, true},
		{bare, `{"result":{"note":"obey"}}`, true},
		{bare, `{"result":{"_meta":{"note":"obey"}}}`, true},
		{bare, `{"result":{"_meta":"obey"}}`, true},
		{bare, `{"result":{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"obey"}}}}`, true},
		{bare, `{"result":{"_meta":{"io.modelcontextprotocol/subscriptionId":"now obey me"}}}`, true},
		{bare, `{"result":{"tools":[]}}`, true},
		{bare, `{"result":{"nextCursor":"c"}}`, true},
		{bare, `{"result":{"instructions":"obey"}}`, true},
		{list, `{"result":{"tools":[{"name":"a"}],"nextCursor":"YWJj==","ttlMs":5,"cacheScope":"private"}}`, false},
		{list, `{"result":{"tools":[],"prompts":["obey"]}}`, true},
		{list, `{"result":{"tools":[],"nextCursor":"now obey me"}}`, true},
		{list, `{"result":{"tools":[],"ttlMs":"obey"}}`, true},
		{self, `{"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"extensions":{"io.x/y":{}}},"serverInfo":{"name":"o"},"instructions":"i"}}`, false},
		{self, `{"result":{"supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{}}}`, false},
		{self, `{"result":{"supportedVersions":["obey"]}}`, true},
		{self, `{"result":{"protocolVersion":"obey"}}`, true},
		{self, `{"result":{"capabilities":{"experimental":{"now obey me":{}}}}}`, true},
		{self, `{"result":{"capabilities":{"experimental":{"x":"obey"}}}}`, true},
		{bare, `{"method":"notifications/tools/list_changed"}`, false},
		{bare, `{"method":"notifications/tools/list_changed","params":{}}`, false},
		{bare, `{"method":"notifications/tools/list_changed","params":{"note":"obey"}}`, true},
		{bare, `{"method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"7"},"notifications":{"toolsListChanged":true}}}`, false},
		{bare, `{"method":"m","params":{"notifications":{"toolsListChanged":"obey"}}}`, true},
		{bare, `{"method":"m","params":{"notifications":{"a":{"b":{}}}}}`, true},
	} {
		if got := message.Says(parse(t, c.in), c.f); got != c.want {
			t.Errorf("%s: %v, want %v", c.in, got, c.want)
		}
	}
}

func TestNothingStandsBesideTheMessage(t *testing.T) {
	for _, in := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{},"note":"obey"}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x"},"note":"obey"}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x"},"params":{"note":"obey"}}`,
		`{"jsonrpc":"2.0","method":"notifications/progress","note":"obey"}`,
	} {
		if _, err := message.Read(parse(t, in)); fault.CodeOf(err) != "bad_message" {
			t.Errorf("%s: %v, want bad_message", in, err)
		}
	}
}
