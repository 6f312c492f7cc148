// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
)

// form is a request's parameters, each at most once but for resource, whose number the endpoint checks.
type form map[string][]string

func (f form) get(name string) string {
	if v := f[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// assertion checks that the client authenticates by private_key_jwt and by nothing else (RFC 6749 §2.3).
func (f form) assertion() error {
	if f.get("client_secret") != "" {
		return malformed("client_secret", "clients have no secrets here").WithFix("send client_assertion, a private_key_jwt")
	}
	if f.get("client_assertion") == "" || f.get("client_assertion_type") != assertionType {
		return fault.New(fault.Unauthenticated, "issuer", "no_assertion", "the request carries no client assertion of the known type").
			WithFix("send client_assertion_type=%s and client_assertion, a private_key_jwt", assertionType)
	}
	return nil
}

// readForm reads a form strictly: the media type, the size, UTF-8, and no parameter twice (RFC 6749 §3.2). Parameters in the URL
// are refused, so that no credential ends up in a log of URLs.
func readForm(r *http.Request) (form, error) {
	body, err := readBody(r, "application/x-www-form-urlencoded")
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, malformed("bad_form", "the body is not a well-formed form").WithFix("encode the parameters as application/x-www-form-urlencoded")
	}
	for name, list := range values {
		for _, v := range append([]string{name}, list...) {
			if !utf8.ValidString(v) {
				return nil, malformed("bad_form", "a parameter is not UTF-8").WithFix("encode the parameters as UTF-8")
			}
		}
		if len(list) > 1 && name != "resource" {
			return nil, malformed("duplicate_parameter", "a parameter is there twice: %s", printable(name)).WithFix("send each parameter once")
		}
	}
	return form(values), nil
}

// readJSON reads a strict JSON object into dst.
func readJSON(r *http.Request, dst any) error {
	body, err := readBody(r, "application/json")
	if err != nil {
		return err
	}
	return canon.Decode(body, canon.Limits{Bytes: maxBody, Depth: 4}, dst)
}

func readBody(r *http.Request, media string) ([]byte, error) {
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return nil, malformed("query_parameters", "parameters belong in the body").WithFix("send nothing in the URL's query")
	}
	kinds := r.Header.Values("Content-Type")
	if len(kinds) != 1 {
		return nil, malformed("bad_content_type", "there is not exactly one Content-Type").WithFix("send Content-Type: %s", media)
	}
	if got, params, err := mime.ParseMediaType(kinds[0]); err != nil || got != media || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return nil, malformed("bad_content_type", "the Content-Type is not %s", media).WithFix("send Content-Type: %s", media)
	}
	if len(r.Header.Values("Content-Encoding")) > 0 {
		return nil, malformed("bad_content_type", "the body is encoded").WithFix("send it as it is")
	}
	body, err := io.ReadAll(r.Body)
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, fault.New(fault.Limited, "issuer", "body_too_large", "the body is over %d bytes", maxBody).WithFix("send a smaller one")
	} else if err != nil {
		return nil, malformed("bad_body", "the body could not be read").WithFix("send it again")
	}
	return body, nil
}

func malformed(code, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "issuer", code, format, args...)
}
