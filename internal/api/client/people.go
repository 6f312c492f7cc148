// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"chaperone/internal/grant"
	"chaperone/internal/identity"
	"chaperone/internal/run"
)

const mediaJSON = "application/json"

func (c *Client) get(ctx context.Context, path string, query url.Values, dst any) error {
	return c.do(ctx, request{method: http.MethodGet, path: path, query: query}, dst)
}

func (c *Client) post(ctx context.Context, path string, body, dst any) error {
	return c.do(ctx, request{method: http.MethodPost, path: path, body: jsonBody(body), media: mediaJSON}, dst)
}

func (c *Client) put(ctx context.Context, path string, body, dst any) error {
	return c.do(ctx, request{method: http.MethodPut, path: path, body: jsonBody(body), media: mediaJSON}, dst)
}

func at(parts ...string) string {
	var p strings.Builder
	p.WriteString("/api")
	for _, part := range parts {
		p.WriteString("/" + url.PathEscape(part))
	}
	return p.String()
}

// Page asks for a part of a list. Zero = the first 100.
type Page struct {
	After string
	Limit int
}

func (p Page) query(q url.Values) url.Values {
	if q == nil {
		q = url.Values{}
	}
	if p.After != "" {
		q.Set("after", p.After)
	}
	if p.Limit > 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	return q
}

// Whoami tells who the caller is.
func (c *Client) Whoami(ctx context.Context) (out Whoami, err error) {
	return out, c.get(ctx, "/api/whoami", nil, &out)
}

// Status tells the state of the deployment.
func (c *Client) Status(ctx context.Context) (out Status, err error) {
	return out, c.get(ctx, "/api/status", nil, &out)
}

// Doctor looks for what will not work or is dangerous.
func (c *Client) Doctor(ctx context.Context) (out Doctor, err error) {
	return out, c.get(ctx, "/api/doctor", nil, &out)
}

// People lists people in order of name.
func (c *Client) People(ctx context.Context, p Page) (out List[Person], err error) {
	return out, c.get(ctx, "/api/people", p.query(nil), &out)
}

// AddPerson adds a person and returns a single-use login code for them.
func (c *Client) AddPerson(ctx context.Context, in AddPerson) (out PersonCode, err error) {
	return out, c.post(ctx, "/api/people", in, &out)
}

// SuspendPerson stops a person at once.
func (c *Client) SuspendPerson(ctx context.Context, name, reason string) (out Person, err error) {
	return out, c.post(ctx, at("people", name, "suspend"), Reason{reason}, &out)
}

// ResumePerson lets a suspended person act again.
func (c *Client) ResumePerson(ctx context.Context, name, reason string) (out Person, err error) {
	return out, c.post(ctx, at("people", name, "resume"), Reason{reason}, &out)
}

// PersonCode makes another single-use login code, to bind one more key.
func (c *Client) PersonCode(ctx context.Context, name string) (out PersonCode, err error) {
	return out, c.post(ctx, at("people", name, "code"), struct{}{}, &out)
}

// Types lists agent types in order of name.
func (c *Client) Types(ctx context.Context, p Page) (out List[identity.Type], err error) {
	return out, c.get(ctx, "/api/types", p.query(nil), &out)
}

// PutType makes or replaces an agent type.
func (c *Client) PutType(ctx context.Context, name string, in PutType) (out identity.Type, err error) {
	return out, c.put(ctx, at("types", name), in, &out)
}

// Agents lists agents in order of name.
func (c *Client) Agents(ctx context.Context, p Page) (out List[identity.Agent], err error) {
	return out, c.get(ctx, "/api/agents", p.query(nil), &out)
}

// Agent returns one agent by name or identifier.
func (c *Client) Agent(ctx context.Context, name string) (out identity.Agent, err error) {
	return out, c.get(ctx, at("agents", name), nil, &out)
}

// Register registers an agent.
func (c *Client) Register(ctx context.Context, in Register) (out identity.Agent, err error) {
	return out, c.post(ctx, "/api/agents", in, &out)
}

// JoinCode makes a single-use code with which one new instance of the agent enrols.
func (c *Client) JoinCode(ctx context.Context, name string) (out JoinCode, err error) {
	return out, c.post(ctx, at("agents", name, "join-code"), struct{}{}, &out)
}

// SuspendAgent stops an agent, its runs and grants at once.
func (c *Client) SuspendAgent(ctx context.Context, name, reason string) (out identity.Agent, err error) {
	return out, c.post(ctx, at("agents", name, "suspend"), Reason{reason}, &out)
}

// ResumeAgent lets a suspended agent act again.
func (c *Client) ResumeAgent(ctx context.Context, name, reason string) (out identity.Agent, err error) {
	return out, c.post(ctx, at("agents", name, "resume"), Reason{reason}, &out)
}

// RetireAgent ends an agent for good. Its name is never used again.
func (c *Client) RetireAgent(ctx context.Context, name, reason string) (out identity.Agent, err error) {
	return out, c.post(ctx, at("agents", name, "retire"), Reason{reason}, &out)
}

// Instances lists the enrolled copies of an agent.
func (c *Client) Instances(ctx context.Context, agent string, p Page) (out List[identity.Instance], err error) {
	return out, c.get(ctx, at("agents", agent, "instances"), p.query(nil), &out)
}

// RevokeInstance ends one enrolled copy for good.
func (c *Client) RevokeInstance(ctx context.Context, instance, reason string) (out identity.Instance, err error) {
	return out, c.post(ctx, at("instances", instance, "revoke"), Reason{reason}, &out)
}

// RunQuery narrows a list of runs; zero fields match everything.
type RunQuery struct {
	Agent, State string
	Page
}

// Runs lists runs, newest first.
func (c *Client) Runs(ctx context.Context, q RunQuery) (out List[run.Run], err error) {
	return out, c.get(ctx, "/api/runs", q.query(only("agent", q.Agent, "state", q.State)), &out)
}

// Run returns one run.
func (c *Client) Run(ctx context.Context, id string) (out run.Run, err error) {
	return out, c.get(ctx, at("runs", id), nil, &out)
}

// OpenRun opens a run for an agent under the caller's key, so that its purpose and plan count.
func (c *Client) OpenRun(ctx context.Context, in OpenRun) (out run.Run, err error) {
	return out, c.post(ctx, "/api/runs", in, &out)
}

// EndRun ends a run, its children, and everything they had.
func (c *Client) EndRun(ctx context.Context, id, reason string) (out run.Run, err error) {
	return out, c.post(ctx, at("runs", id, "end"), Reason{reason}, &out)
}

// GrantQuery narrows a list of grants; zero fields match everything.
type GrantQuery struct {
	Run, Agent, State string
	Page
}

// Grants lists grants, newest first.
func (c *Client) Grants(ctx context.Context, q GrantQuery) (out List[grant.Grant], err error) {
	return out, c.get(ctx, "/api/grants", q.query(only("run", q.Run, "agent", q.Agent, "state", q.State)), &out)
}

// RunGrants lists the grants of a run.
func (c *Client) RunGrants(ctx context.Context, run string, p Page) (out List[grant.Grant], err error) {
	return out, c.get(ctx, at("runs", run, "grants"), p.query(nil), &out)
}

// AskGrant asks ahead for one exact call of a run.
func (c *Client) AskGrant(ctx context.Context, run string, in AskGrant) (out GrantAnswer, err error) {
	return out, c.post(ctx, at("runs", run, "grants"), in, &out)
}

// RevokeGrant takes a grant back.
func (c *Client) RevokeGrant(ctx context.Context, id, reason string) (out grant.Grant, err error) {
	return out, c.post(ctx, at("grants", id, "revoke"), Reason{reason}, &out)
}

// only makes a query of the pairs whose value is not empty.
func only(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}
