// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"chaperone/examples/demo"
	"chaperone/internal/canon"
	"chaperone/internal/keyring"
)

// canary is a value that must not be found. home names the only places (files by their path under the stage, or outputs) where it
// may be, because that is what the place is for.
type canary struct {
	name  string
	value []byte
	home  []string
}

// run is how many bytes of a canary in a row give it away.
const canaryRun = 8

// forms are the spellings of a value, each with the length of the piece that is looked for.
func (c canary) forms() map[string]int {
	v := c.value
	out := map[string]int{string(v): canaryRun, hex.EncodeToString(v): 2 * canaryRun, strings.ToUpper(hex.EncodeToString(v)): 2 * canaryRun}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			text := enc.EncodeToString(append(make([]byte, shift), v...))
			out[text[(8*shift+5)/6:8*(shift+len(v))/6]] = 12 // what its neighbours do not decide
		}
	}
	for _, format := range []string{"%%%02X", "%%%02x", `\u%04x`, `\u%04X`, `\x%02x`} {
		var b strings.Builder
		for _, one := range v {
			fmt.Fprintf(&b, format, one)
		}
		out[b.String()] = canaryRun * (b.Len() / len(v))
	}
	if quoted, err := json.Marshal(string(v)); err == nil {
		out[string(quoted[1:len(quoted)-1])] = canaryRun
	}
	return out
}

// hunt looks for all canaries at once: every piece of every form, by its length.
type hunt struct {
	pieces map[int]map[string]string // length -> piece -> canary
	homes  map[string][]string
}

func newHunt(canaries []canary) *hunt {
	h := &hunt{pieces: map[int]map[string]string{}, homes: map[string][]string{}}
	for _, c := range canaries {
		h.homes[c.name] = c.home
		for text, n := range c.forms() {
			n = min(n, len(text))
			if h.pieces[n] == nil {
				h.pieces[n] = map[string]string{}
			}
			for i := 0; i+n <= len(text); i++ {
				h.pieces[n][text[i:i+n]] = c.name
			}
		}
	}
	return h
}

// in returns the names of the canaries found in a place, without those that live there.
func (h *hunt) in(place string, hay []byte) []string {
	found := map[string]bool{}
	for n, pieces := range h.pieces {
		for i := 0; i+n <= len(hay); i++ {
			if name, ok := pieces[string(hay[i:i+n])]; ok && !slices.Contains(h.homes[name], place) {
				found[fmt.Sprintf("%s (%q)", name, hay[max(0, i-20):min(len(hay), i+n+8)])] = true
				i += n
			}
		}
	}
	var out []string
	for name := range found {
		out = append(out, name)
	}
	slices.Sort(out)
	return out[:min(len(out), 6)]
}

// TestCanaryIsFound shows that the search finds a canary in every form that the scenario below must not show.
func TestCanaryIsFound(t *testing.T) {
	secret := rand.Text()
	h := newHunt([]canary{{name: "it", value: []byte(secret)}, {name: "other", value: []byte(rand.Text()), home: []string{"home"}}})
	percent, escaped := "", ""
	for _, c := range []byte(secret) {
		percent += fmt.Sprintf("%%%02x", c)
		escaped += fmt.Sprintf(`\u%04x`, c)
	}
	for name, text := range map[string]string{
		"raw": secret, "a piece": "..." + secret[9:17] + "...", "hex": hex.EncodeToString([]byte(secret)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"base64": base64.StdEncoding.EncodeToString([]byte(secret)), "base64 shifted once": base64.StdEncoding.EncodeToString([]byte("x" + secret + "tail")),
		"base64 shifted twice": base64.URLEncoding.EncodeToString([]byte("xy" + secret)), "percent": percent, "escaped": escaped,
	} {
		if got := h.in("anywhere", []byte("before "+text+" after")); len(got) == 0 || !strings.HasPrefix(got[0], "it ") {
			t.Errorf("%s is not found: %v", name, got)
		}
	}
	if got := h.in("anywhere", []byte("nothing of "+secret[:7]+" here")); len(got) != 0 {
		t.Errorf("seven characters are no run, but %v", got)
	}
}

// desk is a stage whose every output is kept.
type desk struct {
	*demo.Stage
	t *testing.T

	mu       sync.Mutex
	outputs  map[string]*bytes.Buffer // what commands and clients were given
	canaries []canary
}

func (d *desk) output(name string) *bytes.Buffer {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.outputs[name] == nil {
		d.outputs[name] = &bytes.Buffer{}
	}
	return d.outputs[name]
}

// say runs a command as a person, keeps what it says, and returns its standard output. Its failure is a matter of the caller.
func (d *desk) say(ctx context.Context, person, stdin string, args ...string) string {
	d.t.Helper()
	cmd := exec.CommandContext(ctx, d.Bin, append(args, "-o", "json", "--profile", person)...)
	cmd.Env, cmd.Dir, cmd.Stdin = d.Environ(), d.Dir, strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // refusals are part of the scenario
	kept := d.output(strings.Join(args[:min(len(args), 3)], " "))
	fmt.Fprintf(kept, "%s\n%s\n", out.String(), errs.String())
	return out.String()
}

// code runs a command that hands out a code, which only that command's output may hold.
func (d *desk) code(ctx context.Context, person string, args ...string) string {
	d.t.Helper()
	var got struct{ Code string }
	must(d.t, json.Unmarshal([]byte(d.say(ctx, person, "", args...)), &got))
	d.hide("code of "+strings.Join(args[:3], " "), []byte(got.Code[3:]), strings.Join(args[:3], " "))
	return got.Code
}

func (d *desk) hide(name string, value []byte, home ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.canaries = append(d.canaries, canary{name, value, home})
}

// hideKey hides the private part of a JWK file, which may lie in that file alone.
func (d *desk) hideKey(path string) {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Dir, path))
	must(d.t, err)
	info, err := os.Stat(filepath.Join(d.Dir, path))
	must(d.t, err)
	if info.Mode().Perm() != 0o600 {
		d.t.Errorf("%s has mode %v", path, info.Mode())
	}
	d.hide("private key of "+path, privatePart(d.t, b), path)
}

func privatePart(t *testing.T, jwk []byte) []byte {
	t.Helper()
	var key struct{ D string }
	must(t, json.Unmarshal(jwk, &key))
	raw, err := base64.RawURLEncoding.DecodeString(key.D)
	must(t, err)
	if len(raw) != 32 {
		t.Fatalf("a private key of %d bytes", len(raw))
	}
	return raw
}

// hideRing hides the deployment's own keys: only seal.key may lie somewhere in the clear.
func (d *desk) hideRing() {
	d.t.Helper()
	dir := filepath.Join(d.Dir, "config", "chaperone", "keys")
	seal, err := os.ReadFile(filepath.Join(dir, "seal.key"))
	must(d.t, err)
	d.hide("seal key", seal, "config/chaperone/keys/seal.key")
	ring, err := keyring.Open(dir, false)
	must(d.t, err)
	d.hide("token key", privatePart(d.t, ring.TokenKey().MarshalPrivate()))
	d.hide("state key", ring.StateKey())
	blob, err := os.ReadFile(filepath.Join(dir, "log.key"))
	must(d.t, err)
	seed, err := ring.Unseal(ring.ID(), blob, []byte("keyring/log.key"))
	must(d.t, err)
	d.hide("log key", seed)
}

// search looks through every file under the stage and every output.
func (d *desk) search(h *hunt) (files int, size int64) {
	d.t.Helper()
	look := func(place string, hay []byte) {
		files++
		size += int64(len(hay))
		if found := h.in(place, hay); len(found) > 0 {
			d.t.Errorf("in %s: %s", place, strings.Join(found, "; "))
		}
	}
	must(d.t, filepath.WalkDir(d.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil // a checkpointed WAL
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(d.Dir, path)
		look(name, b)
		return err
	}))
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, b := range d.outputs {
		look(name, b.Bytes())
	}
	return files, size
}

// TestCanaries runs a whole session at log level debug, with servers that repeat their credential in every way they can, and then
// looks for every secret and every key everywhere. Exempt are, each for its own key alone: the key files of the people and the
// instances (mode 0600), keys/seal.key, and the output of the command that hands out a code.
func TestCanaries(t *testing.T) {
	ctx := within(t, 3*time.Minute)
	d := &desk{Stage: open(t, "debug"), t: t, outputs: map[string]*bytes.Buffer{}}
	d.hide("office credential", []byte(strings.TrimPrefix(d.Secret, "office-")))
	server, up, err := d.Up(context.WithoutCancel(ctx))
	must(t, err)
	d.hide("login code of the first operator", []byte(up.LoginCode[3:]))
	_, err = d.StartOffice(context.WithoutCancel(ctx))
	must(t, err)
	d.say(ctx, "operator", "", "login", "--code", up.LoginCode)
	for name, roles := range map[string]string{"nora": "operator", "olaf": "operator,approver", "ada": "approver,auditor"} {
		d.say(ctx, name, "", "login", "--code", d.code(ctx, "operator", "person", "add", name, "--role", roles))
	}
	must(t, d.Rules(ctx, nil))
	parrots := canaryParrots(ctx, t, d)
	must(t, d.Do(ctx, "nora", "", nil, "type", "put", "bookkeeper", "--writes", "office/payment_send,office/mail_send",
		"--reads", "office/mail_read,office/file_read,office/diagnostics,"+strings.Join(parrots, "/say,")+"/say"))
	must(t, d.Do(ctx, "nora", "", nil, "agent", "register", "clerk", "--type", "bookkeeper", "--owner", "nora", "--purpose", "is watched"))
	run := openRun(t, d.Stage, "clerk", "Pay invoice 2043 to DE89370400440532013000 and tell ana@hallmann-print.example.")

	canarySessions(ctx, t, d, run)
	h := enrolHand(t, d.Stage, d.code(ctx, "nora", "agent", "join-code", "clerk"))
	d.hide("private key of the hand", privatePart(t, h.key.MarshalPrivate()))
	canaryHand(ctx, t, d, h, openRun(t, d.Stage, "clerk", "look at everything"), parrots)
	canaryRefusals(ctx, t, d)
	canaryRecord(ctx, d, run)

	for _, key := range []string{"clerk/key.jwk", "config/chaperone/profiles/nora/key.jwk", "config/chaperone/profiles/olaf/key.jwk",
		"config/chaperone/profiles/ada/key.jwk", "config/chaperone/profiles/operator/key.jwk"} {
		d.hideKey(key)
	}
	d.hideRing()
	h.mu.Lock()
	d.output("the hand").Write(h.got.Bytes())
	for i, shown := range h.shown {
		// The signature is what makes it open anything; the rest is public words. The issuer's answer has to hold the credential.
		d.hide(fmt.Sprintf("credential, assertion or proof %d", i), []byte(shown[strings.LastIndexByte(shown, '.')+1:]), "the hand")
	}
	h.mu.Unlock()
	hunted := newHunt(d.canaries)
	d.search(hunted) // as it runs, the write-ahead log and all
	server.Stop()
	d.Close()
	files, size := d.search(hunted)
	t.Logf("%d canaries, %d places, %d bytes", len(d.canaries), files, size)
	if len(d.canaries) < 30 || files < 40 || !strings.Contains(fileText(t, d.Dir, "chaperone.log"), "level=") {
		t.Errorf("the search saw too little: %d canaries in %d places, or no log", len(d.canaries), files)
	}
}

func fileText(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	return string(b)
}

// canarySessions is the office's session in both eras, with the official client: what it reads is kept.
func canarySessions(ctx context.Context, t *testing.T, d *desk, run string) {
	t.Helper()
	join := d.code(ctx, "nora", "agent", "join-code", "clerk")
	for _, era := range eras {
		kept := d.output("the client of " + era)
		cmd := exec.CommandContext(context.WithoutCancel(ctx), d.Bin, "connect", "--state", filepath.Join(d.Dir, "clerk"), "--server", "office", "--run", run, "--join", join)
		cmd.Env, cmd.Dir = d.Environ(), d.Dir
		said, err := os.Create(filepath.Join(d.Dir, "connect-"+era+".log"))
		must(t, err)
		cmd.Stderr = said
		c, err := mcp.NewClient(&mcp.Implementation{Name: "official", Version: "1"}, nil).Connect(ctx,
			&mcp.LoggingTransport{Transport: &mcp.CommandTransport{Command: cmd}, Writer: kept}, &mcp.ClientSessionOptions{ProtocolVersion: era})
		must(t, err)
		call := func(tool string, args map[string]any) *mcp.CallToolResult {
			t.Helper()
			p := &mcp.CallToolParams{Name: tool, Arguments: args}
			p.SetProgressToken(tool)
			res, err := c.CallTool(ctx, p)
			must(t, err)
			return res
		}
		if text := textOf(call("diagnostics", map[string]any{})); strings.Count(text, "[redacted]") < 8 {
			t.Errorf("%s: diagnostics showed %q", era, text)
		}
		call("file_read", map[string]any{"name": "notes.txt"})
		approved := make(chan error, 1)
		go func() { approved <- canaryApprove(ctx, d.Stage) }()
		if res := call("payment_send", payment); res.IsError {
			t.Errorf("%s: the payment: %s", era, textOf(res))
		}
		must(t, <-approved)
		call("mail_read", map[string]any{"id": "m3"})
		if res := call("mail_send", map[string]any{"to": "mallory@example.net", "subject": "s", "body": "b"}); !res.IsError {
			t.Errorf("%s: the poisoned mail went out", era)
		}
		must(t, c.Close())
		must(t, said.Close())
	}
}

// canaryApprove has ada approve the one call that waits, as soon as it does.
func canaryApprove(ctx context.Context, s *demo.Stage) error {
	for {
		err := approvePending(ctx, s, "")
		if err == nil || ctx.Err() != nil || !strings.HasPrefix(err.Error(), "0 approvals") {
			return err
		}
	}
}

// parrot repeats the credential it was called with, in every form, over a stream of messages, as an error, as a status, in headers.
type parrot struct{ t *testing.T }

func (p parrot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	n, err := canon.Parse(body, canon.Limits{})
	if err != nil || n.Get("id") == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	secret := r.Header.Get("X-Api-Key") + r.URL.Query().Get("key")
	if _, pass, ok := r.BasicAuth(); ok {
		secret += pass
	}
	id := string(n.Get("id").Raw)
	answer := func(result string) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
	}
	method, _ := n.Get("method").String()
	how, _ := n.Get("params").Get("arguments").Get("how").String()
	w.Header().Set("X-Debug", secret)
	w.Header().Set("Mcp-Debug", r.Header.Get("Authorization"))
	switch {
	case method == "server/discover":
		answer(`{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"parrot","version":"1"},"ttlMs":0,"cacheScope":"private"}`)
	case method == "tools/list":
		answer(`{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[{"name":"say","inputSchema":{"type":"object","properties":{"how":{"type":"string"}}}}]}`)
	case how == "status":
		http.Error(w, "internal: "+secret+" "+r.URL.String(), http.StatusInternalServerError)
	case how == "redirect":
		http.Redirect(w, r, "/elsewhere?"+r.URL.RawQuery+"&again="+secret, http.StatusTemporaryRedirect)
	case how == "error":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":"bad key %s","data":{"%s":"%x"}}}`, id, secret, secret, secret)
	case how == "broken":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s`, id, secret)
	default:
		w.Header().Set("Content-Type", "text/event-stream")
		half := len(secret) / 2
		escaped, percent := "", ""
		for _, c := range []byte(secret) {
			escaped += fmt.Sprintf(`\u%04x`, c)
			percent += fmt.Sprintf("%%%02X", c)
		}
		b64 := base64.StdEncoding.EncodeToString
		for i, text := range []string{secret[:half], secret[half:], escaped, `\\u0022` + strings.ReplaceAll(escaped, `\`, `\\`), percent,
			b64([]byte(secret)), b64([]byte("x" + secret)), base64.URLEncoding.EncodeToString([]byte("xy" + secret)),
			hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret))), r.Header.Get("Authorization"), r.URL.RawQuery} {
			fmt.Fprintf(w, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":{\"n\":%d,\"text\":\"%s\"}}}\n\n", i, text)
		}
		fmt.Fprintf(w, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"ask-%s\",\"method\":\"sampling/createMessage\",\"params\":{\"messages\":[{\"role\":\"user\",\"content\":{\"type\":\"text\",\"text\":\"%s\"}}],\"maxTokens\":1}}\n\n", secret, secret)
		fmt.Fprintf(w, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"resultType\":\"complete\",\"content\":[{\"type\":\"text\",\"text\":\"%s\"}],\"structuredContent\":{\"%s\":[\"%s\"]},\"_meta\":{\"x/key\":\"%s\"}}}\n\n", id, secret, secret, escaped, secret)
	}
}

// canaryParrots registers a parrot under three names, each with a credential in another place.
func canaryParrots(ctx context.Context, t *testing.T, d *desk) []string {
	t.Helper()
	srv := httptest.NewServer(parrot{t})
	t.Cleanup(srv.Close)
	places := map[string][]string{
		"p-basic": {"--place", "basic", "--user", "svc"}, "p-header": {"--place", "header", "--name", "X-Api-Key"}, "p-query": {"--place", "query", "--name", "key"},
	}
	var names []string
	for name, place := range places {
		secret := rand.Text()
		d.hide("credential of "+name, []byte(secret))
		must(t, d.Do(ctx, "nora", "", nil, "server", "add", name, "--url", srv.URL+"/mcp", "--allow-loopback"))
		must(t, d.Do(ctx, "nora", secret, nil, append([]string{"secret", "put", name}, place...)...))
		file := filepath.Join(d.Dir, name+".yaml")
		must(t, os.WriteFile(file, []byte("version: 1\nservers:\n  "+name+":\n    tools:\n      say: {effect: read, source: {integrity: trusted}}\n"), 0o600))
		must(t, d.Do(ctx, "nora", "", nil, "catalog", "apply", file))
		must(t, d.Do(ctx, "nora", "", nil, "server", "pin", name, "--all"))
		names = append(names, name)
	}
	return names
}

// canaryHand calls everything that repeats its credential, in both eras, and shows what is answered.
func canaryHand(ctx context.Context, t *testing.T, d *desk, h *hand, run string, parrots []string) {
	t.Helper()
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	for _, server := range parrots {
		access, _ := h.credential(ctx, d.Public+"/mcp/"+server, map[string]string{"run": run})
		for _, how := range []string{"all", "status", "redirect", "error", "broken"} {
			args := fmt.Sprintf(`"name":"say","arguments":{"how":"%s"}`, how)
			a := h.send(ctx, letter{url: d.Public + "/mcp/" + server, access: access, header: headers26("tools/call", "say"), body: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{` + args + `,` + meta + `}}`})
			if how == "all" && strings.Count(a.body, "[redacted]") < 12 {
				t.Errorf("%s showed %d %s", server, a.status, a.body)
			}
			if a.header.Get("X-Debug") != "" || a.header.Get("Mcp-Debug") != "" {
				t.Errorf("%s: headers of the server's own came through: %v", server, a.header)
			}
			h.send(ctx, letter{url: d.Public + "/mcp/" + server, access: access, header: headers25(""), body: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{` + args + `}}`})
		}
	}
	office, _ := h.credential(ctx, d.Public+"/mcp/office", map[string]string{"run": run})
	h.send(ctx, letter{url: d.Public + "/mcp/office", access: office, header: headers26("tools/call", "diagnostics"),
		body: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"diagnostics","arguments":{},"_meta":{"progressToken":"p","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`})
}

// canaryRefusals puts secrets where they do not belong, and looks at how that is refused.
func canaryRefusals(ctx context.Context, t *testing.T, d *desk) {
	t.Helper()
	nora := personHand(t, d.Stage, "nora")
	access, _ := nora.credential(ctx, d.Public+"/api", nil)
	wrong := rand.Text()
	d.hide("a secret in a refused request", []byte(wrong))
	send := func(method, url, media, body string, proof bool) {
		l := letter{method: method, url: url, access: access, body: body, header: map[string]string{"Content-Type": media}}
		if !proof {
			l.access = ""
		}
		a := nora.send(ctx, l)
		fmt.Fprintf(d.output("refusals"), "%v\n%s\n", a.header, a.body)
		if a.status < 400 {
			t.Errorf("%s %s %s was accepted: %s", method, url, body, a.body)
		}
	}
	for _, body := range []string{`{"value":"%[1]s"`, `{"value":"%[1]s","value":"x"}`, `{"value":"%[1]s","other":1}`, `{"value":["%[1]s"]}`, `{"value":"%[1]s","place":"pocket"}`,
		`{"value":"%[1]s","place":"header","name":"Authorization"}`, `{"value":"%[1]s\u0000","place":"bearer"}`, `%[1]s`} {
		send(http.MethodPut, d.API+"/api/secrets/office", "application/json", fmt.Sprintf(body, wrong), true)
	}
	send(http.MethodPut, d.API+"/api/secrets/nowhere", "application/json", fmt.Sprintf(`{"value":"%s","place":"bearer"}`, wrong), true)
	send(http.MethodPost, d.Public+"/login", "application/json", fmt.Sprintf(`{"code":"lc_%s","profile":"x"}`, wrong), false)
	send(http.MethodPost, d.Public+"/enroll", "application/json", fmt.Sprintf(`{"code":"jc_%s"}`, wrong), false)
	send(http.MethodPost, d.Public+"/enroll", "application/json", fmt.Sprintf(`{"code":"jc_%s"`, wrong), false)
	send(http.MethodPost, d.Public+"/token", "application/x-www-form-urlencoded", "grant_type=client_credentials&client_assertion="+wrong+"&resource="+d.Public+"/api&client_id=x", false)
	send(http.MethodPost, d.Public+"/token", "application/x-www-form-urlencoded", "grant_type=password&password="+wrong, false)
	send(http.MethodPost, d.Public+"/mcp/office?access_token="+wrong, "application/json", "{}", false)
	d.say(ctx, "mallory", "", "login", "--code", "lc_"+wrong)
	d.say(ctx, "nora", wrong, "secret", "put", "nowhere")
	d.say(ctx, "nora", wrong+"\n"+wrong, "secret", "put", "office")
	nora.mu.Lock()
	for i, shown := range nora.shown {
		d.canaries = append(d.canaries, canary{fmt.Sprintf("credential, assertion or proof %d of nora", i), []byte(shown[strings.LastIndexByte(shown, '.')+1:]), nil})
	}
	nora.mu.Unlock()
}

// canaryRecord lets the product tell all it knows, and ends what there was.
func canaryRecord(ctx context.Context, d *desk, run string) {
	d.t.Helper()
	d.say(ctx, "olaf", "", "run", "end", run, "--reason", "done")
	var page struct {
		Items []struct {
			Leaf struct {
				Type     string
				Decision string
			}
		}
	}
	must(d.t, json.Unmarshal([]byte(d.say(ctx, "ada", "", "audit", "query", "--limit", "500")), &page))
	explained := 0
	for _, e := range page.Items {
		if e.Leaf.Decision != "" && explained < 6 {
			d.say(ctx, "ada", "", "explain", e.Leaf.Decision)
			explained++
		}
	}
	for _, args := range [][]string{{"secret", "list"}, {"server", "list"}, {"catalog", "show"}, {"policy", "list"}, {"approval", "list"}, {"grant", "list"}, {"run", "list"},
		{"person", "list"}, {"agent", "list"}, {"agent", "instances", "clerk"}, {"doctor"}, {"audit", "export", "--to", filepath.Join(d.Dir, "export")}} {
		d.say(ctx, "ada", "", args...)
	}
	must(d.t, d.Do(ctx, "ada", "", nil, "audit", "verify", filepath.Join(d.Dir, "export")))
	for _, path := range []string{"/readyz", "/healthz", "/log/checkpoint"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.API+path, nil)
		must(d.t, err)
		resp, err := http.DefaultClient.Do(req)
		must(d.t, err)
		b, err := io.ReadAll(resp.Body)
		must(d.t, err)
		must(d.t, resp.Body.Close())
		d.output("public " + path).Write(b)
	}
}
