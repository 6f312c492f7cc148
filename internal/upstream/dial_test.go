// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"strings"
	"testing"
	"time"

	"chaperone/internal/catalog"
	"chaperone/internal/fault"
)

func TestCheckAddress(t *testing.T) {
	tests := []struct {
		address       string
		public, local bool // may be dialled without, with allow_loopback
	}{
		{"93.184.216.34:443", true, true},
		{"[2606:2800:220:1:248:1893:25c8:1946]:443", true, true},
		{"127.0.0.1:80", false, true},
		{"127.9.9.9:80", false, true},
		{"[::1]:80", false, true},
		{"[::ffff:127.0.0.1]:80", false, true},
		{"10.1.2.3:80", false, true},
		{"172.16.0.1:80", false, true},
		{"192.168.1.1:80", false, true},
		{"[::ffff:10.1.2.3]:80", false, true},
		{"[::ffff:100.64.0.1]:80", false, true},
		{"[::ffff:0.1.2.3]:80", false, false},
		{"[::ffff:240.0.0.1]:80", false, false},
		{"[fd00::1]:80", false, true},
		{"[fec0::1]:80", false, true},
		{"100.64.0.1:80", false, true},
		{"[64:ff9b::7f00:1]:80", false, true},   // 127.0.0.1 behind NAT64
		{"[64:ff9b::a00:1]:80", false, true},    // 10.0.0.1
		{"[2002:7f00:1::]:80", false, true},     // 127.0.0.1 in 6to4
		{"[64:ff9b::5db8:d822]:80", true, true}, // 93.184.216.34
		{"169.254.169.254:80", false, false},
		{"[::ffff:169.254.169.254]:80", false, false},
		{"[64:ff9b::a9fe:a9fe]:80", false, false},
		{"[2002:a9fe:a9fe::]:80", false, false},
		{"[fe80::1]:80", false, false},
		{"[fe80::1%lo]:80", false, false},
		{"224.0.0.1:80", false, false},
		{"[ff02::1]:80", false, false},
		{"0.0.0.0:80", false, false},
		{"0.1.2.3:80", false, false},
		{"[::]:80", false, false},
		{"255.255.255.255:80", false, false},
		{"240.0.0.1:80", false, false},
		{"192.0.2.1:80", false, false},
		{"198.18.0.1:80", false, false},
		{"[2001:db8::1]:80", false, false},
		{"[2001:0:1::]:80", false, false},
		{"example.com:80", false, false},
		{"", false, false},
	}
	for _, tt := range tests {
		for _, local := range []bool{false, true} {
			want := tt.public
			if local {
				want = tt.local
			}
			err := checkAddress(tt.address, local)
			if (err == nil) != want {
				t.Errorf("%s, local %v: %v", tt.address, local, err)
			}
			if err != nil && fault.CodeOf(err) != "upstream_address" {
				t.Errorf("%s: code %s", tt.address, fault.CodeOf(err))
			}
		}
	}
}

// TestPlainHTTPStaysHere: an entry that may be reached without TLS, because it runs here, is not followed to a public address.
func TestPlainHTTPStaysHere(t *testing.T) {
	c := New(Deps{}, Config{Dial: time.Second})
	for _, tt := range []struct {
		url, says string
	}{
		{"http://93.184.216.34:9/mcp", "without TLS"},
		{"http://[2606:2800:220:1:248:1893:25c8:1946]:9/mcp", "without TLS"},
		{"http://127.0.0.1:9/mcp", ""},
	} {
		l, err := c.lineOf(catalog.Server{Name: tt.url, URL: tt.url, AllowLoopback: true})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.transport.DialContext(t.Context(), "tcp", l.url.Host)
		if err == nil {
			conn.Close()
		}
		refused := fault.CodeOf(err) == "upstream_address" && strings.Contains(err.Error(), tt.says)
		if refused != (tt.says != "") {
			t.Errorf("%s: %v", tt.url, err)
		}
	}
}

func TestCheckServer(t *testing.T) {
	tests := []struct {
		in   catalog.Server
		code string
	}{
		{catalog.Server{URL: "https://mcp.example.com/mcp"}, ""},
		{catalog.Server{URL: "http://127.0.0.1:9000/mcp", AllowLoopback: true}, ""},
		{catalog.Server{URL: "http://mcp.example.com/mcp"}, "server_insecure"},
		{catalog.Server{URL: "ftp://mcp.example.com/mcp"}, "server_url"},
		{catalog.Server{URL: "https://user@mcp.example.com/mcp"}, "server_url"},
		{catalog.Server{URL: "https://mcp.example.com/mcp?key=1"}, "server_url"},
		{catalog.Server{URL: "https://mcp.example.com/mcp#a"}, "server_url"},
		{catalog.Server{URL: "https:///mcp"}, "server_url"},
		{catalog.Server{URL: "https://:443/mcp"}, "server_url"},
		{catalog.Server{URL: "mcp.example.com"}, "server_url"},
		{catalog.Server{URL: "https://mcp.example.com/", TLSCA: "not PEM"}, "server_tls"},
	}
	for _, tt := range tests {
		err := CheckServer(tt.in)
		if tt.code == "" && err != nil || tt.code != "" && fault.CodeOf(err) != tt.code {
			t.Errorf("%+v: %v, want %q", tt.in, err, tt.code)
		}
	}
}
