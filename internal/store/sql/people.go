// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"database/sql"
	"iter"
	"time"

	"chaperone/internal/people"
)

var personTable = table[people.Person]{noun: "person", name: "people", more: ", version", read: func(m memo, r *sql.Rows) (people.Person, error) {
	var version int64
	p, err := body[people.Person](m, r, &version)
	p.Version = version
	return p, err
}}

type persons struct{ *transaction }

func (s persons) Person(nameOrID string) (people.Person, error) {
	return personTable.get(s.transaction, byNameOrID("per_", nameOrID), nameOrID)
}

func (s persons) PutPerson(p people.Person) error {
	return putVersioned(s.transaction, "people", "person", p.ID.String(), p.Name, p.Version, p)
}

func (s persons) People() iter.Seq2[people.Person, error] {
	return personTable.list(s.transaction, "ORDER BY name")
}

func (s persons) PutCode(v people.LoginCode) error {
	return putCode(s.transaction, "login_codes", "login_code", v.Hash, v.ExpiresAt, v)
}

func (s persons) TakeCode(hash string, now time.Time) (people.LoginCode, error) {
	return takeCode[people.LoginCode](s.transaction, "login_codes", "login_code", hash, now)
}
