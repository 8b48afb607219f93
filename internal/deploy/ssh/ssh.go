// Package ssh is the target for files on another machine that has nothing of
// ours: OpenSSH's server, a POSIX shell and tar are enough. The layout is that
// of package live: a link that is moved once, so that a batch is live as a
// whole or not at all.
//
// The remote side runs a small fixed set of commands, whose only variable
// parts are paths, quoted, and the programs of the configuration. Its host key
// must be in known_hosts: a key that is not is never believed.
package ssh

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Config is the configuration of a target.
type Config struct {
	// Server, host:port.
	Address string `toml:"address" format:"addr"`

	// User to log in as. The files belong to them.
	User string `toml:"user"`

	// Private key to log in with: an OpenSSH or PEM file without a passphrase.
	KeyFile string `toml:"key_file"`

	// File with the server's host key, as ssh-keyscan writes it.
	KnownHosts string `toml:"known_hosts"`

	// Symbolic link on the server below which the files are, DIR/ID/FILE.
	Dir string `toml:"dir"`

	// Files of each certificate: fullchain.pem, privkey.pem, cert.pem,
	// chain.pem, combined.pem.
	Files []string `toml:"files"`

	// Program and arguments that test the server's configuration, on the
	// server; no shell reads the arguments.
	Test []string `toml:"test"`

	// Program and arguments that reload the server, once per batch.
	Reload []string `toml:"reload"`

	// Longest time for each remote command.
	Timeout time.Duration `toml:"timeout"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "ssh",
	Doc:  "Files on another machine, and a program that reloads its server, through SSH.",
	Config: func() any {
		return &Config{User: "root", Files: []string{live.Fullchain, live.Privkey}, Timeout: time.Minute}
	},
	Open: open,
}

// safePath is what a remote path may consist of: nothing that a shell, tar or
// a person could misread, although it is quoted, too.
var safePath = regexp.MustCompile(`^/[a-zA-Z0-9._/-]+$`)

// Target implements deploy.Target, Recoverer and Checker.
type Target struct {
	env deploy.Env
	cfg *Config
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := config.(*Config)
	for _, f := range c.Files {
		switch f {
		case live.Fullchain, live.Privkey, live.Cert, live.Chain, live.Combined:
		default:
			return nil, fmt.Errorf("files: %q is none of %s, %s, %s, %s, %s", f, live.Fullchain, live.Privkey, live.Cert, live.Chain, live.Combined)
		}
	}
	switch {
	case c.Address == "":
		return nil, errors.New("address: must be set")
	case c.KeyFile == "":
		return nil, errors.New("key_file: must be set")
	case c.KnownHosts == "":
		return nil, errors.New("known_hosts: must be set; make it with: ssh-keyscan HOST, and compare the key with the server's")
	case len(c.Files) == 0:
		return nil, errors.New("files: names no file; nothing would be written")
	case !safePath.MatchString(c.Dir) || path.Clean(c.Dir) != c.Dir:
		return nil, fmt.Errorf("dir: %q is not an absolute path of letters, digits and ._-/", c.Dir)
	}
	return &Target{env, c}, nil
}

// dial connects and logs in.
func (t *Target) dial(ctx context.Context) (*ssh.Client, error) {
	key, err := os.ReadFile(t.cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read key_file: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return nil, errors.New("key_file: is not a private key without a passphrase")
	}
	known, err := knownhosts.New(t.cfg.KnownHosts)
	if err != nil {
		return nil, fmt.Errorf("read known_hosts: %w", err)
	}
	conn, err := (&net.Dialer{Timeout: t.cfg.Timeout}).DialContext(ctx, "tcp", t.cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(t.cfg.Timeout)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, t.cfg.Address, &ssh.ClientConfig{User: t.cfg.User, HostKeyCallback: known,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: algorithms(known, t.cfg.Address, conn.RemoteAddr())})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("log in at %s: %w", t.cfg.Address, err)
	}
	return ssh.NewClient(c, chans, reqs), conn.SetDeadline(time.Time{})
}

// algorithms returns the kinds of host key that known_hosts has for the
// server, so that it does not prove itself with another of its keys. The only
// way to ask is with a key that nobody has.
func algorithms(known ssh.HostKeyCallback, address string, remote net.Addr) []string {
	var ke *knownhosts.KeyError
	if !errors.As(known(address, remote, nobody{}), &ke) {
		return nil
	}
	var out []string
	for _, k := range ke.Want {
		if k.Key.Type() == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		out = append(out, k.Key.Type())
	}
	return out
}

// nobody is a host key that no server has.
type nobody struct{}

// Type implements ssh.PublicKey.
func (nobody) Type() string { return "nobody" }

// Marshal implements ssh.PublicKey.
func (nobody) Marshal() []byte { return []byte("nobody") }

// Verify implements ssh.PublicKey.
func (nobody) Verify([]byte, *ssh.Signature) error { return errors.New("nobody signs") }

// maxReply bounds what the remote side says.
const maxReply = 64 << 10

// remote is one connection.
type remote struct {
	t      *Target
	client *ssh.Client
}

// run runs one command line, whose end the time limit and ctx enforce by
// closing the connection.
func (r *remote) run(ctx context.Context, line string, stdin []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.t.cfg.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { r.client.Close() })
	defer stop()
	s, err := r.client.NewSession()
	if err != nil {
		return "", fmt.Errorf("open session: %w", err)
	}
	defer s.Close()
	out, errs := &limited{}, &limited{}
	s.Stdin, s.Stdout, s.Stderr = bytes.NewReader(stdin), out, errs
	err = s.Run(line)
	if err == nil {
		return out.String(), nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("did not end in time: %w", ctx.Err())
	}
	word, _, _ := strings.Cut(line, " ")
	return out.String(), &deploy.CommandError{Program: "ssh " + path.Base(strings.Trim(word, "'")), Output: errs.String(), Err: err}
}

// limited keeps the beginning of what is written.
type limited struct{ bytes.Buffer }

// Write implements io.Writer and never fails.
func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), maxReply-l.Len())])
	return len(p), nil
}

var _ io.Writer = (*limited)(nil)

// quote makes one word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// words quotes an argument vector.
func words(argv []string) string {
	out := make([]string, len(argv))
	for i, a := range argv {
		out[i] = quote(a)
	}
	return strings.Join(out, " ")
}

// durable is a command that brings paths to the disk; where sync knows no
// arguments it brings everything.
func durable(paths string) string { return "{ sync " + paths + " 2>/dev/null || sync; }" }

// store is the directory of versions and items, beside the link.
func (t *Target) store() string { return path.Join(path.Dir(t.cfg.Dir), "."+path.Base(t.cfg.Dir)) }

// current returns the number of the live version, 0 for none.
func (r *remote) current(ctx context.Context) (int, error) {
	d := quote(r.t.cfg.Dir)
	out, err := r.run(ctx, "if test -L "+d+"; then readlink "+d+"; elif test -e "+d+"; then echo foreign; else echo none; fi", nil)
	if err != nil {
		return 0, err
	}
	out = strings.TrimSpace(out)
	if out == "none" {
		return 0, nil
	}
	rest, ok := strings.CutPrefix(out, path.Base(r.t.store())+"/v")
	n, err := strconv.Atoi(rest)
	if !ok || err != nil || n < 1 {
		return 0, fmt.Errorf("%s exists on the server and is no link that a deployment made; move it away", r.t.cfg.Dir)
	}
	return n, nil
}

// point makes version n live with one rename; 0 removes the link.
func (r *remote) point(ctx context.Context, n int) error {
	d, tmp := quote(r.t.cfg.Dir), quote(r.t.store()+".link")
	line := "rm -f " + d
	if n > 0 {
		line = "rm -f " + tmp + " && ln -s " + quote(path.Base(r.t.store())+"/v"+strconv.Itoa(n)) + " " + tmp + " && mv -fT " + tmp + " " + d
	}
	line += " && " + durable(quote(path.Dir(r.t.cfg.Dir)))
	_, err := r.run(ctx, line, nil)
	return err
}

// upload unpacks the items into the store, and makes the version of links:
// what was live, and the items over it.
func (r *remote) upload(ctx context.Context, j *journal, archive []byte) error {
	store, v := quote(r.t.store()), quote(fmt.Sprintf("%s/v%d", r.t.store(), j.New))
	line := "umask 077 && mkdir -p " + store + "/items && rm -rf " + v + " && mkdir " + v
	if j.Old > 0 {
		line += " && cp -RP " + quote(fmt.Sprintf("%s/v%d", r.t.store(), j.Old)) + "/. " + v
	}
	for _, item := range j.Items {
		l := v + "/" + quote(item)
		line += " && rm -f " + l + " && ln -s " + quote(fmt.Sprintf("../items/%s.%d", item, j.New)) + " " + l
	}
	if _, err := r.run(ctx, line, nil); err != nil {
		return err
	}
	files := make([]string, len(j.Items))
	for i, item := range j.Items {
		files[i] = fmt.Sprintf("%[1]s.%[2]d %[1]s.%[2]d/*", quote(item), j.New)
	}
	_, err := r.run(ctx, "umask 077 && cd "+store+"/items && tar -xf - && "+durable(strings.Join(files, " ")+" . .. ../v"+strconv.Itoa(j.New)), archive)
	return err
}

// prune removes every version but one, and the items that it does not use.
func (r *remote) prune(ctx context.Context, keep int) error {
	_, err := r.run(ctx, fmt.Sprintf(`cd %s || exit 0; for v in v*; do test "$v" = v%d || rm -rf "$v"; done; for i in items/*; do n=${i#items/}; `+
		`test "$(readlink "v%d/${n%%.*}" 2>/dev/null)" = "../$i" || rm -rf "$i"; done`, quote(r.t.store()), keep, keep), nil)
	return err
}

// command runs a program of the configuration, if there is one.
func (r *remote) command(ctx context.Context, argv []string) error {
	if len(argv) == 0 || r.t.env.Offline {
		return nil
	}
	_, err := r.run(ctx, words(argv), nil)
	return err
}

// journal is what is known about the batch under way.
type journal struct {
	Step  string   `json:"step"` // "staging", "switching", "committing"
	Old   int      `json:"old"`
	New   int      `json:"new"`
	Items []string `json:"items"`
}

// batch implements deploy.Staged.
type batch struct {
	t    *Target
	r    *remote
	j    journal
	lock *deploy.Lock
}

// begin takes the lock and connects.
func (t *Target) begin(ctx context.Context) (*batch, error) {
	lock, err := deploy.TakeLock(t.env.State)
	if err != nil {
		return nil, err
	}
	client, err := t.dial(ctx)
	if err != nil {
		lock.Release()
		return nil, err
	}
	return &batch{t: t, r: &remote{t, client}, lock: lock}, nil
}

// close ends the connection and gives the lock back.
func (b *batch) close() {
	b.r.client.Close()
	b.lock.Release()
}

// Check logs in and runs the configured test.
func (t *Target) Check(ctx context.Context) error {
	client, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	r := &remote{t, client}
	if _, err := r.current(ctx); err != nil {
		return err
	}
	if _, err := r.run(ctx, "test -w "+quote(path.Dir(t.cfg.Dir))+" && command -v tar", nil); err != nil {
		return fmt.Errorf("%s must be writable on the server, and tar there: %w", path.Dir(t.cfg.Dir), err)
	}
	return r.command(ctx, t.cfg.Test)
}

// Recover finishes or undoes what was interrupted. Without a journal it does
// not even connect.
func (t *Target) Recover(ctx context.Context) error {
	if found, err := deploy.LoadJournal(t.env.State, new(journal)); err != nil || !found {
		return err
	}
	b, err := t.begin(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	found, err := deploy.LoadJournal(t.env.State, &b.j)
	switch {
	case err != nil || !found:
		return err
	case b.j.Step == "committing":
		return b.finish(ctx, b.j.New)
	case b.j.Step == "staging":
		return b.finish(ctx, b.j.Old)
	}
	return b.revert(ctx)
}

// Stage uploads the files.
func (t *Target) Stage(ctx context.Context, items []deploy.Item) (deploy.Staged, error) {
	archive := &bytes.Buffer{}
	b, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	if err = b.stage(ctx, items, archive); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *batch) stage(ctx context.Context, items []deploy.Item, archive *bytes.Buffer) error {
	if found, err := deploy.LoadJournal(b.t.env.State, new(journal)); found || err != nil {
		return errors.Join(errors.New("another deployment was interrupted and must be recovered first"), err)
	}
	old, err := b.r.current(ctx)
	if err != nil {
		return err
	}
	b.j = journal{Step: "staging", Old: old, New: old + 1}
	w := tar.NewWriter(archive)
	for i := range items {
		b.j.Items = append(b.j.Items, items[i].ID)
		if err := b.t.pack(w, &items[i], b.j.New); err != nil {
			return &deploy.ItemError{ID: items[i].ID, Err: err}
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	if err := deploy.SaveJournal(b.t.env.State, &b.j); err != nil {
		return err
	}
	fault.Point("deploy.before_upload")
	if err := b.r.upload(ctx, &b.j, archive.Bytes()); err != nil {
		return errors.Join(err, b.finish(ctx, b.j.Old))
	}
	return nil
}

// pack adds the files of one item to the archive.
func (t *Target) pack(w *tar.Writer, item *deploy.Item, version int) error {
	dir := fmt.Sprintf("%s.%d/", item.ID, version)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o700}); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	for _, f := range t.cfg.Files {
		data, err := content(item, f)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + f, Mode: 0o600, Size: int64(len(data))}); err != nil {
			return fmt.Errorf("pack: %w", err)
		}
		if _, err := w.Write(data); err != nil {
			return fmt.Errorf("pack: %w", err)
		}
	}
	return nil
}

// content returns what a file of an item holds.
func content(item *deploy.Item, what string) ([]byte, error) {
	switch what {
	case live.Privkey:
		return live.KeyPEM(item)
	case live.Combined:
		return live.Bundle(item)
	case live.Cert:
		return pki.EncodeChain(item.Chain[0]), nil
	case live.Chain:
		return pki.EncodeChain(item.Chain[1:]...), nil
	}
	return pki.EncodeChain(item.Chain...), nil
}

// to records the next step.
func (b *batch) to(step string) error {
	b.j.Step = step
	return deploy.SaveJournal(b.t.env.State, &b.j)
}

// Apply switches, tests and reloads.
func (b *batch) Apply(ctx context.Context) error {
	if err := b.to("switching"); err != nil {
		return err
	}
	fault.Point("deploy.before_remote_switch")
	if err := b.r.point(ctx, b.j.New); err != nil {
		return err
	}
	if err := b.r.command(ctx, b.t.cfg.Test); err != nil {
		return fmt.Errorf("test configuration: %w", err)
	}
	return b.r.command(ctx, b.t.cfg.Reload)
}

// Verify checks that the link still points at this batch.
func (b *batch) Verify(ctx context.Context) (map[string]error, error) {
	n, err := b.r.current(ctx)
	if err == nil && n != b.j.New {
		err = fmt.Errorf("%s points at version %d and not %d; something else changes it", b.t.cfg.Dir, n, b.j.New)
	}
	return nil, err
}

// Commit drops what was live before.
func (b *batch) Commit(ctx context.Context) error {
	if err := b.to("committing"); err != nil {
		return err
	}
	if err := b.finish(ctx, b.j.New); err != nil {
		b.t.env.Log.Warn("old files not removed", "error", err)
	}
	b.close()
	return nil
}

// finish removes all but one version, and the journal.
func (b *batch) finish(ctx context.Context, keep int) error {
	if err := b.r.prune(ctx, keep); err != nil {
		return err
	}
	return deploy.DropJournal(b.t.env.State)
}

// Rollback makes the old version live again, on a new connection if the old
// one is gone.
func (b *batch) Rollback(ctx context.Context) error {
	defer b.lock.Release()
	b.r.client.Close()
	client, err := b.t.dial(ctx)
	if err != nil {
		return err
	}
	b.r = &remote{b.t, client}
	defer client.Close()
	return b.revert(ctx)
}

// revert switches back and reloads.
func (b *batch) revert(ctx context.Context) error {
	if err := b.r.point(ctx, b.j.Old); err != nil {
		return err
	}
	if err := b.r.command(ctx, b.t.cfg.Reload); err != nil {
		return fmt.Errorf("reload with the old files, which are in place again: %w", err)
	}
	return b.finish(ctx, b.j.Old)
}
