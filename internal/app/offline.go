package app

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"time"

	"chancery/internal/api"
	"chancery/internal/config"
	"chancery/internal/httpd"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/token"
)

// Offline is the control plane over an installation that does not serve: the
// same API, reached through memory. It is how an authority is made on a
// machine without network, and before the first `chancery serve`.
type Offline struct {
	app    *App
	memory *httpd.Memory
	stop   context.CancelFunc
	done   chan error
	token  string
}

// OpenOffline opens the installation of cfg and takes its lock: a server must
// not be running on it. Nothing is made but the directory, an empty database
// and a key store, if they do not exist.
func OpenOffline(ctx context.Context, cfg *config.Config, build obs.Build) (_ *Offline, err error) {
	a := &App{cfg: cfg, opts: Options{Build: build}, log: obs.Discard(), metrics: obs.NewMetrics(build)}
	a.loops = loop.NewMetrics(a.metrics.Registry)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if err := a.openStorage(ctx); err != nil {
		return nil, err
	}
	if err := a.loadCA(ctx); err != nil {
		return nil, err
	}
	registered, err := a.ca.Register(ctx, profiles(cfg))
	if err != nil {
		return nil, err
	}
	if _, err := token.EnsureAdmin(ctx, a.db, a.paths.adminToken(), time.Now()); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(a.paths.adminToken())
	if err != nil {
		return nil, err
	}
	a.api, err = api.New(api.Config{DB: a.db, CA: a.ca, Profiles: registered, Secrets: a.keys.Sealer(), Build: build})
	if err != nil {
		return nil, err
	}
	mux := httpd.NewMux(httpd.NewMetrics(a.metrics.Registry))
	a.api.Routes(mux)
	o := &Offline{app: a, memory: httpd.NewMemory(), done: make(chan error, 1), token: strings.TrimSpace(string(text))}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	o.stop = stop
	go func() { o.done <- httpd.New(httpd.Config{Name: "memory", Handler: mux}).Run(run, o.memory) }()
	return o, nil
}

// Client returns an HTTP client that reaches the API, whatever the host of a
// URL says, and the administrator's token.
func (o *Offline) Client() (c *http.Client, token string) { return o.memory.Client(nil), o.token }

// Close writes root.pem and releases the installation.
func (o *Offline) Close() error {
	o.stop()
	return errors.Join(<-o.done, writeFile(o.app.paths.root(), rootPEM(o.app.ca), 0o644), o.app.Close())
}
