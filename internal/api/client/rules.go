// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"io"
	"net/http"

	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/policy"
)

// Approvals lists approvals in a state ("" = any), newest first.
func (c *Client) Approvals(ctx context.Context, state string, p Page) (out List[Approval], err error) {
	return out, c.get(ctx, "/api/approvals", p.query(only("state", state)), &out)
}

// Approval returns one approval with its exact payload and both digests.
func (c *Client) Approval(ctx context.Context, id string) (out Approval, err error) {
	return out, c.get(ctx, at("approvals", id), nil, &out)
}

// Decide gives the caller's word on an approval. in.BindingDigest is what the caller was shown.
func (c *Client) Decide(ctx context.Context, id string, in Decide) (out Approval, err error) {
	return out, c.post(ctx, at("approvals", id, "decide"), in, &out)
}

// Policies lists the versions of the policies, newest first.
func (c *Client) Policies(ctx context.Context, p Page) (out List[BundleInfo], err error) {
	return out, c.get(ctx, "/api/policies", p.query(nil), &out)
}

// ActivePolicy returns the bundle in force with its files.
func (c *Client) ActivePolicy(ctx context.Context) (out policy.Bundle, err error) {
	return out, c.get(ctx, "/api/policies/active", nil, &out)
}

// ApplyPolicy puts a bundle in force. A bundle with problems is refused (policy_refused, Problem.Problems) and the old one stays.
func (c *Client) ApplyPolicy(ctx context.Context, in ApplyPolicy) (out BundleInfo, err error) {
	return out, c.post(ctx, "/api/policies", in, &out)
}

// CheckPolicy compiles files against the catalogue in force without applying them.
func (c *Client) CheckPolicy(ctx context.Context, files map[string]string) (out Checked, err error) {
	return out, c.post(ctx, "/api/policies/check", ApplyPolicy{Files: files}, &out)
}

// Servers lists the registered upstreams in order of name.
func (c *Client) Servers(ctx context.Context, p Page) (out List[catalog.Server], err error) {
	return out, c.get(ctx, "/api/servers", p.query(nil), &out)
}

// PutServer makes or replaces an upstream.
func (c *Client) PutServer(ctx context.Context, name string, in PutServer) (out catalog.Server, err error) {
	return out, c.put(ctx, at("servers", name), in, &out)
}

// Pins lists what is pinned of a server.
func (c *Client) Pins(ctx context.Context, server string, p Page) (out List[catalog.Pin], err error) {
	return out, c.get(ctx, at("servers", server, "pins"), p.query(nil), &out)
}

// Pin fetches what the server offers now, shows it against what is pinned, and accepts what the request names.
func (c *Client) Pin(ctx context.Context, server string, in PinRequest) (out PinAnswer, err error) {
	return out, c.post(ctx, at("servers", server, "pin"), in, &out)
}

// Catalog returns the catalogue in force.
func (c *Client) Catalog(ctx context.Context) (out Catalog, err error) {
	return out, c.get(ctx, "/api/catalog", nil, &out)
}

// ApplyCatalog applies a catalogue file (YAML, docs/catalogue.md).
func (c *Client) ApplyCatalog(ctx context.Context, yaml []byte) (out Applied, err error) {
	if yaml == nil {
		yaml = []byte{}
	}
	return out, c.do(ctx, request{method: http.MethodPut, path: "/api/catalog", body: yaml, media: "application/yaml"}, &out)
}

// Secrets lists the sealed upstream credentials, without their values.
func (c *Client) Secrets(ctx context.Context, p Page) (out List[Secret], err error) {
	return out, c.get(ctx, "/api/secrets", p.query(nil), &out)
}

// PutSecret seals an upstream credential for one server.
func (c *Client) PutSecret(ctx context.Context, server string, in PutSecret) (out Secret, err error) {
	return out, c.put(ctx, at("secrets", server), in, &out)
}

// DeleteSecret removes a server's credential.
func (c *Client) DeleteSecret(ctx context.Context, server string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: at("secrets", server)}, nil)
}

// Events queries the record. Which streams answer depends on the caller's rights.
func (c *Client) Events(ctx context.Context, q EventQuery) (out List[Event], err error) {
	v := only("stream", q.Stream, "type", q.Type, "agent", q.Agent, "run", q.Run, "decision", q.Decision, "approval", q.Approval, "id", q.ID)
	if q.Newest {
		v.Set("newest", "true")
	}
	return out, c.get(ctx, "/api/audit/events", Page{q.After, q.Limit}.query(v), &out)
}

// Export writes the whole record with its log as a tar to w, for offline verification.
func (c *Client) Export(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, request{method: http.MethodGet, path: "/api/audit/export"})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fault.New(fault.Unavailable, "client.Export", "export_broken", "the export broke off before its end").
			WithFix("try again").WithCause(err)
	}
	return nil
}

// Explain tells why a decision fell as it did.
func (c *Client) Explain(ctx context.Context, decision string) (out Explanation, err error) {
	return out, c.get(ctx, at("decisions", decision), nil, &out)
}

// Checkpoint returns the newest signed checkpoint of the log. It is public.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	return c.raw(ctx, "/log/checkpoint")
}

// Tile returns a hash tile of the log by its path below /log/ ("tile/0/000"). It is public.
func (c *Client) Tile(ctx context.Context, path string) ([]byte, error) {
	return c.raw(ctx, "/log/"+path)
}

func (c *Client) raw(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	resp, err := c.send(ctx, request{method: http.MethodGet, path: path, public: true})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := readAll(resp.Body)
	if err != nil {
		return nil, c.unreachable(err)
	}
	return b, nil
}

// Ready returns /readyz, red or green. Unavailable "chaperone_unreachable" when nothing answers.
func (c *Client) Ready(ctx context.Context) (Readiness, error) {
	var out Readiness
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	req, err := c.build(ctx, request{method: http.MethodGet, path: "/readyz"})
	if err != nil {
		return out, err
	}
	resp, err := send(c.cfg.HTTP, req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	b, err := readAll(resp.Body)
	if err != nil {
		return out, c.unreachable(err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		return out, problemError(resp.StatusCode, b)
	}
	if err := canon.DecodeLoose(b, canon.Limits{}, &out); err != nil {
		return out, problemError(resp.StatusCode, b)
	}
	return out, nil
}
