// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"

	"chaperone/internal/fault"
)

// A sealed blob is
//
//	version (1 byte, 1) || id of the seal key (8 bytes) || nonce (24 bytes) || XChaCha20-Poly1305 of the plain text
//
// and its associated data is a fixed label, the first nine bytes and the caller's associated data. The nonce is random: with 192 bits a
// key may seal for ever.
const (
	blobVersion = 1
	blobLabel   = "chaperone/seal/1\x00"
	idSize      = 8
	headSize    = 1 + idSize
	nonceSize   = chacha20poly1305.NonceSizeX
)

// keyID is the start of the SHA-256 of a label and the key.
type keyID [idSize]byte

func (k keyID) String() string { return hex.EncodeToString(k[:]) }

func open(key []byte) (cipher.AEAD, keyID, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, keyID{}, fault.Wrap("keyring.open", err)
	}
	sum := sha256.Sum256(slices.Concat([]byte("chaperone/seal-key-id/1\x00"), key))
	return aead, keyID(sum[:idSize]), nil
}

// fileData is the associated data of a key file, so that one cannot be renamed into another.
func fileData(name string) []byte { return []byte("keyring/" + name) }

// Seal encrypts plain under the ring's seal key and binds it to ad, which must be given again to open it. The blob names its
// format and key; keyID is the same name for the row beside it.
func (r *Ring) Seal(plain, ad []byte) (keyID string, blob []byte, err error) {
	blob = make([]byte, 0, headSize+nonceSize+len(plain)+chacha20poly1305.Overhead)
	blob = append(append(blob, blobVersion), r.id[:]...)
	blob = append(blob, random(nonceSize)...)
	return r.id.String(), r.aead.Seal(blob, blob[headSize:], plain, associated(blob, ad)), nil
}

// Unseal opens what Seal made. Error kind: Invalid, code "unseal_failed", when another key sealed the blob, or the blob or
// the associated data is not what was sealed; the message tells the first case from the others.
func (r *Ring) Unseal(keyID string, blob, ad []byte) ([]byte, error) {
	const op = "keyring.Unseal"
	if len(blob) < headSize+nonceSize+chacha20poly1305.Overhead {
		return nil, refuse(op, "the sealed blob is cut short: it has %d bytes", len(blob))
	}
	if blob[0] != blobVersion {
		return nil, refuse(op, "the sealed blob has format %d, this program knows format %d", blob[0], blobVersion)
	}
	if made := hex.EncodeToString(blob[1:headSize]); keyID != r.ID() || made != keyID {
		return nil, refuse(op, "seal key %s made the blob and its row names %s, but the keys directory holds %s", made, keyID, r.ID()).
			WithFix("put back the seal.key that sealed it, or set the secret again")
	}
	plain, err := r.aead.Open(nil, blob[headSize:headSize+nonceSize], blob[headSize+nonceSize:], associated(blob, ad))
	if err != nil {
		return nil, refuse(op, "the sealed blob does not open: it, or what it is bound to, was changed")
	}
	return plain, nil
}

func associated(blob, ad []byte) []byte {
	return slices.Concat([]byte(blobLabel), blob[:headSize], ad)
}

func refuse(op, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, op, "unseal_failed", format, args...).
		WithFix("restore the data and the keys directory from the same copy, or set the secret again")
}
