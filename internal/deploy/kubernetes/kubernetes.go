// Package kubernetes is the target for Secrets of type kubernetes.io/tls, as
// Ingresses and Gateways read them. It speaks the API directly: one GET, one
// POST or PUT with the version that was read, so that nobody's change is lost.
package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/each"
	"chancery/internal/deploy/live"
	"chancery/internal/pki"
)

// Config is the configuration of a target.
type Config struct {
	// URL of the API server. Empty: that of the cluster this process runs in.
	Server string `toml:"server" format:"url"`

	// Namespace of the Secrets. Empty: that of this process's own pod.
	Namespace string `toml:"namespace"`

	// File with the bearer token; read at each request, as it is renewed.
	TokenFile string `toml:"token_file"`

	// File with the certificates (PEM) that the API server's must chain to.
	CAFile string `toml:"ca_file"`

	// Longest time for one request.
	Timeout time.Duration `toml:"timeout"`
}

// account is where a pod finds its service account.
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "kubernetes",
	Doc:  "Secrets of type kubernetes.io/tls, through the API of a cluster.",
	Config: func() any {
		return &Config{TokenFile: account + "token", CAFile: account + "ca.crt", Timeout: 30 * time.Second}
	},
	Open: open,
}

// cluster talks to the API.
type cluster struct {
	cfg    *Config
	base   string
	client func() (*http.Client, error)
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := *config.(*Config)
	if c.Server == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" {
			return nil, errors.New("server: must be set outside of a cluster")
		}
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		c.Server = "https://" + host + ":" + port
	}
	if !strings.HasPrefix(c.Server, "https://") {
		return nil, errors.New("server: must begin with https://; keys travel there")
	}
	if c.Namespace == "" {
		text, err := os.ReadFile(account + "namespace")
		if err != nil {
			return nil, errors.New("namespace: must be set outside of a cluster")
		}
		c.Namespace = strings.TrimSpace(string(text))
	}
	if !namePattern.MatchString(c.Namespace) {
		return nil, fmt.Errorf("namespace: %.80q is not the name of one", c.Namespace)
	}
	k := &cluster{cfg: &c, base: strings.TrimSuffix(c.Server, "/") + "/api/v1/namespaces/" + c.Namespace + "/secrets"}
	k.client = sync.OnceValues(k.connect)
	return each.Open(env, each.Store{Get: k.get, Put: k.put, Restore: k.restore, Shown: k.shown, Test: k.test(env)}), nil
}

// connect makes the client, with the roots of the configuration.
func (k *cluster) connect() (*http.Client, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if k.cfg.CAFile != "" {
		text, err := os.ReadFile(k.cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read ca_file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s has no certificate", k.cfg.CAFile)
		}
	}
	return &http.Client{Timeout: k.cfg.Timeout, Transport: &http.Transport{TLSClientConfig: cfg, MaxIdleConnsPerHost: 8}}, nil
}

// namePattern is what a Secret or a namespace may be called (RFC 1123).
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

// secret is the part of a Secret that is ours to change, and the rest as it
// came.
type secret map[string]json.RawMessage

// nameOf is the Secret of an item: its parameter "secret", or its ID.
func nameOf(id string, params map[string]string) (string, error) {
	name := params["secret"]
	if name == "" {
		name = strings.ToLower(strings.ReplaceAll(id, "_", "wildcard"))
	}
	if !namePattern.MatchString(name) {
		return "", fmt.Errorf("%.80q cannot name a Secret; say one with the parameter secret", name)
	}
	return name, nil
}

// statusError is an answer other than 2xx.
type statusError struct {
	status int
	reason string
}

// Error implements error.
func (e *statusError) Error() string {
	return fmt.Sprintf("the API server answers %d %s", e.status, e.reason)
}

// is reports whether err is an answer with the status.
func is(err error, status int) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && e.status == status
}

// maxBody bounds answers; a Secret has at most 1 MB.
const maxBody = 4 << 20

// call makes one request and decodes the answer into out, if not nil.
func (k *cluster) call(ctx context.Context, method, name string, in, out any) error {
	token, err := os.ReadFile(k.cfg.TokenFile)
	if err != nil {
		return fmt.Errorf("read token_file: %w", err)
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode secret: %w", err)
		}
		body = bytes.NewReader(text)
	}
	u := k.base
	if name != "" {
		u += "/" + url.PathEscape(name)
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	client, err := k.client()
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("kubernetes: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("kubernetes: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		var s struct{ Reason string }
		_ = json.Unmarshal(text, &s)
		return &statusError{resp.StatusCode, fmt.Sprintf("%.60q", s.Reason)}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("decode secret: %w", err)
	}
	return nil
}

// get returns the Secret of an item.
func (k *cluster) get(ctx context.Context, item *deploy.Item) (json.RawMessage, error) {
	name, err := nameOf(item.ID, item.Params)
	if err != nil {
		return nil, err
	}
	if _, err := live.KeyPEM(item); err != nil {
		return nil, err
	}
	var s secret
	err = k.call(ctx, http.MethodGet, name, nil, &s)
	if is(err, http.StatusNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if t := string(s["type"]); t != `"kubernetes.io/tls"` {
		return nil, fmt.Errorf("the Secret %s has the type %.60s, which cannot be changed; delete it or name another", name, t)
	}
	return json.Marshal(s)
}

// put creates or changes the Secret.
func (k *cluster) put(ctx context.Context, item *deploy.Item) error {
	name, err := nameOf(item.ID, item.Params)
	if err != nil {
		return err
	}
	key, err := live.KeyPEM(item)
	if err != nil {
		return err
	}
	data := map[string][]byte{"tls.crt": pki.EncodeChain(item.Chain...), "tls.key": key}
	return k.change(ctx, name, func(old secret) (secret, error) {
		if old == nil {
			return encode(map[string]any{"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data,
				"metadata": map[string]any{"name": name, "labels": map[string]string{"app.kubernetes.io/managed-by": "chancery"}}})
		}
		return with(old, data)
	})
}

// with returns a Secret in which data is changed.
func with(s secret, data map[string][]byte) (secret, error) {
	all := map[string][]byte{}
	if len(s["data"]) > 0 {
		if err := json.Unmarshal(s["data"], &all); err != nil {
			return nil, fmt.Errorf("decode data of the secret: %w", err)
		}
	}
	for name, v := range data {
		all[name] = v
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode secret: %w", err)
	}
	s["data"] = text
	return s, nil
}

// encode makes a Secret of values.
func encode(v map[string]any) (secret, error) {
	s := secret{}
	for name, part := range v {
		text, err := json.Marshal(part)
		if err != nil {
			return nil, fmt.Errorf("encode secret: %w", err)
		}
		s[name] = text
	}
	return s, nil
}

// tries is how often a change is repeated that others got in the way of.
const tries = 6

// change reads a Secret, changes it and writes it back (edit returns nil when
// there is nothing to write), again when somebody
// else was faster: the version that was read goes along (409 otherwise).
func (k *cluster) change(ctx context.Context, name string, edit func(secret) (secret, error)) error {
	var err error
	for try := range tries {
		if try > 0 {
			select {
			case <-time.After(time.Duration(20<<try) * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("change secret: %w", ctx.Err())
			}
		}
		if err = k.changeOnce(ctx, name, edit); !again(err) {
			return err
		}
	}
	return err
}

// again reports whether a repetition may help.
func again(err error) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && (e.status == http.StatusConflict || e.status == http.StatusTooManyRequests || e.status >= 500)
}

func (k *cluster) changeOnce(ctx context.Context, name string, edit func(secret) (secret, error)) error {
	var old secret
	method, at := http.MethodPut, name
	err := k.call(ctx, http.MethodGet, name, nil, &old)
	if is(err, http.StatusNotFound) {
		old, method, at, err = nil, http.MethodPost, "", nil
	}
	if err != nil {
		return err
	}
	changed, err := edit(old)
	if err != nil || changed == nil {
		return err
	}
	return k.call(ctx, method, at, changed, nil)
}

// restore puts the data of a Secret back, or deletes one that we made.
func (k *cluster) restore(ctx context.Context, id string, params map[string]string, old json.RawMessage) error {
	name, err := nameOf(id, params)
	if err != nil {
		return err
	}
	if old == nil {
		if err := k.call(ctx, http.MethodDelete, name, nil, nil); err != nil && !is(err, http.StatusNotFound) {
			return err
		}
		return nil
	}
	var was secret
	if err := json.Unmarshal(old, &was); err != nil {
		return fmt.Errorf("decode secret: %w", err)
	}
	return k.change(ctx, name, func(now secret) (secret, error) {
		if now == nil { // somebody deleted it meanwhile
			meta, err := encode(map[string]any{"metadata": map[string]string{"name": name}})
			if err != nil {
				return nil, err
			}
			was["metadata"] = meta["metadata"]
			return was, nil
		}
		if sameData(now, was) {
			return nil, nil // it was never changed
		}
		now["data"] = was["data"]
		return now, nil
	})
}

// sameData reports whether two Secrets hold the same.
func sameData(a, b secret) bool {
	var x, y map[string]string
	return json.Unmarshal(a["data"], &x) == nil && json.Unmarshal(b["data"], &y) == nil && maps.Equal(x, y)
}

// shown compares the Secret with the item.
func (k *cluster) shown(ctx context.Context, item *deploy.Item) error {
	name, err := nameOf(item.ID, item.Params)
	if err != nil {
		return err
	}
	var s struct{ Data map[string][]byte }
	if err := k.call(ctx, http.MethodGet, name, nil, &s); err != nil {
		return err
	}
	if !bytes.Equal(s.Data["tls.crt"], pki.EncodeChain(item.Chain...)) {
		return fmt.Errorf("the Secret %s holds another certificate", name)
	}
	return nil
}

// test asks for one Secret that need not exist.
func (k *cluster) test(env deploy.Env) func(context.Context) error {
	return func(ctx context.Context) error {
		err := k.call(ctx, http.MethodGet, "chancery-check-"+strings.ToLower(env.Name), nil, nil)
		if is(err, http.StatusNotFound) {
			return nil
		}
		return err
	}
}
