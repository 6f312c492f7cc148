// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/policy"
	"chaperone/internal/secret"
	"chaperone/internal/store"
)

const (
	maxURL = 2048
	maxPEM = 64 << 10
)

type serverData struct {
	Server        string       `json:"server"`
	URL           string       `json:"url"`
	Before        string       `json:"url_before,omitempty"`
	AllowLoopback bool         `json:"allow_loopback,omitempty"`
	TLSName       string       `json:"tls_name,omitempty"`
	TLSCA         string       `json:"tls_ca_digest,omitempty"`
	Mode          string       `json:"mode"`
	Disabled      bool         `json:"disabled,omitempty"`
	Rules         []audit.Rule `json:"rules,omitempty"`
}

// Servers lists the registered upstreams in order of name.
func (r *Road) Servers(ctx context.Context, c Caller) (out []catalog.Server, err error) {
	if _, err := r.allow(ctx, c, ActServerList, policy.Resource{Kind: "server"}); err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) (err error) { out, err = collect(tx.Catalog().Servers(), 0); return err })
	return out, err
}

// PutServer makes or replaces an upstream; the author is recorded and may not approve its calls for a day. With create, a name
// that is taken is refused (Exists "server_name_taken"). A server whose endpoint moves to another origin must first lose
// its secret (Conflict "server_has_secret"), so that no secret follows to a new place unnoticed; its own pin is quarantined
// until somebody pins it again. Other errors, Invalid: "bad_name", "bad_url", "loopback_not_allowed", "bad_tls", "bad_mode".
func (r *Road) PutServer(ctx context.Context, c Caller, s catalog.Server, create bool) (catalog.Server, error) {
	const op = "govern.PutServer"
	a, err := r.allow(ctx, c, ActServerPut, policy.Resource{Kind: "server", ID: s.Name})
	if err != nil {
		return catalog.Server{}, err
	}
	if s.Mode == "" {
		s.Mode = "enforce"
	}
	if err := checkServer(op, s); err != nil {
		return catalog.Server{}, err
	}
	before, exists, err := r.server(ctx, s.Name)
	if err != nil {
		return catalog.Server{}, err
	}
	if exists && create {
		return catalog.Server{}, fault.New(fault.Exists, op, "server_name_taken", "there is already a server %s", s.Name).
			WithFix("choose another name, or change that server: chaperone server set %s", s.Name)
	}
	s.ID, s.Author, s.UpdatedAt = before.ID, a.name(), a.at
	if !exists {
		s.ID = id.NewServer(a.at)
	}
	data := serverData{
		Server: s.Name, URL: s.URL, Before: before.URL, AllowLoopback: s.AllowLoopback, TLSName: s.TLSName, Mode: s.Mode,
		Disabled: s.Disabled, Rules: a.rules,
	}
	if s.TLSCA != "" {
		data.TLSCA = canon.Sum([]byte(s.TLSCA))
	}
	if err := r.fits(ctx, op, draft{servers: []catalog.Server{s}}); err != nil {
		return catalog.Server{}, err
	}
	ev := r.event(a, audit.ServerPut, "server:"+s.Name, data)
	ev.Server = s.Name
	err = r.change(ctx, a, ev, func(tx store.Tx) error {
		if err := sameServer(tx, before, exists, s.Name); err != nil {
			return err
		}
		if exists && origin(before.URL) != origin(s.URL) {
			if err := noSecret(tx, op, s.Name); err != nil {
				return err
			}
		}
		if err := tx.Catalog().PutServer(s); err != nil {
			return err
		}
		if exists && before.URL != s.URL {
			if err := quarantine(tx, s.Name); err != nil {
				return err
			}
		}
		return tx.Pins().AddAuthor(catalog.Authorship{Server: s.Name, Kind: catalog.KindServer, Person: a.name(), What: "server", At: a.at})
	})
	if err != nil {
		return catalog.Server{}, err
	}
	return s, r.refresh(ctx)
}

// server finds a server by name.
func (r *Road) server(ctx context.Context, name string) (s catalog.Server, ok bool, err error) {
	err = r.view(ctx, func(tx store.Tx) (err error) { s, ok, err = findServer(tx, name); return err })
	return s, ok, err
}

func findServer(tx store.Tx, name string) (catalog.Server, bool, error) {
	for s, err := range tx.Catalog().Servers() {
		if err != nil {
			return s, false, err
		}
		if s.Name == name {
			return s, true, nil
		}
	}
	return catalog.Server{}, false, nil
}

func sameServer(tx store.Tx, before catalog.Server, existed bool, name string) error {
	now, exists, err := findServer(tx, name)
	if err != nil {
		return err
	}
	if exists != existed || now.URL != before.URL || !now.UpdatedAt.Equal(before.UpdatedAt) {
		return fault.New(fault.Conflict, "govern.PutServer", "server_moved", "the server %s changed meanwhile", name).WithFix("look at it again and repeat")
	}
	return nil
}

func noSecret(tx store.Tx, op, server string) error {
	_, err := tx.Secrets().Secret(server)
	if err == nil {
		return fault.New(fault.Conflict, op, "server_has_secret", "the server %s has a sealed secret, which would go to the new address", server).
			WithFix("chaperone secret delete %s, then change the server, then put the secret again", server)
	}
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// quarantine stops the use of what was pinned at the old endpoint: the server itself, until it is pinned again.
func quarantine(tx store.Tx, server string) error {
	held, err := pinsOf(tx, server)
	if err != nil {
		return err
	}
	for _, p := range held {
		if p.Kind == catalog.KindServer {
			p.State = catalog.Quarantined
			return tx.Pins().Put(p)
		}
	}
	return nil
}

// checkServer refuses an address that the product would not call: only http and https, http only to loopback and private
// addresses, and those only where the entry says so.
func checkServer(op string, s catalog.Server) error {
	if err := identity.CheckName(s.Name); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, op, "bad_url", format, args...).WithFix("write it as https://host[:port]/path")
	}
	u, err := url.Parse(s.URL)
	switch {
	case err != nil || len(s.URL) > maxURL || u.Opaque != "" || u.Hostname() == "":
		return bad("not the URL of a server")
	case u.User != nil:
		return bad("a URL may not hold a user or password: use a secret")
	case u.Fragment != "" || strings.Contains(s.URL, "#"):
		return bad("the URL has a fragment")
	case u.RawQuery != "" || u.ForceQuery:
		return bad("the URL has a query: use a secret with the place query")
	case u.Scheme != "https" && u.Scheme != "http":
		return bad("the scheme is not https or http")
	}
	near := nearby(u.Hostname())
	if near && !s.AllowLoopback {
		return fault.New(fault.Invalid, op, "loopback_not_allowed", "%s is a loopback or private address", u.Hostname()).
			WithFix("set allow_loopback if the server is meant to be there")
	}
	if u.Scheme == "http" && !near {
		return fault.New(fault.Invalid, op, "bad_url", "http is not allowed to an address off this machine or network").WithFix("use https")
	}
	if s.TLSName != "" && (u.Scheme != "https" || !hostName(s.TLSName)) {
		return fault.New(fault.Invalid, op, "bad_tls", "the TLS name is not a host name, or the URL is not https").WithFix("give the name in the server's certificate")
	}
	if s.TLSCA != "" {
		block, _ := pem.Decode([]byte(s.TLSCA))
		if len(s.TLSCA) > maxPEM || u.Scheme != "https" || block == nil || block.Type != "CERTIFICATE" || !x509.NewCertPool().AppendCertsFromPEM([]byte(s.TLSCA)) {
			return fault.New(fault.Invalid, op, "bad_tls", "the CA is not one or more certificates in PEM, or the URL is not https").
				WithFix("give the PEM of the authority that signed the server's certificate")
		}
	}
	if s.Mode != "enforce" {
		return fault.New(fault.Invalid, op, "bad_mode", "the mode %.40q is not enforce", s.Mode).WithFix("leave the mode out")
	}
	return nil
}

// nearby reports whether a host is a loopback, private or link-local literal, or localhost. Names that resolve to such addresses
// are refused when they are dialled.
func nearby(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	return addr.IsLoopback() || addr.IsPrivate() || addr.IsLinkLocalUnicast() || addr.IsUnspecified()
}

func hostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

func origin(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	host := strings.ToLower(u.Hostname())
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return u.Scheme + "://" + host + ":" + port
}

// Pins lists what is pinned of a server, in order of kind and name.
func (r *Road) ListPins(ctx context.Context, c Caller, server string) (out []catalog.Pin, err error) {
	if _, err := r.allow(ctx, c, ActServerList, policy.Resource{Kind: "server", ID: server}); err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) error {
		if _, ok, err := findServer(tx, server); err != nil {
			return err
		} else if !ok {
			return noServer(server)
		}
		out, err = pinsOf(tx, server)
		return err
	})
	return out, err
}

func pinsOf(tx store.Tx, server string) ([]catalog.Pin, error) {
	var out []catalog.Pin
	for p, err := range tx.Pins().Pins() {
		if err != nil {
			return nil, err
		}
		if p.Server == server {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b catalog.Pin) int {
		return strings.Compare(ItemName(a.Kind, a.Name), ItemName(b.Kind, b.Name))
	})
	return out, nil
}

func noServer(name string) error {
	return fault.New(fault.NotFound, "govern", "server_unknown", "there is no server %q", name).WithFix("see chaperone server list")
}

// SecretInfo is what can be told of a sealed secret: everything but its value.
type SecretInfo = secret.Sealed

type secretData struct {
	Server  string       `json:"server"`
	Place   secret.Place `json:"place"`
	Name    string       `json:"name,omitempty"`
	KeyID   string       `json:"key_id,omitempty"`
	Version int64        `json:"version"`
	Rules   []audit.Rule `json:"rules,omitempty"`
}

// associated is the associated data of a secret's seal: a blob that was moved to another server, owner or version does not open.
type associated struct {
	Owner    string `json:"owner"`
	Upstream string `json:"upstream"`
	Version  int64  `json:"version"`
}

// Secrets lists the sealed upstream credentials without blob and value.
func (r *Road) Secrets(ctx context.Context, c Caller) (out []SecretInfo, err error) {
	if _, err := r.allow(ctx, c, ActSecretList, policy.Resource{Kind: "secret"}); err != nil {
		return nil, err
	}
	err = r.view(ctx, func(tx store.Tx) (err error) { out, err = collect(tx.Secrets().Secrets(), 0); return err })
	for i := range out {
		out[i].Blob = nil
	}
	return out, err
}

// PutSecret seals an upstream credential for one server and replaces the one before. The value is never kept in the clear, logged,
// recorded or returned. Errors, Invalid: the codes of secret.CheckPlace and secret.CheckValue; NotFound "server_unknown".
func (r *Road) PutSecret(ctx context.Context, c Caller, server string, place secret.Place, name, user string, value secret.Value) (SecretInfo, error) {
	a, err := r.allow(ctx, c, ActSecretPut, policy.Resource{Kind: "secret", ID: server})
	if err != nil {
		return SecretInfo{}, err
	}
	if r.Seal == nil {
		return SecretInfo{}, unavailable("the keyring")
	}
	if err := (secret.Injection{Server: server, Place: place, Name: name, User: user, Value: value}).Check(); err != nil {
		return SecretInfo{}, err
	}
	var before secret.Sealed
	err = r.view(ctx, func(tx store.Tx) error {
		if _, ok, err := findServer(tx, server); err != nil {
			return err
		} else if !ok {
			return noServer(server)
		}
		before, err = tx.Secrets().Secret(server)
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return SecretInfo{}, err
	}
	s := secret.Sealed{Server: server, Place: place, Name: name, User: user, Owner: a.name(), Version: before.Version + 1, UpdatedAt: a.at}
	ad, err := canon.Marshal(associated{Owner: s.Owner, Upstream: server, Version: s.Version})
	if err != nil {
		return SecretInfo{}, err
	}
	if s.KeyID, s.Blob, err = r.Seal.Seal([]byte(value.Reveal()), ad); err != nil {
		return SecretInfo{}, fault.Wrap("govern.PutSecret", err)
	}
	ev := r.event(a, audit.SecretPut, "secret:"+server, secretData{Server: server, Place: place, Name: name, KeyID: s.KeyID, Version: s.Version, Rules: a.rules})
	ev.Server = server
	err = r.change(ctx, a, ev, func(tx store.Tx) error {
		if err := sameSecret(tx, before, server); err != nil {
			return err
		}
		return tx.Secrets().Put(s)
	})
	s.Blob = nil
	return s, err
}

// DeleteSecret removes a server's credential. NotFound "no_secret" if there is none.
func (r *Road) DeleteSecret(ctx context.Context, c Caller, server string) error {
	a, err := r.allow(ctx, c, ActSecretDelete, policy.Resource{Kind: "secret", ID: server})
	if err != nil {
		return err
	}
	var before secret.Sealed
	if err := r.view(ctx, func(tx store.Tx) (err error) { before, err = tx.Secrets().Secret(server); return err }); err != nil {
		return err
	}
	ev := r.event(a, audit.SecretDeleted, "secret:"+server, secretData{Server: server, Place: before.Place, Name: before.Name, KeyID: before.KeyID, Version: before.Version, Rules: a.rules})
	ev.Server = server
	return r.change(ctx, a, ev, func(tx store.Tx) error {
		if err := sameSecret(tx, before, server); err != nil {
			return err
		}
		return tx.Secrets().Delete(server)
	})
}

func sameSecret(tx store.Tx, before secret.Sealed, server string) error {
	now, err := tx.Secrets().Secret(server)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if now.Version != before.Version || now.KeyID != before.KeyID {
		return fault.New(fault.Conflict, "govern.sameSecret", "secret_moved", "the secret of %s changed meanwhile", server).WithFix("repeat the command")
	}
	return nil
}
