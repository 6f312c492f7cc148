// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"chaperone/internal/fault"
)

// algEd25519 is the signature type of a signed note's Ed25519 key (C2SP signed-note).
const algEd25519 = 1

// LogSigner returns the signer of checkpoints under the log's origin ("<trust domain>/log"), which is the key's name in the
// signed note. Error kind: Invalid, code "log_origin", for a name that a signed note cannot carry.
func (r *Ring) LogSigner(origin string) (note.Signer, error) {
	const op = "keyring.LogSigner"
	vkey, err := r.LogVerifierKey(origin)
	if err != nil {
		return nil, err
	}
	hash := strings.Split(vkey, "+")[1]
	secret := base64.StdEncoding.EncodeToString(append([]byte{algEd25519}, r.log.Seed()...))
	s, err := note.NewSigner("PRIVATE+KEY+" + origin + "+" + hash + "+" + secret)
	if err != nil { // the name was checked and the hash is of the same key
		return nil, fault.New(fault.Internal, op, "internal", "internal error")
	}
	return s, nil
}

// LogVerifierKey returns the log's public key in the text form of signed notes, "<name>+<hash>+<key>". It is public.
func (r *Ring) LogVerifierKey(origin string) (string, error) {
	vkey, err := note.NewEd25519VerifierKey(origin, r.log.Public().(ed25519.PublicKey))
	if err == nil {
		_, err = note.NewVerifier(vkey)
	}
	if err != nil {
		return "", fault.New(fault.Invalid, "keyring.LogVerifierKey", "log_origin", "%q cannot be a log's origin", origin).
			WithFix("use a trust domain without spaces and plus signs").WithCause(err)
	}
	return vkey, nil
}
