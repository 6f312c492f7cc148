// SPDX-License-Identifier: Apache-2.0

package sqlstore

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/label"
	"chaperone/internal/run"
	"chaperone/internal/store"
)

// What a reader does to a value that was remembered is nobody else's affair, and a row that has changed is read as it is.
func TestRememberedValuesAreOwned(t *testing.T) {
	db := open(t)
	ctx := context.Background()
	now := time.Now().UTC().Truncate(time.Millisecond)
	l := label.Label{Integrity: label.Untrusted, Sources: []string{"a/b"}, Level: label.Internal, Categories: []string{"c"}, Readers: label.Readers{Known: true, Names: []string{"n"}}}
	r := run.Run{ID: id.NewRun(now), State: run.Active, Purpose: "p", OpenedAt: now, ExpiresAt: now.Add(time.Hour), Version: 1, Label: l,
		Plan:    []run.PlanStep{{Tool: "s/t", Sinks: map[string][]string{"to": {"x"}}}},
		Budgets: run.Budgets{Steps: 9, Calls: map[string]int64{"money": 2}}, Spent: run.Spent{Calls: map[string]int64{"money": 1}}}
	a := identity.Agent{ID: id.NewAgent(now), Name: "a", Type: "t", State: identity.Active, CreatedAt: now, ExpiresAt: now}
	in := identity.Instance{ID: id.NewInstance(now), Agent: a.ID, JKT: "k", EnrolledAt: now, Carried: l}
	kind := identity.Type{Name: "t", Reads: []string{"r"}, Writes: []string{"w"}, UpdatedAt: now}
	update := func(fn func(store.Tx) error) {
		t.Helper()
		if err := db.Update(ctx, fn); err != nil {
			t.Fatal(err)
		}
	}
	update(func(tx store.Tx) error {
		for _, err := range []error{tx.Runs().Insert(r), tx.Registry().PutAgent(a), tx.Instances().PutInstance(in), tx.Registry().PutType(kind)} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	type all struct {
		Run      run.Run
		Agent    identity.Agent
		Instance identity.Instance
		Type     identity.Type
	}
	read := func(tx store.Tx) (out all, err error) {
		if out.Run, err = tx.Runs().Run(r.ID); err != nil {
			return out, err
		}
		if out.Agent, err = tx.Registry().Agent(a.ID.String()); err != nil {
			return out, err
		}
		if out.Instance, err = tx.Instances().Instance(in.ID); err != nil {
			return out, err
		}
		out.Type, err = tx.Registry().Type("t")
		return out, err
	}
	spoil := func(v all) {
		v.Run.Plan[0].Sinks["to"][0], v.Run.Plan[0].Sinks["other"], v.Run.Plan[0].Tool = "spoilt", nil, "spoilt"
		v.Run.Budgets.Calls["money"], v.Run.Spent.Calls["money"] = 99, 99
		for _, one := range []label.Label{v.Run.Label, v.Instance.Carried} {
			one.Sources[0], one.Categories[0], one.Readers.Names[0] = "spoilt", "spoilt", "spoilt"
		}
		v.Type.Reads[0], v.Type.Writes[0] = "spoilt", "spoilt"
	}
	for _, how := range []func(context.Context, func(store.Tx) error) error{db.View, db.Update} {
		var first, again all
		if err := how(ctx, func(tx store.Tx) (err error) {
			if first, err = read(tx); err != nil {
				return err
			}
			if spoilt, err := read(tx); err != nil { // out of the memo now
				return err
			} else {
				spoil(spoilt)
			}
			again, err = read(tx)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(first, again) {
			t.Errorf("a reader has changed what the next one reads:\n%+v\n%+v", first, again)
		}
		if !reflect.DeepEqual(r.Plan, first.Run.Plan) || !first.Run.Label.Equal(l) || !first.Instance.Carried.Equal(l) {
			t.Errorf("not what was stored: %+v", first)
		}
		spoil(first)
	}
	update(func(tx store.Tx) error {
		changed, err := tx.Runs().Run(r.ID)
		if err != nil {
			return err
		}
		changed.Purpose = "another"
		return tx.Runs().Update(changed)
	})
	if err := db.View(ctx, func(tx store.Tx) error {
		if got, err := tx.Runs().Run(r.ID); err != nil || got.Purpose != "another" || got.Version != 2 {
			return fmt.Errorf("read %+v, %w", got, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// A memo does not grow without bound.
func TestMemoIsBounded(t *testing.T) {
	m := memo{}
	for i := range 3 * memorable {
		text := fmt.Sprintf(`{"name":"n%d"}`, i)
		for range 2 {
			if v, err := recall[identity.Type](m, []byte(text)); err != nil || v.Name != fmt.Sprintf("n%d", i) {
				t.Fatal(v, err)
			}
		}
	}
	if len(m) > memorable {
		t.Errorf("it holds %d texts", len(m))
	}
	if _, err := recall[identity.Type](m, []byte(`{"name":1}`)); err == nil {
		t.Error("took what does not decode")
	}
	if v, err := recall[identity.Agent](m, []byte(`{"name":"n1535"}`)); err != nil || v.Name != "n1535" {
		t.Errorf("took a text of another noun: %+v %v", v, err)
	}
}

// A field that points somewhere, added to one of these nouns and forgotten in own, would be shared between callers.
func TestOwnCopiesEverything(t *testing.T) {
	for _, v := range []any{&run.Run{}, &identity.Type{}, &identity.Agent{}, &identity.Instance{}, &label.Label{}} {
		was := reflect.ValueOf(v).Elem()
		fill(was)
		is := reflect.New(was.Type())
		is.Elem().Set(was)
		if !own(is.Interface()) {
			t.Errorf("%T is not remembered", v)
		}
		for _, path := range shared(was, is.Elem(), was.Type().String()) {
			t.Errorf("%s is shared", path)
		}
	}
	if own(&audit.Sealed{}) {
		t.Error("everything is remembered")
	}
}

// fill makes every slice, map and pointer of v point to something.
func fill(v reflect.Value) {
	if !v.CanSet() {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		one := reflect.New(v.Type().Elem()).Elem()
		fill(one)
		v.SetMapIndex(reflect.Zero(v.Type().Key()), one)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	default:
	}
}

// shared lists what both values point to.
func shared(a, b reflect.Value, path string) (out []string) {
	if a.Type() == reflect.TypeFor[time.Time]() {
		return nil // its location is nobody's to change
	}
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			out = append(out, shared(a.Field(i), b.Field(i), path+"."+a.Type().Field(i).Name)...)
		}
	case reflect.Slice:
		if a.Len() > 0 && a.Pointer() == b.Pointer() {
			return []string{path}
		}
		for i := range a.Len() {
			out = append(out, shared(a.Index(i), b.Index(i), path+"[]")...)
		}
	case reflect.Map:
		if !a.IsNil() && a.Pointer() == b.Pointer() {
			return []string{path}
		}
		for _, k := range a.MapKeys() {
			out = append(out, shared(a.MapIndex(k), b.MapIndex(k), path+"[]")...)
		}
	case reflect.Pointer, reflect.Interface, reflect.Func, reflect.Chan, reflect.UnsafePointer:
		if !a.IsNil() {
			return []string{path}
		}
	default:
	}
	return out
}
