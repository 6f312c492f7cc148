// SPDX-License-Identifier: Apache-2.0

package fault_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"chaperone/internal/fault"
)

func TestKinds(t *testing.T) {
	want := []string{"internal", "invalid", "not_found", "exists", "conflict", "unauthenticated", "denied", "suspended", "limited", "unavailable"}
	for i, name := range want {
		if got := fault.Kind(i).String(); got != name {
			t.Errorf("Kind(%d) = %s, want %s", i, got, name)
		}
	}
	if got := fault.Kind(len(want)).String(); got != "internal" {
		t.Errorf("an unknown kind is %s, want internal", got)
	}
	var zero fault.Error
	if fault.KindOf(&zero) != fault.Internal {
		t.Error("the zero error is not internal")
	}
}

func TestUnclassifiedIsInternal(t *testing.T) {
	for _, err := range []error{io.EOF, fmt.Errorf("read: %w", io.EOF), errors.Join(io.EOF, io.ErrClosedPipe)} {
		if fault.KindOf(err) != fault.Internal || fault.CodeOf(err) != "internal" {
			t.Errorf("%v is %v, %s", err, fault.KindOf(err), fault.CodeOf(err))
		}
	}
	if fault.Is(nil, fault.Internal) {
		t.Error("no error is an internal error")
	}
}

func TestWrapKeepsWhatTheCallerMaySee(t *testing.T) {
	cause := fault.New(fault.Conflict, "grant.Use", "grant_used", "the grant %s is used", "grt_x").WithFix("ask for %s", "another").WithCause(io.EOF)
	err := fault.Wrap("enforce.Call", fmt.Errorf("step 7: %w", cause))
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind != fault.Conflict || e.Code != "grant_used" || e.Msg != "the grant grt_x is used" || e.Fix != "ask for another" || e.Op != "enforce.Call" {
		t.Fatalf("Wrap = %#v", err)
	}
	if !errors.Is(err, io.EOF) || !fault.Is(err, fault.Conflict) || fault.CodeOf(err) != "grant_used" {
		t.Errorf("the chain is broken: %v", err)
	}
	if s := err.Error(); !strings.HasPrefix(s, "enforce.Call: ") || !strings.Contains(s, "(grant_used)") || !strings.Contains(s, "EOF") {
		t.Errorf("Error() = %q does not tell the whole chain", s)
	}
	if fault.Wrap("x", nil) != nil {
		t.Error("Wrap of nil is not nil")
	}
}

// TestForeignTextIsNotShown: the text of an error that is not ours stays out of what doors show.
func TestForeignTextIsNotShown(t *testing.T) {
	err := fault.Wrap("store.Update", errors.New("dial tcp 10.0.0.7: password=hunter2"))
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind != fault.Internal || strings.Contains(e.Msg+e.Fix+e.Code, "hunter2") {
		t.Errorf("Wrap shows %q %q %q", e.Msg, e.Fix, e.Code)
	}
	shown := fault.New(fault.Invalid, "api.Put", "bad_name", "the name is empty").WithCause(err)
	if strings.Contains(shown.Msg+shown.Fix, "hunter2") {
		t.Errorf("the cause is shown: %q", shown.Msg)
	}
}
