// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"sync"

	"chaperone/internal/fault"
	"chaperone/internal/keyring"
	"chaperone/internal/secret"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

// secrets opens the seals of upstream credentials for the road. The row is read for every call, so that a changed or deleted secret
// counts at once; the opened value is kept as long as the row's version stays.
type secrets struct {
	db   *sqlstore.DB
	ring *keyring.Ring

	mu   sync.Mutex
	open map[string]opened
}

type opened struct {
	version int64
	in      secret.Injection
}

func newSecrets(db *sqlstore.DB, ring *keyring.Ring) *secrets {
	return &secrets{db: db, ring: ring, open: map[string]opened{}}
}

// Injection implements enforce.Secrets: the zero Injection for a server without a secret.
func (s *secrets) Injection(ctx context.Context, server string) (secret.Injection, error) {
	var row secret.Sealed
	err := s.db.View(ctx, func(tx store.Tx) (err error) { row, err = tx.Secrets().Secret(server); return err })
	if fault.Is(err, fault.NotFound) {
		return secret.Injection{}, nil
	}
	if err != nil {
		return secret.Injection{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := s.open[server]; ok && o.version == row.Version {
		return o.in, nil
	}
	ad, err := row.AssociatedData()
	if err != nil {
		return secret.Injection{}, err
	}
	plain, err := s.ring.Unseal(row.KeyID, row.Blob, ad)
	if err != nil {
		return secret.Injection{}, err
	}
	in := secret.Injection{Server: row.Server, Place: row.Place, Name: row.Name, User: row.User, Value: secret.NewValue(string(plain))}
	s.open[server] = opened{row.Version, in}
	return in, nil
}
