// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"strings"
	"testing"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/id"
)

func TestNames(t *testing.T) {
	for _, ok := range []string{"a", "mailer", "mail-2", "0", strings.Repeat("a", 63)} {
		if err := CheckName(ok); err != nil {
			t.Errorf("%q refused: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "-a", "a-", "Mailer", "mail er", " mailer", "mailer ", "mäiler", "mailer\u200b", "a/b", "a.b", "a_b", "a\x00", strings.Repeat("a", 64), "..", "ｍailer"} {
		if err := CheckName(bad); fault.CodeOf(err) != "bad_name" {
			t.Errorf("%q: %v, want bad_name", bad, err)
		}
	}
}

func TestMove(t *testing.T) {
	legal := map[[2]State]bool{
		{Registered, Active}: true, {Registered, Suspended}: true, {Active, Suspended}: true, {Suspended, Active}: true,
		{Registered, Retired}: true, {Active, Retired}: true, {Suspended, Retired}: true,
	}
	states := []State{Registered, Active, Suspended, Retired, "", "deleted"}
	for _, from := range states {
		for _, to := range states {
			got, err := (Agent{State: from, Name: "x"}).Move(to, "because")
			if legal[[2]State{from, to}] {
				if err != nil || got.State != to || got.StateReason != "because" {
					t.Errorf("%s -> %s: %+v, %v", from, to, got, err)
				}
			} else if fault.CodeOf(err) != "illegal_transition" || !fault.Is(err, fault.Conflict) || got.State != from {
				t.Errorf("%s -> %s: %+v, %v, want illegal_transition", from, to, got, err)
			}
		}
	}
}

func TestMayAct(t *testing.T) {
	end := testNow.Add(time.Hour)
	for _, tc := range []struct {
		state State
		at    time.Time
		code  string
	}{
		{Active, testNow, ""}, {Active, end, "agent_expired"}, {Suspended, testNow, "agent_suspended"},
		{Retired, testNow, "agent_retired"}, {Registered, testNow, "agent_not_enrolled"}, {"", testNow, "agent_not_enrolled"},
	} {
		err := (Agent{State: tc.state, ExpiresAt: end}).MayAct(tc.at)
		if tc.code == "" && err != nil || tc.code != "" && (fault.CodeOf(err) != tc.code || !fault.Is(err, fault.Suspended)) {
			t.Errorf("%s at %v: %v, want %q", tc.state, tc.at, err, tc.code)
		}
	}
	if err := (Instance{RevokedAt: testNow}).MayAct(); fault.CodeOf(err) != "instance_revoked" {
		t.Errorf("revoked instance: %v", err)
	}
}

func TestAgentCheck(t *testing.T) {
	good := Agent{Name: "mailer", Type: "office", Kind: KindAgent, Owner: "ada", Purpose: "reads mail", State: Registered, CreatedAt: testNow, ExpiresAt: testNow.Add(time.Hour)}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for code, change := range map[string]func(*Agent){
		"bad_name":         func(a *Agent) { a.Type = "Office" },
		"bad_kind":         func(a *Agent) { a.Kind = "human" },
		"no_owner":         func(a *Agent) { a.Owner = "" },
		"no_purpose":       func(a *Agent) { a.Purpose = " " },
		"too_long":         func(a *Agent) { a.Purpose = strings.Repeat("x", MaxPurpose+1) },
		"bad_orchestrator": func(a *Agent) { a.Orchestrator = true },
		"bad_state":        func(a *Agent) { a.State = "new" },
		"bad_expiry":       func(a *Agent) { a.ExpiresAt = testNow },
	} {
		a := good
		change(&a)
		if err := a.Check(); fault.CodeOf(err) != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
	typ := Type{Name: "office", Reads: []string{"office/read_mail", "files/*"}}
	if err := typ.Check(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"office", "/x", "office/", "Office/x", "*/x", ""} {
		if err := (Type{Name: "office", Writes: []string{bad}}).Check(); fault.CodeOf(err) != "bad_tool_pattern" {
			t.Errorf("pattern %q: %v", bad, err)
		}
	}
}

func TestJoinCode(t *testing.T) {
	agent := id.NewAgent(testNow)
	plain, code := NewJoinCode(agent, "ada", testNow, 0)
	if !strings.HasPrefix(plain, "jc_") || len(plain) < 26 || code.Hash != HashCode(plain) || strings.Contains(code.Hash, plain) {
		t.Errorf("%s %+v", plain, code)
	}
	if code.ExpiresAt.Sub(testNow) != DefaultCodeLife {
		t.Errorf("lives %v", code.ExpiresAt.Sub(testNow))
	}
	if _, long := NewJoinCode(agent, "ada", testNow, 48*time.Hour); long.ExpiresAt.Sub(testNow) > MaxCodeLife {
		t.Errorf("a code of two days was made")
	}
}

func TestSPIFFE(t *testing.T) {
	const td = "chaperone.internal"
	ins := id.NewInstance(testNow)
	name, got, err := ParseInstanceSPIFFE(td, InstanceSPIFFE(td, "mailer", ins))
	if err != nil || name != "mailer" || got != ins {
		t.Errorf("%s %s %v", name, got, err)
	}
	if name, err := ParsePersonSPIFFE(td, PersonSPIFFE(td, "ada.l")); err != nil || name != "ada.l" {
		t.Errorf("%s %v", name, err)
	}
	if name, err := ParseAgentSPIFFE(td, AgentSPIFFE(td, "mailer")); err != nil || name != "mailer" {
		t.Errorf("%s %v", name, err)
	}
	i := ins.String()
	for _, bad := range []string{
		"", "spiffe://", "spiffe://" + td, "spiffe://" + td + "/", "https://" + td + "/agent/mailer/" + i,
		"SPIFFE://" + td + "/agent/mailer/" + i, "spiffe://Chaperone.internal/agent/mailer/" + i,
		"spiffe://" + td + ":443/agent/mailer/" + i, "spiffe://u@" + td + "/agent/mailer/" + i,
		"spiffe://" + td + "/agent/mailer/" + i + "/", "spiffe://" + td + "/agent/mailer/" + i + "?q", "spiffe://" + td + "/agent/mailer/" + i + "#f",
		"spiffe://" + td + "//agent/mailer/" + i, "spiffe://" + td + "/agent/./mailer/" + i, "spiffe://" + td + "/agent/../agent/mailer/" + i,
		"spiffe://" + td + "/agent/mail%65r/" + i, "spiffe://" + td + "/agent/Mailer/" + i, "spiffe://" + td + "/person/mailer/" + i,
		"spiffe://" + td + "/agent/mailer/" + strings.ToUpper(i), "spiffe://" + td + "/agent/mailer/run_" + i[4:],
		"spiffe://other.internal/agent/mailer/" + i, "spiffe://" + td + ".evil/agent/mailer/" + i,
		" spiffe://" + td + "/agent/mailer/" + i, "spiffe://" + td + "/agent/mailer/" + i + "\n",
		"spiffe://" + td + "/agent/" + strings.Repeat("a", 3000) + "/" + i,
	} {
		if _, _, err := ParseInstanceSPIFFE(td, bad); fault.CodeOf(err) != "bad_spiffe_id" {
			t.Errorf("%q: %v, want bad_spiffe_id", bad, err)
		}
	}
	for _, bad := range []string{"", "Chaperone", "a/b", "a:1", "a b", strings.Repeat("a", 256)} {
		if err := CheckTrustDomain(bad); fault.CodeOf(err) != "bad_trust_domain" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestVerifiedForgetsWithdrawnKeys(t *testing.T) {
	issuer, next := newTestKey(t), newTestKey(t)
	raw, err := MintAccess(issuer, testCredential(next.JKT()))
	if err != nil {
		t.Fatal(err)
	}
	v := NewVerified(2)
	if _, err := v.Access([]PublicKey{issuer.Public()}, raw, testIssuer, testAudience, testNow); err != nil {
		t.Fatal(err)
	}
	for want, call := range map[string]func() error{
		"bad_credential": func() error {
			_, err := v.Access([]PublicKey{next.Public()}, raw, testIssuer, testAudience, testNow)
			return err
		},
		"wrong_audience": func() error {
			_, err := v.Access([]PublicKey{issuer.Public()}, raw, testIssuer, testIssuer+"/api", testNow)
			return err
		},
		"wrong_issuer": func() error {
			_, err := v.Access([]PublicKey{issuer.Public()}, raw, "https://x", testAudience, testNow)
			return err
		},
		"credential_expired": func() error {
			_, err := v.Access([]PublicKey{issuer.Public()}, raw, testIssuer, testAudience, testNow.Add(MaxCredentialLife))
			return err
		},
	} {
		if err := call(); fault.CodeOf(err) != want {
			t.Errorf("remembered token: %v, want %s", err, want)
		}
	}
	for range 10 { // bounded
		c := testCredential(next.JKT())
		raw, err := MintAccess(issuer, c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Access([]PublicKey{issuer.Public()}, raw, testIssuer, testAudience, testNow); err != nil {
			t.Fatal(err)
		}
	}
	if len(v.hot) > 2 {
		t.Errorf("%d tokens are remembered", len(v.hot))
	}
}
