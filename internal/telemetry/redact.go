// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// deniedWords hide a value when the name of its attribute, or of a group around it, has one of them as a word.
var deniedWords = []string{
	"authorization", "dpop", "proof", "assertion", "token", "tokens", "secret", "secrets", "password", "passwd", "passphrase",
	"private", "cookie", "cookies", "credential", "credentials", "bearer", "apikey", "seed", "salt", "nonce",
}

// deniedNames hide a value by its whole name, because the word alone also means harmless things (a fault's code is logged
// as fault_code).
var deniedNames = []string{
	"code", "join_code", "login_code", "authorization_code", "user_code", "device_code", "api_key", "seal_key", "signing_key", "jwk", "d",
}

// harmlessEnds say that the name is about a credential and not of one; such values are still searched for credentials.
var harmlessEnds = []string{"_type", "_types", "_count", "_endpoint", "_ref", "_id", "_kid", "_age", "_seconds", "_bytes"}

// patterns are the forms by which a credential is known in a text wherever it stands.
var patterns = []*regexp.Regexp{
	regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)`),
	regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*`),                               // JWS and JWE, RFC 7515 §7.1, RFC 7516 §7.1
	regexp.MustCompile(`\b(?:jc|lc)_[A-Za-z0-9_-]{6,}`),                                                             // join codes and login codes of ours
	regexp.MustCompile(`(?i)\b(?:bearer|dpop|basic)[ \t]+[A-Za-z0-9._~+/-]{16,}=*`),                                 // RFC 9110 §11.4
	regexp.MustCompile(`"d"[ \t\r\n]*:[ \t\r\n]*"[A-Za-z0-9_-]{20,}"`),                                              // the private part of a JWK
	regexp.MustCompile(`\bAGE-SECRET-KEY-[A-Z0-9]{20,}|\bPRIVATE\+KEY\+[^\s"]+`),                                    // age, signed notes
	regexp.MustCompile(`(?i)\b(?:[a-z_]*token|client_assertion|client_secret|password|api_?key|code)=[^&\s"']{6,}`), // forms and queries
	regexp.MustCompile(`://[^/\s:@"]*:[^/\s@"]+@`),                                                                  // a password in a URL
}

// Scrub returns the text with everything that looks like a credential replaced by [redacted].
func Scrub(s string) string {
	for _, p := range patterns {
		s = p.ReplaceAllLiteralString(s, Redacted)
	}
	return s
}

// Denied reports whether a value of this name is hidden whatever it is.
func Denied(name string) bool {
	name = snake(name)
	if slices.Contains(deniedNames, name) {
		return true
	}
	for _, end := range harmlessEnds {
		if strings.HasSuffix(name, end) {
			return false
		}
	}
	for word := range strings.SplitSeq(name, "_") {
		if slices.Contains(deniedWords, word) {
			return true
		}
	}
	return false
}

// snake brings DPoP-Nonce, accessToken and access.token to one form. Runs of capitals stay one word.
func snake(name string) string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		switch {
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			r, lower = '_', false
		case unicode.IsUpper(r) && lower:
			b.WriteByte('_')
			lower = false
		default:
			lower = unicode.IsLower(r) || unicode.IsDigit(r)
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.ReplaceAll(b.String(), "dpo_p", "dpop") // as RFC 9449 spells it
}

// replace is the handlers' ReplaceAttr: it sees every attribute that is not a group, the message too.
func replace(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		a.Value = slog.TimeValue(a.Value.Time().UTC())
		return a
	}
	if slices.ContainsFunc(groups, Denied) {
		a.Value = slog.StringValue(Redacted)
		return a
	}
	if Denied(a.Key) {
		a.Value = slog.StringValue(Redacted)
		return a
	}
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(Scrub(a.Value.String()))
	case slog.KindAny:
		a.Value = scrubAny(a.Value.Any())
	}
	return a
}

// scrubAny flattens what the handlers would print by reflection, where no ReplaceAttr would see the fields.
func scrubAny(v any) slog.Value {
	switch v := v.(type) {
	case nil:
		return slog.AnyValue(nil)
	case slog.Level, *slog.Source, time.Time, time.Duration:
		return slog.AnyValue(v)
	case error:
		return slog.StringValue(Scrub(v.Error()))
	case fmt.Stringer:
		return slog.StringValue(Scrub(v.String()))
	case []byte:
		return slog.StringValue(Scrub(string(v)))
	}
	b, err := json.Marshal(v)
	if err != nil {
		return slog.StringValue(Scrub(fmt.Sprintf("%T", v)))
	}
	var tree any
	if json.Unmarshal(b, &tree) != nil {
		return slog.StringValue(Redacted)
	}
	tree = scrubTree(tree)
	if s, ok := tree.(string); ok {
		return slog.StringValue(s)
	}
	b, err = json.Marshal(tree)
	if err != nil {
		return slog.StringValue(Redacted)
	}
	return slog.StringValue(string(b))
}

func scrubTree(v any) any {
	switch v := v.(type) {
	case string:
		return Scrub(v)
	case []any:
		for i := range v {
			v[i] = scrubTree(v[i])
		}
	case map[string]any:
		for k := range v {
			if Denied(k) {
				v[k] = Redacted
			} else {
				v[k] = scrubTree(v[k])
			}
		}
	}
	return v
}
