// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// credentials keeps one access credential fresh and makes a proof for each request. It is safe for concurrent use.
type credentials struct {
	state    *State
	cfg      Config
	audience string

	mu      sync.Mutex // held while a credential is fetched, so that one fetch serves all
	value   string
	expires time.Time
	run     string

	nonceMu sync.Mutex
	nonces  map[string]string // by scheme and host; each gateway and boot has its own
}

func newCredentials(state *State, cfg Config) *credentials {
	return &credentials{state: state, cfg: cfg, audience: state.Enrolled.Issuer + "/mcp/" + cfg.Server, run: cfg.Run, nonces: map[string]string{}}
}

func (c *credentials) runID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// current returns a credential with at least 30 s to live, fetching one if need be or if renew is set.
func (c *credentials) current(ctx context.Context, renew bool) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !renew && c.value != "" && c.cfg.Now().Add(30*time.Second).Before(c.expires) {
		return c.value, nil
	}
	details := map[string]any{"type": "chaperone_run"}
	if c.run != "" {
		details["run"] = c.run
	} else {
		details["purpose"] = c.cfg.Purpose
	}
	rar, err := json.Marshal([]any{details})
	if err != nil {
		return "", fault.Wrap("connect.credential", err)
	}
	var answer struct {
		Credential string `json:"access_token"`
		ExpiresIn  int64  `json:"expires_in"`
		Details    []struct {
			Run string `json:"run"`
		} `json:"authorization_details"`
	}
	if err := c.fetch(ctx, string(rar), &answer); err != nil {
		return "", err
	}
	c.value, c.expires = answer.Credential, c.cfg.Now().Add(time.Duration(answer.ExpiresIn)*time.Second)
	if len(answer.Details) == 1 {
		c.run = answer.Details[0].Run
	}
	return c.value, nil
}

// fetch asks the credential endpoint once, and once more if it wants its nonce in the proof.
func (c *credentials) fetch(ctx context.Context, rar string, answer any) error {
	endpoint := c.state.Enrolled.Issuer + "/token"
	for try := 0; ; try++ {
		now := c.cfg.Now()
		assertion, err := identity.MintAssertion(c.state.key, c.state.Enrolled.ClientID, c.state.Enrolled.Issuer, now)
		if err != nil {
			return fault.Wrap("connect.credential", err)
		}
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.state.Enrolled.ClientID},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
			"resource": {c.audience}, "authorization_details": {rar}}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
		if err != nil {
			return fault.Wrap("connect.credential", err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if err := c.prove(req, ""); err != nil {
			return err
		}
		resp, err := c.cfg.HTTP.Do(req)
		if err != nil {
			return unreachable(endpoint, err)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		resp.Body.Close()
		c.keepNonce(resp)
		if err != nil {
			return unreachable(endpoint, err)
		}
		if resp.StatusCode == http.StatusOK {
			if err := json.Unmarshal(body, answer); err != nil {
				return fault.Wrap("connect.credential", err)
			}
			return nil
		}
		var refusal struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}
		_ = json.Unmarshal(body, &refusal) // a body that is not OAuth's leaves the refusal empty, and the status speaks
		if refusal.Error == "use_dpop_nonce" && try == 0 {
			continue
		}
		return fault.New(fault.Unauthenticated, "connect.credential", "credential_refused", "the issuer gave no credential: %s %s (HTTP %d)",
			refusal.Error, refusal.Description, resp.StatusCode).
			WithFix("ask an operator to look at `chaperone agent show %s` and `chaperone audit query --agent %s`", c.state.Enrolled.AgentName, c.state.Enrolled.AgentName)
	}
}

// prove adds the DPoP header, and the credential if one is given.
func (c *credentials) prove(req *http.Request, credential string) error {
	u := *req.URL
	u.RawQuery, u.Fragment = "", ""
	c.nonceMu.Lock()
	nonce := c.nonces[u.Scheme+u.Host]
	c.nonceMu.Unlock()
	proof, err := identity.MintProof(c.state.key, req.Method, u.String(), nonce, credential, c.cfg.Now())
	if err != nil {
		return fault.Wrap("connect.prove", err)
	}
	req.Header.Set("DPoP", proof)
	if credential != "" {
		req.Header.Set("Authorization", "DPoP "+credential)
	}
	return nil
}

func (c *credentials) keepNonce(resp *http.Response) {
	if n := resp.Header.Get("DPoP-Nonce"); n != "" {
		c.nonceMu.Lock()
		c.nonces[resp.Request.URL.Scheme+resp.Request.URL.Host] = n
		c.nonceMu.Unlock()
	}
}

func unreachable(url string, err error) error {
	return fault.New(fault.Unavailable, "connect", "chaperone_unreachable", "cannot reach Chaperone at %s", url).
		WithFix("check that `chaperone up` or `chaperone serve` runs there").WithCause(err)
}
