// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"reflect"
	"slices"
	"strings"
)

// The types of events. What agents did:
const (
	AgentEnrolled     = "agent.enrolled"
	EnrolmentRefused  = "enrolment.refused"
	CredentialIssued  = "credential.issued"
	CredentialRefused = "credential.refused"
	CredentialRevoked = "credential.revoked"
	RunOpened         = "run.opened"
	RunContinued      = "run.continued"
	RunEnded          = "run.ended"
	CallDecided       = "call.decided"
	CallIntent        = "call.intent"
	CallOutcome       = "call.outcome"
	CallRefused       = "call.refused"
	LabelJoined       = "label.joined"
	GrantRequested    = "grant.requested"
	GrantActivated    = "grant.activated"
	GrantUsed         = "grant.used"
	GrantReleased     = "grant.released"
	GrantExpired      = "grant.expired"
	GrantRevoked      = "grant.revoked"
	ApprovalRequested = "approval.requested"
	ApprovalConsumed  = "approval.consumed"
	ApprovalExpired   = "approval.expired"
	ApprovalCancelled = "approval.cancelled"
	DefinitionDrifted = "definition.drifted"
	SecretEchoed      = "secret.echoed"
	SessionOpened     = "session.opened"
	SessionEnded      = "session.ended"
)

// What people and the system did:
const (
	PersonAdded             = "person.added"
	PersonChanged           = "person.changed"
	PersonSuspended         = "person.suspended"
	PersonResumed           = "person.resumed"
	PersonKeyBound          = "person.key_bound"
	PersonCredentialIssued  = "person.credential_issued"
	PersonCredentialRefused = "person.credential_refused"
	PersonCredentialRevoked = "person.credential_revoked"
	LoginCodeMade           = "login.code_made"
	LoginRefused            = "login.refused"
	TypeApplied             = "type.applied"
	AgentRegistered         = "agent.registered"
	AgentChanged            = "agent.changed"
	AgentSuspended          = "agent.suspended"
	AgentResumed            = "agent.resumed"
	AgentRetired            = "agent.retired"
	AgentJoinCodeMade       = "agent.join_code_made"
	InstanceRevoked         = "instance.revoked"
	RunOpenedForAgent       = "run.opened_for_agent"
	RunEndedByPerson        = "run.ended_by_person"
	GrantRevokedByPerson    = "grant.revoked_by_person"
	ApprovalDecided         = "approval.decided"
	PolicyApplied           = "policy.applied"
	PolicyRefused           = "policy.refused"
	ServerPut               = "server.put"
	ServerPinned            = "server.pinned"
	CatalogApplied          = "catalog.applied"
	SecretPut               = "secret.put"
	SecretDeleted           = "secret.deleted"
	AuditExported           = "audit.exported"
	PartsErased             = "parts.erased"
	AccessDenied            = "access.denied"
	SystemStarted           = "system.started"
	SystemStopped           = "system.stopped"
	SystemClockStepped      = "system.clock_stepped"
	RestoreAccepted         = "restore.accepted"
	OperatorsReset          = "operators.reset"
)

// Type is one row of the vocabulary. Forms are the Go types that Data may have; none means any struct whose JSON is an object.
type Type struct {
	Name   string
	Stream Stream
	Says   string
	Forms  []reflect.Type
}

// vocabulary is read only.
var vocabulary = table()

// Types returns the vocabulary in the order of docs/events.md: the agents' stream first. Every type belongs to one stream only.
func Types() []Type { return slices.Clone(vocabulary) }

func table() []Type {
	call, decided := reflect.TypeFor[Call](), reflect.TypeFor[Decided]()
	restored, erased := reflect.TypeFor[Restored](), reflect.TypeFor[Erased]()
	agents := []Type{
		{Name: AgentEnrolled, Says: "A new instance bound its own key with a join code."},
		{Name: EnrolmentRefused, Says: "A join code was absent, used, or too old."},
		{Name: CredentialIssued, Says: "A key-bound credential was issued to an instance, for one audience and one run."},
		{Name: CredentialRefused, Says: "A credential was asked for and refused."},
		{Name: CredentialRevoked, Says: "An agent gave a credential back, or its run ended and took it along."},
		{Name: RunOpened, Says: "A run was opened by an agent's own key, or by an orchestrator for another agent."},
		{Name: RunContinued, Says: "An instance took up a run that was opened for it."},
		{Name: RunEnded, Says: "A run ended, expired or was stopped by its budget; every grant and credential in it is dead."},
		{Name: CallDecided, Says: "A call was decided. The part `request` holds all that the decision looked at.", Forms: []reflect.Type{decided, call}},
		{Name: CallIntent, Says: "An effect is about to be forwarded; durable before the first byte goes out.", Forms: []reflect.Type{call}},
		{Name: CallOutcome, Says: "What came of a call; durable before the answer is released.", Forms: []reflect.Type{call}},
		{Name: CallRefused, Says: "A call was refused, by policy or before policy was asked.", Forms: []reflect.Type{call}},
		{Name: LabelJoined, Says: "A run's label grew."},
		{Name: GrantRequested, Says: "A grant was asked for."},
		{Name: GrantActivated, Says: "A grant may be used."},
		{Name: GrantUsed, Says: "A grant was spent on its one call."},
		{Name: GrantReleased, Says: "The call of a grant is over."},
		{Name: GrantExpired, Says: "A grant came to its end unused."},
		{Name: GrantRevoked, Says: "A grant was taken back with its run, agent or credential."},
		{Name: ApprovalRequested, Says: "A call waits for people. The part `binding` holds what they are shown."},
		{Name: ApprovalConsumed, Says: "An approval was used, in the commit of the grant it allows."},
		{Name: ApprovalExpired, Says: "An approval came to its end unused."},
		{Name: ApprovalCancelled, Says: "An approval was closed because its run, agent or definition is no more what was shown."},
		{Name: DefinitionDrifted, Says: "A server's definition differs from the pinned one and is refused until somebody pins it again."},
		{Name: SecretEchoed, Says: "An upstream sent its own credential back; it was redacted."},
		{Name: SessionOpened, Says: "An agent opened a protocol session with a server."},
		{Name: SessionEnded, Says: "A protocol session ended."},
	}
	people := []Type{
		{Name: PersonAdded, Says: "A person was added, with roles and groups."},
		{Name: PersonChanged, Says: "A person's roles or groups changed."},
		{Name: PersonSuspended, Says: "A person was suspended; their credentials are dead."},
		{Name: PersonResumed, Says: "A suspended person may act again."},
		{Name: PersonKeyBound, Says: "A person bound a key with a login code."},
		{Name: PersonCredentialIssued, Says: "A key-bound credential was issued to a person."},
		{Name: PersonCredentialRefused, Says: "A person's credential was asked for and refused."},
		{Name: PersonCredentialRevoked, Says: "A person's credential was given back or revoked."},
		{Name: LoginCodeMade, Says: "A single-use login code was made; only its hash is kept."},
		{Name: LoginRefused, Says: "A login code was absent, used, or too old."},
		{Name: TypeApplied, Says: "An agent type was put in place."},
		{Name: AgentRegistered, Says: "An agent was registered, with owner and purpose."},
		{Name: AgentChanged, Says: "An agent's entry changed."},
		{Name: AgentSuspended, Says: "An agent was suspended; its credentials and grants are dead."},
		{Name: AgentResumed, Says: "A suspended agent may act again."},
		{Name: AgentRetired, Says: "An agent was retired for good; its name is never used again."},
		{Name: AgentJoinCodeMade, Says: "A single-use join code was made; only its hash is kept."},
		{Name: InstanceRevoked, Says: "An instance's key is dead."},
		{Name: RunOpenedForAgent, Says: "A person opened a run for an agent, by their own key."},
		{Name: RunEndedByPerson, Says: "A person ended a run."},
		{Name: GrantRevokedByPerson, Says: "A person took a grant back."},
		{Name: ApprovalDecided, Says: "A person approved or denied what they were shown."},
		{Name: PolicyApplied, Says: "A policy bundle was put in force."},
		{Name: PolicyRefused, Says: "A policy bundle did not validate; the old one stays."},
		{Name: ServerPut, Says: "An upstream server was registered or changed."},
		{Name: ServerPinned, Says: "A server's definitions were approved and pinned."},
		{Name: CatalogApplied, Says: "Catalogue entries were put in place."},
		{Name: SecretPut, Says: "An upstream secret was set. The record never holds it."},
		{Name: SecretDeleted, Says: "An upstream secret was removed."},
		{Name: AuditExported, Says: "The record was exported."},
		{Name: PartsErased, Says: "Parts of older records were erased; their digests stay. An erasure that no event declares is a finding.", Forms: []reflect.Type{erased}},
		{Name: AccessDenied, Says: "A person's or agent's request to the API was denied by policy."},
		{Name: SystemStarted, Says: "The program started."},
		{Name: SystemStopped, Says: "The program stopped in order."},
		{Name: SystemClockStepped, Says: "The wall clock stepped back; issuing stopped."},
		{Name: RestoreAccepted, Says: "An operator accepted a database older than its log. Names the lost range of positions.", Forms: []reflect.Type{restored}},
		{Name: OperatorsReset, Says: "The operators were reset offline, with the sealing key."},
	}
	for i := range agents {
		agents[i].Stream = Agents
	}
	for i := range people {
		people[i].Stream = People
	}
	return append(agents, people...)
}

// StreamOf returns the stream of an event type; ok is false for a type that is not in the vocabulary.
func StreamOf(name string) (s Stream, ok bool) {
	t, ok := typeOf(name)
	return t.Stream, ok
}

func typeOf(name string) (Type, bool) {
	if i := slices.IndexFunc(vocabulary, func(t Type) bool { return t.Name == name }); i >= 0 {
		return vocabulary[i], true
	}
	return Type{}, false
}

// fits reports whether Data may be the data of the type.
func (t Type) fits(data any) bool {
	if len(t.Forms) == 0 {
		return true
	}
	got := reflect.TypeOf(data)
	if got != nil && got.Kind() == reflect.Pointer {
		got = got.Elem()
	}
	return slices.Contains(t.Forms, got)
}

func (t Type) forms() string {
	names := make([]string, len(t.Forms))
	for i, f := range t.Forms {
		names[i] = "audit." + f.Name()
	}
	return strings.Join(names, " or ")
}
