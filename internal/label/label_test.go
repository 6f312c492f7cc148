// SPDX-License-Identifier: Apache-2.0

package label_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chaperone/internal/fault"
	"chaperone/internal/label"
)

func genWords(words ...string) *rapid.Generator[[]string] {
	return rapid.SliceOfN(rapid.SampledFrom(words), 0, 4) // unsorted and with repeats, as a stranger may hand them in
}

func genLabel() *rapid.Generator[label.Label] {
	return rapid.Custom(func(t *rapid.T) label.Label {
		l := label.Label{
			Integrity:  rapid.SampledFrom([]label.Integrity{"", label.Trusted, label.Untrusted, "no such word"}).Draw(t, "integrity"),
			Level:      rapid.SampledFrom([]label.Level{"", label.Public, label.Internal, label.Confidential, label.Secret, "no such word"}).Draw(t, "level"),
			Sources:    genWords("mail/read", "web/fetch", "files/list").Draw(t, "sources"),
			Categories: genWords("personal", "financial", "credentials").Draw(t, "categories"),
		}
		switch rapid.IntRange(0, 3).Draw(t, "readers") {
		case 1:
			l.Readers.Unknown = true
		case 2, 3:
			l.Readers = label.Readers{Known: true, Names: genWords("ada", "bo", "cy").Draw(t, "names")}
		}
		return l
	})
}

func TestJoinLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := genLabel().Draw(t, "a"), genLabel().Draw(t, "b"), genLabel().Draw(t, "c")
		ab := a.Join(b)
		if !ab.Equal(b.Join(a)) {
			t.Fatalf("not commutative: %+v and %+v", ab, b.Join(a))
		}
		if !ab.Join(c).Equal(a.Join(b.Join(c))) {
			t.Fatalf("not associative: %+v and %+v", ab.Join(c), a.Join(b.Join(c)))
		}
		if !a.Join(a).Equal(a) || !a.Join(label.Label{}).Equal(a) || !(label.Label{}).Join(a).Equal(a) {
			t.Fatalf("not idempotent, or the zero label is not the bottom: %+v", a)
		}
		if !ab.Covers(a) || !ab.Covers(b) || !ab.Join(c).Covers(ab) {
			t.Fatalf("not monotone: %+v does not cover its parts", ab)
		}
		if a.Covers(b) && b.Covers(a) && !a.Equal(b) {
			t.Fatalf("not antisymmetric: %+v, %+v", a, b)
		}
		if a.Covers(b) && !ab.Equal(a) {
			t.Fatalf("Covers, but joining changes: %+v, %+v", a, b)
		}
	})
}

// TestJoinOnlyGrows is stated from what a mark means, not from Join's own words.
func TestJoinOnlyGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genLabel().Draw(t, "a"), genLabel().Draw(t, "b")
		j := a.Join(b)
		if (a.IsUntrusted() || b.IsUntrusted()) != j.IsUntrusted() {
			t.Fatalf("untrusted: %v, %v -> %v", a.IsUntrusted(), b.IsUntrusted(), j.IsUntrusted())
		}
		if j.Level.Rank() != max(a.Level.Rank(), b.Level.Rank()) {
			t.Fatalf("level: %s, %s -> %s", a.Level, b.Level, j.Level)
		}
		for _, s := range slices.Concat(a.Sources, b.Sources) {
			if !slices.Contains(j.Sources, s) {
				t.Fatalf("source %s is lost", s)
			}
		}
		for _, s := range slices.Concat(a.Categories, b.Categories) {
			if !slices.Contains(j.Categories, s) {
				t.Fatalf("category %s is lost", s)
			}
		}
		for _, name := range []string{"ada", "bo", "cy", "nobody"} {
			if mayRead(j, name) != (mayRead(a, name) && mayRead(b, name)) {
				t.Fatalf("reader %s: %+v, %+v -> %+v", name, a.Readers, b.Readers, j.Readers)
			}
		}
	})
}

func mayRead(l label.Label, name string) bool {
	return !l.Readers.Unknown && (!l.Readers.Known || slices.Contains(l.Readers.Names, name))
}

// TestJoinShares nothing with its arguments: writing to one label never reaches another.
func TestJoinSharesNothing(t *testing.T) {
	a := label.Label{Sources: []string{"a", "b"}, Categories: []string{"x"}, Readers: label.Readers{Known: true, Names: []string{"ada"}}}
	j := a.Join(label.Label{})
	a.Sources[0], a.Categories[0], a.Readers.Names[0] = "changed", "changed", "changed"
	want := label.Label{Integrity: label.Trusted, Level: label.Public, Sources: []string{"a", "b"}, Categories: []string{"x"}, Readers: label.Readers{Known: true, Names: []string{"ada"}}}
	if diff := cmp.Diff(want, j); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownWordsAreTheStrictest(t *testing.T) {
	l := label.Label{Integrity: "trustd", Level: "sekret"}
	if !l.IsUntrusted() || l.Level.Rank() != label.Secret.Rank() {
		t.Errorf("misspelt words: untrusted %v, rank %d", l.IsUntrusted(), l.Level.Rank())
	}
	for _, bad := range []label.Label{{Integrity: "trustd"}, {Level: "sekret"}, {Integrity: "Trusted"}, {Level: "PUBLIC"}} {
		if err := bad.Check(); fault.CodeOf(err) != "bad_label" || fault.KindOf(err) != fault.Invalid {
			t.Errorf("Check(%+v) = %v; want code bad_label", bad, err)
		}
	}
	for _, good := range []label.Label{{}, {Integrity: label.Untrusted, Level: label.Confidential}} {
		if err := good.Check(); err != nil {
			t.Errorf("Check(%+v) = %v", good, err)
		}
	}
}

func TestStoredFormSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genLabel().Draw(t, "label").Join(label.Label{})
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got label.Label
		if err := json.Unmarshal(b, &got); err != nil || !got.Equal(want) {
			t.Fatalf("%s = %+v, %v; want %+v", b, got, err, want)
		}
	})
}
