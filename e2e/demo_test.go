// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestDemo runs the story as a newcomer does.
func TestDemo(t *testing.T) {
	out, err := tell(t)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"payments-over-limit", "approval_excluded_requester", "approved, and run once", "untrusted-sink", "the honest task goes on", "run_ended",
		"records verify offline", "the record is not what was committed", "All 7 acts went as written",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// TestDemoCanFail leaves out one rule at a time: the demo must fail, in the act that the rule carries.
func TestDemoCanFail(t *testing.T) {
	for rule, act := range map[string]string{
		"payments-over-limit":         "act 3",
		"irreversible-needs-approval": "act 4",
		"untrusted-sink":              "act 5",
	} {
		t.Run(rule, func(t *testing.T) {
			out, err := tell(t, "--without", rule)
			if err == nil {
				t.Fatalf("the demo told its story without the rule %s\n%s", rule, out)
			}
			if !strings.Contains(out, act) {
				t.Errorf("the demo did not fail in %s:\n%s", act, out)
			}
		})
	}
}

func tell(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(within(t, 2*time.Minute), product(t), append([]string{"demo"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	return out.String(), err
}
