// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"encoding/json"

	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/secret"
)

// Upstream is the far side (upstream.Client, behind app.FarSide). Its faults name what went wrong: upstream_unavailable,
// upstream_redirect, upstream_bad_message, ... It injects towards the injection's own server only, follows no redirect, and takes
// echoes of the credential out of what comes back.
type Upstream interface {
	Forward(ctx context.Context, o Outgoing) (Exchange, error)
	Definitions(ctx context.Context, s catalog.Server, in secret.Injection) ([]Definition, error)
}

// Outgoing is one request on its way to a server.
type Outgoing struct {
	Server    catalog.Server
	Injection secret.Injection
	Method    string // POST, GET or DELETE
	Header    map[string][]string
	Session   string // the upstream's own session id
	Body      []byte
}

// Exchange is the answer under way. Next returns io.EOF after the last message; Close ends it at any time.
type Exchange interface {
	Answer() Answer
	Next() (Incoming, error)
	Close() error
}

// Answer is what is known of an answer before its first message.
type Answer struct {
	Status  int
	Stream  bool
	Session string
	Header  map[string][]string
}

// Incoming is one message of the answer in its original bytes, and parsed. Raw is nil for a stream event without a message.
// Redacted counts the echoes of the credential that were taken out.
type Incoming struct {
	Raw      []byte
	Doc      *canon.Node
	EventID  string
	Event    string
	Retry    string
	Redacted int
}

// Definition is one thing that a server says it has, in its original bytes. Kind server and no name is the server itself.
type Definition struct {
	Kind catalog.ItemKind
	Name string
	Raw  json.RawMessage
}

// SelfDefinition is the definition that is pinned for a server itself: canonical JSON of {endpoint, instructions, serverInfo}.
func SelfDefinition(endpoint, instructions string, serverInfo json.RawMessage) (json.RawMessage, error) {
	if serverInfo == nil {
		serverInfo = json.RawMessage("null")
	}
	return canon.Marshal(struct {
		Endpoint     string          `json:"endpoint"`
		Instructions string          `json:"instructions"`
		ServerInfo   json.RawMessage `json:"serverInfo"`
	}{endpoint, instructions, serverInfo})
}
