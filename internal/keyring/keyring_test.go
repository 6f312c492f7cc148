// SPDX-License-Identifier: Apache-2.0

package keyring_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"chaperone/internal/fault"
	"chaperone/internal/identity"
	"chaperone/internal/keyring"
)

const origin = "chaperone.internal/log"

func made(t *testing.T) (*keyring.Ring, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	r, err := keyring.Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	return r, dir
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if err == nil || fault.CodeOf(err) != code {
		t.Fatalf("got %v, want code %s", err, code)
	}
	var f *fault.Error
	if f, _ = err.(*fault.Error); f == nil || f.Fix == "" {
		t.Errorf("%s names no next step", code)
	}
}

func TestKeysLastAndStayTheSame(t *testing.T) {
	r, dir := made(t)
	again, err := keyring.Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if again.ID() != r.ID() || again.TokenKey().JKT() != r.TokenKey().JKT() || !bytes.Equal(again.StateKey(), r.StateKey()) {
		t.Error("opening again changed a key")
	}
	a, _ := r.LogVerifierKey(origin)
	b, _ := again.LogVerifierKey(origin)
	if a == "" || a != b {
		t.Errorf("log key changed: %q, %q", a, b)
	}
	id, blob, err := r.Seal([]byte("hunter2"), []byte("mail"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := again.Unseal(id, blob, []byte("mail"))
	if err != nil || string(plain) != "hunter2" {
		t.Errorf("got %q, %v", plain, err)
	}
	info, _ := os.Stat(dir)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("directory mode %v", info.Mode())
	}
	names, _ := os.ReadDir(dir)
	if len(names) != 4 {
		t.Errorf("files: %v", names)
	}
	for _, n := range names {
		if i, _ := n.Info(); i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", n.Name(), i.Mode())
		}
	}
}

func TestKeysAreOfTheirOwnKind(t *testing.T) {
	r, _ := made(t)
	other, _ := made(t)
	if r.ID() == other.ID() || r.TokenKey().JKT() == other.TokenKey().JKT() || bytes.Equal(r.StateKey(), other.StateKey()) {
		t.Error("two deployments share a key")
	}
	active, public := r.TokenKeys()
	if len(public) != 1 || public[0].JKT() != active.JKT() {
		t.Error("the signing key is not among the public keys")
	}
	s := r.StateKey()
	s[0]++
	if bytes.Equal(s, r.StateKey()) {
		t.Error("StateKey lends its own bytes")
	}
	signer, err := r.LogSigner(origin)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := r.LogVerifierKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: origin + "\n0\nx\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(signed, note.VerifierList(v)); err != nil {
		t.Error(err)
	}
	if signer.Name() != origin {
		t.Errorf("signer is named %q", signer.Name())
	}
	_, err = r.LogSigner("a b/log")
	wantCode(t, err, "log_origin")
	_, err = r.LogSigner("a+b/log")
	wantCode(t, err, "log_origin")
}

func TestDirectoryIsRefused(t *testing.T) {
	tests := []struct {
		name, code string
		spoil      func(t *testing.T, dir string)
		create     bool
	}{
		{"absent", "keys_missing", func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) }, false},
		{"empty", "keys_missing", func(t *testing.T, dir string) { empty(t, dir) }, false},
		{"open to the group", "keys_dir_open", func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o750)) }, true},
		{"open to all", "keys_dir_open", func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o701)) }, true},
		{"key open to the group", "key_file_open", func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/token.key", 0o640)) }, true},
		{"seal key open to all", "key_file_open", func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/seal.key", 0o604)) }, true},
		{"no seal key", "seal_key_missing", func(t *testing.T, dir string) { must(t, os.Remove(dir+"/seal.key")) }, true},
		{"no token key", "key_missing", func(t *testing.T, dir string) { must(t, os.Remove(dir+"/token.key")) }, true},
		{"no log key", "key_missing", func(t *testing.T, dir string) { must(t, os.Remove(dir+"/log.key")) }, true},
		{"no state key", "key_missing", func(t *testing.T, dir string) { must(t, os.Remove(dir+"/state.key")) }, true},
		{"short seal key", "key_bad", func(t *testing.T, dir string) { must(t, os.WriteFile(dir+"/seal.key", make([]byte, 31), 0o600)) }, true},
		{"long seal key", "key_bad", func(t *testing.T, dir string) { must(t, os.WriteFile(dir+"/seal.key", make([]byte, 33), 0o600)) }, true},
		{"another seal key", "unseal_failed", func(t *testing.T, dir string) { must(t, os.WriteFile(dir+"/seal.key", make([]byte, 32), 0o600)) }, true},
		{"one key under another's name", "unseal_failed", func(t *testing.T, dir string) { must(t, os.Rename(dir+"/state.key", dir+"/log.key")) }, true},
		{"a link out of the directory", "key_bad", func(t *testing.T, dir string) {
			must(t, os.Rename(dir+"/log.key", dir+"/../elsewhere"))
			must(t, os.Symlink("../elsewhere", dir+"/log.key"))
		}, true},
		{"a directory instead of a key", "key_bad", func(t *testing.T, dir string) {
			must(t, os.Remove(dir+"/log.key"))
			must(t, os.Mkdir(dir+"/log.key", 0o700))
		}, true},
		{"an endless key", "key_bad", func(t *testing.T, dir string) { must(t, os.WriteFile(dir+"/log.key", make([]byte, 1<<20), 0o600)) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, dir := made(t)
			tt.spoil(t, dir)
			_, err := keyring.Open(dir, tt.create)
			wantCode(t, err, tt.code)
		})
	}
}

func TestOpenDirectoryErrorNamesTheCommand(t *testing.T) {
	_, dir := made(t)
	must(t, os.Chmod(dir, 0o755))
	_, err := keyring.Open(dir, false)
	var f *fault.Error
	if f, _ = err.(*fault.Error); f == nil || f.Fix != "chmod 700 "+dir {
		t.Errorf("got %v", err)
	}
}

// A first start that was killed anywhere leaves files under other names than seal.key; the next one starts over.
func TestCrashAtFirstStart(t *testing.T) {
	_, dir := made(t)
	must(t, os.Rename(dir+"/seal.key", dir+"/seal.key.new"))
	must(t, os.Remove(dir+"/log.key"))
	if _, err := keyring.Open(dir, false); fault.CodeOf(err) != "keys_missing" {
		t.Fatalf("got %v", err)
	}
	if _, err := keyring.Open(dir, true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/seal.key.new"); !os.IsNotExist(err) {
		t.Error("the unfinished seal key is still there")
	}
}

func TestManyFirstStartsMakeOneRing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() {
			r, err := keyring.Open(dir, true)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = r.ID() + r.TokenKey().JKT()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("different keys: %v", ids)
		}
	}
}

func TestUnsealRefuses(t *testing.T) {
	r, _ := made(t)
	other, _ := made(t)
	id, blob, err := r.Seal([]byte("value"), []byte("bound to"))
	if err != nil {
		t.Fatal(err)
	}
	with := func(i int, b byte) []byte { c := bytes.Clone(blob); c[i] = b; return c }
	tests := []struct {
		name  string
		ring  *keyring.Ring
		keyID string
		blob  []byte
		ad    string
		says  string
	}{
		{"another ring", other, id, blob, "bound to", "the keys directory holds"},
		{"another key id in the row", r, other.ID(), blob, "bound to", "the keys directory holds"},
		{"no key id in the row", r, "", blob, "bound to", "the keys directory holds"},
		{"another key id in the blob", r, id, with(3, blob[3]+1), "bound to", "the keys directory holds"},
		{"other associated data", r, id, blob, "bound to another", "changed"},
		{"no associated data", r, id, blob, "", "changed"},
		{"another format", r, id, with(0, 2), "bound to", "format 2"},
		{"changed nonce", r, id, with(10, blob[10]+1), "bound to", "changed"},
		{"changed text", r, id, with(34, blob[34]+1), "bound to", "changed"},
		{"changed tag", r, id, with(len(blob)-1, blob[len(blob)-1]+1), "bound to", "changed"},
		{"one byte less", r, id, blob[:len(blob)-1], "bound to", "changed"},
		{"one byte more", r, id, append(bytes.Clone(blob), 0), "bound to", "changed"},
		{"head only", r, id, blob[:20], "bound to", "cut short"},
		{"nothing", r, id, nil, "bound to", "cut short"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.ring.Unseal(tt.keyID, tt.blob, []byte(tt.ad))
			if got != nil {
				t.Errorf("returned %q", got)
			}
			wantCode(t, err, "unseal_failed")
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q does not say %q", err, tt.says)
			}
		})
	}
}

func TestSealRoundTrip(t *testing.T) {
	r, _ := made(t)
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		ad := rapid.SliceOf(rapid.Byte()).Draw(t, "ad")
		id, blob, err := r.Seal(plain, ad)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Unseal(id, blob, ad)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("got %x, %v", got, err)
		}
		i := rapid.IntRange(0, len(blob)-1).Draw(t, "at")
		blob[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "xor"))
		if _, err := r.Unseal(id, blob, ad); fault.CodeOf(err) != "unseal_failed" {
			t.Fatalf("a changed blob opened: %v", err)
		}
	})
}

func TestKeysAreNeverPrinted(t *testing.T) {
	r, dir := made(t)
	seal, err := os.ReadFile(dir + "/seal.key")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, v := range []any{r, *r, struct{ Ring *keyring.Ring }{r}, struct{ Ring keyring.Ring }{*r}, []any{r}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "ring", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "ring", v)
		b, _ := json.Marshal(v)
		out.Write(b)
	}
	for _, key := range [][]byte{seal, r.StateKey(), privateScalar(t, r.TokenKey())} {
		for _, form := range []string{
			string(key), hex.EncodeToString(key), strings.ToUpper(hex.EncodeToString(key)), base64.StdEncoding.EncodeToString(key)[:40],
			base64.RawURLEncoding.EncodeToString(key), strings.Trim(fmt.Sprintf("%d", key), "[]"), fmt.Sprintf("%#v", key)[8:60],
		} {
			if strings.Contains(out.String(), form) {
				t.Errorf("a key was printed as %q", form)
			}
		}
	}
	if !strings.Contains(out.String(), "keyring("+r.ID()+")") {
		t.Error("the ring is not named by its id")
	}
}

// The key files hold no key in the clear but seal.key.
func TestFilesAreSealed(t *testing.T) {
	r, dir := made(t)
	state, scalar := r.StateKey(), privateScalar(t, r.TokenKey())
	for _, name := range []string{"token.key", "log.key", "state.key"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, state) || bytes.Contains(b, scalar) || bytes.Contains(b, []byte(`"d"`)) {
			t.Errorf("%s holds a key in the clear", name)
		}
		if got, err := r.Unseal(r.ID(), b, []byte("keyring/"+name)); err != nil || len(got) < 32 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func privateScalar(t *testing.T, k *identity.Key) []byte {
	t.Helper()
	var m struct {
		D string `json:"d"`
	}
	must(t, json.Unmarshal(k.MarshalPrivate(), &m))
	b, err := base64.RawURLEncoding.DecodeString(m.D)
	must(t, err)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	must(t, os.RemoveAll(dir))
	must(t, os.Mkdir(dir, 0o700))
}

func FuzzUnseal(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "keys")
	r, err := keyring.Open(dir, true)
	if err != nil {
		f.Fatal(err)
	}
	id, blob, _ := r.Seal([]byte("value"), []byte("ad"))
	f.Add(id, blob)
	f.Fuzz(func(t *testing.T, id string, b []byte) {
		plain, err := r.Unseal(id, b, []byte("ad"))
		if err == nil && !bytes.Equal(b, blob) {
			t.Fatalf("opened a blob that was not sealed: %q", plain)
		}
	})
}
