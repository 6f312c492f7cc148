// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/identity"
)

// agent is an enrolled instance that proves its key on every request.
type agent struct {
	http   *http.Client
	key    *identity.Key
	issuer string
	client string // client_id
	run    string
	nonce  atomic.Pointer[string]
}

func enrol(b *testing.B, issuer, code, run string) *agent {
	b.Helper()
	key, err := identity.NewKey()
	if err != nil {
		b.Fatal(err)
	}
	a := &agent{http: newHTTP(), key: key, issuer: issuer, run: run}
	e, err := client.Enrol(context.Background(), issuer, key, code, client.Config{})
	if err != nil {
		b.Fatal(err)
	}
	a.client = e.ClientID
	return a
}

// prove adds a fresh proof to a request, and the credential if there is one.
func (a *agent) prove(req *http.Request, credential string) error {
	nonce := ""
	if n := a.nonce.Load(); n != nil {
		nonce = *n
	}
	proof, err := identity.MintProof(a.key, req.Method, req.URL.String(), nonce, credential, time.Now())
	if err != nil {
		return err
	}
	req.Header.Set("DPoP", proof)
	if credential != "" {
		req.Header.Set("Authorization", "DPoP "+credential)
	}
	return nil
}

func (a *agent) seen(resp *http.Response) {
	if n := resp.Header.Get("DPoP-Nonce"); n != "" {
		a.nonce.Store(&n)
	}
}

// fetch gets a credential for one server; try again once when the issuer wants its nonce.
func (a *agent) fetch(server string) (string, error) {
	for try := 0; ; try++ {
		assertion, err := identity.MintAssertion(a.key, a.client, a.issuer, time.Now())
		if err != nil {
			return "", err
		}
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {a.client},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
			"resource": {a.issuer + "/mcp/" + server}, "authorization_details": {`[{"type":"chaperone_run","run":"` + a.run + `"}]`}}
		req, err := http.NewRequest(http.MethodPost, a.issuer+"/token", strings.NewReader(form.Encode()))
		if err != nil {
			return "", err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if err := a.prove(req, ""); err != nil {
			return "", err
		}
		resp, err := a.http.Do(req)
		if err != nil {
			return "", err
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return "", err
		}
		a.seen(resp)
		var answer struct {
			Credential string `json:"access_token"`
			Type       string `json:"token_type"`
			Error      string `json:"error"`
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return "", fmt.Errorf("HTTP %d: %w in %q", resp.StatusCode, err, raw)
		}
		switch {
		case resp.StatusCode == http.StatusOK && answer.Type == "DPoP" && strings.Count(answer.Credential, ".") == 2:
			return answer.Credential, nil
		case answer.Error == "use_dpop_nonce" && try == 0:
		default:
			return "", fmt.Errorf("no credential: HTTP %d %s", resp.StatusCode, raw)
		}
	}
}

// caller makes the tool call at the gateway.
func (a *agent) caller(b *testing.B, server string) caller {
	b.Helper()
	credential, err := a.fetch(server)
	if err != nil {
		b.Fatal(err)
	}
	return poster(a.http, a.issuer+"/mcp/"+server, func(r *http.Request) error { return a.prove(r, credential) }, a.seen)
}
