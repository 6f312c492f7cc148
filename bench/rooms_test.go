// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chaperone/internal/audit"
	"chaperone/internal/id"
	"chaperone/internal/identity"
	"chaperone/internal/policy"
	"chaperone/internal/store"
	sqlstore "chaperone/internal/store/sql"
)

// perSecond reports a benchmark of b.N rounds as a rate.
func perSecond(b *testing.B, name string) {
	v := float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(v, "per_s")
	found.room(name, v)
}

// BenchmarkSignature is the raw ES256 signature that proofs and decisions are held against.
func BenchmarkSignature(b *testing.B) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256([]byte("what is signed"))
	sig, err := ecdsa.SignASN1(rand.Reader, k, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		for b.Loop() {
			if _, err := ecdsa.SignASN1(rand.Reader, k, sum[:]); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b, "signature/sign")
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if !ecdsa.VerifyASN1(&k.PublicKey, sum[:], sig) {
				b.Fatal("it does not verify")
			}
		}
		perSecond(b, "signature/verify")
	})
}

// BenchmarkProof is what a proof costs the client and the gateway.
func BenchmarkProof(b *testing.B) {
	k, err := identity.NewKey()
	if err != nil {
		b.Fatal(err)
	}
	const url, credential = "http://127.0.0.1:7400/mcp/echo", "a credential of some length, as good as any other"
	now := time.Now()
	proof, err := identity.MintProof(k, "POST", url, "nonce", credential, now)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("mint", func(b *testing.B) {
		for b.Loop() {
			if _, err := identity.MintProof(k, "POST", url, "nonce", credential, now); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b, "proof/mint")
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if _, err := identity.VerifyProof(proof, "POST", url, credential, now); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b, "proof/verify")
	})
}

// BenchmarkDecide decides by the shipped policies: a read, an effect within the type's writes, and a payment that people must allow.
func BenchmarkDecide(b *testing.B) {
	schema := []byte(`{"type":"object","properties":{"iban":{"type":"string"},"amount":{"type":"number"}},"required":["iban","amount"]}`)
	tool := func(name string, groups ...string) policy.Tool {
		return policy.Tool{Server: "office", Name: name, Kind: "tool", Groups: groups, InputSchema: schema}
	}
	read, write, pay := policy.GroupsOf("read", nil, false), policy.GroupsOf("write", nil, false), policy.GroupsOf("irreversible", []string{"money"}, true)
	set, problems := policy.Compile(policy.DefaultFiles(), []policy.Tool{
		{Server: "office", Kind: policy.KindServer}, tool("file_read", read...), tool("file_write", write...), tool("payment_send", pay...),
	})
	if len(problems) > 0 {
		b.Fatal(problems)
	}
	ask := func(name string, groups []string) policy.Request {
		return policy.Request{
			Principal: policy.Principal{Kind: "Agent", Name: "clerk", Type: "bookkeeper", AgentKind: "agent", Owner: "nora"},
			Action:    policy.Action{Name: "office/" + name, Groups: groups}, Resource: policy.Resource{Server: "office", Tool: name},
			Run:       policy.RunFacts{ID: "run_x", Opener: "person", Clears: true, HasPurpose: true, InTypeReads: true, InTypeWrite: true},
			Arguments: []byte(`{"iban":"DE89370400440532013000","amount":900.5}`), Grant: "call", Credential: "dpop", Network: "127.0.0.1",
			Time: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC),
		}
	}
	for _, c := range []struct {
		name   string
		req    policy.Request
		effect policy.Effect
		asks   bool
	}{
		{"read", ask("file_read", read), policy.Permit, false},
		{"effect", ask("file_write", write), policy.Permit, false},
		{"asks", ask("payment_send", pay), policy.Forbid, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			if d := set.Decide(c.req); d.Effect != c.effect || (d.Missing != nil) != c.asks {
				b.Fatalf("decided otherwise: %+v", d)
			}
			b.ReportAllocs()
			for b.Loop() {
				set.Decide(c.req)
			}
			perSecond(b, "decide/"+c.name)
		})
	}
}

// leafBytes is the size of a typical event.
const leafBytes = 400

// BenchmarkCommit appends events of 400 bytes to the store, each durable before its writer goes on, beside the same bytes appended
// to a plain file: one fdatasync each, or one for all who wait.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("file/writers=%d", writers), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "log"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			log := &grouped{f: f}
			log.turn.L = &log.mu
			row := bytes.Repeat([]byte("x"), leafBytes)
			together(b, writers, func() error { return log.append(row) })
			perSecond(b, fmt.Sprintf("append/writers=%d", writers))
		})
		b.Run(fmt.Sprintf("store/writers=%d", writers), func(b *testing.B) {
			db, err := sqlstore.Open(b.Context(), sqlstore.Config{Path: filepath.Join(b.TempDir(), "chaperone.db")})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			agent, run, leaf := id.NewAgent(time.Now()), id.NewRun(time.Now()), bytes.Repeat([]byte("x"), leafBytes)
			together(b, writers, func() error {
				now := time.Now()
				e := audit.Sealed{Leaf: leaf, Event: audit.Event{ID: id.NewEvent(now), Stream: audit.Agents, Type: audit.CallDecided, At: now,
					Agent: agent, Run: run, Decision: id.NewDecision(now)}}
				return db.Update(context.Background(), func(tx store.Tx) error { return tx.Events().Append(e) })
			})
			perSecond(b, fmt.Sprintf("commit/writers=%d", writers))
		})
	}
}

// together runs b.N rounds of fn from the given number of goroutines.
func together(b *testing.B, writers int, fn func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := fn(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}

// grouped is the least a durable log can be: whoever comes while a sync is under way shares the next.
type grouped struct {
	f       *os.File
	mu      sync.Mutex
	turn    sync.Cond
	pending []byte
	next    int // the sync that covers what is pending
	done    int // syncs that are over
	syncing bool
	err     error
}

func (g *grouped) append(row []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending = append(g.pending, row...)
	mine := g.next + 1
	for g.done < mine && g.err == nil {
		if g.syncing {
			g.turn.Wait()
			continue
		}
		g.syncing = true
		out := g.pending
		g.pending = nil
		g.next++
		g.mu.Unlock()
		_, err := g.f.Write(out)
		if err == nil {
			err = syscall.Fdatasync(int(g.f.Fd()))
		}
		g.mu.Lock()
		g.syncing, g.done, g.err = false, g.next, err
		g.turn.Broadcast()
	}
	return g.err
}
