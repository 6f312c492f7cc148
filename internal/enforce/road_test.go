// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"slices"
	"strings"
	"testing"

	"chaperone/internal/enforce"
)

func TestReadIsReleasedAfterOneCommit(t *testing.T) {
	h := newHouse(t)
	h.call("list_files", `{}`) // the first call checks the definitions
	h.trace = nil
	a := h.call("read_mail", `{}`)
	h.want(a, enforce.Released, "")
	if !strings.Contains(a.out.text(), "done read_mail") {
		t.Errorf("released %s", a.out.text())
	}
	if want := []string{"upstream", "commit", "release"}; !slices.Equal(h.trace, want) {
		t.Errorf("trace = %v, want %v", h.trace, want)
	}
	if !h.stored(h.run.ID).Label.IsUntrusted() {
		t.Error("the source label did not join")
	}
}

func TestEffectIsForwardedBetweenTwoCommits(t *testing.T) {
	h := newHouse(t)
	h.call("list_files", `{}`)
	h.trace = nil
	a := h.call("note", `{"text":"x"}`)
	h.want(a, enforce.Released, "")
	if want := []string{"commit", "upstream", "commit", "release"}; !slices.Equal(h.trace, want) {
		t.Errorf("trace = %v, want %v", h.trace, want)
	}
	if g := h.grants(h.run.ID); len(g) != 1 || g[0].State != "released" {
		t.Errorf("grants = %+v", g)
	}
}
