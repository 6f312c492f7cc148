// SPDX-License-Identifier: Apache-2.0

// Package apptest runs a whole deployment in the test's own process: every door on loopback, a real database, log and keys, real
// people with keys. It decides only what a test would otherwise write out (ports, names, order of the first steps); it never stands
// in for a part, and the product never imports it.
package apptest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chaperone/internal/api/client"
	"chaperone/internal/app"
	"chaperone/internal/config"
	"chaperone/internal/identity"
	"chaperone/internal/people"
)

// Deployment is one deployment. Its directories outlive Stop, so that it can be started again.
type Deployment struct {
	Conf     config.Config
	Options  app.Options
	Log      *slog.Logger
	Operator *client.Client // the first operator, signed in
	First    app.Started    // what the very first start said

	t    testing.TB
	mu   sync.Mutex
	stop context.CancelFunc
	done chan error
}

var quiet = sync.OnceFunc(func() { app.LibraryLog(slog.New(slog.DiscardHandler)) })

// Config is a configuration of its own under a new directory of the test, on free ports.
func Config(t testing.TB) config.Config {
	t.Helper()
	dir := t.TempDir()
	c := config.Default(filepath.Join(dir, "data"), filepath.Join(dir, "config"))
	c.Listen.Agents, c.Listen.People = free(t), free(t)
	c.PublicURL, c.APIURL = "http://"+c.Listen.Agents, "http://"+c.Listen.People
	return c
}

func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// New prepares a fresh deployment that does not run yet. change may be nil. The test's end stops it.
func New(t testing.TB, change func(d *Deployment)) *Deployment {
	t.Helper()
	d := &Deployment{t: t, Conf: Config(t), Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(d)
	}
	t.Cleanup(func() { d.Stop() })
	return d
}

// Start starts a fresh deployment and signs its first operator in. change may be nil.
func Start(t testing.TB, change func(d *Deployment)) *Deployment {
	t.Helper()
	d := New(t, change)
	d.First = d.Run()
	key := d.key()
	in, err := client.Login(t.Context(), d.Conf.PublicURL, key, d.First.LoginCode, "test", client.Config{})
	d.must(err)
	d.Operator = d.client(key, in.ClientID)
	return d
}

// Run starts the program and returns once its doors answer.
func (d *Deployment) Run() app.Started {
	d.t.Helper()
	quiet()
	ctx, stop := context.WithCancel(context.WithoutCancel(d.t.Context()))
	done := make(chan error, 1)
	d.mu.Lock()
	d.stop, d.done = stop, done
	d.mu.Unlock()
	a, err := app.New(ctx, d.Conf, d.Log, d.Options)
	if err != nil {
		done <- err
		d.t.Fatal(err)
	}
	ready := make(chan app.Started, 1)
	go func() {
		err := a.Run(ctx, func(s app.Started) { ready <- s })
		done <- errors.Join(err, a.Close())
	}()
	select {
	case s := <-ready:
		return s
	case err := <-done:
		done <- err
		d.t.Fatalf("the deployment did not start: %v", err)
	case <-time.After(20 * time.Second):
		d.t.Fatal("the deployment did not start in 20 s")
	}
	return app.Started{}
}

// Stop ends the program in good order and returns what it ended with; nothing if it is stopped already.
func (d *Deployment) Stop() error {
	d.mu.Lock()
	stop, done := d.stop, d.done
	d.stop, d.done = nil, nil
	d.mu.Unlock()
	if stop == nil {
		return nil
	}
	stop()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		d.t.Error("the deployment did not stop in 20 s")
		return nil
	}
}

func (d *Deployment) key() *identity.Key {
	d.t.Helper()
	k, err := identity.NewKey()
	d.must(err)
	return k
}

func (d *Deployment) client(k *identity.Key, clientID string) *client.Client {
	tr := &http.Transport{}
	d.t.Cleanup(tr.CloseIdleConnections)
	return client.New(d.Conf.APIURL, client.Holder{Key: k, ClientID: clientID, Issuer: d.Conf.PublicURL}, client.Config{HTTP: &http.Client{Transport: tr}})
}

// LoginCode adds a person and returns their single-use code.
func (d *Deployment) LoginCode(name string, roles ...people.Role) string {
	d.t.Helper()
	made, err := d.Operator.AddPerson(d.t.Context(), client.AddPerson{Name: name, Roles: roles})
	d.must(err)
	return made.Code
}

// Person adds a person and signs them in.
func (d *Deployment) Person(name string, roles ...people.Role) *client.Client {
	d.t.Helper()
	key := d.key()
	in, err := client.Login(d.t.Context(), d.Conf.PublicURL, key, d.LoginCode(name, roles...), "test", client.Config{})
	d.must(err)
	return d.client(key, in.ClientID)
}

// Server registers what h serves under /mcp, describes it with a catalogue file, and approves all that it offers now.
func (d *Deployment) Server(name string, h http.Handler, catalogue string) *httptest.Server {
	d.t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/mcp", h)
	up := httptest.NewServer(mux)
	d.t.Cleanup(up.Close)
	_, err := d.Operator.PutServer(d.t.Context(), name, client.PutServer{URL: up.URL + "/mcp", AllowLoopback: true, Create: true})
	d.must(err)
	_, err = d.Operator.ApplyCatalog(d.t.Context(), []byte(catalogue))
	d.must(err)
	_, err = d.Operator.Pin(d.t.Context(), name, client.PinRequest{All: true})
	d.must(err)
	return up
}

// Agent registers an agent of a type of its own name, which reads and writes the given tools (lists separated by commas), and
// returns a join code for it.
func (d *Deployment) Agent(name, reads, writes string) (join string) {
	d.t.Helper()
	ctx := d.t.Context()
	split := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) }
	_, err := d.Operator.PutType(ctx, name, client.PutType{Reads: split(reads), Writes: split(writes)})
	d.must(err)
	_, err = d.Operator.Register(ctx, client.Register{Name: name, Type: name, Owner: d.First.Operator, Purpose: "tests"})
	d.must(err)
	return d.JoinCode(name)
}

// JoinCode returns a single-use code with which an instance of the agent enrols.
func (d *Deployment) JoinCode(agent string) string {
	d.t.Helper()
	made, err := d.Operator.JoinCode(d.t.Context(), agent)
	d.must(err)
	return made.Code
}

func (d *Deployment) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}
