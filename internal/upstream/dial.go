// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"

	"chaperone/internal/catalog"
	"chaperone/internal/fault"
	"chaperone/internal/secret"
)

// line is the way to one server: its own pool of connections, made from one state of its entry.
type line struct {
	key       string
	url       *url.URL
	transport *http.Transport
	echo      atomic.Pointer[known]
}

// known is the prepared search for the credential that was used last.
type known struct {
	in   secret.Injection
	echo *secret.Echo
}

func (l *line) echoOf(in secret.Injection) *secret.Echo {
	if k := l.echo.Load(); k != nil && k.in == in {
		return k.echo
	}
	e := secret.NewEcho(in)
	l.echo.Store(&known{in, e})
	return e
}

// CheckServer refuses an entry that could never be dialled. It is used when a server is registered and again before each use, and
// looks nothing up. Kind Invalid; codes server_url, server_insecure, server_tls.
func CheckServer(s catalog.Server) error {
	_, err := endpoint(s)
	if err != nil {
		return err
	}
	if s.TLSCA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.TLSCA)) {
		return fault.New(fault.Invalid, "upstream.CheckServer", "server_tls", "the certificate authority of server %s is not PEM", s.Name).
			WithFix("give one or more PEM certificates, or none for the system's roots")
	}
	return nil
}

func endpoint(s catalog.Server) (*url.URL, error) {
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "upstream.CheckServer", "server_url", format, args...).
			WithFix("register the server with a URL of the form https://host/path, without user, query or fragment")
	}
	u, err := url.Parse(s.URL)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || u.Hostname() == "":
		return nil, bad("the URL of server %s cannot be read", s.Name)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, bad("the URL of server %s has the scheme %q", s.Name, u.Scheme)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, bad("the URL of server %s has a user, a query or a fragment", s.Name)
	case u.Scheme == "http" && !s.AllowLoopback:
		return nil, fault.New(fault.Invalid, "upstream.CheckServer", "server_insecure", "server %s would be reached without TLS", s.Name).
			WithFix("use https, or register it with allow_loopback if it runs on this machine or network")
	}
	return u, nil
}

// lineOf returns the server's connections, and makes new ones when the entry has changed since.
func (c *Client) lineOf(s catalog.Server) (*line, error) {
	u, err := endpoint(s)
	if err != nil {
		return nil, err
	}
	allow := "public"
	if s.AllowLoopback {
		allow = "local"
	}
	key := strings.Join([]string{s.ID.String(), s.URL, allow, s.TLSName, s.TLSCA}, "\x00")
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.lines[s.Name]
	if old != nil && old.key == key {
		return old, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.TLSName}
	if s.TLSCA != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(s.TLSCA)) {
			return nil, CheckServer(s)
		}
	}
	dialer := &net.Dialer{
		Timeout: c.cfg.Dial,
		Control: func(_, address string, _ syscall.RawConn) error {
			if err := checkAddress(address, s.AllowLoopback); err != nil {
				return err
			}
			if u.Scheme == "http" && checkAddress(address, false) == nil {
				return refusePlain()
			}
			return nil
		},
	}
	l := &line{key: key, url: u, transport: &http.Transport{
		Proxy:                  nil, // never from the environment: a proxy would see the credential
		DialContext:            dialer.DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    c.cfg.Dial,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90e9,
		ResponseHeaderTimeout:  c.cfg.Header,
		ExpectContinueTimeout:  1e9,
		MaxResponseHeaderBytes: 64 << 10,
	}}
	if old != nil {
		old.transport.CloseIdleConnections()
	}
	c.lines[s.Name] = l
	return l, nil
}

// Ranges that are not the public network and that net/netip does not name itself.
var (
	carrier   = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	thisNet   = netip.MustParsePrefix("0.0.0.0/8")     // RFC 791
	protocol4 = netip.MustParsePrefix("192.0.0.0/24")  // RFC 6890
	test1     = netip.MustParsePrefix("192.0.2.0/24")  // RFC 5737
	test2     = netip.MustParsePrefix("198.51.100.0/24")
	test3     = netip.MustParsePrefix("203.0.113.0/24")
	bench     = netip.MustParsePrefix("198.18.0.0/15") // RFC 2544
	future    = netip.MustParsePrefix("240.0.0.0/4")   // RFC 1112, with the broadcast address
	nat64     = netip.MustParsePrefix("64:ff9b::/96")  // RFC 6052
	nat64own  = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFour = netip.MustParsePrefix("2002::/16") // RFC 3056
	teredo    = netip.MustParsePrefix("2001::/32") // RFC 4380
	siteLocal = netip.MustParsePrefix("fec0::/10") // RFC 3879
	doc6      = netip.MustParsePrefix("2001:db8::/32")
)

// checkAddress decides, for the address that a name resolved to and on every dial, whether it may be connected to. With local, a
// server entry allows loopback and private networks; link-local addresses (where clouds keep machine credentials), multicast and
// reserved ranges are refused always.
func checkAddress(address string, local bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return refuseAddress("an address that cannot be read", false)
	}
	a := ap.Addr().Unmap().WithZone("")
	if ap.Addr().Zone() != "" {
		return refuseAddress("a link-local address", false)
	}
	// An IPv4 address inside an IPv6 one is judged as what it leads to.
	if b := a.As16(); a.Is6() {
		switch {
		case nat64.Contains(a):
			a = netip.AddrFrom4([4]byte(b[12:16]))
		case sixToFour.Contains(a):
			a = netip.AddrFrom4([4]byte(b[2:6]))
		}
	}
	switch {
	case a.IsUnspecified() || thisNet.Contains(a):
		return refuseAddress("no address at all", false)
	case a.IsLinkLocalUnicast():
		return refuseAddress("a link-local address", false)
	case a.IsMulticast() || a.IsInterfaceLocalMulticast() || a.IsLinkLocalMulticast():
		return refuseAddress("a multicast address", false)
	case future.Contains(a), protocol4.Contains(a), test1.Contains(a), test2.Contains(a), test3.Contains(a), bench.Contains(a),
		nat64own.Contains(a), teredo.Contains(a), doc6.Contains(a):
		return refuseAddress("a reserved address", false)
	case a.IsLoopback():
		if !local {
			return refuseAddress("a loopback address", true)
		}
	case a.IsPrivate(), carrier.Contains(a), siteLocal.Contains(a):
		if !local {
			return refuseAddress("a private address", true)
		}
	}
	return nil
}

func refuseAddress(what string, allowable bool) error {
	e := fault.New(fault.Denied, "upstream.dial", "upstream_address", "the server's name leads to %s", what)
	if allowable {
		return e.WithFix("register the server with allow_loopback if it is meant to run there")
	}
	return e.WithFix("register the server under a name that leads to a public address")
}

// refusePlain is for a name that was allowed without TLS because it runs on this machine or network, and leads elsewhere: what answers
// there proves nothing and would be sent the credential.
func refusePlain() error {
	return fault.New(fault.Denied, "upstream.dial", "upstream_address", "the server's name leads to a public address, and it is reached without TLS").
		WithFix("register the server with an https URL")
}

// Lookup errors and refused connections carry names and addresses; both stay in the log.
func unreachable(ctx context.Context, server string, err error) error {
	if e, ok := asFault(err); ok && e.Code == "upstream_address" {
		return fault.Wrap("upstream.Forward", e)
	}
	msg := "the server " + server + " cannot be reached"
	switch {
	case ctx.Err() != nil:
		msg = "the request to server " + server + " was given up"
	case isTimeout(err):
		msg = "the server " + server + " did not answer in time"
	case isTLS(err):
		msg = "the server " + server + " does not prove its name"
	}
	return fault.New(fault.Unavailable, "upstream.Forward", "upstream_unavailable", "%s", msg).
		WithFix("try again later; other servers are not affected").WithCause(err)
}
