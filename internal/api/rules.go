// SPDX-License-Identifier: Apache-2.0

package api

import (
	"mime"

	"chaperone/internal/api/client"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/govern"
	"chaperone/internal/policy"
	"chaperone/internal/secret"
)

func bundle(b policy.Bundle, active bool) client.BundleInfo {
	return client.BundleInfo{ID: b.ID, Version: b.Version, Digest: b.Digest, Author: b.Author, At: b.At, Note: b.Note, Active: active}
}

func (d *Door) policies(r *request) (any, error) {
	q, err := r.params("after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.Policies(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	out := make([]client.BundleInfo, len(all))
	for i, b := range all {
		out[i] = bundle(b, i == 0) // newest first; the newest is in force
	}
	return page(q, out, func(b client.BundleInfo) string { return b.ID.String() })
}

func (d *Door) activePolicy(r *request) (any, error) {
	return d.Govern.ActivePolicy(r.Context(), r.caller)
}

func (d *Door) applyPolicy(r *request) (any, error) {
	var in client.ApplyPolicy
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	b, err := d.Govern.ApplyPolicy(r.Context(), r.caller, in.Files, in.Note, in.Base)
	if err != nil {
		return nil, err
	}
	return created{bundle(b, true)}, nil
}

func (d *Door) checkPolicy(r *request) (any, error) {
	var in client.ApplyPolicy
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	problems, err := d.Govern.CheckPolicy(r.Context(), r.caller, in.Files)
	if err != nil {
		return nil, err
	}
	return client.Checked{OK: len(problems) == 0, Problems: append([]policy.Problem{}, problems...)}, nil
}

func (d *Door) servers(r *request) (any, error) {
	q, err := r.params("after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.Servers(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	return page(q, all, func(s catalog.Server) string { return s.Name })
}

func (d *Door) putServer(r *request) (any, error) {
	var in client.PutServer
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	return d.Govern.PutServer(r.Context(), r.caller, catalog.Server{
		Name: r.PathValue("name"), URL: in.URL, AllowLoopback: in.AllowLoopback, TLSName: in.TLSName, TLSCA: in.TLSCA, Mode: in.Mode,
		Disabled: in.Disabled,
	}, in.Create)
}

func (d *Door) pins(r *request) (any, error) {
	q, err := r.params("after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.ListPins(r.Context(), r.caller, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return page(q, all, func(p catalog.Pin) string { return govern.ItemName(p.Kind, p.Name) })
}

func (d *Door) pin(r *request) (any, error) {
	var in client.PinRequest
	if err := r.decode(&in, true); err != nil {
		return nil, err
	}
	offer, err := d.Govern.Pin(r.Context(), r.caller, r.PathValue("name"), govern.Acceptance{Items: in.Accept, All: in.All, Expect: in.Expect})
	if err != nil {
		return nil, err
	}
	out := client.PinAnswer{Server: offer.Server, Digest: offer.Digest, Items: []client.PinItem{}}
	for _, i := range offer.Items {
		item := client.PinItem{Item: govern.ItemName(i.Kind, i.Name), State: i.State, Digest: i.Digest, Pinned: i.Pinned, Raw: i.Raw, Accepted: i.Accepted}
		for _, c := range i.Changes {
			item.Changes = append(item.Changes, change(c))
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

func (d *Door) catalog(r *request) (any, error) {
	version, entries, err := d.Govern.Catalog(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	return client.Catalog{Version: version, Items: append([]catalog.Entry{}, entries...)}, nil
}

func (d *Door) applyCatalog(r *request) (any, error) {
	switch media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case err != nil, media != "application/yaml" && media != "application/x-yaml" && media != "text/yaml":
		return nil, fault.New(fault.Invalid, "api", "bad_media_type", "the body is not application/yaml").WithFix("send the catalogue file with Content-Type: application/yaml")
	}
	version, entries, err := d.Govern.ApplyCatalog(r.Context(), r.caller, r.body)
	if err != nil {
		return nil, err
	}
	return client.Applied{Version: version, Items: append([]catalog.Entry{}, entries...)}, nil
}

func secretInfo(s govern.SecretInfo) client.Secret {
	return client.Secret{Server: s.Server, Place: s.Place, Name: s.Name, User: s.User, KeyID: s.KeyID, Owner: s.Owner, Version: s.Version, UpdatedAt: s.UpdatedAt}
}

func (d *Door) secrets(r *request) (any, error) {
	q, err := r.params("after", "limit")
	if err != nil {
		return nil, err
	}
	all, err := d.Govern.Secrets(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	return page(q, each(all, secretInfo), func(s client.Secret) string { return s.Server })
}

func (d *Door) putSecret(r *request) (any, error) {
	var in client.PutSecret
	if err := r.decode(&in, false); err != nil {
		return nil, err
	}
	got, err := d.Govern.PutSecret(r.Context(), r.caller, r.PathValue("server"), in.Place, in.Name, in.User, secret.NewValue(in.Value))
	if err != nil {
		return nil, err
	}
	return secretInfo(got), nil
}

func (d *Door) deleteSecret(r *request) (any, error) {
	return nil, d.Govern.DeleteSecret(r.Context(), r.caller, r.PathValue("server"))
}

func change(c catalog.Change) client.PinChange { return client.PinChange(c) }
