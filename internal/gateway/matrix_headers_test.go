// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/json"
	"testing"
)

// A row of the enforcement matrix that this door holds. testdata/mutants removes its guard and expects its line here.

func TestMatrix_HeaderBodyMismatch(t *testing.T) {
	call := rpc("tools/call", `{"name":"pay","arguments":{"to":"a"},`+meta26+`}`)
	for name, header := range map[string]map[string]string{
		"another method":          stateless("tools/list", "pay"),
		"no method":               stateless("", "pay"),
		"another name":            stateless("tools/call", "read"),
		"another name, in base64": stateless("tools/call", "=?base64?cmVhZA==?="),
		"no name":                 stateless("tools/call", ""),
	} {
		e := &engine{}
		resp, body := send(t, door(t, e, nil), ask{body: call, header: header})
		var got struct {
			Error struct{ Data struct{ Code string } }
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%d %q: %v", resp.StatusCode, body, err)
		}
		if got.Error.Data.Code != "header_mismatch" || len(e.asked) != 0 {
			t.Errorf("the header says %s than the body: answered %d %q and asked the road %d times, want header_mismatch and no asking", name, resp.StatusCode, got.Error.Data.Code, len(e.asked))
		}
	}
	e := &engine{}
	if resp, body := send(t, door(t, e, nil), ask{body: call, header: stateless("tools/call", "pay")}); resp.StatusCode != 200 || len(e.asked) != 1 {
		t.Errorf("header and body agree: %d %s", resp.StatusCode, body)
	}
}
