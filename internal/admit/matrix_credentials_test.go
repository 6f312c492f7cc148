// SPDX-License-Identifier: Apache-2.0

package admit_test

import (
	"testing"

	"chaperone/internal/admit"
	"chaperone/internal/fault"
)

// Rows of the enforcement matrix that this road holds. testdata/mutants removes the guard of each and expects its line here.

func wantRefusal(t *testing.T, what string, err error, code string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s was accepted, want %s", what, code)
	} else if fault.CodeOf(err) != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

func TestMatrix_StolenCredential(t *testing.T) {
	w := newWorld(t)
	h, thief := w.enrol(w.register("mailer")), w.enrol(w.register("sorter"))
	stolen := h.open("p").Token
	wantCode(t, h.use(stolen, office), "")
	// The thief proves a key of its own, as an enrolled instance and as a stranger.
	wantRefusal(t, "a credential with the key of another instance", thief.use(stolen, office), "key_mismatch")
	stranger := &holder{w: w, key: w.newKey()}
	wantRefusal(t, "a credential with the key of a stranger", stranger.use(stolen, office), "key_mismatch")
	wantCode(t, h.use(stolen, office), "")
}

func TestMatrix_EndedRun(t *testing.T) {
	w := newWorld(t)
	h := w.enrol(w.register("mailer"))
	root := h.open("p")
	child, beside := h.must(office, &admit.RunOrder{Parent: root.Run.ID}), h.open("another")
	wantCode(t, w.road.EndRun(t.Context(), operator, root.Run.ID, "done"), "")
	for range 2 {
		wantRefusal(t, "a credential of an ended run", h.use(root.Token, office), "run_ended")
		wantRefusal(t, "a credential of a run below an ended one", h.use(child.Token, office), "run_ended")
		wantCode(t, h.use(beside.Token, office), "")
		w.restart() // another process learns of it from the table
	}
}

func TestMatrix_SuspendedAgent(t *testing.T) {
	w := newWorld(t)
	h, other := w.enrol(w.register("mailer")), w.enrol(w.register("sorter"))
	mine, beside := h.open("p"), other.open("p")
	wantCode(t, w.road.SuspendAgent(t.Context(), operator, h.agent.ID, "odd"), "")
	for range 2 {
		_, err := h.token(office, &admit.RunOrder{Purpose: "q"}) // for a run that nobody has stopped
		wantRefusal(t, "a request by a suspended agent", err, "agent_suspended")
		wantRefusal(t, "a credential of a suspended agent", h.use(mine.Token, office), "agent_suspended")
		wantCode(t, other.use(beside.Token, office), "")
		w.restart()
	}
}
