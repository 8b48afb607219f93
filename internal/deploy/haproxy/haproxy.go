// Package haproxy is the target for HAProxy: files for its next start, and its
// runtime API for now. A certificate is changed in the running process, which
// keeps its connections and its process number; there is no reload.
package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
	"chancery/internal/scan/probe"
)

// Config is the configuration of a target.
type Config struct {
	live.Config

	// Where the runtime API listens, with level admin: a path, or host:port.
	Socket string `toml:"socket"`

	// List of certificates that new ones join, as the "crt-list" of a bind line
	// names it. A line is appended to the file, too. Empty: only certificates
	// that HAProxy's configuration names already can be deployed.
	CrtList string `toml:"crt_list"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "haproxy",
	Doc:  "HAProxy: files, and the runtime API, without a reload.",
	Config: func() any {
		return &Config{Socket: "/run/haproxy/admin.sock", Config: live.Config{Files: []string{live.Combined}, Timeout: live.DefaultTimeout}}
	},
	Open:   open,
	Serves: probe.TLS,
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := config.(*Config)
	file := ""
	for _, f := range c.Files {
		name, content, ok := strings.Cut(f, "=")
		if content == live.Combined || !ok && name == live.Combined {
			file = name
		}
	}
	switch {
	case c.Socket == "":
		return nil, errors.New("socket: must be set; write `stats socket /run/haproxy/admin.sock level admin` in HAProxy's configuration")
	case file == "":
		return nil, fmt.Errorf("files: must have %s, which HAProxy reads", live.Combined)
	case len(c.Reload) > 0:
		return nil, errors.New("reload: is of no use here; HAProxy is not reloaded")
	}
	a := &api{cfg: c, file: file, log: env.Log.Warn}
	return live.Open(env, c.Config, live.Server{Reload: a.change})
}

// api speaks the runtime API.
type api struct {
	cfg  *Config
	file string // of each item
	log  func(string, ...any)
}

// maxReply bounds what HAProxy says.
const maxReply = 1 << 20

// change makes the running process use the files of the items.
func (a *api) change(ctx context.Context, c live.Change) error {
	for i := range c.Items {
		item := &c.Items[i]
		path := filepath.Join(a.cfg.Dir, item.Name, a.file)
		var err error
		if c.Back && item.New {
			err = a.drop(ctx, path)
		} else {
			err = a.set(ctx, path)
		}
		if c.Back && away(err) {
			a.log("haproxy is not running; it will read the old files when it starts")
			return nil
		}
		if err != nil {
			return &deploy.ItemError{ID: item.ID, Err: err}
		}
	}
	return nil
}

// away reports whether nobody listens at the socket.
func away(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// set gives the process the certificate that is in a file.
func (a *api) set(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	reply, err := a.say(ctx, "set ssl cert "+path+" <<\n"+string(text)+"\n")
	if err != nil {
		return err
	}
	if strings.Contains(reply, "not referenced") {
		return a.add(ctx, path, string(text))
	}
	if !strings.Contains(reply, "Transaction created") && !strings.Contains(reply, "Transaction updated") {
		return refusal("set ssl cert", reply)
	}
	return a.commit(ctx, path)
}

// commit ends a transaction; what fails is given up, as HAProxy has one at a
// time.
func (a *api) commit(ctx context.Context, path string) error {
	reply, err := a.say(ctx, "commit ssl cert "+path+"\n")
	if err == nil && strings.Contains(reply, "Success!") {
		return nil
	}
	if err == nil {
		err = refusal("commit ssl cert", reply)
	}
	_, again := a.say(ctx, "abort ssl cert "+path+"\n")
	return errors.Join(err, again)
}

// add makes a certificate known that no configuration names.
func (a *api) add(ctx context.Context, path, text string) error {
	if a.cfg.CrtList == "" {
		return fmt.Errorf("HAProxy's configuration does not name %s; name it there, or set crt_list", path)
	}
	steps := []struct{ command, expect string }{
		{"new ssl cert " + path + "\n", "New empty certificate store"},
		{"set ssl cert " + path + " <<\n" + text + "\n", "Transaction created"},
		{"commit ssl cert " + path + "\n", "Success!"},
		{"add ssl crt-list " + a.cfg.CrtList + " " + path + "\n", "Success!"},
	}
	for _, s := range steps {
		reply, err := a.say(ctx, s.command)
		if err == nil && !strings.Contains(reply, s.expect) {
			words := strings.Fields(s.command)
			err = refusal(strings.Join(words[:3], " "), reply)
		}
		if err != nil {
			return errors.Join(err, a.drop(ctx, path))
		}
	}
	return a.list(path, true)
}

// drop makes the process forget a certificate that it did not know before.
// What is gone already is fine.
func (a *api) drop(ctx context.Context, path string) error {
	var commands []string
	if a.cfg.CrtList != "" {
		commands = append(commands, "del ssl crt-list "+a.cfg.CrtList+" "+path+"\n")
	}
	for _, c := range append(commands, "abort ssl cert "+path+"\n", "del ssl cert "+path+"\n") {
		if _, err := a.say(ctx, c); err != nil {
			return err
		}
	}
	if a.cfg.CrtList == "" {
		return nil
	}
	return a.list(path, false)
}

// list puts a line into the file of the crt-list, or takes it out, for
// HAProxy's next start.
func (a *api) list(path string, in bool) error {
	info, err := os.Stat(a.cfg.CrtList)
	if err != nil {
		return fmt.Errorf("look at crt_list: %w", err)
	}
	text, err := os.ReadFile(a.cfg.CrtList)
	if err != nil {
		return fmt.Errorf("read crt_list: %w", err)
	}
	lines := slices.DeleteFunc(strings.SplitAfter(string(text), "\n"), func(l string) bool { return strings.TrimSpace(l) == path || l == "" })
	if in {
		if n := len(lines); n > 0 && !strings.HasSuffix(lines[n-1], "\n") {
			lines[n-1] += "\n"
		}
		lines = append(lines, path+"\n")
	}
	return deploy.ReplaceFile(a.cfg.CrtList, []byte(strings.Join(lines, "")), info.Mode().Perm())
}

// say sends one command and returns the reply.
func (a *api) say(ctx context.Context, command string) (string, error) {
	network := "tcp"
	if strings.HasPrefix(a.cfg.Socket, "/") {
		network = "unix"
	}
	d := net.Dialer{Timeout: a.cfg.Timeout}
	conn, err := d.DialContext(ctx, network, a.cfg.Socket)
	if err != nil {
		return "", fmt.Errorf("connect to haproxy: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(a.cfg.Timeout)); err != nil {
		return "", fmt.Errorf("talk to haproxy: %w", err)
	}
	if _, err := io.WriteString(conn, command); err != nil {
		return "", fmt.Errorf("talk to haproxy: %w", err)
	}
	reply, err := io.ReadAll(io.LimitReader(conn, maxReply))
	if err != nil {
		return "", fmt.Errorf("talk to haproxy: %w", err)
	}
	return string(reply), nil
}

// refusal is what HAProxy said when it did not do it.
func refusal(command, reply string) error {
	return &deploy.CommandError{Program: "haproxy", Output: reply[:min(len(reply), 8<<10)], Err: fmt.Errorf("%s was refused", command)}
}
