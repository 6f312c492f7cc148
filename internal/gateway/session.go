// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"chaperone/internal/id"
)

// sessions seals an upstream's session id together with the server and the run it was given to, so that the agent cannot read it,
// change it or use it in another run. Sealing is deterministic: one session has one name, whichever answer repeats it.
type sessions struct {
	aead cipher.AEAD
	mac  []byte
}

const sessionPrefix = "s1."

func newSessions(key []byte) *sessions {
	if len(key) < 32 {
		// No key that anybody could guess: without one of its own the door makes one, and sessions end with the process.
		key = make([]byte, 32)
		rand.Read(key)
	}
	enc, err := hkdf.Key(sha256.New, key, nil, "chaperone/session/1/seal", 32)
	if err != nil {
		panic("gateway: " + err.Error()) // only for lengths that are not asked for here
	}
	mac, err := hkdf.Key(sha256.New, key, nil, "chaperone/session/1/nonce", 32)
	if err != nil {
		panic("gateway: " + err.Error())
	}
	block, err := aes.NewCipher(enc)
	if err != nil {
		panic("gateway: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("gateway: " + err.Error())
	}
	return &sessions{aead: aead, mac: mac}
}

// seal returns the name under which the caller knows the session.
func (s *sessions) seal(upstream, server string, run id.Run) string {
	plain := []byte(run.String() + "\x00" + upstream)
	m := hmac.New(sha256.New, s.mac)
	m.Write([]byte(server + "\x00"))
	m.Write(plain)
	nonce := m.Sum(nil)[:s.aead.NonceSize()]
	return sessionPrefix + base64.RawURLEncoding.EncodeToString(s.aead.Seal(nonce, nonce, plain, []byte(server)))
}

// open returns the upstream's session and the run it belongs to; false for a name that was not made here, for this server.
func (s *sessions) open(name, server string) (upstream string, run id.Run, ok bool) {
	text, ok := strings.CutPrefix(name, sessionPrefix)
	if !ok || len(text) > 4096 || strings.ContainsAny(text, "\r\n") { // which the decoder would pass over
		return "", id.Run{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < s.aead.NonceSize() {
		return "", id.Run{}, false
	}
	n := s.aead.NonceSize()
	plain, err := s.aead.Open(nil, b[:n], b[n:], []byte(server))
	if err != nil {
		return "", id.Run{}, false
	}
	owner, upstream, ok := strings.Cut(string(plain), "\x00")
	if !ok {
		return "", id.Run{}, false
	}
	run, err = id.ParseRun(owner)
	return upstream, run, err == nil && !run.IsZero()
}
