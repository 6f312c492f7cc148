// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// extensions are what makes a word with a dot a file name and not a host. Several of them are top-level domains by now (zip,
// mov, md): a person who writes one means the file.
const extensions = " txt md rst pdf doc docx odt rtf xls xlsx ods csv tsv ppt pptx odp key pages numbers json yaml yml toml ini xml html htm css js ts " +
	"go py rs java c h cpp rb php sh sql db log eml msg ics vcf png jpg jpeg gif svg webp heic mp3 mp4 mov wav zip gz tar tgz 7z rar exe bin iso "

// maxText bounds what is read, in bytes; a purpose has at most 4 KiB, and longer text states nothing.
const maxText = 16 << 10

// openers and closers are the signs around a word that are not part of it.
const (
	openers = "<([{\"'“‘«„`"
	closers = ">)]}\"'”’“‘»`,.;:!?…"
)

var (
	// quotePairs are the quotes that state a text. They open after a space or at the start and close before a space, a stop
	// or the end, so that an apostrophe is no quote.
	quotePairs = []string{`""`, `''`, "``", "“”", "‘’", "«»", "„“", "„”"}
	// phones starts with a plus or a zero; the rest is checked by Normalise.
	phones = regexp.MustCompile(`[+0][0-9][0-9 ().-]{5,24}[0-9]`)
	money  = regexp.MustCompile(`^(?:[$€£¥]|EUR|USD|GBP|CHF)?(-?[0-9][0-9,]*(?:\.[0-9]+)?)(?:[$€£¥]|EUR|USD|GBP|CHF)?$`)
)

// recognise calls add for every typed value it finds in a text. add keeps only what is well-formed, so a recogniser may offer
// too much; but each offers whole words, never a part of one.
func recognise(text string, add func(typ, raw string)) {
	if len(text) > maxText || !utf8.ValidString(text) {
		return
	}
	text = norm.NFC.String(text) // a canonical equivalent, as keyboards of some systems write it
	for _, q := range quotes(text) {
		for _, typ := range Types() {
			if typ != Domain || !fileName(q) {
				add(typ, q)
			}
		}
	}
	words := strings.Fields(text)
	for i, w := range words {
		word(w, add)
		grouped(words[i:], add)
	}
	for _, m := range phones.FindAllStringIndex(text, -1) {
		if before(text, m[0]) && after(text, m[1]) {
			add(Phone, text[m[0]:m[1]])
		}
	}
	names(words, add)
}

// before and after report whether a match stands free: no letter, digit or joining sign next to it.
func before(text string, i int) bool {
	r, _ := utf8.DecodeLastRuneInString(text[:i])
	return i == 0 || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("@._-+/=#", r)
}

func after(text string, i int) bool {
	r, _ := utf8.DecodeRuneInString(text[i:])
	return i == len(text) || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("@_-/=", r)
}

func quotes(text string) []string {
	var out []string
	for _, pair := range quotePairs {
		open, size := utf8.DecodeRuneInString(pair)
		closing, _ := utf8.DecodeRuneInString(pair[size:])
		for i := 0; i < len(text); {
			start := strings.IndexRune(text[i:], open)
			if start < 0 {
				break
			}
			start += i
			from := start + utf8.RuneLen(open)
			i = from
			if !opens(text, start) {
				continue
			}
			for j := from; ; {
				end := strings.IndexRune(text[j:], closing)
				if end < 0 {
					break
				}
				end += j
				if closes(text, end+utf8.RuneLen(closing)) {
					if end > from {
						out = append(out, text[from:end])
					}
					i = end + utf8.RuneLen(closing)
					break
				}
				j = end + utf8.RuneLen(closing)
			}
		}
	}
	return out
}

func opens(text string, i int) bool {
	r, _ := utf8.DecodeLastRuneInString(text[:i])
	return i == 0 || unicode.IsSpace(r) || strings.ContainsRune("([{:,=-", r)
}

func closes(text string, i int) bool {
	r, _ := utf8.DecodeRuneInString(text[i:])
	return i == len(text) || unicode.IsSpace(r) || strings.ContainsRune(")]}.,;:!?-", r)
}

// word offers what one word of the text may be. A URL is taken whole; other words are split at the signs that no typed value
// contains.
func word(w string, add func(typ, raw string)) {
	w = strings.TrimLeft(w, openers)
	if strings.Contains(w, "://") {
		w = strings.TrimRight(w, ">]}\"'”’»`,.;:!?…")
		if strings.HasSuffix(w, ")") && !strings.Contains(w, "(") {
			w = strings.TrimRight(w, ").,")
		}
		add(URL, w)
		return
	}
	for part := range strings.FieldsFuncSeq(w, func(r rune) bool { return strings.ContainsRune("<>()[]{}\"“”«»„‘’`|;:=", r) }) {
		bare := strings.TrimSuffix(strings.Trim(part, ".,!?…'"), "'s")
		for p := range strings.SplitSeq(bare, ",") {
			if number := money.FindStringSubmatch(p); number == nil {
				one(p, add)
			}
		}
		if m := money.FindStringSubmatch(bare); m != nil {
			add(Number, m[1])
			one(bare, add)
		}
	}
}

// fileName reports whether the word ends in a known extension.
func fileName(w string) bool {
	i := strings.LastIndexByte(w, '.')
	return i > 0 && i+1 < len(w) && strings.Contains(extensions, " "+lower(w[i+1:])+" ")
}

func one(w string, add func(typ, raw string)) {
	if len(w) < 2 {
		return
	}
	switch {
	case w[0] == '@':
		add(User, w)
		return
	case w[0] == '#':
		add(Channel, w)
		return
	case strings.Contains(w, "@"):
		add(Email, w)
		add(User, w)
		return
	case strings.Contains(w, "/"):
		add(Path, w)
		return
	}
	if i := strings.LastIndexByte(w, '.'); i > 0 {
		if fileName(w) {
			add(Path, w)
		} else if strings.IndexFunc(w[i+1:], unicode.IsDigit) < 0 && len(w)-i > 2 {
			add(Domain, w)
		}
		return
	}
	digits := 0
	for i := 0; i < len(w); i++ {
		if digit(w[i]) {
			digits++
		}
	}
	// Fewer digits are years, amounts and room numbers.
	if digits >= 8 && only(w, "-") {
		add(Account, w)
	}
}

// grouped offers an IBAN that is written in groups: the words from here are joined until they are one.
func grouped(words []string, add func(typ, raw string)) {
	first := strings.TrimLeft(words[0], openers)
	if i := strings.LastIndexAny(first, ":="); i >= 0 {
		first = first[i+1:]
	}
	if len(first) < 4 || !letter(first[0]) || !letter(first[1]) || !digit(first[2]) || !digit(first[3]) {
		return
	}
	joined := ""
	for i, w := range words {
		if i == 0 {
			w = first
		}
		bare := strings.TrimRight(w, closers)
		if !only(bare, "") || len(joined)+len(bare) > 34 {
			return
		}
		joined += bare
		if _, ok := iban(joined); ok {
			// A longer run of groups would be another number; nothing may follow in the same group.
			add(IBAN, joined)
			add(Account, joined)
			return
		}
		if bare != w {
			return
		}
	}
}

// names offers runs of capitalised words. At the start of a sentence the first word may be only the verb, so the run without it
// is offered too.
func names(words []string, add func(typ, raw string)) {
	var run []string
	starts := true // the next word starts a sentence
	runStarts := false
	flush := func() {
		if len(run) > 0 {
			add(Name, strings.Join(run, " "))
			if runStarts && len(run) > 1 {
				add(Name, strings.Join(run[1:], " "))
			}
		}
		run = nil
	}
	for _, w := range words {
		left := strings.TrimLeft(w, openers)
		bare := strings.TrimRight(left, closers)
		ends := bare != left || left != w && len(run) > 0
		own := false
		for _, s := range []string{"'s", "’s"} {
			if b, ok := strings.CutSuffix(bare, s); ok {
				bare, own = b, true
			}
		}
		r, _ := utf8.DecodeRuneInString(bare)
		if left != w {
			flush()
		}
		if unicode.IsUpper(r) {
			if len(run) == 0 {
				runStarts = starts
			}
			run = append(run, bare)
			if ends || own {
				flush()
			}
		} else {
			flush()
		}
		starts = strings.HasSuffix(w, ".") || strings.HasSuffix(w, "!") || strings.HasSuffix(w, "?") || strings.HasSuffix(w, ":")
	}
	flush()
}
