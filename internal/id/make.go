// SPDX-License-Identifier: Apache-2.0

package id

import "time"

// The makers, one a kind (the kinds themselves are not named outside this package). Each is New of its kind.

func NewAgent(now time.Time) Agent       { return New[agent](now) }
func NewInstance(now time.Time) Instance { return New[instance](now) }
func NewRun(now time.Time) Run           { return New[run](now) }
func NewStep(now time.Time) Step         { return New[step](now) }
func NewGrant(now time.Time) Grant       { return New[grant](now) }
func NewApproval(now time.Time) Approval { return New[approval](now) }
func NewDecision(now time.Time) Decision { return New[decision](now) }
func NewEvent(now time.Time) Event       { return New[event](now) }
func NewServer(now time.Time) Server     { return New[server](now) }
func NewBundle(now time.Time) Bundle     { return New[bundle](now) }
func NewCatalog(now time.Time) Catalog   { return New[catalog](now) }
func NewPerson(now time.Time) Person     { return New[person](now) }
func NewCase(now time.Time) Case         { return New[reviewed](now) }

// The readers, one a kind. Each is Parse of its kind: Invalid, "bad_id".

func ParseAgent(s string) (Agent, error)       { return Parse[agent](s) }
func ParseInstance(s string) (Instance, error) { return Parse[instance](s) }
func ParseRun(s string) (Run, error)           { return Parse[run](s) }
func ParseStep(s string) (Step, error)         { return Parse[step](s) }
func ParseGrant(s string) (Grant, error)       { return Parse[grant](s) }
func ParseApproval(s string) (Approval, error) { return Parse[approval](s) }
func ParseDecision(s string) (Decision, error) { return Parse[decision](s) }
func ParseEvent(s string) (Event, error)       { return Parse[event](s) }
func ParseServer(s string) (Server, error)     { return Parse[server](s) }
func ParseBundle(s string) (Bundle, error)     { return Parse[bundle](s) }
func ParseCatalog(s string) (Catalog, error)   { return Parse[catalog](s) }
func ParsePerson(s string) (Person, error)     { return Parse[person](s) }
func ParseCase(s string) (Case, error)         { return Parse[reviewed](s) }
