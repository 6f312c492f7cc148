// SPDX-License-Identifier: Apache-2.0

// Package app composes the rooms into one program: it decides which part stands behind which port, and in what order all start and
// stop. It never decides a request and holds no rule of its own.
package app

import (
	"context"

	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/secret"
	"chaperone/internal/upstream"
)

// FarSide lets the road forward through the upstream client: neither room knows the other.
type FarSide struct{ Client *upstream.Client }

var _ enforce.Upstream = FarSide{}

// Forward implements enforce.Upstream.
func (f FarSide) Forward(ctx context.Context, o enforce.Outgoing) (enforce.Exchange, error) {
	x, err := f.Client.Forward(ctx, upstream.Forward{
		Server: o.Server, Injection: o.Injection, Method: o.Method, Header: o.Header, Session: o.Session, Body: o.Body,
	})
	if err != nil {
		return nil, err
	}
	return exchange{x}, nil
}

// Definitions implements enforce.Upstream.
func (f FarSide) Definitions(ctx context.Context, s catalog.Server, in secret.Injection) ([]enforce.Definition, error) {
	d, err := f.Client.Definitions(ctx, s, in)
	if err != nil {
		return nil, err
	}
	self, err := d.Server()
	if err != nil {
		return nil, err
	}
	out := []enforce.Definition{{Kind: catalog.KindServer, Raw: self}}
	for _, item := range d.Items {
		out = append(out, enforce.Definition{Kind: item.Kind, Name: item.Name, Raw: item.Raw})
	}
	return out, nil
}

type exchange struct{ *upstream.Exchange }

// Answer implements enforce.Exchange.
func (x exchange) Answer() enforce.Answer {
	return enforce.Answer{Status: x.Status, Stream: x.Stream, Session: x.Session, Header: x.Header}
}

// Next implements enforce.Exchange.
func (x exchange) Next() (enforce.Incoming, error) {
	m, err := x.Exchange.Next()
	return enforce.Incoming{Raw: m.Raw, Doc: m.Doc, EventID: m.EventID, Event: m.Event, Retry: m.Retry, Redacted: m.Redacted}, err
}
