// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"time"

	"chaperone/internal/approval"
	"chaperone/internal/catalog"
	"chaperone/internal/grant"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/run"
	"chaperone/internal/secret"
)

// List is the shape of every list. Next is what to pass as "after" for the following page, empty on the last one.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
}

// Problem is the body of every refusal (RFC 9457). Type is "urn:chaperone:problem:" and the fault's kind; Code is stable.
type Problem struct {
	Type     string           `json:"type"`
	Title    string           `json:"title"`
	Status   int              `json:"status"`
	Detail   string           `json:"detail,omitempty"`
	Code     string           `json:"code"`
	Fix      string           `json:"fix,omitempty"`
	Instance string           `json:"instance,omitempty"`
	Rule     string           `json:"rule,omitempty"`     // the policy rule that decided, when one did
	Decision string           `json:"decision,omitempty"` // for chaperone explain
	Problems []policy.Problem `json:"problems,omitempty"` // of a policy that was refused
}

// AddPerson asks for a new person. Roles are operator, approver, auditor.
type AddPerson struct {
	Name   string        `json:"name"`
	Email  string        `json:"email,omitempty"`
	Roles  []people.Role `json:"roles"`
	Groups []string      `json:"groups,omitempty"`
}

// Person is a person as lists show them, with the thumbprints of their keys.
type Person struct {
	ID        id.Person     `json:"id"`
	Name      string        `json:"name"`
	Email     string        `json:"email,omitempty"`
	Roles     []people.Role `json:"roles"`
	Groups    []string      `json:"groups,omitempty"`
	Suspended bool          `json:"suspended"`
	Keys      []PersonKey   `json:"keys"`
	CreatedAt time.Time     `json:"created_at"`
	CreatedBy string        `json:"created_by"`
}

// PersonKey is a key that speaks for a person.
type PersonKey struct {
	JKT     string    `json:"jkt"`
	Profile string    `json:"profile,omitempty"`
	BoundAt time.Time `json:"bound_at"`
}

// PersonCode is a person with a single-use login code, shown once.
type PersonCode struct {
	Person    Person    `json:"person"`
	Code      string    `json:"code"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Reason is the body of suspend, resume, retire, revoke and end.
type Reason struct {
	Reason string `json:"reason,omitempty"`
}

// PutType is the body of a type; its name is in the path.
type PutType struct {
	Description string   `json:"description,omitempty"`
	Reads       []string `json:"reads,omitempty"`
	Writes      []string `json:"writes,omitempty"`
}

// Register asks for a new agent. Its end is ExpiresAt, or ExpiresIn seconds from now, or 90 days from now.
type Register struct {
	Name         string             `json:"name"`
	Type         string             `json:"type"`
	Kind         identity.AgentKind `json:"kind,omitempty"` // agent by default
	Owner        string             `json:"owner"`
	Purpose      string             `json:"purpose"`
	Environment  string             `json:"environment,omitempty"`
	Orchestrator bool               `json:"orchestrator,omitempty"`
	ExpiresAt    time.Time          `json:"expires_at,omitzero"`
	ExpiresIn    int64              `json:"expires_in,omitempty"`
}

// JoinCode lets one new instance of the agent enrol, once. It is shown once.
type JoinCode struct {
	Agent     string    `json:"agent"`
	Code      string    `json:"code"`
	ExpiresAt time.Time `json:"expires_at"`
}

// OpenRun asks to open a run for an agent, under the caller's key.
type OpenRun struct {
	Agent   string         `json:"agent"`
	Purpose string         `json:"purpose"`
	Plan    []run.PlanStep `json:"plan,omitempty"`
	Budgets run.Budgets    `json:"budgets,omitzero"`
	Parent  string         `json:"parent,omitempty"`
}

// AskGrant asks ahead for one exact call.
type AskGrant struct {
	Server    string          `json:"server"`
	Tool      string          `json:"tool"`
	Arguments json.RawMessage `json:"arguments"`
}

// GrantAnswer is what came of asking ahead: State is active, or requested while an approval is awaited (Approval is set then).
// A refusal is a Problem.
type GrantAnswer struct {
	State    string           `json:"state"`
	Grant    *grant.Grant     `json:"grant,omitempty"`
	Approval *PendingApproval `json:"approval,omitempty"`
	Decision string           `json:"decision,omitempty"`
	Reason   string           `json:"reason,omitempty"`
}

// PendingApproval names what people still have to decide.
type PendingApproval struct {
	ID       id.Approval `json:"id"`
	Link     string      `json:"link"`
	State    string      `json:"state"`
	NotAfter time.Time   `json:"not_after"`
}

// Approval is an approval with whether the caller may decide it, and if not, why. Call.Arguments is the exact payload in
// canonical JSON: it is never cut.
type Approval struct {
	approval.Approval
	Link   string `json:"link"`
	May    bool   `json:"may_decide"`
	Why    string `json:"why_not,omitempty"`      // in words
	WhyNot string `json:"why_not_code,omitempty"` // approval_closed, approval_excluded_owner, ...
}

// Decide is a person's word on an approval. BindingDigest is what they saw; the answer refuses another.
type Decide struct {
	Verdict       approval.Verdict `json:"verdict"`
	Reason        string           `json:"reason,omitempty"`
	BindingDigest string           `json:"binding_digest"`
	Channel       string           `json:"channel,omitempty"` // cli | api
}

// BundleInfo is one version of the policies, without its files.
type BundleInfo struct {
	ID      id.Bundle `json:"id"`
	Version int64     `json:"version"`
	Digest  string    `json:"digest"`
	Author  string    `json:"author"`
	At      time.Time `json:"at"`
	Note    string    `json:"note,omitempty"`
	Active  bool      `json:"active"`
}

// ApplyPolicy replaces the whole bundle. Base, when not zero, is the version the files were made from: another active
// version refuses them.
type ApplyPolicy struct {
	Files map[string]string `json:"files"`
	Note  string            `json:"note,omitempty"`
	Base  int64             `json:"base,omitempty"`
}

// Checked is what a check of policy files found.
type Checked struct {
	OK       bool             `json:"ok"`
	Problems []policy.Problem `json:"problems"`
}

// PutServer is the body of a server; its name is in the path. Create refuses a name that is taken.
type PutServer struct {
	URL           string `json:"url"`
	AllowLoopback bool   `json:"allow_loopback,omitempty"`
	TLSName       string `json:"tls_name,omitempty"`
	TLSCA         string `json:"tls_ca,omitempty"`
	Mode          string `json:"mode,omitempty"`
	Disabled      bool   `json:"disabled,omitempty"`
	Create        bool   `json:"create,omitempty"`
}

// PinRequest shows (neither Accept nor All) or accepts definitions. Accept names items as "tool:send_mail", "server:". Expect,
// when set, is the digest of the shown set: definitions that moved since are refused.
type PinRequest struct {
	Accept []string `json:"accept,omitempty"`
	All    bool     `json:"all,omitempty"`
	Expect string   `json:"expect,omitempty"`
}

// PinAnswer is what the server offers now against what is pinned. Digest names the shown set.
type PinAnswer struct {
	Server string    `json:"server"`
	Digest string    `json:"digest"`
	Items  []PinItem `json:"items"`
}

// PinItem is one definition. State is new, same, changed, quarantined or gone; Accepted says that it was pinned (or, when
// gone, removed) by this request.
type PinItem struct {
	Item     string          `json:"item"`
	State    string          `json:"state"`
	Digest   string          `json:"digest,omitempty"` // of what the server offers
	Pinned   string          `json:"pinned,omitempty"` // digest of what is pinned
	Raw      json.RawMessage `json:"definition,omitempty"`
	Changes  []PinChange     `json:"changes,omitempty"`
	Accepted bool            `json:"accepted,omitempty"`
}

// PinChange is one difference between the pinned definition and the offered one. Was and Is are JSON, nil for absent.
type PinChange struct {
	Path string          `json:"path"`
	Was  json.RawMessage `json:"was,omitempty"`
	Is   json.RawMessage `json:"is,omitempty"`
}

// Catalog is the catalogue as it is in force.
type Catalog struct {
	Version int64           `json:"version"`
	Items   []catalog.Entry `json:"items"`
}

// Applied is what a catalogue file changed.
type Applied struct {
	Version int64           `json:"version"`
	Items   []catalog.Entry `json:"items"`
}

// PutSecret is an upstream credential in the clear, on its way to be sealed. It is never returned.
type PutSecret struct {
	Value string       `json:"value"`
	Place secret.Place `json:"place"`
	Name  string       `json:"name,omitempty"`
	User  string       `json:"user,omitempty"`
}

// Secret is what can be told of a sealed secret.
type Secret struct {
	Server    string       `json:"server"`
	Place     secret.Place `json:"place"`
	Name      string       `json:"name,omitempty"`
	User      string       `json:"user,omitempty"`
	KeyID     string       `json:"key_id"`
	Owner     string       `json:"owner"`
	Version   int64        `json:"version"`
	UpdatedAt time.Time    `json:"updated_at"`
}

// EventQuery narrows a query of the record. Zero fields match everything. After pages by position, oldest first unless Newest.
type EventQuery struct {
	Stream   string
	Type     string
	Agent    string // name or identifier
	Run      string
	Decision string
	Approval string
	ID       string
	After    string
	Limit    int
	Newest   bool
}

// Event is one record: Leaf is the committed envelope, Parts what lies beside it.
type Event struct {
	Position int64           `json:"position"`
	ID       id.Event        `json:"id"`
	Leaf     json.RawMessage `json:"leaf"`
	Parts    []Part          `json:"parts,omitempty"`
}

// Part is matter beside a leaf: Text when it is UTF-8, Base64 otherwise, neither when it was erased.
type Part struct {
	Name   string `json:"name"`
	Text   string `json:"text,omitempty"`
	Base64 []byte `json:"base64,omitempty"`
	Erased string `json:"erased,omitempty"`
}

// Explanation tells why a decision fell as it did, from what was stored with it.
type Explanation struct {
	Decision id.Decision      `json:"decision"`
	Position int64            `json:"position"`
	At       time.Time        `json:"at"`
	Type     string           `json:"type"` // of the event
	Actor    string           `json:"actor"`
	Effect   string           `json:"effect"`
	Code     string           `json:"code,omitempty"`
	Request  *policy.Request  `json:"request,omitempty"` // nil once erased by retention
	Reasons  []ExplainedRule  `json:"reasons"`
	Missing  *policy.Missing  `json:"missing,omitempty"`
	Policy   string           `json:"policy_digest,omitempty"`
	Lift     []string         `json:"lift"` // what would turn it
	Approval id.Approval      `json:"approval,omitzero"`
	Grant    id.Grant         `json:"grant,omitzero"`
	Events   []ExplainedEvent `json:"events,omitempty"` // everything recorded under this decision, in order
}

// ExplainedRule is a determining rule in its own words. File and Text are there when the active bundle still has the rule.
type ExplainedRule struct {
	policy.Reason
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Source  string `json:"source,omitempty"`
	Changed bool   `json:"changed,omitempty"` // the active bundle has another text under this id, or none
}

// ExplainedEvent is one line of a decision's history.
type ExplainedEvent struct {
	Position int64     `json:"position"`
	Type     string    `json:"type"`
	At       time.Time `json:"at"`
}

// Finding is one thing that doctor noticed. Severity is error, warning or note.
type Finding struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	Subject  string `json:"subject,omitempty"`
	Message  string `json:"message"`
	Fix      string `json:"fix,omitempty"`
}

// Doctor is what doctor noticed; OK means no errors (there may be warnings).
type Doctor struct {
	OK    bool      `json:"ok"`
	Items []Finding `json:"items"`
}

// Whoami is who the credential says the caller is, and what the database knows of them.
type Whoami struct {
	Kind      string        `json:"kind"` // person | agent
	Name      string        `json:"name"`
	ID        string        `json:"id"`
	Subject   string        `json:"subject"`
	Roles     []people.Role `json:"roles,omitempty"`
	Groups    []string      `json:"groups,omitempty"`
	Run       string        `json:"run,omitempty"`
	JKT       string        `json:"jkt"`
	ExpiresAt time.Time     `json:"expires_at"`
}

// Status is the state of the deployment at a glance.
type Status struct {
	Version        string  `json:"version"`
	TrustDomain    string  `json:"trust_domain"`
	PublicURL      string  `json:"public_url"`
	PolicyVersion  int64   `json:"policy_version"`
	PolicyDigest   string  `json:"policy_digest"`
	CatalogVersion int64   `json:"catalog_version"`
	LogSize        int64   `json:"log_size"`
	Events         int64   `json:"events"`
	Agents         int     `json:"agents"`
	ActiveRuns     int     `json:"active_runs"`
	Pending        int     `json:"pending_approvals"`
	Ready          bool    `json:"ready"`
	Checks         []Check `json:"checks"`
}

// Check is one line of /readyz.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// Readiness is the body of /readyz.
type Readiness struct {
	Ready  bool    `json:"ready"`
	Checks []Check `json:"checks"`
}
