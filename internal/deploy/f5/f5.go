// Package f5 is the target for F5 BIG-IP through iControl REST. Certificates
// and keys are uploaded under names of their own, and one transaction makes
// them objects and points every client-SSL profile of the batch at them: all
// profiles change, or none does.
package f5

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
	"chancery/internal/fault"
	"chancery/internal/pki"
	"chancery/internal/scan/probe"
)

// Config is the configuration of a target.
type Config struct {
	// URL of the management interface.
	URL string `toml:"url" format:"url"`

	// User to log in as; a role that may manage certificates and profiles.
	User string `toml:"user"`

	// File with the password.
	PasswordFile string `toml:"password_file"`

	// File with the certificates (PEM) that the management interface's must
	// chain to. Empty: those of the system.
	CAFile string `toml:"ca_file"`

	// Partition of the objects and profiles.
	Partition string `toml:"partition"`

	// Longest time for one request.
	Timeout time.Duration `toml:"timeout"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name:   "f5",
	Doc:    "F5 BIG-IP: client-SSL profiles, all of a batch changed by one transaction.",
	Config: func() any { return &Config{User: "admin", Partition: "Common", Timeout: 30 * time.Second} },
	Open:   open,
	Serves: probe.TLS,
}

// namePattern is what a partition or a profile may be called.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,200}$`)

// Target implements deploy.Target, Recoverer and Checker.
type Target struct {
	env deploy.Env
	cfg *Config
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := config.(*Config)
	switch {
	case !strings.HasPrefix(c.URL, "https://"):
		return nil, errors.New("url: must begin with https://; keys travel there")
	case c.PasswordFile == "":
		return nil, errors.New("password_file: must be set")
	case !namePattern.MatchString(c.Partition):
		return nil, fmt.Errorf("partition: %q is not the name of one", c.Partition)
	}
	return &Target{env, c}, nil
}

// device is one session with the management interface.
type device struct {
	t        *Target
	client   *http.Client
	password string
}

// connect reads the files of the configuration.
func (t *Target) connect() (*device, error) {
	password, err := os.ReadFile(t.cfg.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("read password_file: %w", err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.cfg.CAFile != "" {
		text, err := os.ReadFile(t.cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read ca_file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s has no certificate", t.cfg.CAFile)
		}
	}
	client := &http.Client{Timeout: t.cfg.Timeout, Transport: &http.Transport{TLSClientConfig: cfg}}
	return &device{t, client, strings.TrimRight(string(password), "\r\n")}, nil
}

// maxBody bounds what the device says.
const maxBody = 4 << 20

// statusError is an answer other than 2xx.
type statusError struct {
	status  int
	message string
}

// Error implements error.
func (e *statusError) Error() string {
	return fmt.Sprintf("the device answers %d: %.300q", e.status, e.message)
}

// call makes one request, in a transaction unless tx is 0.
func (d *device) call(ctx context.Context, method, path string, tx int64, header http.Header, in []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(d.t.cfg.URL, "/")+path, bytes.NewReader(in))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.SetBasicAuth(d.t.cfg.User, d.password)
	req.Header.Set("Content-Type", "application/json")
	for name, v := range header {
		req.Header[name] = v
	}
	if tx != 0 {
		req.Header.Set("X-F5-REST-Coordination-Id", fmt.Sprint(tx))
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return fmt.Errorf("icontrol: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("icontrol: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		var m struct{ Message string }
		_ = json.Unmarshal(text, &m)
		return &statusError{resp.StatusCode, m.Message}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("decode answer of the device: %w", err)
	}
	return nil
}

// send is call with a JSON body.
func (d *device) send(ctx context.Context, method, path string, tx int64, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return d.call(ctx, method, path, tx, nil, body, out)
}

// upload puts a file into the device's transfer directory.
func (d *device) upload(ctx context.Context, name string, data []byte) error {
	h := http.Header{"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("0-%d/%d", len(data)-1, len(data))}}
	return d.call(ctx, http.MethodPost, "/mgmt/shared/file-transfer/uploads/"+url.PathEscape(name), 0, h, data, nil)
}

// transaction runs requests as one.
func (d *device) transaction(ctx context.Context, requests func(tx int64) error) error {
	var tx struct {
		TransID int64 `json:"transId"`
	}
	if err := d.send(ctx, http.MethodPost, "/mgmt/tm/transaction", 0, struct{}{}, &tx); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := requests(tx.TransID); err != nil {
		return errors.Join(err, d.call(ctx, http.MethodDelete, fmt.Sprintf("/mgmt/tm/transaction/%d", tx.TransID), 0, nil, nil, nil))
	}
	if err := d.send(ctx, http.MethodPatch, fmt.Sprintf("/mgmt/tm/transaction/%d", tx.TransID), 0, map[string]string{"state": "VALIDATING"}, nil); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

// object is the path of an object of the partition.
func (t *Target) object(kind, name string) string {
	return "/mgmt/tm/" + kind + "/~" + t.cfg.Partition + "~" + url.PathEscape(name)
}

// full is the name of an object with its partition.
func (t *Target) full(name string) string { return "/" + t.cfg.Partition + "/" + name }

// profile is the part of a client-SSL profile that is ours to change.
type profile struct {
	Cert  string `json:"cert"`
	Key   string `json:"key"`
	Chain string `json:"chain"`
}

// journal is what a batch changes.
type journal struct {
	Done  bool    `json:"done"` // verified: the old objects go
	Items []entry `json:"items"`
}

// entry is one item.
type entry struct {
	ID      string  `json:"id"`
	Profile string  `json:"profile"`
	Base    string  `json:"base"` // of the new objects: BASE.crt, BASE-chain.crt, BASE.key
	Old     profile `json:"old"`
}

// now is what the profile shall be.
func (t *Target) now(e *entry) profile {
	return profile{t.full(e.Base + ".crt"), t.full(e.Base + ".key"), t.full(e.Base + "-chain.crt")}
}

// batch implements deploy.Staged.
type batch struct {
	t    *Target
	d    *device
	j    journal
	lock *deploy.Lock
}

// begin takes the lock.
func (t *Target) begin() (*batch, error) {
	lock, err := deploy.TakeLock(t.env.State)
	if err != nil {
		return nil, err
	}
	d, err := t.connect()
	if err != nil {
		lock.Release()
		return nil, err
	}
	return &batch{t: t, d: d, lock: lock}, nil
}

// Check asks for one profile.
func (t *Target) Check(ctx context.Context) error {
	d, err := t.connect()
	if err != nil {
		return err
	}
	return d.call(ctx, http.MethodGet, "/mgmt/tm/ltm/profile/client-ssl?$top=1", 0, nil, nil, nil)
}

// Recover finishes a batch that was verified, and undoes any other.
func (t *Target) Recover(ctx context.Context) error {
	b, err := t.begin()
	if err != nil {
		return err
	}
	defer b.lock.Release()
	found, err := deploy.LoadJournal(t.env.State, &b.j)
	switch {
	case err != nil || !found:
		return err
	case b.j.Done:
		return b.finish(ctx)
	}
	return b.revert(ctx)
}

// Stage uploads the files and remembers what the profiles use.
func (t *Target) Stage(ctx context.Context, items []deploy.Item) (deploy.Staged, error) {
	b, err := t.begin()
	if err != nil {
		return nil, err
	}
	if err = b.stage(ctx, items); err != nil {
		b.lock.Release()
		return nil, err
	}
	return b, nil
}

func (b *batch) stage(ctx context.Context, items []deploy.Item) error {
	if found, err := deploy.LoadJournal(b.t.env.State, new(journal)); found || err != nil {
		return errors.Join(errors.New("another deployment was interrupted and must be recovered first"), err)
	}
	for i := range items {
		if err := b.prepare(ctx, &items[i]); err != nil {
			return &deploy.ItemError{ID: items[i].ID, Err: err}
		}
	}
	return deploy.SaveJournal(b.t.env.State, &b.j)
}

// prepare uploads the files of one item. Its profile is the parameter
// "profile", or named like the ID, and must exist.
func (b *batch) prepare(ctx context.Context, item *deploy.Item) error {
	name := item.Params["profile"]
	if name == "" {
		name = item.ID
	}
	if !namePattern.MatchString(name) {
		return fmt.Errorf("%.80q cannot name a profile", name)
	}
	key, err := live.KeyPEM(item)
	if err != nil {
		return err
	}
	sum := pki.Fingerprint(item.Chain[0])
	e := entry{ID: item.ID, Profile: name, Base: "chancery-" + item.ID + "-" + hex.EncodeToString(sum[:6])}
	if err := b.d.call(ctx, http.MethodGet, b.t.object("ltm/profile/client-ssl", name), 0, nil, nil, &e.Old); err != nil {
		return err
	}
	if e.Old == b.t.now(&e) {
		return errors.New("the profile uses this certificate already")
	}
	files := map[string][]byte{".crt": pki.EncodeChain(item.Chain[0]), "-chain.crt": pki.EncodeChain(item.Chain[1:]...), ".key": key}
	if len(item.Chain) == 1 {
		files["-chain.crt"] = files[".crt"]
	}
	for suffix, data := range files {
		if err := b.d.upload(ctx, e.Base+suffix, data); err != nil {
			return err
		}
	}
	b.j.Items = append(b.j.Items, e)
	return nil
}

// Apply makes the objects and changes the profiles, in one transaction.
func (b *batch) Apply(ctx context.Context) error {
	fault.Point("deploy.before_transaction")
	return b.d.transaction(ctx, func(tx int64) error {
		for i := range b.j.Items {
			if err := b.install(ctx, tx, &b.j.Items[i]); err != nil {
				return &deploy.ItemError{ID: b.j.Items[i].ID, Err: err}
			}
		}
		return nil
	})
}

// install adds one item to the transaction.
func (b *batch) install(ctx context.Context, tx int64, e *entry) error {
	for suffix, kind := range map[string]string{".crt": "ssl-cert", "-chain.crt": "ssl-cert", ".key": "ssl-key"} {
		in := map[string]string{"name": e.Base + suffix, "partition": b.t.cfg.Partition, "sourcePath": "file:/var/config/rest/downloads/" + e.Base + suffix}
		if err := b.d.send(ctx, http.MethodPost, "/mgmt/tm/sys/file/"+kind, tx, in, nil); err != nil {
			return err
		}
	}
	return b.d.send(ctx, http.MethodPatch, b.t.object("ltm/profile/client-ssl", e.Profile), tx, b.t.now(e), nil)
}

// Verify compares the profiles.
func (b *batch) Verify(ctx context.Context) (map[string]error, error) {
	bad := map[string]error{}
	for i := range b.j.Items {
		e := &b.j.Items[i]
		var p profile
		if err := b.d.call(ctx, http.MethodGet, b.t.object("ltm/profile/client-ssl", e.Profile), 0, nil, nil, &p); err != nil {
			bad[e.ID] = err
		} else if p != b.t.now(e) {
			bad[e.ID] = fmt.Errorf("the profile %s uses %s", e.Profile, p.Cert)
		}
	}
	return bad, nil
}

// Commit removes the objects that nothing uses any more.
func (b *batch) Commit(ctx context.Context) error {
	b.j.Done = true
	if err := deploy.SaveJournal(b.t.env.State, &b.j); err != nil {
		return err
	}
	if err := b.finish(ctx); err != nil {
		b.t.env.Log.Warn("old objects not removed", "error", err)
	}
	b.lock.Release()
	return nil
}

// finish removes our old objects: others', and those of another profile, stay.
func (b *batch) finish(ctx context.Context) error {
	for i := range b.j.Items {
		e := &b.j.Items[i]
		old := strings.TrimSuffix(strings.TrimPrefix(e.Old.Cert, b.t.full("")), ".crt")
		if strings.HasPrefix(old, "chancery-"+e.ID+"-") && old != e.Base {
			if err := b.remove(ctx, old); err != nil {
				return err
			}
		}
	}
	return deploy.DropJournal(b.t.env.State)
}

// remove deletes the objects of one certificate; what is gone is fine.
func (b *batch) remove(ctx context.Context, base string) error {
	for suffix, kind := range map[string]string{".crt": "ssl-cert", "-chain.crt": "ssl-cert", ".key": "ssl-key"} {
		err := b.d.call(ctx, http.MethodDelete, b.t.object("sys/file/"+kind, base+suffix), 0, nil, nil, nil)
		if s, ok := errors.AsType[*statusError](err); ok && s.status == http.StatusNotFound {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("remove %s: %w", base+suffix, err)
		}
	}
	return nil
}

// Rollback points the profiles at what they used before.
func (b *batch) Rollback(ctx context.Context) error {
	defer b.lock.Release()
	return b.revert(ctx)
}

func (b *batch) revert(ctx context.Context) error {
	err := b.d.transaction(ctx, func(tx int64) error {
		for i := range b.j.Items {
			e := &b.j.Items[i]
			if err := b.d.send(ctx, http.MethodPatch, b.t.object("ltm/profile/client-ssl", e.Profile), tx, e.Old, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range b.j.Items {
		if err := b.remove(ctx, b.j.Items[i].Base); err != nil {
			return err
		}
	}
	return deploy.DropJournal(b.t.env.State)
}
