package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Issuer is one [issuer.NAME] section. The keys below hold for every kind; each
// kind has further ones (see docs/kinds.md).
type Issuer struct {
	// Kind of the issuer, such as local.
	Kind string `toml:"kind"`

	// Most certificates that are being obtained here at the same time, all
	// processes together.
	Workers int `toml:"workers" min:"1" max:"1000"`

	// Published limits of this CA that renewals must keep: none, letsencrypt
	// or letsencrypt-staging.
	Limits IssuerLimits `toml:"limits"`

	// Orders of this account, in place of those of limits. Also those that
	// the CA would not count are counted.
	Orders Rate `toml:"orders"`

	// Issuers to use while this one is down, in this order, for certificates
	// that name none themselves.
	Fallbacks []string `toml:"fallbacks"`

	// How long this issuer must be down before its fallbacks are used. A
	// certificate that has little life left does not wait so long.
	FallbackAfter time.Duration `toml:"fallback_after"`

	// Issuer at which an order is rehearsed after three failed validations in
	// a row. Empty: no rehearsal.
	Staging string `toml:"staging"`

	// Longest time for one step of an issuance.
	Timeout time.Duration `toml:"step_timeout"`

	settings settings // the keys of its kind
}

// IssuerLimits names published limits.
type IssuerLimits string

// Choices returns the values it may have.
func (IssuerLimits) Choices() []string { return []string{"none", "letsencrypt", "letsencrypt-staging"} }

// Target is one [target.NAME] section. The keys below hold for every kind; each
// kind has further ones (see docs/kinds.md).
type Target struct {
	// Kind of the target, such as nginx; `chancery targets kinds` lists them.
	Kind string `toml:"kind"`

	// Where the server is asked what it serves after a change: "host:port", or
	// "smtp://host:port" where something is said before TLS begins. "none": it
	// is not asked. Must be set for kinds that serve TLS.
	Probe []string `toml:"probe"`

	// How long the server may go on showing the old certificates after a
	// reload.
	Settle time.Duration `toml:"settle"`

	// When the target may be changed: "02:00-05:00", "sat,sun 22:00-06:00",
	// "mon-fri 02:00-04:00 Europe/Berlin". Empty: always. Urgent changes do not
	// wait.
	Windows []string `toml:"windows"`

	// How long certificates are collected, so that they share one reload, before
	// a batch is deployed. Urgent ones do not wait. 0: each at once.
	Collect time.Duration `toml:"collect" zero:"ok"`

	// Most certificates in one batch.
	Batch int `toml:"batch" min:"1" max:"500"`

	// Longest time for one batch.
	Timeout time.Duration `toml:"batch_timeout"`

	settings settings // the keys of its kind
}

// Renew is the [renew] section.
type Renew struct {
	// How long a certificate that is being worked on stays with its process
	// without a sign of life, before another process takes it over.
	Lease time.Duration `toml:"lease"`

	// Most certificates that are looked at for their renewal window at the same
	// time, in each process and for each issuer.
	CheckWorkers int `toml:"check_workers" min:"1" max:"1000"`
}

// DefaultIssuer returns the values of an issuer that sets nothing.
func DefaultIssuer() Issuer {
	return Issuer{Workers: 8, Limits: "none", FallbackAfter: 15 * time.Minute, Timeout: 2 * time.Minute}
}

// DefaultTarget returns the values of a target that sets nothing.
func DefaultTarget() Target {
	return Target{Probe: []string{}, Settle: 15 * time.Second, Windows: []string{}, Collect: 15 * time.Minute, Batch: 500, Timeout: 8 * time.Minute}
}

// settings are the keys of a section that only its kind knows.
type settings struct {
	nodes map[string]*node
	path  string // of the file
	key   string // dotted, of the section
}

// plugin is a section with settings.
type plugin interface{ more() *settings }

func (i *Issuer) more() *settings { return &i.settings }
func (t *Target) more() *settings { return &t.settings }

// With returns i with one more setting of its kind: a string, a bool, an int64
// or a list of strings. It is for sections that no file holds.
func (i Issuer) With(name string, value any) Issuer {
	nodes := maps.Clone(i.settings.nodes)
	if nodes == nil {
		nodes = map[string]*node{}
	}
	if list, ok := value.([]string); ok {
		anys := make([]any, len(list))
		for j, s := range list {
			anys[j] = s
		}
		value = anys
	}
	nodes[name] = &node{value: value}
	i.settings.nodes = nodes
	return i
}

// Bind copies the settings of an issuer's kind into a pointer to the struct
// that its kind describes, with the checks that hold for every key.
func (i *Issuer) Bind(name string, into any) error { return i.settings.bind("issuer."+name, into) }

// Bind is Issuer.Bind for a target.
func (t *Target) Bind(name string, into any) error { return t.settings.bind("target."+name, into) }

// Locate says where the configuration has what err is about: a section, or one
// of its keys when the text begins with "key: ". Problems stay as they are.
func (c *Config) Locate(section string, err error) error {
	if _, located := errors.AsType[*Problem](err); located || err == nil {
		return err
	}
	key, text := section, err.Error()
	if name, rest, ok := strings.Cut(text, ": "); ok && !strings.ContainsAny(name, " \t") {
		key, text = join(section, name), rest
	}
	src := c.sources[key]
	if src == (Source{}) {
		src = c.sources[section]
	}
	return &Problem{src, key, text}
}

func (s *settings) bind(key string, into any) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("bind %s: not a pointer to a struct", key)
	}
	b := &binder{sources: map[string]Source{}}
	b.table(v.Elem(), &node{table: s.nodes}, key, s.path)
	return errors.Join(b.problems...)
}

// collect keeps a key for the kind of a section, and reports whether dst is
// such a section.
func collect(dst reflect.Value, name, key, path string, n *node) bool {
	if !dst.CanAddr() {
		return false
	}
	p, ok := dst.Addr().Interface().(plugin)
	if !ok {
		return false
	}
	s := p.more()
	nodes := maps.Clone(s.nodes) // sections are copied; maps would be shared
	if nodes == nil {
		nodes = map[string]*node{}
	}
	nodes[name] = n
	s.nodes, s.key = nodes, strings.TrimSuffix(key, "."+name)
	if path != "" {
		s.path = path
	}
	return true
}

// variableText is a setting that came from a variable: text, whatever its type.
type variableText string

// plain returns the settings as TOML, by key. Values whose key sounds like a
// secret are replaced.
func (s *settings) plain() (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		value := s.nodes[name].value
		for _, word := range []string{"secret", "password", "token", "hmac"} {
			if strings.Contains(name, word) && !strings.HasSuffix(name, "_file") {
				value = "xxxxx"
			}
		}
		lines = append(lines, name+" = "+plainValue(value))
	}
	return lines
}

// plainValue writes one value as TOML.
func plainValue(value any) string {
	switch v := value.(type) {
	case variableText:
		// Its type is not known here; what looks like a number, a truth value or
		// a list is one.
		if _, err := strconv.ParseInt(string(v), 10, 64); err == nil || v == "true" || v == "false" {
			return string(v)
		}
		if strings.Contains(string(v), ",") {
			return plainValue(splitList(string(v)))
		}
		return quote(string(v))
	case string:
		return quote(v)
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = plainValue(v[i])
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(value)
}

// plugins checks [issuer.NAME] and [target.NAME] as far as one can without
// knowing their kinds.
func (k *checker) plugins() {
	for _, name := range slices.Sorted(maps.Keys(k.c.Issuer)) {
		i, key := k.c.Issuer[name], "issuer."+name
		k.must(i.Kind != "", key+".kind", "must be set; `chancery config kinds` lists what there is")
		for _, f := range i.Fallbacks {
			_, ok := k.c.Issuer[f]
			k.must(ok && f != name, key+".fallbacks", "%q is no other issuer%s", f, hint(f, slices.Sorted(maps.Keys(k.c.Issuer))))
		}
		_, ok := k.c.Issuer[i.Staging]
		k.must(i.Staging == "" || ok && i.Staging != name, key+".staging", "%q is no other issuer", i.Staging)
		k.must(i.Timeout <= k.c.Renew.Lease/2, key+".step_timeout", "must be at most half of renew.lease (%s)", FormatDuration(k.c.Renew.Lease))
	}
	for _, name := range slices.Sorted(maps.Keys(k.c.Target)) {
		k.must(k.c.Target[name].Kind != "", "target."+name+".kind", "must be set; `chancery config kinds` lists what there is")
	}
}
