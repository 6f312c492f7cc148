// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"

	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/secret"
	"chaperone/internal/upstream"
)

// farSide is app.FarSide, written again so that these tests do not hang on every other room.
type farSide struct{ Client *upstream.Client }

// Forward implements enforce.Upstream.
func (f farSide) Forward(ctx context.Context, o enforce.Outgoing) (enforce.Exchange, error) {
	x, err := f.Client.Forward(ctx, upstream.Forward{
		Server: o.Server, Injection: o.Injection, Method: o.Method, Header: o.Header, Session: o.Session, Body: o.Body,
	})
	if err != nil {
		return nil, err
	}
	return exchange{x}, nil
}

// Definitions implements enforce.Upstream.
func (f farSide) Definitions(ctx context.Context, s catalog.Server, in secret.Injection) ([]enforce.Definition, error) {
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
