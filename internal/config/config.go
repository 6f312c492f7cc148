// SPDX-License-Identifier: Apache-2.0

// Package config holds the one typed Config and reads it: defaults, then one YAML file, then the environment, then flags, each
// over the one before. It decides whether a configuration is sound and reports every fault at once; it never opens what
// it names and is imported by app and cli only.
package config

import (
	"time"
)

// Config is everything that can be set. The zero Config is not usable; Default is, and needs no file.
type Config struct {
	// TrustDomain is the SPIFFE trust domain of this deployment. One deployment serves one.
	TrustDomain string `koanf:"trust_domain"`
	// PublicURL is how agents reach the agents' listener. It is the issuer identifier and the base of every MCP audience.
	PublicURL string `koanf:"public_url"`
	// APIURL is how people, orchestrators and bridges reach the people's listener.
	APIURL string `koanf:"api_url"`
	// Listen says where the two doors listen. An address off loopback needs tls.
	Listen Listen `koanf:"listen"`
	// TLS is the certificate of both listeners.
	TLS TLS `koanf:"tls"`
	// Data is the directory of the database and the log. It is made with mode 0700.
	Data string `koanf:"data"`
	// Keys is the directory of the keys, apart from the data. It is refused if others can read it.
	Keys string `koanf:"keys"`
	// Log says how the process logs. The audit record is not logging and is always kept.
	Log Log `koanf:"log"`
	// Limits are the bounds of the doors and the freshness of what they know.
	Limits Limits `koanf:"limits"`
}

// Listen holds the two listening addresses.
type Listen struct {
	// Agents carries the gateway and the issuer.
	Agents string `koanf:"agents"`
	// People carries the API, the approval pages and the public log.
	People string `koanf:"people"`
}

// TLS holds a certificate and its key.
type TLS struct {
	// Cert is a PEM file with the certificate chain.
	Cert string `koanf:"cert"`
	// Key is a PEM file with the private key.
	Key string `koanf:"key"`
}

// Log says how the process logs.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `koanf:"level"`
	// Format is text or json.
	Format string `koanf:"format"`
}

// Limits are the bounds of the doors and the freshness of what they know.
type Limits struct {
	// BodyBytes is the largest request body a door reads.
	BodyBytes int `koanf:"body_bytes"`
	// MessageBytes is the largest single message taken from an upstream.
	MessageBytes int `koanf:"message_bytes"`
	// Hold is how long a call that waits for a person is held on its connection, at most 55s.
	Hold time.Duration `koanf:"hold"`
	// Lease is how old the revocation view may be before effects are refused.
	Lease time.Duration `koanf:"lease"`
	// RecordLag is how far the log may lag behind the database before effects are refused.
	RecordLag time.Duration `koanf:"record_lag"`
	// Definitions is how long a check of an upstream's live definitions holds.
	Definitions time.Duration `koanf:"definitions"`
}

// Default is the configuration of `chaperone up`: everything on loopback. The directories are set by the caller, which knows the
// environment.
func Default(dataHome, configHome string) Config {
	return Config{
		TrustDomain: "chaperone.internal",
		PublicURL:   "http://127.0.0.1:7400",
		APIURL:      "http://127.0.0.1:7401",
		Listen:      Listen{Agents: "127.0.0.1:7400", People: "127.0.0.1:7401"},
		Data:        dataHome + "/chaperone",
		Keys:        configHome + "/chaperone/keys",
		Log:         Log{Level: "info", Format: "text"},
		Limits: Limits{BodyBytes: 4 << 20, MessageBytes: 8 << 20, Hold: 50 * time.Second, Lease: 30 * time.Second,
			RecordLag: 30 * time.Second, Definitions: 30 * time.Second},
	}
}
