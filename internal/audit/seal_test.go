// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"chaperone/internal/audit"
	"chaperone/internal/canon"
	"chaperone/internal/fault"
	"chaperone/internal/id"
	"chaperone/internal/label"
)

var update = flag.Bool("update", false, "write the published documents again")

// t0 is the moment of every fixed event.
func t0() time.Time { return time.Date(2026, 11, 23, 9, 30, 0, 123456789, time.FixedZone("x", 3600)) }

// counted returns salts of SaltSize bytes 0, then 1, and so on.
func counted() func() []byte {
	n := -1
	return func() []byte { n++; return bytes.Repeat([]byte{byte(n)}, audit.SaltSize) }
}

func callEvent() audit.Event {
	return audit.Event{
		ID: fixed.event, Stream: audit.Agents, Type: audit.CallOutcome, At: t0(),
		Actor: audit.Actor{Kind: audit.ActorAgent, ID: fixed.agent.String(), Name: "mailer", JKT: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
		Agent: fixed.agent, AgentName: "mailer", AgentType: "assistant", Instance: fixed.instance, Run: fixed.run, Step: fixed.step,
		Server: "office", Tool: "mail_send", Decision: fixed.decision, Grant: fixed.grant,
		Data: audit.Call{
			Ordinal: 3, TS: t0(), AgentType: "assistant", AgentID: fixed.agent.String(), RunID: fixed.run.String(),
			Action: "office/mail_send", Resource: "mailbox=ann", Dests: []string{"bob@example.com"}, ArgKeys: []string{"body", "to"},
			ArgsDigest: canon.Sum([]byte(`{"body":"hi","to":"bob@example.com"}`)), BytesIn: 37, BytesOut: 120, Outcome: audit.OutcomeOK, Turn: 2,
			DestInPrompt: new(true), Method: "tools/call", Era: "2025-11-25", Rules: []string{"effect-with-approval"}, Class: "irreversible",
			Stakes: []string{"external_communication"}, LabelBefore: label.Label{Integrity: label.Trusted, Level: label.Internal},
			LabelAfter:    label.Label{Integrity: label.Untrusted, Sources: []string{"office/mail_read"}, Level: label.Internal},
			PolicyVersion: 7, PolicyDigest: strings.Repeat("ab", 32), CatalogVersion: 4, RunVersion: 2, UpstreamStatus: 200, DurationUS: 5321,
		},
		Parts: map[string][]byte{"arguments": []byte(`{"body":"hi","to":"bob@example.com"}`), "result": []byte(`{"content":[]}`)},
	}
}

func personEvent() audit.Event {
	return audit.Event{
		ID: fixed.event, Stream: audit.People, Type: audit.PolicyApplied, At: t0(),
		Actor:   audit.Actor{Kind: audit.ActorPerson, ID: fixed.person.String(), Name: "ann"},
		Subject: "policy:7",
		Data: struct {
			Version int64  `json:"version"`
			Digest  string `json:"digest"`
			Note    string `json:"note"`
		}{7, strings.Repeat("cd", 32), "naïve \u2028 <b> & \"quotes\""},
	}
}

var fixed = struct {
	event    id.Event
	agent    id.Agent
	instance id.Instance
	run      id.Run
	step     id.Step
	decision id.Decision
	grant    id.Grant
	person   id.Person
}{
	read[id.Event]("evt_2al2j3pvrht233svx32cnaidek"), read[id.Agent]("agt_2al2j3pvrhz7l3jhhzubogxvfk"),
	read[id.Instance]("ins_2al2j3pvrhytfejoc6u7r5xshk"), read[id.Run]("run_2al2j3pvrhw3zirwgprlyjtjbk"),
	read[id.Step]("stp_2al2j3pvrhz3bj6cjfahupnuyc"), read[id.Decision]("dec_2al2j3pvrhxgl473wcbr3pw4kk"),
	read[id.Grant]("grt_2al2j3pvrhsjrgady5zn5hvrlc"), read[id.Person]("per_2al2j3pvrhy4r5r5fydtb24pg2"),
}

// read turns the text of an identifier into its type.
func read[T any, P interface {
	*T
	UnmarshalText([]byte) error
}](s string) (out T) {
	if err := P(&out).UnmarshalText([]byte(s)); err != nil {
		panic(err)
	}
	return out
}

func TestVocabulary(t *testing.T) {
	form := regexp.MustCompile(`^[a-z]+\.[a-z]+(_[a-z]+)*$`)
	seen := make(map[string]bool)
	for _, typ := range audit.Types() {
		if seen[typ.Name] {
			t.Errorf("%s is listed twice", typ.Name)
		}
		seen[typ.Name] = true
		if !form.MatchString(typ.Name) || !strings.HasSuffix(typ.Says, ".") {
			t.Errorf("%s: %q", typ.Name, typ.Says)
		}
		if s, ok := audit.StreamOf(typ.Name); !ok || s != typ.Stream || s != audit.Agents && s != audit.People {
			t.Errorf("%s belongs to %q", typ.Name, s)
		}
	}
	if _, ok := audit.StreamOf("call.made"); ok {
		t.Error("a type that is not in the table has a stream")
	}
	audit.Types()[0].Name = "changed"
	if audit.Types()[0].Name == "changed" {
		t.Error("Types lends the table itself")
	}
}

// From the first day an agent's call carries every field of the behaviour format that is not a label.
func TestCallCarriesTheBehaviourFields(t *testing.T) {
	b, err := canon.Marshal(audit.Call{TS: t0()})
	if err != nil {
		t.Fatal(err)
	}
	n, err := canon.Parse(b, canon.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"ordinal", "ts", "agent_type", "agent_id", "run_id", "action", "resource", "dests", "arg_keys", "args_digest", "bytes_in",
		"bytes_out", "outcome", "turn", "dest_in_prompt", "dest_in_tool_output",
	} {
		if n.Get(name) == nil {
			t.Errorf("an empty call has no %s", name)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	tests := []struct {
		name, code string
		change     func(*audit.Event)
		salts      func() []byte
	}{
		{"unknown type", "event_type", func(e *audit.Event) { e.Type = "call.made" }, nil},
		{"no type", "event_type", func(e *audit.Event) { e.Type = "" }, nil},
		{"an agent's type among people's", "event_type", func(e *audit.Event) { e.Stream = audit.People }, nil},
		{"a person's type among agents'", "event_type", func(e *audit.Event) { e.Type = audit.PolicyApplied }, nil},
		{"no stream", "event_type", func(e *audit.Event) { e.Stream = "" }, nil},
		{"a call without its form", "event_data", func(e *audit.Event) { e.Data = struct{ A int }{1} }, nil},
		{"a call without data", "event_data", func(e *audit.Event) { e.Data = nil }, nil},
		{"data that is a list", "event_data", func(e *audit.Event) { e.Type, e.Data = audit.LabelJoined, []int{1} }, nil},
		{"data that is null", "event_data", func(e *audit.Event) { e.Type, e.Data = audit.LabelJoined, (*int)(nil) }, nil},
		{"data that is a text", "event_data", func(e *audit.Event) { e.Type, e.Data = audit.LabelJoined, time.Now() }, nil},
		{"data that is a raw list", "event_data", func(e *audit.Event) { e.Type, e.Data = audit.LabelJoined, json.RawMessage(`[1]`) }, nil},
		{"a nil map", "event_data", func(e *audit.Event) { e.Type, e.Data = audit.LabelJoined, map[string]int(nil) }, nil},
		{"a number that a double cannot hold", "json_inexact_number", func(e *audit.Event) { e.Type, e.Data = audit.LabelJoined, map[string]int64{"n": 1<<53 + 1} }, nil},
		{"no id", "event_field", func(e *audit.Event) { e.ID = id.Event{} }, nil},
		{"no time", "event_field", func(e *audit.Event) { e.At = time.Time{} }, nil},
		{"no actor", "event_field", func(e *audit.Event) { e.Actor = audit.Actor{} }, nil},
		{"another kind of actor", "event_field", func(e *audit.Event) { e.Actor.Kind = "robot" }, nil},
		{"too large", "leaf_too_large", func(e *audit.Event) { e.Subject = strings.Repeat("x", audit.MaxLeaf) }, nil},
		{"bad UTF-8", "json_invalid_utf8", func(e *audit.Event) { e.Subject = "\xff" }, nil},
		{"part with a bad name", "part_name", func(e *audit.Event) { e.Parts = map[string][]byte{"A": nil} }, nil},
		{"part without a name", "part_name", func(e *audit.Event) { e.Parts = map[string][]byte{"": nil} }, nil},
		{"part with a long name", "part_name", func(e *audit.Event) { e.Parts = map[string][]byte{strings.Repeat("a", 33): nil} }, nil},
		{"short salt", "part_salt", func(*audit.Event) {}, func() []byte { return make([]byte, 31) }},
		{"long salt", "part_salt", func(*audit.Event) {}, func() []byte { return make([]byte, 33) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev := callEvent()
			tt.change(&ev)
			if tt.salts == nil {
				tt.salts = counted()
			}
			s, err := audit.Seal(ev, tt.salts)
			if fault.CodeOf(err) != tt.code || !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v, want %s", err, tt.code)
			}
			if s.Leaf != nil {
				t.Error("a refused event has a leaf")
			}
		})
	}
}

func TestSealKeepsThePartOutOfTheLeaf(t *testing.T) {
	s, err := audit.Seal(callEvent(), counted())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(s.Leaf, []byte("hi")) {
		t.Error("the leaf holds the body")
	}
	v, err := audit.ParseLeaf(s.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Parts {
		sum := sha256.Sum256(append(bytes.Clone(p.Salt), p.Bytes...))
		if got := v.Parts[p.Name]; got.Digest != hex.EncodeToString(sum[:]) || got.Size != int64(len(p.Bytes)) {
			t.Errorf("%s: %+v", p.Name, got)
		}
	}
	if s.Parts[0].Name != "arguments" || s.Parts[1].Name != "result" || bytes.Equal(s.Parts[0].Salt, s.Parts[1].Salt) {
		t.Errorf("parts: %+v", s.Parts)
	}
	if a, b := audit.RandomSalt(), audit.RandomSalt(); len(a) != audit.SaltSize || bytes.Equal(a, b) {
		t.Error("RandomSalt is not random")
	}
}

func TestLeafReadsBack(t *testing.T) {
	ev := callEvent()
	s, err := audit.Seal(ev, counted())
	if err != nil {
		t.Fatal(err)
	}
	v, err := audit.ParseLeaf(s.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	if want := t0().UTC().Truncate(time.Millisecond); !v.Time().Equal(want) {
		t.Errorf("time %v, want %v", v.Time(), want)
	}
	got, err := v.Call()
	if err != nil {
		t.Fatal(err)
	}
	want := ev.Data.(audit.Call)
	want.TS = want.TS.UTC().Truncate(time.Millisecond)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	pointed := ev
	pointed.Data = new(ev.Data.(audit.Call))
	again, err := audit.Seal(pointed, counted())
	if err != nil || !bytes.Equal(again.Leaf, s.Leaf) {
		t.Errorf("a pointer to the data makes another leaf: %v", err)
	}
}

func TestLongListsAreCut(t *testing.T) {
	ev := callEvent()
	c := ev.Data.(audit.Call)
	c.Resource = strings.Repeat("ü", 200)
	c.Dests, c.ArgKeys = nil, nil
	for i := range 2000 {
		c.Dests = append(c.Dests, fmt.Sprintf("user%d@example.com", i))
		c.ArgKeys = append(c.ArgKeys, fmt.Sprintf("key%d", i))
	}
	c.Dests[0] = strings.Repeat("é", 4000)
	ev.Data = c
	s, err := audit.Seal(ev, counted())
	if err != nil {
		t.Fatal(err)
	}
	v, _ := audit.ParseLeaf(s.Leaf)
	got, err := v.Call()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Dests) != 32 || got.DestsCut != 2000-32+1 || len(got.ArgKeys) != 64 || got.ArgKeysCut != 2000-64 {
		t.Errorf("%d %d %d %d", len(got.Dests), got.DestsCut, len(got.ArgKeys), got.ArgKeysCut)
	}
	if len(got.Dests[0]) != 256 || len(got.Resource) != 256 {
		t.Errorf("cut to %d and %d bytes", len(got.Dests[0]), len(got.Resource))
	}
	if len(c.Dests) != 2000 {
		t.Error("the caller's list was changed")
	}
}

func TestParseLeafRefuses(t *testing.T) {
	s, err := audit.Seal(callEvent(), counted())
	if err != nil {
		t.Fatal(err)
	}
	leaf := string(s.Leaf)
	swap := func(old, now string) string {
		t.Helper()
		if !strings.Contains(leaf, old) {
			t.Fatalf("the leaf has no %s", old)
		}
		return strings.Replace(leaf, old, now, 1)
	}
	tests := []struct{ name, code, leaf string }{
		{"nothing", "json_syntax", ""},
		{"white space", "leaf_not_canonical", " " + leaf},
		{"members in another order", "leaf_not_canonical", `{"v":1,` + strings.TrimSuffix(leaf[1:], `,"v":1}`) + `}`},
		{"another spelling", "leaf_not_canonical", swap(`"mailer"`, `"\u006dailer"`)},
		{"an unknown member", "json_unknown_member", swap(`"agent":`, `"about":1,"agent":`)},
		{"a newer format", "leaf_version", swap(`"v":1}`, `"v":2}`)},
		{"an empty member", "leaf_not_canonical", swap(`"tool":"mail_send"`, `"tool":""`)},
		{"a bad id", "bad_id", swap(fixed.run.String()+`","server"`, `run_x","server"`)},
		{"another time zone", "event_field", swap(`"2026-11-23T08:30:00.123Z","data"`, `"2026-11-23T09:30:00.123+01:00","data"`)},
		{"a bad part digest", "part_name", swap(`"digest":"`, `"digest":"zz`)},
		{"a negative size", "part_name", swap(`"size":36`, `"size":-36`)},
		{"too large", "leaf_too_large", strings.Repeat(" ", audit.MaxLeaf+1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := audit.ParseLeaf([]byte(tt.leaf))
			if fault.CodeOf(err) != tt.code {
				t.Errorf("got %v, want %s", err, tt.code)
			}
		})
	}
}

// The same event has the same leaf, whatever the order of a map; two events that differ have different leaves.
func TestLeafIsAFunctionOfTheEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) audit.Event {
			ev := callEvent()
			ev.Type = audit.LabelJoined
			ev.Subject = rapid.String().Draw(t, name+" subject")
			ev.Tool = rapid.StringN(0, 4, 8).Draw(t, name+" tool")
			ev.Data = rapid.MapOf(rapid.String(), rapid.String()).Draw(t, name+" data")
			ev.Parts = rapid.MapOf(rapid.StringMatching(`[a-z_]{1,4}`), rapid.SliceOf(rapid.Byte())).Draw(t, name+" parts")
			return ev
		}
		a, b := draw("a"), draw("b")
		sa, err := audit.Seal(a, counted())
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := audit.Seal(a, counted()); !bytes.Equal(again.Leaf, sa.Leaf) {
			t.Fatal("one event has two leaves")
		}
		sb, err := audit.Seal(b, counted())
		if err != nil {
			t.Fatal(err)
		}
		same := reflect.DeepEqual(a.Data, b.Data) && a.Subject == b.Subject && a.Tool == b.Tool && len(a.Parts) == len(b.Parts)
		for name := range a.Parts {
			same = same && bytes.Equal(a.Parts[name], b.Parts[name])
		}
		if same != bytes.Equal(sa.Leaf, sb.Leaf) {
			t.Fatalf("same event %t, same leaf %t", same, !same)
		}
		if _, err := audit.ParseLeaf(sa.Leaf); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseLeaf(f *testing.F) {
	for _, ev := range []audit.Event{callEvent(), personEvent()} {
		s, err := audit.Seal(ev, counted())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s.Leaf)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := audit.ParseLeaf(b)
		if err != nil {
			return
		}
		again, err := canon.Marshal(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("a leaf that was read is not what its view says: %v\n%s\n%s", err, b, again)
		}
	})
}

// vector is one row of docs/vectors/leaf.json, for writers of verifiers in other languages.
type vector struct {
	Name     string       `json:"name"`
	Leaf     string       `json:"leaf"`
	LeafHash string       `json:"leaf_hash"` // RFC 6962 §2.1: SHA-256(0x00 || leaf), hex
	Parts    []vectorPart `json:"parts,omitempty"`
}

type vectorPart struct {
	Name   string `json:"name"`
	Salt   string `json:"salt"`  // hex
	Bytes  string `json:"bytes"` // text
	Digest string `json:"digest"`
}

func TestLeafVectors(t *testing.T) {
	large := callEvent()
	large.Parts = map[string][]byte{"request": nil}
	var got []vector
	for _, e := range []struct {
		name string
		ev   audit.Event
	}{{"a call with two parts", callEvent()}, {"a person's change, with text that encoders disagree about", personEvent()}, {"an empty part", large}} {
		s, err := audit.Seal(e.ev, counted())
		if err != nil {
			t.Fatal(err)
		}
		h := tlog.RecordHash(s.Leaf)
		v := vector{Name: e.name, Leaf: string(s.Leaf), LeafHash: hex.EncodeToString(h[:])}
		view, _ := audit.ParseLeaf(s.Leaf)
		for _, p := range s.Parts {
			v.Parts = append(v.Parts, vectorPart{p.Name, hex.EncodeToString(p.Salt), string(p.Bytes), view.Parts[p.Name].Digest})
		}
		got = append(got, v)
	}
	const path = "../../docs/vectors/leaf.json"
	if *update {
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := errors.Join(enc.Encode(got), os.WriteFile(path, out.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want []vector
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the leaf format moved away from its published vectors:\n%s", d)
	}
}

// docs/events.md lists the vocabulary, type for type.
func TestEventsDocument(t *testing.T) {
	var out strings.Builder
	out.WriteString("# Events\n\nThe record is one table and one log. Every event belongs to one of two streams, and no type is in both. The list is the\nvocabulary of `internal/audit`; a test holds this page against it.\n\n" +
		"A leaf is the RFC 8785 form of the members below and is what the log commits to, byte for byte (`docs/vectors/leaf.json`).\n" +
		"Matter that may have to be erased one day (arguments, results, the whole policy request) stands beside the leaf as a *part*:\nthe leaf keeps SHA-256(salt || bytes) and the size.\n\n")
	out.WriteString("## Members of a leaf\n\n| member | meaning |\n|---|---|\n")
	means := map[string]string{
		"v": "format, 1", "id": "`evt_...`", "stream": "`agent` or `people`", "type": "see below", "at": "UTC, milliseconds",
		"actor": "whose key caused it: kind (agent, person, system), id, name, thumbprint", "data": "the fields of the type", "parts": "name -> digest and size",
		"on_behalf_of": "the user at the start of the delegation chain", "subject": "what a person's event is about: `agent:mailer`, `policy:7`",
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[audit.View]()) {
		if field.Anonymous {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		says := means[name]
		if says == "" {
			says = "if there is one"
		}
		fmt.Fprintf(&out, "| `%s` | %s |\n", name, says)
	}
	for _, stream := range []audit.Stream{audit.Agents, audit.People} {
		fmt.Fprintf(&out, "\n## Stream `%s`\n\n| type | says | data |\n|---|---|---|\n", stream)
		for _, typ := range audit.Types() {
			if typ.Stream != stream {
				continue
			}
			var forms []string
			for _, f := range typ.Forms {
				forms = append(forms, "`audit."+f.Name()+"`")
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s |\n", typ.Name, typ.Says, strings.Join(forms, " or "))
		}
	}
	for _, form := range []reflect.Type{reflect.TypeFor[audit.Call](), reflect.TypeFor[audit.Decided](), reflect.TypeFor[audit.Restored](), reflect.TypeFor[audit.Erased]()} {
		fmt.Fprintf(&out, "\n## Data `audit.%s`\n\n", form.Name())
		var names []string
		for i := range form.NumField() {
			name, opts, _ := strings.Cut(form.Field(i).Tag.Get("json"), ",")
			if opts != "" {
				name += "?"
			}
			names = append(names, "`"+name+"`")
		}
		out.WriteString(strings.Join(names, ", ") + ". A `?` marks members that are left out when empty.\n")
	}
	const path = "../../docs/events.md"
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(b), out.String()); d != "" {
		t.Errorf("docs/events.md and the vocabulary differ (write it again with -update):\n%s", d)
	}
}

func BenchmarkSeal(b *testing.B) {
	ev := callEvent()
	for b.Loop() {
		if _, err := audit.Seal(ev, audit.RandomSalt); err != nil {
			b.Fatal(err)
		}
	}
}
