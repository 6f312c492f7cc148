// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"iter"
)

// The actions of people's requests, as policies name them (docs/policy.md).
const (
	ActPersonList    = "person.list"
	ActPersonAdd     = "person.add"
	ActPersonSuspend = "person.suspend"
	ActPersonResume  = "person.resume"
	ActPersonCode    = "person.code"

	ActTypeList      = "type.list"
	ActTypePut       = "type.put"
	ActAgentList     = "agent.list"
	ActAgentRead     = "agent.read"
	ActAgentRegister = "agent.register"
	ActAgentJoinCode = "agent.join_code"
	ActAgentSuspend  = "agent.suspend"
	ActAgentResume   = "agent.resume"
	ActAgentRetire   = "agent.retire"
	ActInstanceEnd   = "instance.revoke"

	ActRunList     = "run.list"
	ActRunRead     = "run.read"
	ActRunOpen     = "run.open"
	ActRunEnd      = "run.end"
	ActGrantList   = "grant.list"
	ActGrantAsk    = "grant.request"
	ActGrantRevoke = "grant.revoke"

	ActApprovalList   = "approval.list"
	ActApprovalRead   = "approval.read"
	ActApprovalDecide = "approval.decide"

	ActPolicyRead  = "policy.read"
	ActPolicyCheck = "policy.check"
	ActPolicyApply = "policy.apply"

	ActServerList   = "server.list"
	ActServerPut    = "server.put"
	ActServerPin    = "server.pin"
	ActCatalogRead  = "catalog.read"
	ActCatalogApply = "catalog.apply"
	ActSecretList   = "secret.list"
	ActSecretPut    = "secret.put"
	ActSecretDelete = "secret.delete"

	ActAuditRead       = "audit.read"
	ActAuditExport     = "audit.export"
	ActDecisionExplain = "decision.explain"
	ActDoctor          = "doctor.run"
	ActSelf            = "self.read"
)

// maxList bounds what one list reads when its caller names no bound.
const maxList = 1000

// collect reads a list from the store, at most most items (0 = maxList).
func collect[T any](seq iter.Seq2[T, error], most int) ([]T, error) {
	if most <= 0 || most > maxList {
		most = maxList
	}
	var out []T
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		if out = append(out, v); len(out) == most {
			break
		}
	}
	return out, nil
}

// every reads a whole list.
func every[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var out []T
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
