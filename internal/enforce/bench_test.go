// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"io"
	"testing"

	"chaperone/internal/canon"
	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/run"
	"chaperone/internal/secret"
)

// near answers at once, without a network, so that the benchmark is of the road alone.
type near struct{ enforce.Upstream }

func (n near) Forward(context.Context, enforce.Outgoing) (enforce.Exchange, error) {
	return &oneMessage{}, nil
}

func (n near) Definitions(ctx context.Context, s catalog.Server, in secret.Injection) ([]enforce.Definition, error) {
	return n.Upstream.Definitions(ctx, s, in)
}

type oneMessage struct{ done bool }

func (o *oneMessage) Answer() enforce.Answer { return enforce.Answer{Status: 200} }
func (o *oneMessage) Close() error           { return nil }
func (o *oneMessage) Next() (enforce.Incoming, error) {
	if o.done {
		return enforce.Incoming{}, io.EOF
	}
	o.done = true
	raw := []byte(`{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"done"}]}}`)
	doc, err := canon.Parse(raw, canon.Limits{})
	return enforce.Incoming{Raw: raw, Doc: doc}, err
}

func BenchmarkCall(b *testing.B) {
	for _, tool := range []string{"list_files", "note"} {
		for _, parallel := range []int{1, 16} {
			b.Run(tool+"/"+map[int]string{1: "one", 16: "sixteen"}[parallel], func(b *testing.B) {
				h := newHouse(b, func(h *house) { h.far = near{h.far} })
				r := h.open(run.Opener{Kind: run.ByPerson, Name: "ada", JKT: "k"}, purpose, func(o *run.Order) {
					o.Budgets = run.Budgets{Steps: 100_000, Bytes: 1 << 34}
				})
				req := h.tool(tool, `{"text":"hello"}`, in(r))
				b.SetParallelism(parallel)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if o, err := h.engine.Call(context.Background(), req, &sink{h: h}); o.Verdict != enforce.Released {
							b.Errorf("%+v %v", o, err)
							return
						}
					}
				})
			})
		}
	}
}
