// SPDX-License-Identifier: Apache-2.0

package message_test

import (
	"slices"
	"testing"

	"chaperone/internal/message"
)

func TestBeside(t *testing.T) {
	in := `{"params":{"name":"pay","arguments":{},"_meta":{},"requestState":"s","task":{},"inputResponses":{},"Arguments":{}}}`
	if got, want := message.Beside(parse(t, in)), []string{"Arguments", "inputResponses"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := message.Beside(parse(t, `{}`)); got != nil {
		t.Errorf("%v", got)
	}
}

func TestPlainMeta(t *testing.T) {
	for in, want := range map[string]string{
		`{"params":{"a":1.50}}`:                                                                 `{"params":{"a":1.50}}`,
		`{"params":{"_meta" : { "progressToken" : 1.0 }}}`:                                      `{"params":{"_meta" : { "progressToken" : 1.0 }}}`,
		`{"params":{"_meta":{"bcc":"eve","progressToken":"p","traceparent":"t"},"x":1e400}}`:    `{"params":{"_meta":{"progressToken":"p","traceparent":"t"},"x":1e400}}`,
		`{"params":{"_meta":{"bcc":"eve"}}}`:                                                    `{"params":{"_meta":{}}}`,
		`{"params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"a":1},"ProgressToken":1}}}`: `{"params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"a":1}}}}`,
	} {
		got, err := message.PlainMeta([]byte(in), parse(t, in))
		if err != nil || string(got) != want {
			t.Errorf("%s became %s, %v; want %s", in, got, err, want)
		}
	}
}
