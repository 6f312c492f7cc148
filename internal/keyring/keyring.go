// SPDX-License-Identifier: Apache-2.0

// Package keyring keeps the keys of a deployment: one key per purpose, in one directory that only its owner may open. It
// decides how a key is kept at rest and hands out what can be done with one (seal, unseal, sign a checkpoint, sign a
// credential); it never decides what is sealed or signed, and never prints a key.
package keyring

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"

	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// The files of the directory. seal.key holds 32 random bytes as they are; the others hold a blob that it sealed.
const (
	sealFile  = "seal.key"
	freshFile = "seal.key.new" // a first start that has not ended; nothing was sealed for keeps yet
	tokenFile = "token.key"    // ES256, signs access tokens
	logFile   = "log.key"      // Ed25519, signs checkpoints
	stateFile = "state.key"    // 32 bytes, HMAC of requestState
)

var sealedFiles = [...]string{tokenFile, logFile, stateFile}

// Ring is an open key directory. It is immutable, safe for concurrent use, and prints as its seal key's id.
type Ring struct {
	aead  cipher.AEAD
	id    keyID
	token *identity.Key
	log   ed25519.PrivateKey
	state []byte
}

// Open reads the keys in dir. With create, a directory that holds no key is filled with new ones (and made, mode 0700, if it
// is absent); keys that exist are never replaced, and a directory from which one is missing is refused rather than completed, because a
// new key would orphan what the old one sealed or signed.
//
// Codes: keys_missing (NotFound), keys_dir_open, keys_dir_owner, key_file_open, seal_key_missing, key_missing, key_bad,
// unseal_failed (Invalid).
func Open(dir string, create bool) (*Ring, error) {
	const op = "keyring.Open"
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fault.Wrap(op, err)
		}
	}
	root, err := os.OpenRoot(dir)
	if os.IsNotExist(err) {
		return nil, fault.New(fault.NotFound, op, "keys_missing", "the keys directory %s does not exist", dir).
			WithFix("start the product once with `chaperone up`, or name the right directory")
	}
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	defer root.Close()
	d := directory{root: root, path: dir}
	if err := d.private(); err != nil {
		return nil, err
	}
	if d.has(sealFile) {
		return d.load()
	}
	if !d.has(freshFile) {
		for _, name := range sealedFiles {
			if d.has(name) {
				return nil, fault.New(fault.Invalid, op, "seal_key_missing", "%s holds %s but not %s, which sealed it", dir, name, sealFile).
					WithFix("put %s back from its copy; without it nothing that was sealed can be opened", sealFile)
			}
		}
	}
	if !create {
		return nil, fault.New(fault.NotFound, op, "keys_missing", "the keys directory %s holds no keys", dir).
			WithFix("start the product once with `chaperone up`, or name the right directory")
	}
	if err := d.locked(d.fill); err != nil {
		return nil, err
	}
	return d.load()
}

// ID names the seal key: 16 hex digits that tell nothing about it.
func (r *Ring) ID() string { return r.id.String() }

// TokenKey returns the key that signs access tokens now.
func (r *Ring) TokenKey() *identity.Key { return r.token }

// TokenKeys returns the signing key and the public keys that verify tokens still alive.
func (r *Ring) TokenKeys() (active *identity.Key, public []identity.PublicKey) {
	return r.token, []identity.PublicKey{r.token.Public()}
}

// StateKey returns a copy of the 32 bytes that authenticate requestState (HMAC-SHA-256).
func (r *Ring) StateKey() []byte { return slices.Clone(r.state) }

// String names the ring by its seal key's id. The receiver is a value so that a copy is hidden too.
func (r Ring) String() string { return "keyring(" + r.id.String() + ")" }

// Format hides the keys from every verb of package fmt.
func (r Ring) Format(f fmt.State, _ rune) { fmt.Fprint(f, r.String()) }

// LogValue hides the keys from logs.
func (r Ring) LogValue() slog.Value { return slog.StringValue(r.String()) }

// fill makes all keys, unless another process has just done so. seal.key takes its name last: a first start that was killed
// leaves no key that counts, or all.
func (d directory) fill() error {
	const op = "keyring.Open"
	if d.has(sealFile) {
		return nil
	}
	for _, name := range append([]string{freshFile}, sealedFiles[:]...) {
		if err := d.root.Remove(name); err != nil && !os.IsNotExist(err) {
			return fault.Wrap(op, err)
		}
	}
	seal, state, seed := random(32), random(32), random(ed25519.SeedSize)
	token, err := identity.NewKey()
	if err != nil {
		return err
	}
	aead, id, err := open(seal)
	if err != nil {
		return err
	}
	r := &Ring{aead: aead, id: id}
	if err := d.write(freshFile, seal); err != nil {
		return err
	}
	for name, plain := range map[string][]byte{tokenFile: token.MarshalPrivate(), logFile: seed, stateFile: state} {
		_, blob, err := r.Seal(plain, fileData(name))
		if err != nil {
			return err
		}
		if err := d.write(name, blob); err != nil {
			return err
		}
	}
	if err := d.root.Rename(freshFile, sealFile); err != nil {
		return fault.Wrap(op, err)
	}
	return d.sync()
}

// load opens every key; a ring is whole or not at all.
func (d directory) load() (*Ring, error) {
	const op = "keyring.Open"
	seal, err := d.read(sealFile)
	if err != nil {
		return nil, err
	}
	if len(seal) != chacha20poly1305.KeySize {
		return nil, bad(sealFile, "has %d bytes, not 32", len(seal))
	}
	r := new(Ring)
	if r.aead, r.id, err = open(seal); err != nil {
		return nil, err
	}
	plain := make(map[string][]byte, len(sealedFiles))
	for _, name := range sealedFiles {
		blob, err := d.read(name)
		if err != nil {
			return nil, err
		}
		if plain[name], err = r.Unseal(r.ID(), blob, fileData(name)); err != nil {
			return nil, fault.New(fault.Invalid, op, "unseal_failed", "%s/%s cannot be opened with %s: it is damaged, or another key sealed it", d.path, name, sealFile).
				WithFix("put %s and %s back from one and the same copy", name, sealFile).WithCause(err)
		}
	}
	if r.token, err = identity.ParseKey(plain[tokenFile]); err != nil {
		return nil, bad(tokenFile, "does not hold an ES256 key").WithCause(err)
	}
	if len(plain[logFile]) != ed25519.SeedSize {
		return nil, bad(logFile, "does not hold an Ed25519 seed")
	}
	r.log = ed25519.NewKeyFromSeed(plain[logFile])
	if r.state = plain[stateFile]; len(r.state) != 32 {
		return nil, bad(stateFile, "does not hold 32 bytes")
	}
	return r, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand aborts the process instead)
	return b
}

func bad(name, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "keyring.Open", "key_bad", "the key file %s %s", name, fmt.Sprintf(format, args...)).
		WithFix("put the key file back from its copy")
}
