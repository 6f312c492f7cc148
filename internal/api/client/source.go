// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 §2.2
	detailsType   = "chaperone_run"                                          // RFC 9396 §2
)

// Details is the authorization_details object that opens a run, or continues the one that Run names.
type Details struct {
	Type    string  `json:"type"`
	Run     string  `json:"run,omitempty"`
	Purpose *string `json:"purpose,omitempty"` // nil when a run is continued
}

// OpenDetails asks for a run of its own, with a purpose.
func OpenDetails(purpose string) *Details { return &Details{Type: detailsType, Purpose: &purpose} }

// RunDetails continues a run.
func RunDetails(run string) *Details { return &Details{Type: detailsType, Run: run} }

// Source keeps an access credential of one resource fresh and proves its holder's key on every request (RFC 9449). It is safe for
// concurrent use.
type Source struct {
	holder   Holder
	resource string
	cfg      Config
	nonces   nonces
	turn     chan struct{} // whoever holds it fetches: one fetch serves all who wait, and a wait ends with its context

	mu      sync.Mutex
	details *Details
	access  string
	expires time.Time
}

// NewSource returns a source of credentials for a resource, its audience (RFC 8707). Details are nil for people; an agent's
// first credential opens a run or continues one, and each later one continues the same. It does no I/O.
func NewSource(holder Holder, resource string, details *Details, cfg Config) *Source {
	return &Source{holder: holder, resource: resource, details: details, cfg: cfg.withDefaults(), turn: make(chan struct{}, 1)}
}

// Run returns the run that credentials continue, "" before the first one has opened it and for people.
func (s *Source) Run() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.details == nil {
		return ""
	}
	return s.details.Run
}

// Ready fetches a credential unless there is one with at least 30 s to live.
func (s *Source) Ready(ctx context.Context) error {
	_, err := s.credential(ctx, "")
	return err
}

// Do sends the request that build makes, with a credential and a fresh proof. A nonce that the server wants is taken up, and a
// credential that it does not take is replaced, each at most once: in both cases the server refused the request before it looked at what it
// asks, so nothing is done twice. build is called for each try. Every other answer is the caller's, who closes its body.
//
// Faults of its own, all Unavailable: chaperone_unreachable when the request was not sent or may be repeated without harm;
// answer_lost when the connection broke after the request may have arrived.
func (s *Source) Do(ctx context.Context, build func() (*http.Request, error)) (*http.Response, error) {
	var refused string
	var nonced bool
	for {
		access, err := s.credential(ctx, refused)
		if err != nil {
			return nil, err
		}
		req, err := build()
		if err != nil {
			return nil, err
		}
		if err := s.prove(req, access); err != nil {
			return nil, err
		}
		resp, err := send(s.cfg.HTTP, req)
		if err != nil {
			return nil, err
		}
		fresh := s.nonces.keep(req.URL, resp.Header)
		if resp.StatusCode == http.StatusUnauthorized {
			challenge := resp.Header.Get("WWW-Authenticate")
			switch {
			case strings.Contains(challenge, `error="use_dpop_nonce"`) && fresh && !nonced:
				nonced = true
				drain(resp)
				continue
			case strings.Contains(challenge, `error="invalid_token"`) && refused == "":
				refused = access
				drain(resp)
				continue
			}
		}
		return resp, nil
	}
}

// credential returns one with at least 30 s to live that is not the refused one, fetching it if need be.
func (s *Source) credential(ctx context.Context, refused string) (string, error) {
	if s.holder.Key == nil {
		return "", fault.New(fault.Unauthenticated, "client.credential", "not_logged_in", "there is no key to speak with").
			WithFix("log in first: chaperone login --code CODE")
	}
	if access, ok := s.good(refused); ok {
		return access, nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return "", unreachable(s.holder.Issuer, context.Cause(ctx))
	}
	if access, ok := s.good(refused); ok {
		return access, nil // somebody else fetched it meanwhile
	}
	return s.fetch(ctx)
}

func (s *Source) good(refused string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.access, s.access != "" && s.access != refused && s.cfg.Now().Add(spare).Before(s.expires)
}

func (s *Source) fetch(ctx context.Context) (string, error) {
	s.mu.Lock()
	details := s.details
	s.mu.Unlock()
	form := func() (url.Values, error) {
		assertion, err := identity.MintAssertion(s.holder.Key, s.holder.ClientID, s.holder.Issuer, s.cfg.Now())
		if err != nil {
			return nil, fault.Wrap("client.credential", err)
		}
		v := url.Values{
			"grant_type": {"client_credentials"}, "client_id": {s.holder.ClientID}, "client_assertion_type": {assertionType},
			"client_assertion": {assertion}, "resource": {s.resource},
		}
		if details != nil {
			v.Set("authorization_details", string(jsonBody([]*Details{details})))
		}
		return v, nil
	}
	var answer struct {
		Access    string    `json:"access_token"`
		ExpiresIn int64     `json:"expires_in"`
		Details   []Details `json:"authorization_details"`
	}
	door := issuer{url: strings.TrimSuffix(s.holder.Issuer, "/"), key: s.holder.Key, cfg: s.cfg, nonces: &s.nonces}
	if err := door.post(ctx, "/token", form, &answer); err != nil {
		return "", err
	}
	if answer.Access == "" || details != nil && (len(answer.Details) != 1 || answer.Details[0].Run == "") {
		return "", badAnswer(door.url)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.access, s.expires = answer.Access, s.cfg.Now().Add(time.Duration(answer.ExpiresIn)*time.Second)
	if details != nil {
		s.details = RunDetails(answer.Details[0].Run)
	}
	return s.access, nil
}

// prove adds the credential and a proof to a request.
func (s *Source) prove(req *http.Request, access string) error {
	proof, err := identity.MintProof(s.holder.Key, req.Method, req.URL.String(), s.nonces.of(req.URL), access, s.cfg.Now())
	if err != nil {
		return fault.Wrap("client.prove", err)
	}
	req.Header.Set("Authorization", "DPoP "+access)
	req.Header.Set("DPoP", proof)
	return nil
}

// send sends a request and tells, when no answer came, whether the request may have arrived.
func send(via *http.Client, req *http.Request) (*http.Response, error) {
	var connected atomic.Bool // on a connection there is no telling how much of the request got through
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	resp, err := via.Do(req.WithContext(ctx))
	if err == nil {
		return resp, nil
	}
	at := req.URL.Scheme + "://" + req.URL.Host
	if cause := context.Cause(req.Context()); cause != nil {
		err = errors.Join(err, cause)
	}
	if connected.Load() && req.Method != http.MethodGet {
		return nil, fault.New(fault.Unavailable, "client", "answer_lost", "the connection to Chaperone at %s broke before the answer; whether it was done is not known here", at).
			WithFix("look at the record before you repeat it: chaperone audit query").WithCause(err)
	}
	return nil, unreachable(at, err)
}
