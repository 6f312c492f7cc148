// SPDX-License-Identifier: Apache-2.0

// Package storetest is the one suite that every store.Store passes: each accessor's rules, transactions, concurrency, write
// skew and the order of events. It decides what the contract in internal/store means; it never looks behind it.
package storetest

import (
	"context"
	"iter"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chaperone/internal/fault"
	"chaperone/internal/store"
)

// Run runs the suite. open gives an empty store for each test and closes it with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"identity", identityTests()},
		{"people", peopleTests()},
		{"run", runTests()},
		{"grant", grantTests()},
		{"approval", approvalTests()},
		{"policy", policyTests()},
		{"catalog", catalogTests()},
		{"secret", secretTests()},
		{"revocation", revocationTests()},
		{"meta", metaTests()},
		{"events", eventTests()},
		{"transaction", transactionTests()},
		{"concurrency", concurrencyTests()},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, one := range group.tests {
				t.Run(one.name, func(t *testing.T) { one.run(t, open(t)) })
			}
		})
	}
}

type test struct {
	name string
	run  func(*testing.T, store.Store)
}

// t0 is the time of all fixtures: with milliseconds, and in a zone that is not UTC, so that a store that keeps zones is found out.
func t0() time.Time {
	return time.Date(2026, 11, 23, 10, 30, 0, int(123*time.Millisecond), time.FixedZone("elsewhere", 2*3600))
}

// update must succeed.
func update(t *testing.T, st store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := st.Update(context.Background(), fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

// view must succeed.
func view(t *testing.T, st store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := st.View(context.Background(), fn); err != nil {
		t.Fatalf("View: %v", err)
	}
}

// refused runs an update that must fail with the kind and code.
func refused(t *testing.T, st store.Store, kind fault.Kind, code string, fn func(store.Tx) error) {
	t.Helper()
	want(t, st.Update(context.Background(), fn), kind, code)
}

// absent runs a view that must fail with NotFound and the code.
func absent(t *testing.T, st store.Store, code string, fn func(store.Tx) error) {
	t.Helper()
	want(t, st.View(context.Background(), fn), fault.NotFound, code)
}

// want demands the named reason, with words for the reader.
func want(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	if !fault.Is(err, kind) || fault.CodeOf(err) != code {
		t.Fatalf("error is %v; want %s %q", err, kind, code)
	}
}

// same demands equal values, and that every time in got is in UTC.
func same[T any](t *testing.T, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
		t.Fatalf("stored (-want +got):\n%s", diff)
	}
	inUTC(t, reflect.ValueOf(got), reflect.TypeOf(got).String())
}

func inUTC(t *testing.T, v reflect.Value, where string) {
	t.Helper()
	switch v.Kind() {
	case reflect.Struct:
		if at, ok := v.Interface().(time.Time); ok {
			if at.Location() != time.UTC {
				t.Errorf("%s is in %s, not in UTC", where, at.Location())
			}
			return
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				inUTC(t, v.Field(i), where+"."+f.Name)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			inUTC(t, v.Index(i), where+"[]")
		}
	case reflect.Pointer:
		if !v.IsNil() {
			inUTC(t, v.Elem(), where)
		}
	}
}

// all drains a list that must not fail.
func all[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var out []T
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// lists demands that a list, as key names its members, is exactly these in this order.
func lists[T any](t *testing.T, st store.Store, list func(store.Tx) iter.Seq2[T, error], key func(T) string, want ...string) {
	t.Helper()
	view(t, st, func(tx store.Tx) error {
		got, err := all(list(tx))
		if err != nil {
			return err
		}
		var keys []string
		for _, v := range got {
			keys = append(keys, key(v))
		}
		if !slices.Equal(keys, want) {
			t.Errorf("list is %v; want %v", keys, want)
		}
		return nil
	})
}

// fetch reads one value in a view of its own.
func fetch[T any](t *testing.T, st store.Store, get func(store.Tx) (T, error)) T {
	t.Helper()
	var out T
	view(t, st, func(tx store.Tx) (err error) {
		out, err = get(tx)
		return err
	})
	return out
}
