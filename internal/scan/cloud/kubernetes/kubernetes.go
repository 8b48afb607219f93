// Package kubernetes is the source for the TLS secrets of a cluster: listed in
// pages of 500, and then watched from where the list ended, so that a change is
// known within seconds. Only secrets of the type kubernetes.io/tls are asked
// for. Of what they hold only tls.crt is read; private keys are dropped where
// the answer is decoded.
package kubernetes

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json/v2"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"chancery/internal/fault"
	"chancery/internal/scan/cloud"
)

// Config are the keys of a source of this kind.
type Config struct {
	// URL of the API server. Empty: the cluster that this process runs in,
	// with its service account.
	URL string `toml:"url" format:"url"`

	// Name of the cluster, as people know it.
	Cluster string `toml:"cluster"`

	// Only this namespace. Empty: all of them.
	Namespace string `toml:"namespace"`

	// File with a bearer token. Read for each request, because it rotates.
	TokenFile string `toml:"token_file"`

	// PEM files with the client's certificate and its key, in place of a token.
	CertFile string `toml:"cert_file"`

	// Key that belongs to cert_file.
	KeyFile string `toml:"key_file"`

	// PEM file with the roots of the API server. Empty: the system's.
	CAFile string `toml:"ca_file"`
}

// Kind is the plug-in.
var Kind = cloud.Kind{Name: "kubernetes", Provider: "kubernetes", Doc: "the TLS secrets of a Kubernetes cluster, watched",
	Config: func() any { return &Config{} },
	Open:   func(env cloud.Env, config any) (cloud.Source, error) { return open(env, config.(*Config)) }}

// rates spare the API server.
var rates = map[string]cloud.Rate{"": {PerSecond: 10, Burst: 20}}

const (
	page     = 500
	restarts = 3       // of a list whose continuation expired
	maxEvent = 4 << 20 // bytes; the server keeps no object above 1.5 MB
	// account is where a pod finds the credentials of its service account.
	account = "/var/run/secrets/kubernetes.io/serviceaccount/"
)

type source struct {
	rest    cloud.REST
	secrets string // URL
	cluster string
}

func open(env cloud.Env, c *Config) (cloud.Source, error) {
	if c.URL == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return nil, fault.New(fault.Invalid, "url: must be set, because this process does not run in a cluster")
		}
		c.URL, c.TokenFile, c.CAFile = "https://"+net.JoinHostPort(host, port), account+"token", account+"ca.crt"
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" {
		return nil, fault.New(fault.Invalid, "url: not a URL")
	}
	var pair *tls.Certificate
	if c.CertFile != "" {
		p, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fault.Wrap(err, fault.Precondition, "cert_file: the client's certificate cannot be used")
		}
		pair = &p
	}
	base, err := cloud.Transport(c.CAFile, pair)
	if err != nil {
		return nil, err
	}
	scope := env.Scope("kubernetes", u.Host, "", rates)
	scope.Hosts = []string{u.Host}
	s := &source{rest: cloud.REST{Client: env.Gates.Client(scope, base)}, secrets: c.URL + "/api/v1/secrets", cluster: c.Cluster}
	if c.Namespace != "" {
		s.secrets = c.URL + "/api/v1/namespaces/" + url.PathEscape(c.Namespace) + "/secrets"
	}
	if s.cluster == "" {
		s.cluster = u.Host
	}
	if c.TokenFile != "" {
		s.rest.Authorize = func(_ context.Context, r *http.Request) error {
			token, err := cloud.Secret("token_file", c.TokenFile)
			r.Header.Set("Authorization", "Bearer "+token)
			return err
		}
	}
	return s, nil
}

// secret is what is read of one.
type secret struct {
	Metadata struct {
		Name            string            `json:"name"`
		Namespace       string            `json:"namespace"`
		ResourceVersion string            `json:"resourceVersion"`
		Labels          map[string]string `json:"labels"`
	} `json:"metadata"`
	Type string `json:"type"`
	Data struct {
		Chain []byte `json:"tls.crt"`
	} `json:"data"`
}

// list is a page of secrets.
type list struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"`
	} `json:"metadata"`
	Items []secret `json:"items"`
}

func query(more ...string) url.Values {
	q := url.Values{"fieldSelector": {"type=kubernetes.io/tls"}}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return q
}

func (s *source) page(ctx context.Context, limit int, token string) (l list, err error) {
	q := query("limit", fmt.Sprint(limit))
	if token != "" {
		q.Set("continue", token)
	}
	return l, s.rest.Get(ctx, "ListSecrets", http.MethodGet, s.secrets+"?"+q.Encode(), &l)
}

// Check implements cloud.Checker.
func (s *source) Check(ctx context.Context) error {
	_, err := s.page(ctx, 1, "")
	return err
}

// List implements cloud.Source: everything, or with a cursor what changed
// since, for as long as since.Until allows to wait.
func (s *source) List(ctx context.Context, since cloud.Since) iter.Seq2[cloud.Cert, error] {
	if since.Cursor != "" {
		return s.watch(ctx, since)
	}
	return func(yield func(cloud.Cert, error) bool) {
		for n := 0; ; n++ {
			again, err := s.all(ctx, &since, yield)
			if again && n < restarts {
				continue
			}
			if err != nil {
				yield(cloud.Cert{}, err)
			}
			return
		}
	}
}

// all lists everything. again says that the list took so long that its
// continuation expired; it may begin once more, because nothing is gone before
// a list has ended.
func (s *source) all(ctx context.Context, since *cloud.Since, yield func(cloud.Cert, error) bool) (again bool, err error) {
	var pages cloud.Pages
	for token := ""; ; {
		l, err := s.page(ctx, page, token)
		if se, ok := errors.AsType[*cloud.StatusError](err); ok && se.Status == http.StatusGone {
			return true, err
		}
		if err == nil {
			token = l.Metadata.Continue
			err = pages.Next(len(l.Items), token)
		}
		if err != nil {
			return false, err
		}
		p := cloud.Page{}
		for i := range l.Items {
			p.Certs = append(p.Certs, s.cert(&l.Items[i]))
		}
		if !p.Yield(ctx, since, yield) {
			return false, nil
		}
		if token == "" {
			yield(cloud.Cert{Cursor: l.Metadata.ResourceVersion}, nil)
			return false, nil
		}
	}
}

func (s *source) cert(in *secret) cloud.Cert {
	m := &in.Metadata
	c := cloud.Cert{Item: cloud.Item{Ref: m.Namespace + "/" + m.Name, Version: m.ResourceVersion}, Account: s.cluster, Region: m.Namespace, Tags: m.Labels}
	c.DER, c.Err = cloud.LeafPEM(c.Ref, in.Data.Chain)
	return c
}

// event is one change of a watch.
type event struct {
	Type   string `json:"type"`
	Object struct {
		secret
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"object"`
}

// watch yields changes until since.Until.
func (s *source) watch(ctx context.Context, since cloud.Since) iter.Seq2[cloud.Cert, error] {
	return func(yield func(cloud.Cert, error) bool) {
		seconds := max(int(time.Until(since.Until).Seconds()), 1)
		ctx, cancel := context.WithTimeout(cloud.WithOperation(ctx, "WatchSecrets"), time.Duration(seconds+15)*time.Second)
		defer cancel()
		q := query("watch", "1", "allowWatchBookmarks", "true", "resourceVersion", since.Cursor, "timeoutSeconds", fmt.Sprint(seconds))
		resp, err := s.rest.Open(ctx, http.MethodGet, s.secrets+"?"+q.Encode())
		if se, ok := errors.AsType[*cloud.StatusError](err); ok && se.Status == http.StatusGone {
			err = cloud.ErrExpired
		}
		if err != nil {
			yield(cloud.Cert{}, fmt.Errorf("watch secrets: %w", err))
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(make([]byte, 64<<10), maxEvent)
		for lines.Scan() {
			if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 && !s.changed(line, yield) {
				return
			}
		}
		// A watch that is cut off has told everything so far: the next one goes
		// on from there.
		if errors.Is(lines.Err(), bufio.ErrTooLong) {
			yield(cloud.Cert{}, fmt.Errorf("watch secrets: an event is longer than %d bytes", maxEvent))
		}
	}
}

// changed yields one event, and reports whether the watch goes on.
func (s *source) changed(line []byte, yield func(cloud.Cert, error) bool) bool {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		yield(cloud.Cert{}, fmt.Errorf("watch secrets: %w", err))
		return false
	}
	rv := e.Object.Metadata.ResourceVersion
	switch e.Type {
	case "BOOKMARK":
		return yield(cloud.Cert{Cursor: rv}, nil)
	case "ADDED", "MODIFIED", "DELETED":
		c := s.cert(&e.Object.secret)
		c.Cursor = rv
		if e.Type == "DELETED" {
			c.Gone, c.DER, c.Err = true, nil, nil
		}
		return yield(c, nil)
	}
	if e.Object.Code == http.StatusGone {
		yield(cloud.Cert{}, cloud.ErrExpired)
		return false
	}
	yield(cloud.Cert{}, fmt.Errorf("watch secrets: the server ends it: %d %.200s", e.Object.Code, e.Object.Message))
	return false
}
