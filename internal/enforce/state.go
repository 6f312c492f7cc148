// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"time"

	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
)

// State is what a requestState of MCP 2026-07-28 says: whose it is, for which exact call, until when, and what the upstream itself
// gave, if anything. It is no permission: a retry with it is decided like any call.
type State struct {
	Agent    id.Agent    `json:"agent"`
	Run      id.Run      `json:"run"`
	Server   string      `json:"server"`
	Call     string      `json:"call"` // digest of action and arguments
	Approval id.Approval `json:"approval"`
	Expires  time.Time   `json:"expires"`
	Upstream string      `json:"upstream"`
}

const statePrefix = "chaperone1."

// stateLife is how long a requestState is good for when no approval bounds it.
const stateLife = time.Hour

// MintState writes the state with its HMAC-SHA-256 under the key. Error: Invalid for a state that has no canonical form.
func MintState(key []byte, s State) (string, error) {
	s.Expires = s.Expires.UTC().Truncate(time.Second)
	body, err := canon.Marshal(s)
	if err != nil {
		return "", fault.Wrap("enforce.MintState", err)
	}
	return statePrefix + base64.RawURLEncoding.EncodeToString(body) + "." + base64.RawURLEncoding.EncodeToString(stateMAC(key, body)), nil
}

// CheckState reads a state that MintState wrote with the same key. Errors, all Invalid: request_state_foreign for anything else,
// request_state_expired.
func CheckState(key []byte, raw string, now time.Time) (State, error) {
	foreign := func() (State, error) {
		return State{}, fault.New(fault.Invalid, "enforce.CheckState", "request_state_foreign", "the requestState is not one of this run").
			WithFix("make the call again without it")
	}
	rest, ok := strings.CutPrefix(raw, statePrefix)
	head, tail, dotted := strings.Cut(rest, ".")
	if !ok || !dotted || len(key) < 32 {
		return foreign()
	}
	body, err1 := base64.RawURLEncoding.Strict().DecodeString(head)
	mac, err2 := base64.RawURLEncoding.Strict().DecodeString(tail)
	if err1 != nil || err2 != nil || !hmac.Equal(mac, stateMAC(key, body)) {
		return foreign()
	}
	var s State
	if err := canon.Decode(body, canon.Limits{}, &s); err != nil {
		return foreign()
	}
	if !now.Before(s.Expires) {
		return State{}, fault.New(fault.Invalid, "enforce.CheckState", "request_state_expired", "the requestState has expired").
			WithFix("make the call again without it")
	}
	return s, nil
}

func stateMAC(key, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("chaperone requestState 1\n"))
	h.Write(body)
	return h.Sum(nil)
}

// callKey names the exact call in a requestState, beside its run.
func (c *call) callKey() string { return canon.Sum([]byte(c.action() + "\n" + c.argsDigest)) }

// mintState is the requestState that this call's repetition brings back; "" when there is no key.
func (c *call) mintState(upstream string) string {
	if len(c.cfg.StateKey) < 32 {
		return ""
	}
	s := State{
		Agent: c.agent.ID, Run: c.run.ID, Server: c.req.Server, Call: c.callKey(), Expires: c.now.Add(stateLife), Upstream: upstream,
	}
	if c.waiting != nil {
		s.Approval, s.Expires = c.waiting.ID, c.waiting.NotAfter
	}
	raw, err := MintState(c.cfg.StateKey, s)
	if err != nil {
		return ""
	}
	return raw
}

// checkState refuses a retry whose requestState was minted for another agent, run or server, or for another call.
func (c *call) checkState() *refusal {
	if c.req.RequestState == "" {
		return nil
	}
	s, err := CheckState(c.cfg.StateKey, c.req.RequestState, c.now)
	if err != nil {
		return fail(err)
	}
	if s.Agent != c.agent.ID || s.Run != c.run.ID || s.Server != c.req.Server {
		return fail(fault.New(fault.Invalid, "enforce.decide", "request_state_foreign", "the requestState is not one of this run").
			WithFix("make the call again without it"))
	}
	if s.Call != c.callKey() {
		return fail(fault.New(fault.Invalid, "enforce.decide", "request_state_other_call", "the requestState belongs to a call with other arguments").
			WithFix("make the call again without it: changed arguments are a new call"))
	}
	c.state = s
	return nil
}
