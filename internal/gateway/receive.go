// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"chaperone/internal/catalog"
	"chaperone/internal/enforce"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

var serverName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// once are the headers that mean something here. Two of one name would let two readers see two requests.
var once = []string{"Authorization", "Dpop", "Origin", "Content-Type", "Content-Encoding", "Mcp-Protocol-Version", "Mcp-Session-Id", "Mcp-Method", "Mcp-Name", "Last-Event-Id"}

// receive is step 1 of the road: it forms the request, or says what is wrong with it.
func (d *Door) receive(w http.ResponseWriter, r *http.Request) (enforce.Request, envelope, *problem) {
	env := envelope{era: eraOf(r.Header.Get("Mcp-Protocol-Version"))}
	req := enforce.Request{Server: r.PathValue("server"), HTTPMethod: r.Method, Remote: remote(r), Presented: d.presented(r)}
	if no := checkHeaders(r, req.Server); no != nil {
		return req, env, no
	}
	switch r.Method {
	case http.MethodPost:
		if no := checkPost(r); no != nil {
			return req, env, no
		}
		body, no := d.body(w, r)
		if no != nil {
			return req, env, no
		}
		if env, no = d.read(body, r.Header); no != nil {
			return req, env, no
		}
		if no := env.fill(&req); no != nil {
			return req, env, no
		}
		if env.era == eraStateless {
			if env.answer != nil {
				return req, env, invalid(rpcInvalidRequest, "not_jsonrpc", "answer by repeating the call", "this protocol version has no answers of the client")
			}
			if no := env.agree(r.Header, &req); no != nil {
				return req, env, no
			}
		}
		req.Body = body
		if req.Kind == catalog.KindTool {
			req.Agree = definitionCheck(r.Header, req.Arguments, env.era == eraStateless)
		}
		if !req.CanElicit {
			req.Wait = d.patience(r.Header)
		}
	case http.MethodGet, http.MethodDelete:
		if no := checkSessionRequest(r, env.era); no != nil {
			return req, env, no
		}
		req.Method = enforce.MethodStream
		if r.Method == http.MethodDelete {
			req.Method = enforce.MethodEnd
		}
	default:
		return req, env, notAllowed(r.Method, env.era)
	}
	req.Era = env.era
	req.Header = passedOn(r.Header, env.era, req.Kind == catalog.KindTool)
	if s := r.Header.Get("Mcp-Session-Id"); s != "" && env.era != eraStateless {
		var ok bool
		if req.Session, req.SessionRun, ok = d.sessions.open(s, req.Server); !ok {
			return req, env, &problem{Error: fault.New(fault.NotFound, "gateway.receive", "session_unknown", "there is no such session").
				WithFix("initialize a new session"), rpc: rpcInvalidRequest, status: http.StatusNotFound}
		}
	}
	return req, env, nil
}

func checkHeaders(r *http.Request, server string) *problem {
	for _, name := range once {
		if len(r.Header[name]) > 1 {
			return mismatch("send each header once", "the header %s is there more than once", name)
		}
	}
	for name, values := range r.Header {
		if strings.HasPrefix(name, "Mcp-") && len(values) > 1 {
			return mismatch("send each header once", "the header %s is there more than once", name)
		}
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return invalid(rpcInvalidRequest, "bad_query", "leave the query out", "the query of the URL cannot be read")
	}
	for name := range q {
		switch strings.ToLower(name) {
		case "access_token", "token", "id_token", "authorization", "dpop":
			return invalid(rpcInvalidRequest, "credential_in_query", "send the credential in the Authorization header, with a DPoP proof", "a credential in the URL is never accepted")
		}
	}
	if !serverName.MatchString(server) {
		return &problem{Error: fault.New(fault.NotFound, "gateway.receive", "server_unknown", "there is no such server").
			WithFix("use the URL /mcp/ and the server's name"), rpc: rpcInvalidRequest, status: http.StatusNotFound}
	}
	return nil
}

func checkPost(r *http.Request) *problem {
	refuse := func(status int, code, fix, format string, args ...any) *problem {
		p := invalid(rpcInvalidRequest, code, fix, format, args...)
		p.status = status
		return p
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "content_type", "send Content-Type: application/json", "the body is not declared as application/json")
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return refuse(http.StatusUnsupportedMediaType, "content_encoding", "send the body unencoded", "encoded bodies are not read")
	}
	if json, stream := accepts(r.Header.Values("Accept")); !json || !stream {
		return refuse(http.StatusBadRequest, "accept", "send Accept: application/json, text/event-stream", "an MCP client accepts both application/json and text/event-stream")
	}
	return nil
}

// checkSessionRequest is for GET and DELETE, which only the era of sessions has.
func checkSessionRequest(r *http.Request, era string) *problem {
	if era == eraStateless {
		return notAllowed(r.Method, era)
	}
	if v := r.Header.Get("Mcp-Protocol-Version"); v != "" && !slices.Contains(versions, v) {
		return unsupported(v)
	}
	if r.ContentLength > 0 || len(r.TransferEncoding) > 0 {
		return invalid(rpcInvalidRequest, "unexpected_body", "send no body with "+r.Method, "a %s has no body", r.Method)
	}
	if r.Header.Get("Last-Event-Id") != "" {
		return invalid(rpcInvalidRequest, "replay_not_offered", "repeat the call, or open the stream anew without Last-Event-ID", "answers are not replayed")
	}
	if _, stream := accepts(r.Header.Values("Accept")); r.Method == http.MethodGet && !stream {
		return invalid(rpcInvalidRequest, "accept", "send Accept: text/event-stream", "a GET is for a client that accepts text/event-stream")
	}
	return nil
}

func notAllowed(method, era string) *problem {
	p := invalid(rpcInvalidRequest, "method_not_allowed", "use POST", "%s is not used here", method)
	if era != eraStateless {
		p.Fix = "use POST, GET or DELETE"
	}
	p.status = http.StatusMethodNotAllowed
	return p
}

func accepts(values []string) (json, stream bool) {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			base, _, _ := strings.Cut(part, ";")
			switch strings.ToLower(strings.TrimSpace(base)) {
			case "application/json", "application/*":
				json = true
			case "text/event-stream", "text/*":
				stream = true
			case "*/*":
				json, stream = true, true
			}
		}
	}
	return json, stream
}

// body reads the body whole, up to the cap.
func (d *Door) body(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	tooLarge := func() *problem {
		p := invalid(rpcInvalidRequest, "body_too_large", "send a smaller message", "the body has more than %d bytes", d.cfg.Body)
		p.status = http.StatusRequestEntityTooLarge
		return p
	}
	if r.ContentLength > int64(d.cfg.Body) {
		return nil, tooLarge()
	}
	slow := http.NewResponseController(w)
	_ = slow.SetReadDeadline(time.Now().Add(d.cfg.Read)) // where it is not supported, the server's own bound remains
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(d.cfg.Body)))
	_ = slow.SetReadDeadline(time.Time{})
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, tooLarge()
	}
	if err != nil {
		return nil, invalid(rpcInvalidRequest, "body_broken", "send the request again", "the body broke off")
	}
	return b, nil
}

// patience is how long a call may wait for an approval: the door's own bound, or less if the caller prefers (RFC 7240 wait).
func (d *Door) patience(h http.Header) time.Duration {
	for _, v := range h.Values("Prefer") {
		for part := range strings.SplitSeq(v, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			if n, err := strconv.Atoi(value); strings.EqualFold(name, "wait") && err == nil && n >= 0 && n < 3600 {
				return min(d.cfg.Wait, time.Duration(n)*time.Second)
			}
		}
	}
	return d.cfg.Wait
}

// presented takes the proof of the caller from the wire, unverified.
func (d *Door) presented(r *http.Request) identity.Presented {
	p := identity.Presented{Method: r.Method, URL: d.externalURL(r), Proof: r.Header.Get("DPoP")}
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(scheme, "DPoP"):
		scheme = "DPoP"
	case strings.EqualFold(scheme, "Bearer"):
		scheme = "Bearer"
	}
	p.Scheme, p.Token = scheme, strings.TrimSpace(rest)
	return p
}

// externalURL is the URL that the caller used, without its query. The Host is one of the allowed ones by now.
func (d *Door) externalURL(r *http.Request) string {
	scheme := d.base.Scheme
	if !strings.EqualFold(r.Host, d.base.Host) {
		scheme = "http"
		if r.TLS != nil {
			scheme = "https"
		}
	}
	return scheme + "://" + r.Host + r.URL.EscapedPath()
}

func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// passedOn are the headers of MCP that may go on to the upstream. What the era does not define stays behind, and what mirrors arguments
// does where there is no tool whose schema it could be held against.
func passedOn(h http.Header, era string, tool bool) map[string][]string {
	out := map[string][]string{}
	for name, values := range h {
		switch {
		case name == "Accept" || name == "Content-Type" || name == "Mcp-Protocol-Version":
		case (name == "Mcp-Method" || name == "Mcp-Name" || tool && strings.HasPrefix(name, paramPrefix)) && era == eraStateless:
		default:
			continue
		}
		out[name] = values
	}
	return out
}

// checkOrigin refuses requests under a foreign name and from foreign pages.
func (d *Door) checkOrigin(r *http.Request) *problem {
	same := func(list []string, s string) bool {
		return slices.ContainsFunc(list, func(x string) bool { return strings.EqualFold(x, s) })
	}
	if !same(d.cfg.AllowedHosts, r.Host) {
		p := invalid(rpcInvalidRequest, "host_not_allowed", "use the gateway's own URL, or add the name to its allowed hosts", "the Host header is not one of this gateway's")
		p.status = http.StatusForbidden
		return p
	}
	for _, o := range r.Header.Values("Origin") {
		if !same(d.cfg.AllowedOrigins, o) {
			p := invalid(rpcInvalidRequest, "origin_not_allowed", "agents do not run in pages; add the origin to the allowed ones if yours does", "the Origin header is not one of this gateway's")
			p.status = http.StatusForbidden
			return p
		}
	}
	return nil
}
