package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/app"
	"chancery/internal/deploy"
	"chancery/internal/deploy/files"
	"chancery/internal/fault"
	"chancery/internal/fleet/agent"
)

// liveAgent is a real agent in this process, with a TLS server beside it whose
// certificate it keeps.
type liveAgent struct {
	api  *client.Client
	srv  *http.Server
	name string
	a    *agent.Agent
	stop func() error
}

// liveName is what the agent's server is called.
const liveName = "live.test"

// renewals is how many times the live agent's certificate is replaced.
const renewals = 100

// deployments measures how long it takes from an operator's word until a
// certificate was issued, deployed by its agent, seen by its probe and reported,
// while all the others are parked.
func (b *agentsBench) deployments(ctx context.Context) (err error) {
	b.cfg.Progress("renewing at an agent", 0)
	l, err := b.openLive(ctx)
	if err != nil {
		return fmt.Errorf("start an agent: %w", err)
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	if err := b.untilParked(ctx, l); err != nil {
		return err
	}
	made, err := client.Post[api.Assignment](ctx, l.api, "/agents/"+l.name+"/assignments", map[string]any{"names": []string{liveName}, "targets": []string{"web"}})
	if err != nil {
		return err
	}
	served, err := b.untilLive(ctx, l, made.ID, "")
	if err != nil {
		return err
	}
	took := &Histogram{}
	for i := range renewals {
		b.cfg.Progress("renewing at an agent", float64(i)/renewals)
		start := time.Now()
		if _, err := client.Post[api.Assignment](ctx, l.api, "/assignments/"+made.ID+"/renew", nil); err != nil {
			return err
		}
		if served, err = b.untilLive(ctx, l, made.ID, served); err != nil {
			return err
		}
		took.Record(time.Since(start))
	}
	b.figure("asked for to deployed and probed p50", millis(took.Quantile(0.5)), "ms")
	b.figure("asked for to deployed and probed p99", millis(took.Quantile(0.99)), "ms")
	return nil
}

// untilParked waits until the agent has nothing to do.
func (b *agentsBench) untilParked(ctx context.Context, l *liveAgent) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Limit)
	defer cancel()
	for {
		a, err := client.Get[api.Agent](ctx, l.api, "/agents/"+l.name, nil)
		if err != nil || a.Parked {
			return err
		}
		if err := b.pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// untilLive waits until another certificate than before is in service, and
// returns its hash.
func (b *agentsBench) untilLive(ctx context.Context, l *liveAgent, id, before string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Limit)
	defer cancel()
	for {
		now, err := client.Get[api.Assignment](ctx, l.api, "/assignments/"+id, nil)
		if err != nil {
			return "", err
		}
		if now.State == "live" && now.SHA256 != before {
			return now.SHA256, nil
		}
		if now.State == "failed" {
			return "", fault.New(fault.Unavailable, "the agent could not deploy: %s", now.Error)
		}
		if err := b.pause(ctx, 5*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// openLive enrols the agent and lets it work.
func (b *agentsBench) openLive(ctx context.Context) (_ *liveAgent, err error) {
	token, err := os.ReadFile(b.Ready.Token)
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	text, err := os.ReadFile(b.Ready.Root)
	if err != nil {
		return nil, fmt.Errorf("read roots: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	l := &liveAgent{name: "live"}
	base := strings.TrimSuffix(b.Ready.API, api.Prefix)
	if l.api, err = client.New(client.Config{Server: base, Token: strings.TrimSpace(string(token)), Roots: roots}); err != nil {
		return nil, err
	}
	made, err := client.Post[api.NewAgentToken](ctx, l.api, "/agent-tokens", map[string]any{"name_pattern": l.name})
	if err != nil {
		return nil, err
	}
	target, err := l.serve(filepath.Join(b.cfg.Dir, "live-agent"))
	if err != nil {
		return nil, err
	}
	l.a, err = agent.Open(ctx, agent.Config{Server: base, State: filepath.Join(b.cfg.Dir, "live-agent"), Token: made.Secret, Name: l.name, Version: "bench",
		Targets: map[string]agent.Target{"web": target}})
	if err != nil {
		return nil, errors.Join(err, l.srv.Close())
	}
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.a.Run(run) }()
	l.stop = func() error {
		cancel()
		err := <-ended
		l.a.Close()
		return errors.Join(err, l.srv.Close())
	}
	return l, nil
}

// serve opens a target of files, and a server that reads them at every
// handshake, as one that was reloaded would, to be probed.
func (l *liveAgent) serve(dir string) (agent.Target, error) {
	if err := app.MakeState(dir, "web"); err != nil {
		return agent.Target{}, err
	}
	config := files.Kind.Config().(*files.Config)
	config.Dir = filepath.Join(dir, "live")
	log := slog.New(slog.DiscardHandler)
	target, err := files.Kind.Open(deploy.Env{Name: "web", State: filepath.Join(dir, "targets", "web"), Log: log}, config)
	if err != nil {
		return agent.Target{}, err
	}
	at, err := freeAddress()
	if err != nil {
		return agent.Target{}, err
	}
	probe, err := deploy.ParseAddress(at, "")
	if err != nil {
		return agent.Target{}, err
	}
	ln, err := tls.Listen("tcp", at, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(filepath.Join(config.Dir, liveName, "fullchain.pem"), filepath.Join(config.Dir, liveName, "privkey.pem"))
		return &c, err
	}})
	if err != nil {
		return agent.Target{}, fmt.Errorf("listen: %w", err)
	}
	l.srv = &http.Server{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)} // nobody speaks HTTP to it
	go l.srv.Serve(ln)                                                                // until Close
	return agent.Target{Target: target, Options: deploy.Options{Log: log, Probe: deploy.Probe{Addresses: []deploy.Address{probe}}}}, nil
}
