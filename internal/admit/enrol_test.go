// SPDX-License-Identifier: Apache-2.0

package admit_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chaperone/internal/admit"
	"chaperone/internal/audit"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/people"
	"chaperone/internal/store"
)

func (w *world) enrolWith(k *identity.Key, code string) error {
	_, _, err := w.road.Enrol(w.ctx, code, identity.Presented{Proof: w.proof(k, issuer+"/enroll", w.road.Nonce(), ""), Method: "POST", URL: issuer + "/enroll"})
	return err
}

func TestEnrol(t *testing.T) {
	w := newWorld(t)
	a := w.register("mailer")
	h := w.enrol(a)
	if h.agent.State != identity.Active || h.instance.JKT != h.key.JKT() || h.instance.EnrolledBy != "ada" || !strings.HasPrefix(h.instance.PublicJWK, `{"crv"`) {
		t.Errorf("%+v", h)
	}
	var stored identity.Agent
	w.view(func(tx store.Tx) (err error) { stored, err = tx.Registry().Agent("mailer"); return err })
	if stored.State != identity.Active {
		t.Errorf("the agent is %s", stored.State)
	}
	code := w.joinCode(a.ID)
	wantCode(t, w.enrolWith(h.key, code), "key_bound")
	wantCode(t, w.enrolWith(w.newKey(), code), "") // a refused use does not spend the code
	wantCode(t, w.enrolWith(w.newKey(), code), "join_code")
	wantCode(t, w.enrolWith(w.newKey(), "jc_WRONG"), "join_code")
	wantCode(t, w.enrolWith(w.newKey(), ""), "join_code")
	wantCode(t, w.enrolWith(w.newKey(), " "+w.joinCode(a.ID)), "join_code")
	wantCode(t, w.enrolWith(w.newKey(), strings.ToLower(w.joinCode(a.ID))), "join_code")
	old := w.joinCode(a.ID)
	w.clock.move(identity.DefaultCodeLife)
	wantCode(t, w.enrolWith(w.newKey(), old), "join_code")
	if n := count(w, audit.EnrolmentRefused); n != 7 {
		t.Errorf("%d refusals on record", n)
	}
	if n := count(w, audit.AgentEnrolled); n != 2 {
		t.Errorf("%d enrolments on record", n)
	}
	_, _, err := w.road.Enrol(t.Context(), w.joinCode(a.ID), identity.Presented{Proof: w.proof(h.key, issuer+"/enroll", "", ""), Method: "POST", URL: issuer + "/enroll"})
	wantCode(t, err, "use_dpop_nonce")
	_, _, err = w.road.Enrol(t.Context(), w.joinCode(a.ID), identity.Presented{Method: "POST", URL: issuer + "/enroll"})
	wantCode(t, err, "no_proof")
}

func TestJoinCodeOnceInParallel(t *testing.T) {
	w := newWorld(t)
	code := w.joinCode(w.register("mailer").ID)
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		k := w.newKey()
		wg.Go(func() {
			if w.enrolWith(k, code) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d instances were bound by one code", won.Load())
	}
}

func TestLoginCode(t *testing.T) {
	w := newWorld(t)
	ada := w.login("ada")
	if len(ada.person.Keys) != 1 || ada.person.Keys[0].Profile != "default" || ada.person.Keys[0].JKT != ada.key.JKT() {
		t.Errorf("%+v", ada.person)
	}
	bind := func(code, profile string, k *identity.Key) error {
		_, err := w.road.BindPerson(t.Context(), code, profile, identity.Presented{Proof: w.proof(k, issuer+"/login", w.road.Nonce(), ""), Method: "POST", URL: issuer + "/login"})
		return err
	}
	code := func() string {
		plain, c := people.NewLoginCode(ada.person.ID, "ada", w.clock.now(), 0)
		w.update(func(tx store.Tx) error { return tx.People().PutCode(c) })
		return plain
	}
	wantCode(t, bind(code(), "", ada.key), "key_bound")
	wantCode(t, bind(code(), "two words", w.newKey()), "bad_profile")
	wantCode(t, bind("lc_WRONG", "", w.newKey()), "login_code")
	one := code()
	wantCode(t, bind(one, "laptop", w.newKey()), "")
	wantCode(t, bind(one, "laptop", w.newKey()), "login_code")
	wantCode(t, w.enrolWith(w.newKey(), code()), "join_code") // a login code enrols nobody
	for range 14 {
		wantCode(t, bind(code(), "", w.newKey()), "")
	}
	wantCode(t, bind(code(), "", w.newKey()), "too_many_keys")
	w.update(func(tx store.Tx) error {
		p, err := tx.People().Person("ada")
		p.Suspended = true
		return errors.Join(err, tx.People().PutPerson(p))
	})
	wantCode(t, bind(code(), "", w.newKey()), "person_suspended")
}

func TestRefusalsDoNotFillTheRecord(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	stranger := &holder{w: w, key: w.newKey(), client: h.client}
	for range 100 {
		_, err := stranger.token(office, &admit.RunOrder{Purpose: "p"})
		wantCode(t, err, "key_mismatch")
	}
	if n := count(w, audit.CredentialRefused); n != 60 {
		t.Errorf("%d refusals of a stranger on record in a minute, want 60", n)
	}
	w.clock.move(time.Minute)
	_, err := stranger.token(office, &admit.RunOrder{Purpose: "p"})
	wantCode(t, err, "key_mismatch")
	all := w.events()
	if last := all[len(all)-1]; last.Type != audit.CredentialRefused || !strings.Contains(string(last.Data), `"left_out":40`) || last.Actor.Kind != audit.ActorSystem {
		t.Errorf("the next refusal says %s by %s", last.Data, last.Actor.Kind)
	}
}

func TestClockStepsBack(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	one := h.must(office, &admit.RunOrder{Purpose: "p"})
	w.clock.move(4 * time.Minute)
	h.must(office, &admit.RunOrder{Continue: one.Run.ID})
	order := &admit.RunOrder{Continue: one.Run.ID}

	w.clock.move(-29 * time.Second)
	h.must(office, order)
	wantCode(t, w.road.Refresh(t.Context()), "")
	wantCode(t, w.road.Healthy(), "")
	w.clock.move(-2 * time.Second)
	for range 3 {
		_, err := h.token(office, order)
		wantCode(t, err, "clock_stepped_back")
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("kind %v", fault.KindOf(err))
		}
	}
	wantCode(t, w.road.Healthy(), "clock_stepped_back")
	wantCode(t, w.enrolWith(w.newKey(), w.joinCode(h.agent.ID)), "clock_stepped_back")
	_, err := w.road.OpenRun(t.Context(), identity.Credential{Person: id.NewPerson(w.clock.now())}, admit.Opening{Agent: "mailer"})
	wantCode(t, err, "clock_stepped_back")
	if n := count(w, audit.SystemClockStepped); n != 1 {
		t.Errorf("%d steps on record", n)
	}

	// A credential whose time was over does not come back to life.
	w.clock.move(2*time.Minute + 31*time.Second) // 6 min 31 s after the first issue at its latest
	wantCode(t, h.use(one.Token, office), "credential_expired")
	w.clock.move(-3 * time.Minute)
	wantCode(t, h.use(one.Token, office), "credential_expired")

	// A restart does not forget: the record tells the time.
	w.clock.move(-time.Hour)
	w.restart()
	_, err = h.token(office, order)
	wantCode(t, err, "clock_stepped_back")
	w.clock.move(2 * time.Hour)
	_, err = h.token(office, &admit.RunOrder{Purpose: "later"})
	wantCode(t, err, "")
	wantCode(t, w.road.Refresh(t.Context()), "")
	wantCode(t, w.road.Healthy(), "")
}

func TestAuthenticate(t *testing.T) {
	w := newWorld(t)
	h, other := w.enrol(w.register("mailer")), w.enrol(w.register("sorter"))
	one := h.open("p")
	good := func() identity.Presented { return h.present(one.Token, office) }
	foreign := w.newKey()
	forged, err := identity.MintAccess(foreign, one.Credential)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := one.Credential
	elsewhere.Issuer = "https://other.example"
	otherIssuer, err := identity.MintAccess(w.key, elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		p        identity.Presented
		audience string
		code     string
	}{
		"in order":              {good(), office, ""},
		"scheme in lower case":  {func() identity.Presented { p := good(); p.Scheme = "dpop"; return p }(), office, ""},
		"nothing":               {identity.Presented{Method: "POST", URL: office}, office, "no_credential"},
		"bearer":                {func() identity.Presented { p := good(); p.Scheme = "Bearer"; return p }(), office, "bad_credential"},
		"another server":        {h.present(one.Token, issuer+"/mcp/bank"), issuer + "/mcp/bank", "wrong_audience"},
		"the api":               {h.present(one.Token, api), api, "wrong_audience"},
		"forged":                {h.present(forged, office), office, "bad_credential"},
		"another issuer":        {h.present(otherIssuer, office), office, "wrong_issuer"},
		"an assertion":          {h.present(h.request(office, nil).Assertion, office), office, "bad_credential"},
		"a proof as credential": {h.present(good().Proof, office), office, "bad_credential"},
		"no proof":              {func() identity.Presented { p := good(); p.Proof = ""; return p }(), office, "no_proof"},
		"stolen, another key":   {other.present(one.Token, office), office, "key_mismatch"},
		"proof of another URL":  {func() identity.Presented { p := good(); p.URL = api; return p }(), office, "bad_proof"},
		"another method":        {func() identity.Presented { p := good(); p.Method = "DELETE"; return p }(), office, "bad_proof"},
		"proof without ath":     {func() identity.Presented { p := good(); p.Proof = w.proof(h.key, office, w.road.Nonce(), ""); return p }(), office, "bad_proof"},
		"no nonce":              {func() identity.Presented { p := good(); p.Proof = w.proof(h.key, office, "", one.Token); return p }(), office, "use_dpop_nonce"},
	} {
		c, err := w.road.Authenticate(t.Context(), tc.p, tc.audience)
		if fault.CodeOf(err) != tc.code && !(err == nil && tc.code == "") {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
		if (err == nil) != (c == one.Credential) {
			t.Errorf("%s: returned %+v", name, c)
		}
	}
	p := good()
	_, err = w.road.Authenticate(t.Context(), p, office)
	wantCode(t, err, "")
	_, err = w.road.Authenticate(t.Context(), p, office)
	wantCode(t, err, "proof_replayed")

	p = good()
	w.restart()
	_, err = w.road.Authenticate(t.Context(), p, office)
	wantCode(t, err, "use_dpop_nonce") // the nonce is of an earlier boot
	w.clock.move(5 * time.Minute)
	_, err = w.road.Authenticate(t.Context(), good(), office)
	wantCode(t, err, "credential_expired")
}

// TestStrangersCannotLockOutTheKnown: whoever proves keys of their own making at /enroll and /login fills no more than a part of the
// memory of proofs.
func TestStrangersCannotLockOutTheKnown(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	w.many = 32
	w.restart()
	var err error
	for range 32 {
		_, _, err = w.road.Enrol(w.ctx, "jc_guess", identity.Presented{Proof: w.proof(w.newKey(), issuer+"/enroll", w.road.Nonce(), ""), Method: "POST", URL: issuer + "/enroll"})
	}
	wantCode(t, err, "proof_memory_full")
	_, err = h.token(office, &admit.RunOrder{Purpose: "x"})
	wantCode(t, err, "")
}
