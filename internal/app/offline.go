// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"log/slog"

	"chaperone/internal/config"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/keyring"
	sqlstore "chaperone/internal/store/sql"
)

// ResetOperators makes a fresh operator on a stopped deployment. It needs the sealing key.
func ResetOperators(ctx context.Context, conf config.Config, log *slog.Logger, name string, opts Options) (govern.First, error) {
	ring, err := keyring.Open(conf.Keys, false)
	if err != nil {
		return govern.First{}, err
	}
	db, err := sqlstore.Open(ctx, sqlstore.Config{Path: databasePath(conf)})
	if err != nil {
		return govern.First{}, err
	}
	defer db.Close()
	now := opts.Now
	road := govern.New(govern.Deps{Store: db, Rules: rules{enforce.NewLibrary(db, log), db}, Seal: ring, Now: now, Log: log},
		govern.Config{TrustDomain: conf.TrustDomain, PublicURL: conf.PublicURL, APIURL: conf.APIURL, Version: opts.Version})
	first, err := road.ResetOperators(ctx, name)
	return first, fault.Wrap("app.ResetOperators", err)
}
