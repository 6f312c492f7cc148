// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/people"
	"chaperone/internal/policy"
	"chaperone/internal/revocation"
	"chaperone/internal/store"
)

// metaSeal is the named value that proves, offline, that a keyring belongs to the database.
const metaSeal = "govern.seal_check"

// First is what the first start made. Code is empty when nothing had to be made.
type First struct {
	Operator  string
	Code      string
	ExpiresAt time.Time
	Seeded    bool // the shipped policies were put into the empty database
}

// Bootstrap prepares an empty database: the shipped policies become version 1, and the operator is added with a single-use login
// code. While no operator has ever bound a key, every start makes a new code (the old one may have been lost or be too old); once one
// has, Bootstrap changes nothing. Files are loaded into an empty database only.
func (r *Road) Bootstrap(ctx context.Context, operator string) (First, error) {
	const op = "govern.Bootstrap"
	out := First{Operator: operator}
	a := r.system()
	var all []people.Person
	var sealed string
	empty := false
	err := r.view(ctx, func(tx store.Tx) (err error) {
		if all, err = collect(tx.People().People(), 0); err != nil {
			return err
		}
		if sealed, err = tx.Meta().Get(metaSeal); err != nil {
			return err
		}
		_, err = tx.Policies().Active()
		if empty = fault.Is(err, fault.NotFound); empty {
			return nil
		}
		return err
	})
	if err != nil {
		return out, fault.Wrap(op, err)
	}
	if empty {
		files := policy.DefaultFiles()
		b, err := r.nextBundle(ctx, a, files, "the shipped policies")
		if err != nil {
			return out, err
		}
		if err := r.insertBundle(ctx, a, b, policyData{Version: b.Version, Digest: b.Digest, Files: names(files), Note: b.Note}); err != nil {
			return out, err
		}
		out.Seeded = true
	}
	if sealed == "" && r.Seal != nil {
		if err := r.markSeal(ctx); err != nil {
			return out, err
		}
	}
	var waiting *people.Person
	for i, p := range all {
		if !p.HasRole(people.Operator) {
			continue
		}
		if len(p.Keys) > 0 {
			return out, nil
		}
		if waiting == nil {
			waiting = &all[i]
		}
	}
	var code PersonCode
	switch {
	case waiting != nil:
		out.Operator = waiting.Name
		code, err = r.makeCode(ctx, a, *waiting)
	case len(all) == 0:
		code, err = r.addPerson(ctx, op, a, people.Person{
			ID: id.NewPerson(a.at), Name: operator, Roles: []people.Role{people.Operator}, CreatedAt: a.at, CreatedBy: systemName,
		})
	default:
		return out, nil // people without an operator: only an offline reset mends that
	}
	if err != nil {
		return out, err
	}
	out.Code, out.ExpiresAt = code.Code, code.ExpiresAt
	return out, nil
}

type sealMark struct {
	Purpose string `json:"purpose"`
}

// markSeal stores something that only this deployment's sealing key can open.
func (r *Road) markSeal(ctx context.Context) error {
	ad, err := canon.Marshal(sealMark{"chaperone/seal-check/1"})
	if err != nil {
		return err
	}
	keyID, blob, err := r.Seal.Seal([]byte("chaperone"), ad)
	if err != nil {
		return fault.Wrap("govern.markSeal", err)
	}
	return r.Store.Update(ctx, func(tx store.Tx) error {
		return tx.Meta().Set(metaSeal, keyID+":"+base64.StdEncoding.EncodeToString(blob))
	})
}

// proveSeal reports whether the keyring at hand opens what markSeal stored.
func (r *Road) proveSeal(ctx context.Context) error {
	const op = "govern.proveSeal"
	if r.Seal == nil {
		return unavailable("the keyring")
	}
	var mark string
	if err := r.view(ctx, func(tx store.Tx) (err error) { mark, err = tx.Meta().Get(metaSeal); return err }); err != nil {
		return err
	}
	wrong := fault.New(fault.Denied, op, "wrong_seal_key", "the keys at hand are not those of this database").WithFix("run it where the deployment's keys are (--keys)")
	keyID, text, _ := strings.Cut(mark, ":")
	blob, err := base64.StdEncoding.DecodeString(text)
	if mark == "" || err != nil {
		return wrong
	}
	ad, err := canon.Marshal(sealMark{"chaperone/seal-check/1"})
	if err != nil {
		return err
	}
	plain, err := r.Seal.Unseal(keyID, blob, ad)
	if err != nil || string(plain) != "chaperone" {
		return wrong.WithCause(err)
	}
	return nil
}

type resetData struct {
	Operator  string    `json:"operator"`
	Created   bool      `json:"created,omitempty"`
	Policies  string    `json:"policies"` // kept | people | all: what was put back to the shipped text
	Version   int64     `json:"policy_version"`
	ExpiresAt time.Time `json:"code_expires_at"`
}

// ResetOperators is the way back in when nobody can operate any more. It runs offline, on a stopped deployment, and needs its
// sealing key (Denied "wrong_seal_key"). The named person becomes an operator who is not suspended and has no key, with a
// new login code; the people's part of the policies, or all of them where that is not enough, is put back to the shipped text.
// It is one event, operators.reset.
func (r *Road) ResetOperators(ctx context.Context, name string) (First, error) {
	const op = "govern.ResetOperators"
	if err := people.CheckName(name); err != nil {
		return First{}, err
	}
	if err := r.proveSeal(ctx); err != nil {
		return First{}, err
	}
	a := r.system()
	p, err := r.person(ctx, name)
	created := fault.Is(err, fault.NotFound)
	if err != nil && !created {
		return First{}, err
	}
	if created {
		p = people.Person{ID: id.NewPerson(a.at), Name: name, CreatedAt: a.at, CreatedBy: systemName}
	}
	p.Suspended, p.Keys = false, nil
	if !p.HasRole(people.Operator) {
		p.Roles = append([]people.Role{people.Operator}, p.Roles...)
	}
	if err := p.Check(); err != nil {
		return First{}, err
	}
	files, how, err := r.workable(ctx, p)
	if err != nil {
		return First{}, err
	}
	b, err := r.nextBundle(ctx, a, files, "operators reset")
	if err != nil {
		return First{}, err
	}
	plain, code := people.NewLoginCode(p.ID, systemName, a.at, 0)
	ev := r.event(a, audit.OperatorsReset, "person:"+name, resetData{Operator: name, Created: created, Policies: how, Version: b.Version, ExpiresAt: milli(code.ExpiresAt)})
	if how == "kept" {
		b.Version--
	}
	err = r.append(ctx, ev, func(tx store.Tx) error {
		if created {
			if err := unusedNames(tx, op, p); err != nil {
				return err
			}
		}
		if err := tx.People().PutPerson(p); err != nil {
			return err
		}
		if err := tx.People().PutCode(code); err != nil {
			return err
		}
		at, err := tx.Events().Next()
		if err != nil {
			return err
		}
		if err := tx.Revocations().Put(revocation.Notice{Kind: revocation.Person, ID: p.ID.String(), Reason: "operators reset", At: a.at, Position: at}); err != nil {
			return err
		}
		if how == "kept" {
			return nil
		}
		return tx.Policies().Insert(b)
	})
	if err != nil {
		return First{}, err
	}
	return First{Operator: name, Code: plain, ExpiresAt: code.ExpiresAt, Seeded: how != "kept"}, nil
}

// workable returns the least changed files under which the person may change the policies: those in force, those with the shipped
// people's part, or the shipped ones.
func (r *Road) workable(ctx context.Context, p people.Person) (map[string]string, string, error) {
	shipped := policy.DefaultFiles()
	var active map[string]string
	err := r.view(ctx, func(tx store.Tx) error {
		b, err := tx.Policies().Active()
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		active = b.Files
		return err
	})
	if err != nil {
		return nil, "", err
	}
	works := func(files map[string]string) bool {
		set, problems, err := r.Rules.Compile(ctx, files)
		return err == nil && len(problems) == 0 && set != nil && r.couldApply(set, p)
	}
	if len(active) > 0 {
		if works(active) {
			return active, "kept", nil
		}
		mixed := map[string]string{}
		for name, text := range active {
			mixed[name] = text
		}
		mixed["people.cedar"] = shipped["people.cedar"]
		if works(mixed) {
			return mixed, "people", nil
		}
	}
	return shipped, "all", nil
}
