// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"chaperone/internal/config"
	"chaperone/internal/fault"
)

// listener is one of the two doors' addresses.
type listener struct {
	name string
	addr string
	tls  config.TLS
	mux  *http.ServeMux
	srv  *http.Server
	l    net.Listener
	log  *slog.Logger
}

func newListener(name, addr string, tls config.TLS, log *slog.Logger) *listener {
	mux := http.NewServeMux()
	return &listener{name: name, addr: addr, tls: tls, mux: mux, log: log, srv: &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
}

func (l *listener) bind(ctx context.Context) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
	if err != nil {
		return fault.New(fault.Unavailable, "app.listen", "listen", "cannot listen on %s for the %s' door", l.addr, l.name).
			WithFix("is another Chaperone running? stop it, or set listen.%s and the URL that goes with it", l.name).WithCause(err)
	}
	l.l = ln
	return nil
}

// serve answers until ctx ends, then gives what is under way five seconds.
func (l *listener) serve(ctx context.Context) error {
	l.srv.BaseContext = func(net.Listener) context.Context { return context.WithoutCancel(ctx) }
	stopped := make(chan error, 1)
	go func() {
		if l.tls.Cert != "" {
			stopped <- l.srv.ServeTLS(l.l, l.tls.Cert, l.tls.Key)
			return
		}
		stopped <- l.srv.Serve(l.l)
	}()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := l.srv.Shutdown(drain); err != nil {
		l.srv.Close()
	}
	if err := <-stopped; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// healthRoutes adds /healthz and /readyz to a door that has none of its own.
func healthRoutes(mux *http.ServeMux, c checks) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"alive":true}` + "\n")) // a prober that is gone needs no answer
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ready := true
		for _, one := range c.Check(r.Context()) {
			ready = ready && one.OK
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]bool{"ready": ready}) // as above
	})
}
