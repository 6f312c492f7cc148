// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"strings"

	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// maxSPIFFE is the longest SPIFFE ID in bytes, and maxTrustDomain the longest trust domain name (SPIFFE-ID §2.3).
const (
	maxSPIFFE      = 2048
	maxTrustDomain = 255
)

// AgentSPIFFE names an agent: spiffe://<td>/agent/<name>. Both parts must have been checked (CheckTrustDomain, CheckName).
func AgentSPIFFE(td, name string) string { return "spiffe://" + td + "/agent/" + name }

// InstanceSPIFFE names one running copy of an agent: spiffe://<td>/agent/<name>/<instance>. It is the OAuth client_id.
func InstanceSPIFFE(td, name string, instance id.Instance) string {
	return AgentSPIFFE(td, name) + "/" + instance.String()
}

// PersonSPIFFE names a person: spiffe://<td>/person/<name>. It is the OAuth client_id of the person's key holder.
func PersonSPIFFE(td, name string) string { return "spiffe://" + td + "/person/" + name }

// ParseAgentSPIFFE returns the agent's name. Error kind: Invalid, code "bad_spiffe_id".
func ParseAgentSPIFFE(td, s string) (name string, err error) {
	seg, err := segments("identity.ParseAgentSPIFFE", td, s)
	if err != nil {
		return "", err
	}
	if len(seg) != 2 || seg[0] != "agent" || CheckName(seg[1]) != nil {
		return "", badSPIFFE("identity.ParseAgentSPIFFE", "not of the form spiffe://"+td+"/agent/<name>")
	}
	return seg[1], nil
}

// ParseInstanceSPIFFE returns the agent's name and the instance. Error kind: Invalid, code "bad_spiffe_id".
func ParseInstanceSPIFFE(td, s string) (name string, instance id.Instance, err error) {
	const op = "identity.ParseInstanceSPIFFE"
	seg, err := segments(op, td, s)
	if err != nil {
		return "", id.Instance{}, err
	}
	if len(seg) != 3 || seg[0] != "agent" || CheckName(seg[1]) != nil {
		return "", id.Instance{}, badSPIFFE(op, "not of the form spiffe://"+td+"/agent/<name>/<instance>")
	}
	if err := instance.UnmarshalText([]byte(seg[2])); err != nil {
		return "", id.Instance{}, badSPIFFE(op, "the last segment is not an instance identifier")
	}
	return seg[1], instance, nil
}

// ParsePersonSPIFFE returns the person's name, whose form package people checks. Error kind: Invalid, code "bad_spiffe_id".
func ParsePersonSPIFFE(td, s string) (name string, err error) {
	seg, err := segments("identity.ParsePersonSPIFFE", td, s)
	if err != nil {
		return "", err
	}
	if len(seg) != 2 || seg[0] != "person" {
		return "", badSPIFFE("identity.ParsePersonSPIFFE", "not of the form spiffe://"+td+"/person/<name>")
	}
	return seg[1], nil
}

// CheckTrustDomain accepts lower-case letters, digits, dots, hyphens and underscores, 1 to 255 (SPIFFE-ID §2.1). Error kind:
// Invalid, code "bad_trust_domain".
func CheckTrustDomain(td string) error {
	ok := td != "" && len(td) <= maxTrustDomain
	for i := 0; ok && i < len(td); i++ {
		c := td[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_'
	}
	if !ok {
		return fault.New(fault.Invalid, "identity.CheckTrustDomain", "bad_trust_domain", "not a trust domain name").
			WithFix("use lower-case letters, digits, dots, hyphens and underscores, like chaperone.internal")
	}
	return nil
}

// segments checks a whole SPIFFE ID of the trust domain and returns its path segments. It accepts exactly one spelling: no
// upper-case scheme or trust domain, no user, port, query, fragment, percent sign, empty or dot segment (SPIFFE-ID §2).
func segments(op, td, s string) ([]string, error) {
	if len(s) > maxSPIFFE {
		return nil, badSPIFFE(op, "over 2048 bytes")
	}
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return nil, badSPIFFE(op, "the scheme is not spiffe")
	}
	domain, path, ok := strings.Cut(rest, "/")
	if !ok || domain != td || CheckTrustDomain(td) != nil {
		return nil, badSPIFFE(op, "not of the trust domain "+td)
	}
	seg := strings.Split(path, "/")
	for _, part := range seg {
		if part == "" || part == "." || part == ".." {
			return nil, badSPIFFE(op, "an empty or dot segment")
		}
		for i := range len(part) {
			c := part[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_') {
				return nil, badSPIFFE(op, "a character outside letters, digits, dot, hyphen and underscore")
			}
		}
	}
	return seg, nil
}

func badSPIFFE(op, msg string) *fault.Error {
	return fault.New(fault.Invalid, op, "bad_spiffe_id", "not a usable SPIFFE ID: %s", msg).
		WithFix("copy the client_id that enrolment or login printed")
}
