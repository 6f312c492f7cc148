// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"encoding/json"
	"time"

	"chaperone/internal/catalog"
	"chaperone/internal/id"
	"chaperone/internal/identity"
)

// Methods that are not in any body: the road needs a name for every request.
const (
	MethodStream  = "session/stream" // GET: the server's own stream of a session (2025-11-25)
	MethodEnd     = "session/end"    // DELETE: the end of a session (2025-11-25)
	MethodReply   = "reply"          // POST of a response: the client answers a request that the server sent
	MethodCall    = "tools/call"
	MethodPrompt  = "prompts/get"
	MethodRead    = "resources/read"
	MethodTools   = "tools/list"
	MethodPrompts = "prompts/list"
)

// Request is what the agents' door has formed of one HTTP request (step 1). The door has parsed the body strictly and once, and
// has compared its headers with it; it decides nothing else.
type Request struct {
	Presented identity.Presented
	Server    string // the name in the path
	Era       string // protocol version the caller speaks, "2025-11-25" or "2026-07-28"
	Method    string // JSON-RPC method, or one of the constants above
	// Kind and Name say what is called: a tool, a prompt, or a resource by its URI. Kind is "" for every other method.
	Kind catalog.ItemKind
	Name string
	// Arguments are the raw arguments of a tool or prompt; for a resource {"uri": ...}; empty for all else, and then counts as {}.
	Arguments json.RawMessage
	// ID is the request's id in canonical JSON (message.ID), "" for a notification or a reply.
	ID string
	// Notification is set when the body has no id, so that no result is owed.
	Notification bool
	// Reply is the id, in canonical JSON (message.ID), of the server's request that a MethodReply answers.
	Reply string
	// Task is the task id that the method names (tasks/get, tasks/result, tasks/cancel, tasks/update), "" for none.
	Task string
	Body []byte // the original bytes, forwarded as they are
	// Header holds what may be passed on to the upstream. Credentials are dropped again in step 9.
	Header     map[string][]string
	HTTPMethod string // POST, GET or DELETE
	// Session is the upstream's own session id, unwrapped by the door; SessionRun is the run that the door wrapped with it.
	Session    string
	SessionRun id.Run
	// RequestState is the requestState of a retry, as the road minted it (2026-07-28).
	RequestState string
	// Agree, if set, holds what only the door has seen of a tool call (its Mcp-Param-* headers, the spelling of its arguments) against
	// the pinned definition. Step 4 calls it. Faults: Invalid header_mismatch, argument_case.
	Agree func(definition []byte) error
	// CanElicit is set when the caller can be asked to open a link.
	CanElicit bool
	Remote    string        // the caller's address, no port
	Wait      time.Duration // how long an approval may be waited for on the socket, at most 55 s; 0 = not at all
}

// Verdict is how a request ended.
type Verdict string

// The verdicts. Released: every message of the answer went through the Sink. Denied: policy, catalogue, budget or an approver said
// no; it is on the record and no error is returned. Pending: an approval is awaited. Failed: an error is returned beside it.
const (
	Released Verdict = "released"
	Denied   Verdict = "denied"
	Pending  Verdict = "pending"
	Failed   Verdict = "failed"
)

// CodeNotListed is the one answer for what the caller may not see and for what does not exist.
const CodeNotListed = "not_listed"

// Outcome is what the door answers with when the verdict is not Released. When Code is not_listed the answer must not depend on
// anything but the request itself: Rule and Reason are empty then, and the true reason is on the record only.
type Outcome struct {
	Verdict Verdict
	Code    string
	Rule    string // the @id of the determining rule
	Reason  string // its @reason, for people
	Fix     string // the next step, for people
	// Listed is set when the caller may know that the thing exists.
	Listed   bool
	Decision id.Decision
	Run      id.Run
	Step     id.Step
	Approval *Waiting
	// RequestState is minted with Pending for a caller that repeats the call with it (2026-07-28).
	RequestState string
	// Begun is set when a message of the answer was already released, so that the refusal must travel on the same stream.
	Begun bool
}

// Waiting is the approval that a pending call hangs on.
type Waiting struct {
	ID       id.Approval
	Link     string // the page that names the command; shows no payload
	NotAfter time.Time
	State    string
}

// Message is one message on its way to the caller (step 12). Raw is nil for an answer without a body and for stream events that
// carry no message.
type Message struct {
	Raw     []byte
	EventID string
	Event   string
	Retry   string
	// Status, Header, Stream and Session describe the upstream's answer and are the same in every message of it. Session is the
	// upstream's session id, which the door wraps with Run before it shows it.
	Status  int
	Header  map[string][]string
	Stream  bool
	Session string
	Run     id.Run
}

// Sink is the caller's end of the answer. Release is called only after the commit that covers the message is durable; an error
// means that the caller has gone, and ends the call.
type Sink interface {
	Release(Message) error
}
