// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"encoding/json"
	"iter"
	"strconv"
	"testing"
	"time"

	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/secret"
	"chaperone/internal/store"
)

func policyTests() []test {
	bundle := func(version int64) policy.Bundle {
		return policy.Bundle{
			ID: id.NewBundle(t0()), Version: version, Digest: "dd", Files: map[string]string{"agents.cedar": "permit (principal, action, resource) when { 1 < 2 && true };\n"},
			Author: "ada", At: t0(), Note: "first",
		}
	}
	return []test{
		{"versions", func(t *testing.T, st store.Store) {
			absent(t, st, "no_policy", func(tx store.Tx) error { _, err := tx.Policies().Active(); return err })
			one, two := bundle(1), bundle(2)
			insert := func(b policy.Bundle) func(store.Tx) error {
				return func(tx store.Tx) error { return tx.Policies().Insert(b) }
			}
			refused(t, st, fault.Conflict, "policy_moved", insert(two))
			update(t, st, insert(one))
			update(t, st, insert(two))
			refused(t, st, fault.Conflict, "policy_moved", insert(bundle(2)))
			refused(t, st, fault.Conflict, "policy_moved", insert(bundle(1)))
			refused(t, st, fault.Conflict, "policy_moved", insert(bundle(4)))
			same(t, fetch(t, st, func(tx store.Tx) (policy.Bundle, error) { return tx.Policies().Active() }), two)
			same(t, fetch(t, st, func(tx store.Tx) (policy.Bundle, error) { return tx.Policies().Version(1) }), one)
			absent(t, st, "no_policy", func(tx store.Tx) error { _, err := tx.Policies().Version(3); return err })
			lists(t, st, func(tx store.Tx) iter.Seq2[policy.Bundle, error] { return tx.Policies().Bundles() },
				func(b policy.Bundle) string { return strconv.FormatInt(b.Version, 10) }, "1", "2")
		}},
	}
}

func catalogTests() []test {
	version := func(t *testing.T, st store.Store) int64 {
		t.Helper()
		return fetch(t, st, func(tx store.Tx) (int64, error) { return tx.Catalog().Version() })
	}
	// moves demands that each of these moves the version.
	moves := func(t *testing.T, st store.Store, fns ...func(store.Tx) error) {
		t.Helper()
		for _, fn := range fns {
			before := version(t, st)
			update(t, st, fn)
			if after := version(t, st); after <= before {
				t.Errorf("version was %d and is %d", before, after)
			}
		}
	}
	return []test{
		{"servers", func(t *testing.T, st store.Store) {
			if v := version(t, st); v != 0 {
				t.Errorf("an empty catalogue has version %d", v)
			}
			pay := catalog.Server{ID: id.NewServer(t0()), Name: "pay", URL: "https://pay/?a=1&b=2", TLSName: "pay", Mode: "enforce", Author: "ada", UpdatedAt: t0()}
			mail := catalog.Server{ID: id.NewServer(t0()), Name: "mail", UpdatedAt: t0()}
			put := func(s catalog.Server) func(store.Tx) error {
				return func(tx store.Tx) error { return tx.Catalog().PutServer(s) }
			}
			moves(t, st, put(pay), put(mail), put(mail))
			pay.Disabled = true
			moves(t, st, put(pay))
			refused(t, st, fault.Exists, "name_taken", put(catalog.Server{ID: id.NewServer(t0()), Name: "pay"}))
			got := fetch(t, st, func(tx store.Tx) ([]catalog.Server, error) { return all(tx.Catalog().Servers()) })
			same(t, got, []catalog.Server{mail, pay})
		}},
		{"entries", func(t *testing.T, st store.Store) {
			entry := catalog.Entry{
				Server: "pay", Kind: catalog.KindTool, Name: "transfer", Effect: catalog.Irreversible, Stakes: []catalog.Stake{catalog.Money},
				Source: untrusted("pay/transfer"), Sinks: []catalog.Sink{{Argument: "to[].iban", Type: "iban"}}, Object: catalog.Object{Type: "account", Argument: "from"},
				Known: true, Origin: map[string]string{"effect": "operator"},
			}
			resource := catalog.Entry{Server: "pay", Kind: catalog.KindResource, Name: "transfer", Effect: catalog.Read}
			put := func(e catalog.Entry) func(store.Tx) error {
				return func(tx store.Tx) error { return tx.Catalog().PutEntry(e) }
			}
			moves(t, st, put(entry), put(resource))
			entry.Effect = catalog.Write
			moves(t, st, put(entry))
			same(t, fetch(t, st, func(tx store.Tx) ([]catalog.Entry, error) { return all(tx.Catalog().Entries()) }), []catalog.Entry{resource, entry})
		}},
		{"pins", func(t *testing.T, st store.Store) {
			pin := catalog.Pin{
				Server: "pay", Kind: catalog.KindTool, Name: "transfer", Digest: "dd", Raw: json.RawMessage("{ \"name\": \"transfer\",\n \"n\": 1.0 , \"t\":\"<&\\u2028>\" }"),
				State: catalog.Pinned, By: "ada", At: t0(),
			}
			put := func(p catalog.Pin) func(store.Tx) error {
				return func(tx store.Tx) error { return tx.Pins().Put(p) }
			}
			list := func() []catalog.Pin {
				t.Helper()
				return fetch(t, st, func(tx store.Tx) ([]catalog.Pin, error) { return all(tx.Pins().Pins()) })
			}
			moves(t, st, put(pin))
			same(t, list(), []catalog.Pin{pin}) // raw bytes and all
			pin.State, pin.Seen, pin.SeenHash = catalog.Quarantined, json.RawMessage(`{"name": "transfer"}`), "ee"
			moves(t, st, put(pin))
			same(t, list(), []catalog.Pin{pin})
			remove := func(tx store.Tx) error { return tx.Pins().Delete("pay", catalog.KindTool, "transfer") }
			refused(t, st, fault.NotFound, "no_pin", func(tx store.Tx) error { return tx.Pins().Delete("pay", catalog.KindPrompt, "transfer") })
			moves(t, st, remove)
			same(t, list(), nil)
			refused(t, st, fault.NotFound, "no_pin", remove)
		}},
		{"authors", func(t *testing.T, st store.Store) {
			author := func(server, name, person string, kind catalog.ItemKind, at time.Time) catalog.Authorship {
				return catalog.Authorship{Server: server, Kind: kind, Name: name, Person: person, What: "entry", At: at}
			}
			before := version(t, st)
			a := author("pay", "transfer", "ada", catalog.KindTool, t0())
			for _, v := range []catalog.Authorship{
				a, author("pay", "transfer", "ben", catalog.KindTool, t0().Add(time.Hour)), author("pay", "list", "cem", catalog.KindTool, t0().Add(time.Hour)),
				author("mail", "transfer", "dan", catalog.KindTool, t0()), author("pay", "", "eva", catalog.KindServer, t0().Add(2*time.Hour)),
			} {
				update(t, st, func(tx store.Tx) error { return tx.Pins().AddAuthor(v) })
			}
			if after := version(t, st); after != before {
				t.Errorf("an author moved the version from %d to %d", before, after)
			}
			by := func(name string, since time.Time, want ...string) {
				t.Helper()
				lists(t, st, func(tx store.Tx) iter.Seq2[catalog.Authorship, error] { return tx.Pins().Authors("pay", name, since) },
					func(v catalog.Authorship) string { return v.Person }, want...)
			}
			by("transfer", t0(), "ada", "ben", "eva") // who changed the server changed the tool
			by("transfer", t0().Add(time.Millisecond), "ben", "eva")
			by("", t0(), "eva")
			by("transfer", t0().Add(3*time.Hour))
			got := fetch(t, st, func(tx store.Tx) ([]catalog.Authorship, error) {
				return all(tx.Pins().Authors("pay", "transfer", t0()))
			})
			same(t, got[0], a)
		}},
	}
}

func secretTests() []test {
	return []test{
		{"secrets", func(t *testing.T, st store.Store) {
			s := secret.Sealed{Server: "pay", Place: secret.Header, Name: "X-Key", KeyID: "k", Blob: []byte{0, 1, 0xff}, Owner: "ada", Version: 1, UpdatedAt: t0()}
			get := func(tx store.Tx) (secret.Sealed, error) { return tx.Secrets().Secret("pay") }
			absent(t, st, "no_secret", func(tx store.Tx) error { _, err := get(tx); return err })
			update(t, st, func(tx store.Tx) error { return tx.Secrets().Put(s) })
			s.Blob, s.Version = []byte{2}, 2
			update(t, st, func(tx store.Tx) error { return tx.Secrets().Put(s) })
			same(t, fetch(t, st, get), s)
			update(t, st, func(tx store.Tx) error { return tx.Secrets().Put(secret.Sealed{Server: "mail", UpdatedAt: t0()}) })
			lists(t, st, func(tx store.Tx) iter.Seq2[secret.Sealed, error] { return tx.Secrets().Secrets() },
				func(v secret.Sealed) string { return v.Server }, "mail", "pay")
			update(t, st, func(tx store.Tx) error { return tx.Secrets().Delete("pay") })
			absent(t, st, "no_secret", func(tx store.Tx) error { _, err := get(tx); return err })
			refused(t, st, fault.NotFound, "no_secret", func(tx store.Tx) error { return tx.Secrets().Delete("pay") })
		}},
	}
}

func revocationTests() []test {
	put := func(n revocation.Notice) func(store.Tx) error {
		return func(tx store.Tx) error { return tx.Revocations().Put(n) }
	}
	live := func(t *testing.T, st store.Store, now time.Time) []revocation.Notice {
		t.Helper()
		return fetch(t, st, func(tx store.Tx) ([]revocation.Notice, error) { return tx.Revocations().Live(now) })
	}
	epoch := func(t *testing.T, st store.Store) int64 {
		t.Helper()
		return fetch(t, st, func(tx store.Tx) (int64, error) { return tx.Revocations().Epoch() })
	}
	return []test{
		{"notices", func(t *testing.T, st store.Store) {
			agent := revocation.Notice{Kind: revocation.Agent, ID: "agt_1", Dead: true, Reason: "odd", At: t0(), Position: 7}
			credential := revocation.Notice{Kind: revocation.Credential, ID: "jti", Dead: true, At: t0(), Position: 8, Until: t0().Add(time.Minute)}
			for i, n := range []revocation.Notice{agent, credential} {
				before := epoch(t, st)
				update(t, st, put(n))
				if after := epoch(t, st); after <= before {
					t.Errorf("put %d: the epoch was %d and is %d", i, before, after)
				}
			}
			same(t, live(t, st, t0()), []revocation.Notice{agent, credential})
			same(t, live(t, st, t0().Add(time.Hour)), []revocation.Notice{agent})
			agent.Dead, agent.Position = false, 9
			update(t, st, put(agent))
			same(t, live(t, st, t0()), []revocation.Notice{credential, agent}) // the lift is told, too
			update(t, st, func(tx store.Tx) error { return tx.Once().Sweep(t0().Add(time.Hour)) })
			same(t, live(t, st, t0()), []revocation.Notice{agent})
		}},
		{"a final stop is never lifted", func(t *testing.T, st store.Store) {
			n := revocation.Notice{Kind: revocation.Run, ID: "run_1", Dead: true, Final: true, Reason: "ended", At: t0(), Position: 1}
			update(t, st, put(n))
			lift := n
			lift.Dead, lift.Final, lift.Position = false, false, 2
			refused(t, st, fault.Conflict, "stop_final", put(lift))
			again := n
			again.Final, again.Position, again.Until = false, 3, t0().Add(time.Second)
			update(t, st, put(again))
			same(t, live(t, st, t0().Add(time.Hour)), []revocation.Notice{n})
		}},
		{"a notice takes the position of its event", func(t *testing.T, st store.Store) {
			n := revocation.Notice{Kind: revocation.Agent, ID: "agt_1", Dead: true, At: t0()}
			update(t, st, func(tx store.Tx) error { return tx.Events().Append(anEvent("agent.registered")) })
			update(t, st, func(tx store.Tx) error {
				if err := tx.Revocations().Put(n); err != nil {
					return err
				}
				return tx.Events().Append(anEvent("agent.suspended"))
			})
			n.Position = 1
			same(t, live(t, st, t0()), []revocation.Notice{n})
		}},
	}
}

func metaTests() []test {
	return []test{
		{"meta", func(t *testing.T, st store.Store) {
			get := func(tx store.Tx) (string, error) { return tx.Meta().Get("log.origin") }
			same(t, fetch(t, st, get), "")
			for _, value := range []string{"chaperone.internal/log", "", "it's \"quoted\" \x00 ü"} {
				update(t, st, func(tx store.Tx) error { return tx.Meta().Set("log.origin", value) })
				same(t, fetch(t, st, get), value)
			}
		}},
	}
}
