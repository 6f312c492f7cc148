// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/providers/structs"
	"github.com/knadh/koanf/v2"

	"chaperone/internal/fault"
)

const prefix = "CHAPERONE_"

// Sources are what Load reads, least to most powerful.
type Sources struct {
	Default Config
	File    string            // "" = none
	Environ []string          // "NAME=value"; only names that begin with CHAPERONE_ are looked at
	Ignore  []string          // names with that prefix that are not configuration
	Flags   map[string]string // "limits.hold" -> "20s"
}

// Load merges the sources and checks the result. Every fault is reported, joined in one Invalid error with code
// "bad_config"; unknown keys are faults.
func Load(s Sources) (Config, error) {
	k := koanf.New(".")
	if err := k.Load(structs.Provider(s.Default, "koanf"), nil); err != nil {
		return Config{}, fault.Wrap("config.Load", err)
	}
	known := k.Keys()
	var faults []string
	merge := func(what string, from *koanf.Koanf) {
		for _, key := range from.Keys() {
			if !slices.Contains(known, key) {
				faults = append(faults, fmt.Sprintf("%s: unknown key %q%s", what, key, suggestion(key, known)))
			}
		}
		if err := k.Merge(from); err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", what, err))
		}
	}
	if s.File != "" {
		b, err := os.ReadFile(s.File)
		if err != nil {
			return Config{}, fault.New(fault.Invalid, "config.Load", "bad_config", "cannot read the configuration file %s", s.File).
				WithFix("check the path given with --config or CHAPERONE_CONFIG").WithCause(err)
		}
		f := koanf.New(".")
		if err := f.Load(rawbytes.Provider(b), yaml.Parser()); err != nil {
			return Config{}, fault.New(fault.Invalid, "config.Load", "bad_config", "%s: %v", s.File, err).
				WithFix("mend the YAML at that line")
		}
		merge(s.File, f)
	}
	e := koanf.New(".")
	if err := e.Load(env.Provider(".", env.Opt{Prefix: prefix, EnvironFunc: func() []string { return s.Environ },
		TransformFunc: func(name, value string) (string, any) {
			if slices.Contains(s.Ignore, name) {
				return "", nil
			}
			return envKey(name, known), value
		}}), nil); err != nil {
		return Config{}, fault.Wrap("config.Load", err)
	}
	merge("environment", e)
	f := koanf.New(".")
	flags := make(map[string]any, len(s.Flags))
	for name, value := range s.Flags {
		flags[name] = value
	}
	if err := f.Load(confmap.Provider(flags, "."), nil); err != nil {
		return Config{}, fault.Wrap("config.Load", err)
	}
	merge("flags", f)

	var c Config
	if err := k.Unmarshal("", &c); err != nil {
		faults = append(faults, err.Error())
	} else {
		faults = append(faults, c.faults()...)
	}
	if len(faults) > 0 {
		return Config{}, fault.New(fault.Invalid, "config.Load", "bad_config", "%s", strings.Join(faults, "; ")).
			WithFix("mend each of these; docs/configuration.md lists every key")
	}
	return c, nil
}

// envKey maps CHAPERONE_LISTEN_AGENTS to listen.agents by trying every known key, since keys hold underscores too.
func envKey(name string, known []string) string {
	rest := strings.ToLower(strings.TrimPrefix(name, prefix))
	for _, key := range known {
		if strings.ReplaceAll(key, ".", "_") == rest {
			return key
		}
	}
	return rest
}

func suggestion(key string, known []string) string {
	last := key[strings.LastIndex(key, ".")+1:]
	for _, k := range known {
		if strings.HasSuffix(k, last) || strings.HasPrefix(k, key) {
			return fmt.Sprintf(" (did you mean %q?)", k)
		}
	}
	return ""
}

var trustDomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?$`)

func (c Config) faults() []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !trustDomain.MatchString(c.TrustDomain) {
		bad("trust_domain %q is not a lower-case DNS-like name", c.TrustDomain)
	}
	for name, raw := range map[string]string{"public_url": c.PublicURL, "api_url": c.APIURL} {
		u, err := url.Parse(raw)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			bad("%s %q is not an http or https URL", name, raw)
		case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
			bad("%s %q must be scheme, host and port only", name, raw)
		case u.Scheme == "http" && !loopbackHost(u.Hostname()):
			bad("%s %q is plain http to a host that is not loopback; use https and set tls", name, raw)
		}
	}
	for name, addr := range map[string]string{"listen.agents": c.Listen.Agents, "listen.people": c.Listen.People} {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			bad("%s %q is not host:port", name, addr)
		} else if !loopbackHost(host) && (c.TLS.Cert == "" || c.TLS.Key == "") {
			bad("%s %q is not loopback: nothing listens off loopback without tls.cert and tls.key", name, addr)
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		bad("tls needs both cert and key")
	}
	if c.Data == "" || c.Keys == "" {
		bad("data and keys must name directories")
	} else if c.Keys == c.Data || strings.HasPrefix(c.Keys+"/", c.Data+"/") {
		bad("keys %q lies inside data %q: the sealing key must not lie beside what it seals", c.Keys, c.Data)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		bad("log.level %q is not debug, info, warn or error", c.Log.Level)
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		bad("log.format %q is not text or json", c.Log.Format)
	}
	l := c.Limits
	if l.BodyBytes < 1<<10 || l.BodyBytes > 64<<20 || l.MessageBytes < 1<<10 || l.MessageBytes > 256<<20 {
		bad("limits.body_bytes must be 1 KiB to 64 MiB, limits.message_bytes 1 KiB to 256 MiB")
	}
	if l.Hold < 0 || l.Hold.Seconds() > 55 {
		bad("limits.hold %s must be 0s to 55s", l.Hold)
	}
	if l.Lease.Seconds() < 1 || l.RecordLag.Seconds() < 1 || l.Definitions.Seconds() < 1 {
		bad("limits.lease, limits.record_lag and limits.definitions must be at least 1s")
	}
	slices.Sort(out)
	return out
}

func loopbackHost(h string) bool {
	if h == "localhost" {
		return true
	}
	ip := net.ParseIP(h)
	return ip != nil && ip.IsLoopback()
}
