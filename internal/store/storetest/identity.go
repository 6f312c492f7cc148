// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"iter"
	"testing"
	"time"

	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/people"
	"chaperone/internal/store"
)

func anAgent(name string) identity.Agent {
	return identity.Agent{
		ID: id.NewAgent(t0()), Name: name, Type: "mailer", Kind: identity.KindAgent, Owner: "ada", Purpose: "answer <mail> & file it",
		Environment: "test", State: identity.Registered, CreatedAt: t0(), ExpiresAt: t0().Add(time.Hour), Version: 1,
	}
}

func anInstance(agent id.Agent) identity.Instance {
	return identity.Instance{ID: id.NewInstance(t0()), Agent: agent, JKT: "jkt", PublicJWK: `{"kty":"EC"}`, EnrolledAt: t0(), EnrolledBy: "ada"}
}

func untrusted(source string) label.Label {
	return label.Label{Integrity: label.Untrusted, Level: label.Internal, Sources: []string{source}, Readers: label.Readers{Known: true, Names: []string{"ada"}}}
}

func identityTests() []test {
	return []test{
		{"types", func(t *testing.T, st store.Store) {
			absent(t, st, "no_type", func(tx store.Tx) error { _, err := tx.Registry().Type("mailer"); return err })
			mailer := identity.Type{Name: "mailer", Description: "reads mail", Reads: []string{"mail/*"}, Writes: []string{"mail/send"}, Author: "ada", UpdatedAt: t0()}
			clerk := identity.Type{Name: "clerk", UpdatedAt: t0()}
			update(t, st, func(tx store.Tx) error {
				if err := tx.Registry().PutType(mailer); err != nil {
					return err
				}
				return tx.Registry().PutType(clerk)
			})
			same(t, fetch(t, st, func(tx store.Tx) (identity.Type, error) { return tx.Registry().Type("mailer") }), mailer)
			mailer.Writes = nil
			update(t, st, func(tx store.Tx) error { return tx.Registry().PutType(mailer) })
			same(t, fetch(t, st, func(tx store.Tx) (identity.Type, error) { return tx.Registry().Type("mailer") }), mailer)
			lists(t, st, func(tx store.Tx) iter.Seq2[identity.Type, error] { return tx.Registry().Types() },
				func(v identity.Type) string { return v.Name }, "clerk", "mailer")
		}},
		{"agents", func(t *testing.T, st store.Store) {
			absent(t, st, "no_agent", func(tx store.Tx) error { _, err := tx.Registry().Agent("mailer-1"); return err })
			absent(t, st, "no_agent", func(tx store.Tx) error { _, err := tx.Registry().Agent(id.NewAgent(t0()).String()); return err })
			b, a := anAgent("b"), anAgent("a")
			update(t, st, func(tx store.Tx) error {
				if err := tx.Registry().PutAgent(b); err != nil {
					return err
				}
				return tx.Registry().PutAgent(a)
			})
			same(t, fetch(t, st, func(tx store.Tx) (identity.Agent, error) { return tx.Registry().Agent("a") }), a)
			same(t, fetch(t, st, func(tx store.Tx) (identity.Agent, error) { return tx.Registry().Agent(b.ID.String()) }), b)
			lists(t, st, func(tx store.Tx) iter.Seq2[identity.Agent, error] { return tx.Registry().Agents() },
				func(v identity.Agent) string { return v.Name }, "a", "b")
		}},
		{"agent versions", func(t *testing.T, st store.Store) {
			a := anAgent("a")
			put := func(tx store.Tx) error { return tx.Registry().PutAgent(a) }
			update(t, st, put)
			a.State = identity.Active
			update(t, st, put) // the stored version is still 1
			refused(t, st, fault.Conflict, "agent_moved", put)
			got := fetch(t, st, func(tx store.Tx) (identity.Agent, error) { return tx.Registry().Agent("a") })
			a.Version = 2
			same(t, got, a)
			update(t, st, put)
			a.Version = 4
			refused(t, st, fault.Conflict, "agent_moved", put)
		}},
		{"agent names are used once", func(t *testing.T, st store.Store) {
			a := anAgent("a")
			update(t, st, func(tx store.Tx) error { return tx.Registry().PutAgent(a) })
			refused(t, st, fault.Exists, "name_taken", func(tx store.Tx) error { return tx.Registry().PutAgent(anAgent("a")) })
			a.State = identity.Retired
			update(t, st, func(tx store.Tx) error { return tx.Registry().PutAgent(a) })
			refused(t, st, fault.Exists, "name_taken", func(tx store.Tx) error { return tx.Registry().PutAgent(anAgent("a")) })
			a.Version, a.Name = 2, "b"
			refused(t, st, fault.Invalid, "name_fixed", func(tx store.Tx) error { return tx.Registry().PutAgent(a) })
		}},
		{"instances", func(t *testing.T, st store.Store) {
			absent(t, st, "no_instance", func(tx store.Tx) error { _, err := tx.Instances().Instance(id.NewInstance(t0())); return err })
			agent := id.NewAgent(t0())
			one, two, other := anInstance(agent), anInstance(agent), anInstance(id.NewAgent(t0()))
			update(t, st, func(tx store.Tx) error {
				for _, v := range []identity.Instance{one, other, two} {
					if err := tx.Instances().PutInstance(v); err != nil {
						return err
					}
				}
				return nil
			})
			get := func(tx store.Tx) (identity.Instance, error) { return tx.Instances().Instance(one.ID) }
			same(t, fetch(t, st, get), one)
			one.RevokedAt = t0().Add(time.Second)
			update(t, st, func(tx store.Tx) error { return tx.Instances().PutInstance(one) })
			same(t, fetch(t, st, get), one)
			lists(t, st, func(tx store.Tx) iter.Seq2[identity.Instance, error] { return tx.Instances().ByAgent(agent) },
				func(v identity.Instance) string { return v.ID.String() }, one.ID.String(), two.ID.String())
		}},
		{"carried labels only grow", func(t *testing.T, st store.Store) {
			one := anInstance(id.NewAgent(t0()))
			refused(t, st, fault.NotFound, "no_instance", func(tx store.Tx) error { return tx.Instances().JoinCarried(one.ID, untrusted("mail/read")) })
			update(t, st, func(tx store.Tx) error { return tx.Instances().PutInstance(one) })
			join := func(l label.Label) identity.Instance {
				update(t, st, func(tx store.Tx) error { return tx.Instances().JoinCarried(one.ID, l) })
				return fetch(t, st, func(tx store.Tx) (identity.Instance, error) { return tx.Instances().Instance(one.ID) })
			}
			if got := join(label.Label{}); got.CarriedVersion != 0 || !got.Carried.Equal(label.Label{}) {
				t.Errorf("joining nothing: %+v", got)
			}
			if got := join(untrusted("mail/read")); got.CarriedVersion != 1 || !got.Carried.Equal(untrusted("mail/read")) {
				t.Errorf("after the first label: %+v", got)
			}
			if got := join(untrusted("mail/read")); got.CarriedVersion != 1 {
				t.Errorf("a label that adds nothing moved the version to %d", got.CarriedVersion)
			}
			both := untrusted("mail/read").Join(untrusted("web/get"))
			if got := join(untrusted("web/get")); got.CarriedVersion != 2 || !got.Carried.Equal(both) {
				t.Errorf("after the second label: %+v", got)
			}
			// one is what was read before any label: putting it back must not lose them.
			update(t, st, func(tx store.Tx) error { return tx.Instances().PutInstance(one) })
			if got := join(label.Label{}); !got.Carried.Equal(both) || got.CarriedVersion != 2 {
				t.Errorf("putting an old copy: %+v", got)
			}
		}},
		{"once", func(t *testing.T, st store.Store) {
			spend := func(tx store.Tx) error { return tx.Once().Spend("assertion:1", t0().Add(time.Minute)) }
			update(t, st, spend)
			refused(t, st, fault.Exists, "replayed", spend)
			update(t, st, func(tx store.Tx) error { return tx.Once().Spend("assertion:2", t0().Add(time.Minute)) })
			update(t, st, func(tx store.Tx) error { return tx.Once().Sweep(t0().Add(time.Minute)) })
			refused(t, st, fault.Exists, "replayed", spend)
			update(t, st, func(tx store.Tx) error { return tx.Once().Sweep(t0().Add(time.Minute + time.Millisecond)) })
			update(t, st, spend)
		}},
		{"once is spent only by a commit", func(t *testing.T, st store.Store) {
			spend := func(tx store.Tx) error { return tx.Once().Spend("assertion:1", t0()) }
			refused(t, st, fault.Limited, "later", func(tx store.Tx) error {
				if err := spend(tx); err != nil {
					return err
				}
				return fault.New(fault.Limited, "test", "later", "something else failed")
			})
			update(t, st, spend)
		}},
		{"join codes", func(t *testing.T, st store.Store) {
			code := identity.JoinCode{Hash: "abc", Agent: id.NewAgent(t0()), MadeBy: "ada", ExpiresAt: t0().Add(time.Minute)}
			put := func(tx store.Tx) error { return tx.Once().PutJoinCode(code) }
			take := func(now time.Time) func(store.Tx) error {
				return func(tx store.Tx) error {
					got, err := tx.Once().TakeJoinCode("abc", now)
					if err == nil {
						same(t, got, code)
					}
					return err
				}
			}
			refused(t, st, fault.NotFound, "join_code", take(t0()))
			update(t, st, put)
			refused(t, st, fault.Exists, "join_code_exists", put)
			refused(t, st, fault.NotFound, "join_code", take(code.ExpiresAt)) // expired at that moment
			update(t, st, take(t0()))
			refused(t, st, fault.NotFound, "join_code", take(t0())) // taken
			update(t, st, put)
			update(t, st, func(tx store.Tx) error { return tx.Once().Sweep(code.ExpiresAt) })
			refused(t, st, fault.NotFound, "join_code", take(t0())) // swept
		}},
	}
}

func aPerson(name string) people.Person {
	return people.Person{
		ID: id.NewPerson(t0()), Name: name, Email: name + "@example.org", Roles: []people.Role{people.Operator}, Groups: []string{"finance"},
		Keys:      []people.Key{{JKT: "jkt", PublicJWK: "{}", Profile: "laptop", BoundAt: t0()}},
		CreatedAt: t0(), CreatedBy: "system",
	}
}

func peopleTests() []test {
	return []test{
		{"people", func(t *testing.T, st store.Store) {
			absent(t, st, "no_person", func(tx store.Tx) error { _, err := tx.People().Person("ada"); return err })
			ben, ada := aPerson("ben"), aPerson("ada")
			put := func(p people.Person) func(store.Tx) error {
				return func(tx store.Tx) error { return tx.People().PutPerson(p) }
			}
			update(t, st, put(ben))
			update(t, st, put(ada))
			same(t, fetch(t, st, func(tx store.Tx) (people.Person, error) { return tx.People().Person("ada") }), ada)
			same(t, fetch(t, st, func(tx store.Tx) (people.Person, error) { return tx.People().Person(ben.ID.String()) }), ben)
			refused(t, st, fault.Exists, "name_taken", put(aPerson("ada")))
			ada.Suspended = true
			update(t, st, put(ada))
			refused(t, st, fault.Conflict, "person_moved", put(ada))
			ada.Version = 1
			same(t, fetch(t, st, func(tx store.Tx) (people.Person, error) { return tx.People().Person("ada") }), ada)
			renamed := ada
			renamed.Name = "ida"
			refused(t, st, fault.Invalid, "name_fixed", put(renamed))
			lists(t, st, func(tx store.Tx) iter.Seq2[people.Person, error] { return tx.People().People() },
				func(p people.Person) string { return p.Name }, "ada", "ben")
		}},
		{"login codes", func(t *testing.T, st store.Store) {
			code := people.LoginCode{Hash: "abc", Person: id.NewPerson(t0()), MadeBy: "ada", ExpiresAt: t0().Add(time.Minute)}
			take := func(now time.Time) func(store.Tx) error {
				return func(tx store.Tx) error {
					got, err := tx.People().TakeCode("abc", now)
					if err == nil {
						same(t, got, code)
					}
					return err
				}
			}
			refused(t, st, fault.NotFound, "login_code", take(t0()))
			update(t, st, func(tx store.Tx) error { return tx.People().PutCode(code) })
			refused(t, st, fault.NotFound, "login_code", take(code.ExpiresAt))
			update(t, st, take(t0()))
			refused(t, st, fault.NotFound, "login_code", take(t0()))
		}},
	}
}
