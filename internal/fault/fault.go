// SPDX-License-Identifier: Apache-2.0

// Package fault is the one error type of the house: a kind, a stable code, and words that say what was wrong
// and how to mend it. It decides how errors are told apart; it never decides what a door answers (doors hold
// one table each, kind to status).
package fault

import (
	"errors"
	"fmt"
)

// Kind is the class of an error. There are ten; unknown errors are Internal.
type Kind uint8

// The kinds. Internal is the zero value so that an unclassified error never leaks its text.
const (
	Internal        Kind = iota
	Invalid              // the input is wrong; the caller can mend it
	NotFound             // no such thing, or none the caller may see
	Exists               // the name or single-use value is taken
	Conflict             // the thing moved since it was read, or its state forbids the change
	Unauthenticated      // no or bad proof of who is calling
	Denied               // known caller, not allowed (for doors; policy outcomes are Decisions)
	Suspended            // the agent, run or person is stopped
	Limited              // a budget, rate or size bound is reached
	Unavailable          // a dependency is down or stale; the caller may try again
)

var kindNames = [...]string{
	"internal", "invalid", "not_found", "exists", "conflict", "unauthenticated", "denied", "suspended", "limited", "unavailable",
}

// String returns the snake_case name that appears on the wire.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Internal]
}

// Error is what every room returns. Op names the operation ("run.Open"), Code is a stable snake_case name that
// tests and clients match on ("grant_spent"), Msg says what was wrong and Fix the next step; all four may be
// shown to the caller unless Kind is Internal. Err is the cause and never leaves the process.
type Error struct {
	Kind Kind
	Op   string
	Code string
	Msg  string
	Fix  string
	Err  error
}

// New returns an Error without a cause. The message may be shown to the caller.
func New(kind Kind, op, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Code: code, Msg: fmt.Sprintf(format, args...)}
}

// Wrap returns an Internal error around a cause whose text stays inside the process. Wrap of nil is nil; wrapping an
// *Error keeps its kind, code, message and fix, and prefixes the operation.
func Wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return &Error{Kind: e.Kind, Op: op, Code: e.Code, Msg: e.Msg, Fix: e.Fix, Err: err}
	}
	return &Error{Kind: Internal, Op: op, Code: "internal", Msg: "internal error", Err: err}
}

// WithFix returns the error with the next step for the reader.
func (e *Error) WithFix(format string, args ...any) *Error {
	e.Fix = fmt.Sprintf(format, args...)
	return e
}

// WithCause returns the error with a cause that is logged but never shown.
func (e *Error) WithCause(err error) *Error {
	e.Err = err
	return e
}

// Error renders the whole chain, for logs. Doors show Msg and Fix instead.
func (e *Error) Error() string {
	s := e.Op + ": " + e.Msg
	if e.Code != "" {
		s += " (" + e.Code + ")"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost *Error in the chain, Internal if there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// CodeOf returns the stable code of the outermost *Error in the chain, "internal" if there is none.
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Code != "" {
		return e.Code
	}
	return "internal"
}

// Is reports whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
