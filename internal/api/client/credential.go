// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// Enrolment is what the issuer answers when an instance's key was bound by a join code.
type Enrolment struct {
	ClientID    string `json:"client_id"`
	Instance    string `json:"instance"`
	Agent       string `json:"agent"`
	AgentName   string `json:"agent_name"`
	AgentType   string `json:"agent_type"`
	Issuer      string `json:"issuer"`
	TrustDomain string `json:"trust_domain"`
	LogOrigin   string `json:"log_origin"`
	LogKey      string `json:"log_key"`
}

// LoggedIn is what the issuer answers when a person's key was bound by a login code.
type LoggedIn struct {
	ClientID    string `json:"client_id"`
	Person      string `json:"person"`
	Name        string `json:"name"`
	Profile     string `json:"profile"`
	Issuer      string `json:"issuer"`
	TrustDomain string `json:"trust_domain"`
	LogOrigin   string `json:"log_origin"`
	LogKey      string `json:"log_key"`
}

// Enrol binds an instance's key with a single-use join code at the issuer (the deployment's public URL). The key proves
// itself by DPoP. Unauthenticated or NotFound faults name a code that is wrong, used or too old.
func Enrol(ctx context.Context, issuerURL string, key *identity.Key, code string, cfg Config) (Enrolment, error) {
	var out Enrolment
	err := newIssuer(issuerURL, key, cfg).post(ctx, "/enroll", jsonForm(map[string]string{"code": code}), &out)
	return out, err
}

// Login binds a person's key with a single-use login code. Profile names the key on this machine.
func Login(ctx context.Context, issuerURL string, key *identity.Key, code, profile string, cfg Config) (LoggedIn, error) {
	var out LoggedIn
	err := newIssuer(issuerURL, key, cfg).post(ctx, "/login", jsonForm(map[string]string{"code": code, "profile": profile}), &out)
	return out, err
}

// issuer calls the identity door, which challenges with 400 use_dpop_nonce (RFC 9449 §8).
type issuer struct {
	url    string
	key    *identity.Key
	cfg    Config
	nonces *nonces
}

func newIssuer(at string, key *identity.Key, cfg Config) issuer {
	return issuer{url: strings.TrimSuffix(at, "/"), key: key, cfg: cfg.withDefaults(), nonces: &nonces{}}
}

// jsonForm marks a body that is JSON, not a form.
func jsonForm(m map[string]string) func() (url.Values, error) {
	return func() (url.Values, error) { return url.Values{"": {string(jsonBody(m))}}, nil }
}

// post sends what form makes (made anew for each try: an assertion is used once) and decodes the answer. A nonce that the issuer
// wants is taken up once.
func (i issuer) post(ctx context.Context, path string, form func() (url.Values, error), dst any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for try := 0; ; try++ {
		v, err := form()
		if err != nil {
			return err
		}
		body, media := v.Encode(), "application/x-www-form-urlencoded"
		if doc, ok := v[""]; ok {
			body, media = doc[0], "application/json"
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url+path, strings.NewReader(body))
		if err != nil {
			return fault.New(fault.Invalid, "client.issuer", "bad_url", "%q is not the URL of an issuer", i.url).
				WithFix("give the deployment's public URL").WithCause(err)
		}
		proof, err := identity.MintProof(i.key, http.MethodPost, req.URL.String(), i.nonces.of(req.URL), "", i.cfg.Now())
		if err != nil {
			return fault.Wrap("client.issuer", err)
		}
		req.Header.Set("Content-Type", media)
		req.Header.Set("Accept", "application/json")
		req.Header.Set("DPoP", proof)
		resp, err := i.cfg.HTTP.Do(req)
		if err != nil {
			return unreachable(i.url, err)
		}
		fresh := i.nonces.keep(req.URL, resp.Header)
		b, err := readAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return unreachable(i.url, err)
		}
		if resp.StatusCode < 300 {
			if err := canon.DecodeLoose(b, canon.Limits{}, dst); err != nil {
				return badAnswer(i.url).WithCause(err)
			}
			return nil
		}
		refused := oauthError(resp.StatusCode, b)
		if fault.CodeOf(refused) == "use_dpop_nonce" && fresh && try == 0 {
			continue
		}
		return refused
	}
}

func badAnswer(at string) *fault.Error {
	return fault.New(fault.Unavailable, "client.issuer", "bad_answer", "the issuer at %s gave an answer that this version does not understand", at).
		WithFix("check that the URL is the deployment's public URL")
}

// oauthError turns the issuer's refusal (RFC 6749 §5.2, or a problem document) into a fault.
func oauthError(status int, b []byte) error {
	var o struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Code        string `json:"code"`
		Fix         string `json:"fix"`
	}
	if err := json.Unmarshal(b, &o); err != nil || o.Error == "" {
		return problemError(status, b)
	}
	code := o.Error
	if o.Code != "" {
		code = o.Code
	}
	kind := kindOfStatus(status)
	switch o.Error { // whose statuses say less than its words
	case "invalid_client", "invalid_grant", "invalid_dpop_proof", "use_dpop_nonce":
		kind = fault.Unauthenticated
	case "unauthorized_client":
		kind = fault.Suspended
	}
	e := fault.New(kind, "issuer", code, "%s", o.Description)
	if o.Description == "" {
		e.Msg = "the issuer refused: " + o.Error
	}
	if o.Fix != "" {
		e.Fix = o.Fix
	}
	return e
}
