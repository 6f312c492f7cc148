// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// recorded exports the record, verifies it, changes one record of a copy, and sees it named.
func (s *story) recorded(ctx context.Context) error {
	checkpoint, err := s.settled(ctx)
	if err != nil {
		return err
	}
	pinned := filepath.Join(s.Dir, "checkpoint.pinned")
	if err := os.WriteFile(pinned, checkpoint, 0o600); err != nil {
		return err
	}
	export := filepath.Join(s.Dir, "export")
	if err := s.Do(ctx, "ada", "", nil, "audit", "export", "--to", export); err != nil {
		return err
	}
	var report struct {
		OK      bool
		Records int64
	}
	if err := s.Do(ctx, "ada", "", &report, "audit", "verify", export, "--checkpoint", pinned); err != nil {
		return err
	}
	if !report.OK {
		return fail("the untouched export does not verify")
	}
	s.p.yes("%d records verify offline against a checkpoint kept apart from them", report.Records)
	id, at, err := tamper(export)
	if err != nil {
		return err
	}
	err = s.Do(ctx, "ada", "", nil, "audit", "verify", export, "--checkpoint", pinned)
	r, ok := errors.AsType[*Refusal](err)
	if !ok || !strings.Contains(r.Message, id) {
		return fail("the changed record %d (%s) was not named: %v", at, id, err)
	}
	s.p.no("in the copy, record %d now says the poisoned payment was permitted; verify says: %s", at, r.Message)
	return nil
}

// settled waits until the public checkpoint covers every record so far, and returns it.
func (s *story) settled(ctx context.Context) ([]byte, error) {
	var newest struct{ Items []struct{ Position int64 } }
	if err := s.Do(ctx, "ada", "", &newest, "audit", "query", "--limit", "1"); err != nil {
		return nil, err
	}
	for range 100 {
		resp, err := http.Get(s.API + "/log/checkpoint")
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		lines := strings.Split(string(b), "\n")
		var size int64
		if len(lines) > 1 && json.Unmarshal([]byte(lines[1]), &size) == nil && len(newest.Items) > 0 && size > newest.Items[0].Position {
			return b, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil, fail("the log did not catch up in five seconds")
}

// tamper changes the decision about the poisoned payment from forbid to permit, as somebody with write access to a copy might.
func tamper(export string) (id string, at int64, err error) {
	path := filepath.Join(export, "records.jsonl")
	b, err := os.ReadFile(path)
	if err != nil {
		return "", 0, err
	}
	var out bytes.Buffer
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var rec map[string]json.RawMessage
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			return "", 0, err
		}
		var encoded string
		if err := json.Unmarshal(rec["leaf"], &encoded); err != nil {
			return "", 0, err
		}
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return "", 0, err
		}
		if id == "" && bytes.Contains(raw, []byte("untrusted-sink")) && bytes.Contains(raw, []byte(`"forbid"`)) && bytes.Contains(raw, []byte("payment_send")) {
			if err := errors.Join(json.Unmarshal(rec["id"], &id), json.Unmarshal(rec["position"], &at)); err != nil {
				return "", 0, err
			}
			raw = bytes.Replace(raw, []byte(`"forbid"`), []byte(`"permit"`), 1)
			if rec["leaf"], err = json.Marshal(base64.StdEncoding.EncodeToString(raw)); err != nil {
				return "", 0, err
			}
		}
		line, err := json.Marshal(rec)
		if err != nil {
			return "", 0, err
		}
		out.Write(append(line, '\n'))
	}
	if err := lines.Err(); err != nil {
		return "", 0, err
	}
	if id == "" {
		return "", 0, fail("no record of the poisoned payment's refusal in the export")
	}
	return id, at, os.WriteFile(path, out.Bytes(), 0o600)
}
