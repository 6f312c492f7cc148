// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"os"
	"strings"
	"testing"

	"chaperone/internal/fault"
	"chaperone/internal/policy"
)

func TestMethodsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/methods.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for _, m := range append(policy.Methods(), "tools/call", "prompts/get", "resources/read", "resources/subscribe", "resources/unsubscribe") {
		if strings.HasSuffix(m, "/list_changed") && strings.Contains(doc, "`notifications/*/list_changed`") {
			continue
		}
		if !strings.Contains(doc, "`"+m+"`") && !strings.Contains(doc, "`method:"+m+"`") {
			t.Errorf("docs/methods.md does not name %s", m)
		}
	}
}

func TestEveryKindHasARow(t *testing.T) {
	for k := fault.Internal; k.String() != fault.Internal.String() || k == fault.Internal; k++ {
		r, ok := table[k]
		if !ok || r.rpc == 0 || r.status < 400 || r.answered == 0 {
			t.Errorf("%s: %+v", k, r)
		}
	}
}
