// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/sha256"
	"sync"
	"time"
)

// Verified remembers access tokens whose signature was already checked, because checking one costs a hundred times more
// than everything else about it. It keeps successes only, under the SHA-256 of the raw token. Issuer, life and audience, and
// that the signing key is still one of the issuer's, are checked at every use. Safe for concurrent use.
type Verified struct {
	max int

	mu  sync.Mutex
	hot map[[32]byte]remembered
}

type remembered struct {
	credential Credential
	key        string // thumbprint of the key that signed it
}

// NewVerified returns an empty memory of at most max tokens.
func NewVerified(max int) *Verified {
	return &Verified{max: max, hot: map[[32]byte]remembered{}}
}

// Access is VerifyAccess, the signature checked at most once while the token is remembered.
func (v *Verified) Access(keys []PublicKey, raw, issuer, audience string, now time.Time) (Credential, error) {
	if len(raw) > maxJWS {
		return Credential{}, badCredential("it is over 16 KiB")
	}
	sum := sha256.Sum256([]byte(raw))
	c, ok := v.recall(sum, keys)
	if !ok {
		opened, key, err := openAccess(keys, raw)
		if err != nil {
			return Credential{}, err
		}
		c = opened
		if now.Before(c.ExpiresAt) {
			v.keep(sum, remembered{credential: c, key: key.jkt}, now)
		}
	}
	if err := c.accept(issuer, audience, now); err != nil {
		return Credential{}, err
	}
	return c, nil
}

func (v *Verified) recall(sum [32]byte, keys []PublicKey) (Credential, bool) {
	v.mu.Lock()
	r, ok := v.hot[sum]
	v.mu.Unlock()
	if !ok {
		return Credential{}, false
	}
	for _, k := range keys {
		if SameThumbprint(k.jkt, r.key) {
			return r.credential, true
		}
	}
	return Credential{}, false // the key was withdrawn since
}

// keep makes room by dropping what has expired, and if nothing has, whatever the map yields first.
func (v *Verified) keep(sum [32]byte, r remembered, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.hot) >= v.max {
		for k, old := range v.hot {
			if !now.Before(old.credential.ExpiresAt) {
				delete(v.hot, k)
			}
		}
	}
	for k := range v.hot {
		if len(v.hot) < v.max {
			break
		}
		delete(v.hot, k)
	}
	if v.max > 0 {
		v.hot[sum] = r
	}
}
