// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"chaperone/internal/admit"
	"chaperone/internal/api"
	"chaperone/internal/config"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/gateway"
	"chaperone/internal/govern"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/issuer"
	"chaperone/internal/keyring"
	"chaperone/internal/ledger"
	"chaperone/internal/revocation"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
	"chaperone/internal/upstream"
)

// firstOperator is the name of the person that the very first start makes.
const firstOperator = "operator"

// proofLife is how long a DPoP nonce is good, and proofMany how many proofs are remembered meanwhile: more than the doors could
// answer in that time, so that no single key fills the memory.
const (
	proofLife = time.Minute
	proofMany = 1 << 20
)

// Options are what a test may put under the program. The zero value is the product.
type Options struct {
	Version string
	Now     func() time.Time
	// Trace and Failpoint observe commits and the steps of the road (see store/sql and enforce).
	Trace     func(event string)
	Failpoint func(step string)

	accept bool // restore --accept is under way
}

// Started is what there is to say once all doors answer.
type Started struct {
	PublicURL, APIURL string
	Operator          string // of the very first start
	LoginCode         string // single use; empty once an operator has signed in
	Notes             []string
}

// LibraryLog hands to log what libraries say that keep one logger for the whole process. Call it once, before the first New.
func LibraryLog(log *slog.Logger) { ledger.LibraryLog(log) }

// App is the whole program in one process.
type App struct {
	conf config.Config
	log  *slog.Logger
	opts Options

	ring    *keyring.Ring
	db      *sqlstore.DB
	tree    *ledger.Log
	logKey  string
	index   *revocation.Index
	far     *upstream.Client
	library *enforce.Library
	admit   *admit.Road
	govern  *govern.Road
	engine  *enforce.Engine

	agents, people *listener
}

// New opens keys, database and log, and composes the rooms. Nothing listens yet. A database of a newer version, a keys directory
// that others can read, and a log that is ahead of its database are refused.
func New(ctx context.Context, conf config.Config, log *slog.Logger, opts Options) (*App, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	a := &App{conf: conf, log: log, opts: opts}
	if err := a.open(ctx); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

func (a *App) open(ctx context.Context) (err error) {
	if err := os.MkdirAll(a.conf.Data, 0o700); err != nil {
		return fault.New(fault.Invalid, "app.open", "data_dir", "cannot use the data directory %s", a.conf.Data).
			WithFix("make it writable for this user, or set data in the configuration").WithCause(err)
	}
	// A database without its keys must not silently get new ones: nothing sealed in it would ever open.
	_, missing := os.Stat(databasePath(a.conf))
	if a.ring, err = keyring.Open(a.conf.Keys, errors.Is(missing, os.ErrNotExist)); err != nil {
		return err
	}
	if a.db, err = sqlstore.Open(ctx, sqlstore.Config{Path: databasePath(a.conf), Trace: a.opts.Trace}); err != nil {
		return err
	}
	signer, err := a.ring.LogSigner(origin(a.conf))
	if err != nil {
		return err
	}
	if a.logKey, err = a.ring.LogVerifierKey(origin(a.conf)); err != nil {
		return err
	}
	if a.tree, err = ledger.Open(ctx, logPath(a.conf), ledger.Config{Signer: signer, Key: a.logKey, Now: a.opts.Now, Log: a.log}); err != nil {
		return err
	}
	lost, ahead, err := a.tree.Ahead(ctx, a.db)
	if err != nil {
		return err
	}
	if ahead && !a.opts.accept {
		return fault.New(fault.Conflict, "app.open", "log_ahead", "the log holds %d records that the database has not: the database was restored from a backup", lost.To-lost.From+1).
			WithFix("put the newer database back, or accept the loss with `chaperone restore --accept`, which revokes all credentials, grants and pending approvals")
	}
	a.compose()
	return nil
}

func databasePath(c config.Config) string { return filepath.Join(c.Data, "chaperone.db") }
func logPath(c config.Config) string      { return filepath.Join(c.Data, "log") }
func origin(c config.Config) string       { return c.TrustDomain + "/log" }

// compose puts the rooms together. It does no I/O.
func (a *App) compose() {
	boot := make([]byte, 32)
	rand.Read(boot) // never fails (crypto/rand aborts the process instead)
	nonces := identity.NewNonces(boot, proofLife, proofMany)
	a.index = revocation.NewIndex()
	a.admit = admit.New(admit.Deps{Store: a.db, Index: a.index, Nonces: nonces, TokenKeys: a.ring.TokenKeys, Now: a.opts.Now, Log: a.log},
		admit.Config{Issuer: a.conf.PublicURL, TrustDomain: a.conf.TrustDomain})
	a.far = upstream.New(upstream.Deps{Log: a.log}, upstream.Config{Message: a.conf.Limits.MessageBytes, Name: "chaperone", Version: a.opts.Version})
	a.library = enforce.NewLibrary(a.db, a.log)
	secrets := newSecrets(a.db, a.ring)
	a.engine = enforce.New(enforce.Deps{
		Auth: a.admit, Store: a.db, Snapshots: a.library, Upstream: FarSide{a.far}, Secrets: secrets, Record: a.tree, Revocations: a.index,
		Link: func(x id.Approval) string { return a.conf.APIURL + "/approvals/" + x.String() }, Now: a.opts.Now, Log: a.log,
	}, enforce.Config{
		PublicURL: a.conf.PublicURL, StateKey: a.ring.StateKey(), DefinitionsTTL: a.conf.Limits.Definitions, Lease: a.conf.Limits.Lease,
		MaxLag: a.conf.Limits.RecordLag, MaxWait: a.conf.Limits.Hold, Failpoint: a.opts.Failpoint,
	})
	a.govern = govern.New(govern.Deps{
		Store: a.db, Rules: rules{a.library, a.db}, Credentials: credentials{a.admit}, Grants: grants{a.engine}, Upstream: offers{FarSide{a.far}, secrets},
		Seal: a.ring, Record: ledger.Record{Log: a.tree, Store: a.db}, Host: host{a}, Notices: a.index, Now: a.opts.Now, Log: a.log,
	}, govern.Config{TrustDomain: a.conf.TrustDomain, PublicURL: a.conf.PublicURL, APIURL: a.conf.APIURL, Version: a.opts.Version})

	a.agents = newListener("agents", a.conf.Listen.Agents, a.conf.TLS, a.log)
	gateway.New(gateway.Deps{Engine: a.engine, Nonce: a.admit.Nonce, Log: a.log},
		gateway.Config{PublicURL: a.conf.PublicURL, SessionKey: a.ring.StateKey(), Body: a.conf.Limits.BodyBytes, Wait: hold(a.conf)}).Routes(a.agents.mux)
	issuer.New(issuer.Deps{Road: a.admit, Keys: func() []identity.PublicKey { _, public := a.ring.TokenKeys(); return public }, Log: a.log},
		issuer.Config{Issuer: a.conf.PublicURL, TrustDomain: a.conf.TrustDomain, LogOrigin: origin(a.conf), LogKey: a.logKey}).Routes(a.agents.mux)

	a.people = newListener("people", a.conf.Listen.People, a.conf.TLS, a.log)
	checks := checks{a}
	door := api.New(api.Deps{Govern: a.govern, Auth: a.admit, Nonces: nonces, Log: a.tree, Checks: checks, Now: a.opts.Now, Logger: a.log},
		api.Config{PublicURL: a.conf.PublicURL, APIURL: a.conf.APIURL, TrustDomain: a.conf.TrustDomain, Version: a.opts.Version, MaxBody: int64(a.conf.Limits.BodyBytes)})
	door.Routes(a.people.mux)
	healthRoutes(a.agents.mux, checks)
}

// hold translates "do not wait" for the gateway, where zero means the default.
func hold(c config.Config) time.Duration {
	if c.Limits.Hold == 0 {
		return -1
	}
	return c.Limits.Hold
}

// Run starts everything, says so to ready, and returns when ctx has ended and all is drained, or when a part failed.
func (a *App) Run(ctx context.Context, ready func(Started)) error {
	first, err := a.govern.Bootstrap(ctx, firstOperator)
	if err != nil {
		return err
	}
	if err := a.library.Refresh(ctx); err != nil {
		a.log.ErrorContext(ctx, "the policies in the database are not in force", "error", err)
	}
	if err := a.admit.Refresh(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	// The followers outlive the doors, so that what the last calls recorded still reaches the log.
	late, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	followers, late := errgroup.WithContext(late)
	followers.Go(func() error { return a.tree.Run(late, a.db) })
	followers.Go(func() error { return a.admit.Follow(late) })
	followers.Go(func() error { return a.followRules(late) })
	followers.Go(func() error { return a.govern.Run(late) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-late.Done(): // a follower failed: the doors close
			return context.Cause(late)
		}
	})
	for _, l := range []*listener{a.agents, a.people} {
		if err := l.bind(ctx); err != nil {
			stop()
			return errors.Join(err, followers.Wait())
		}
		g.Go(func() error { return l.serve(ctx) })
	}
	ready(Started{PublicURL: a.conf.PublicURL, APIURL: a.conf.APIURL, Operator: first.Operator, LoginCode: first.Code, Notes: a.notes()})
	err = g.Wait()
	a.drainLog(late)
	stop()
	ferr := followers.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, ferr)
}

// drainLog gives the log a moment to take what was recorded last. What it does not take now it takes at the next start.
func (a *App) drainLog(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var recorded int64
	err := a.db.View(ctx, func(tx store.Tx) (err error) { recorded, err = tx.Events().Next(); return err })
	for err == nil && int64(a.tree.Size()) < recorded && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// followRules puts policies and catalogue in force that another process has changed.
func (a *App) followRules(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := a.library.Refresh(ctx); err != nil && ctx.Err() == nil {
				a.log.WarnContext(ctx, "policies and catalogue could not be read again", "error", err)
			}
		}
	}
}

// notes are what `up` gives less than separate processes do.
func (a *App) notes() []string {
	return []string{"everything runs in one process under one user: a program that runs as this user could read the keys (docs/threat-model.md)"}
}

// Close releases what New opened.
func (a *App) Close() error {
	var errs []error
	if a.far != nil {
		a.far.Close()
	}
	if a.tree != nil {
		errs = append(errs, a.tree.Close())
	}
	if a.db != nil {
		errs = append(errs, a.db.Close())
	}
	return errors.Join(errs...)
}
