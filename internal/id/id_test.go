// SPDX-License-Identifier: Apache-2.0

package id_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chaperone/internal/fault"
	"chaperone/internal/id"
)

var moment = time.UnixMilli(1_790_000_000_123)

func TestMakersHaveTheirPrefix(t *testing.T) {
	made := map[string]string{
		"agt": id.NewAgent(moment).String(), "ins": id.NewInstance(moment).String(), "run": id.NewRun(moment).String(), "stp": id.NewStep(moment).String(),
		"grt": id.NewGrant(moment).String(), "apr": id.NewApproval(moment).String(), "dec": id.NewDecision(moment).String(), "evt": id.NewEvent(moment).String(),
		"srv": id.NewServer(moment).String(), "pol": id.NewBundle(moment).String(), "cat": id.NewCatalog(moment).String(), "per": id.NewPerson(moment).String(),
		"cas": id.NewCase(moment).String(),
	}
	for prefix, s := range made {
		if !regexp.MustCompile(`^` + prefix + `_[a-z2-7]{26}$`).MatchString(s) {
			t.Errorf("%q is not %s_ and 26 characters", s, prefix)
		}
	}
}

func TestParseIsStrict(t *testing.T) {
	good := id.NewRun(moment).String()
	if got, err := id.ParseRun(good); err != nil || got.String() != good || got.IsZero() || !got.Time().Equal(moment) {
		t.Fatalf("ParseRun(%q) = %v (%v), %v", good, got, got.Time(), err)
	}
	zeros := "run_" + strings.Repeat(good[4:5], 26)
	tests := map[string]string{
		"empty":                    "",
		"prefix alone":             "run_",
		"another kind":             id.NewAgent(moment).String(),
		"no underscore":            "run" + good[4:],
		"upper case":               strings.ToUpper(good),
		"one upper-case character": good[:29] + strings.ToUpper(good[29:]) + "",
		"too short":                good[:29],
		"too long":                 good + "a",
		"a character that is none": good[:10] + "1" + good[11:],
		"padding":                  good[:29] + "=",
		"leading space":            " " + good,
		"trailing newline":         good + "\n",
		"newline inside":           good[:10] + "\n" + good[11:],
		"no version":               zeros,
	}
	for name, in := range tests {
		if in == good {
			continue // the last character has no upper case
		}
		if got, err := id.ParseRun(in); fault.CodeOf(err) != "bad_id" || fault.KindOf(err) != fault.Invalid || !got.IsZero() {
			t.Errorf("%s: ParseRun(%q) = %v, %v; want code bad_id", name, in, got, err)
		}
	}
}

// TestOneSpelling: changing any one character gives an identifier that is refused or is another one.
func TestOneSpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		made := id.NewGrant(time.UnixMilli(rapid.Int64Range(0, 1<<47).Draw(t, "ms")))
		b := []byte(made.String())
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		to := rapid.Byte().Draw(t, "to")
		if b[at] == to {
			return
		}
		b[at] = to
		got, err := id.ParseGrant(string(b))
		if err == nil && (got == made || got.String() != string(b)) {
			t.Fatalf("%s was read as %s", b, got)
		}
	})
}

func TestSortsByTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Int64Range(0, 1<<47).Draw(t, "a")
		b := a + rapid.Int64Range(1, 1<<40).Draw(t, "step")
		first, second := id.NewEvent(time.UnixMilli(a)), id.NewEvent(time.UnixMilli(b))
		if first.String() >= second.String() {
			t.Fatalf("%s of %d does not sort before %s of %d", first, a, second, b)
		}
		if !first.Time().Equal(time.UnixMilli(a)) {
			t.Fatalf("Time = %v, want %v", first.Time(), time.UnixMilli(a))
		}
	})
}

func TestUnique(t *testing.T) {
	var all []string
	for range 10_000 {
		all = append(all, id.NewStep(moment).String())
	}
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != 10_000 {
		t.Errorf("%d distinct of 10,000 made in one millisecond", n)
	}
}

func TestText(t *testing.T) {
	type doc struct {
		Run id.Run `json:"run"`
	}
	want := doc{id.NewRun(moment)}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got doc
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("%s = %v, %v", b, got, err)
	}
	if err := json.Unmarshal([]byte(`{"run":""}`), &got); err != nil || !got.Run.IsZero() || !got.Run.Time().IsZero() {
		t.Errorf("the empty text = %v, %v; want the zero value", got, err)
	}
	if err := json.Unmarshal([]byte(`{"run":"agt_x"}`), &got); fault.CodeOf(err) != "bad_id" {
		t.Errorf("another kind: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(id.NewRun(moment).String())
	f.Add("run_" + strings.Repeat("a", 26))
	f.Fuzz(func(t *testing.T, s string) {
		got, err := id.ParseRun(s)
		if err == nil && got.String() != s {
			t.Fatalf("%q was read as %q", s, got)
		}
	})
}
