package config

import (
	"maps"
	"slices"
	"time"
)

// CloudSource is one [source.NAME] section. The keys below hold for every kind;
// each kind has further ones (see docs/find.md).
type CloudSource struct {
	// Kind of the source: aws-acm, azure-keyvault, gcp-certificatemanager,
	// kubernetes or vault-pki.
	Kind string `toml:"kind"`

	// Whether it is listed.
	Enabled bool `toml:"enabled"`

	// Time between the beginnings of two lists. Kinds that can wait for changes
	// do so in between.
	Interval time.Duration `toml:"interval"`

	// Longest time for one list.
	Timeout time.Duration `toml:"timeout"`

	// Requests of each operation to the provider. Unlimited: the provider's
	// published rates. All sources of one account share them, and a provider
	// that throttles gets fewer.
	Rate Rate `toml:"rate"`

	// What certificates are tagged with as their account. Empty: what the
	// provider says.
	Account string `toml:"account"`

	// Tag of the provider whose value becomes the owner of a certificate that
	// has none. Empty: none.
	OwnerTag string `toml:"owner_tag"`

	// Tag whose value becomes the team.
	TeamTag string `toml:"team_tag"`

	// Tag whose value becomes the environment.
	EnvironmentTag string `toml:"environment_tag"`

	settings settings // the keys of its kind
}

// DefaultCloudSource returns the values of a source that sets nothing.
func DefaultCloudSource() CloudSource {
	return CloudSource{Enabled: true, Interval: time.Hour, Timeout: 30 * time.Minute}
}

func (s *CloudSource) more() *settings { return &s.settings }

// Bind copies the settings of a source's kind into a pointer to the struct that
// its kind describes, with the checks that hold for every key.
func (s *CloudSource) Bind(name string, into any) error {
	return s.settings.bind("source."+name, into)
}

// With returns s with one more setting of its kind: a string, a bool or an
// int64. It is for sections that no file holds.
func (s CloudSource) With(name string, value any) CloudSource {
	nodes := maps.Clone(s.settings.nodes)
	if nodes == nil {
		nodes = map[string]*node{}
	}
	nodes[name] = &node{value: value}
	s.settings.nodes = nodes
	return s
}

// cloudSources checks [source.NAME] as far as one can without knowing kinds.
func (k *checker) cloudSources() {
	for _, name := range slices.Sorted(maps.Keys(k.c.CloudSource)) {
		s, key := k.c.CloudSource[name], "source."+name
		k.must(s.Kind != "", key+".kind", "must be set; `chancery scan sources kinds` lists what there is")
		k.must(s.Interval >= 10*time.Second, key+".interval", "must be at least 10s")
		k.must(s.Timeout >= 10*time.Second, key+".timeout", "must be at least 10s")
	}
}
