package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Perspective is one [perspective.NAME] section.
type Perspective struct {
	// Where it is: any word, such as the region of a regional internet
	// registry. A proof needs perspectives of at least two regions.
	Region string `toml:"region"`

	// Address of its agent, https://host:port.
	URL string `toml:"url" format:"url"`

	// Pin of its agent's key, which `chancery agent key FILE` prints there.
	Pin string `toml:"pin"`
}

// pinPattern is how a key pin looks.
var pinPattern = regexp.MustCompile(`^sha256/[A-Za-z0-9_-]{43}$`)

// perspectives checks the [perspective.NAME] sections, all together: one alone
// confirms nothing.
func (k *checker) perspectives() {
	names, regions, first := slices.Sorted(maps.Keys(k.c.Perspective)), map[string]bool{}, ""
	if len(names) > 0 {
		first = names[0]
	}
	for _, name := range names {
		p, key := k.c.Perspective[name], "perspective."+name
		k.must(p.Region != "", key+".region", "must be set; a proof needs perspectives of two regions")
		k.must(strings.HasPrefix(p.URL, "https://"), key+".url", "must be the https:// URL of the agent")
		k.must(pinPattern.MatchString(p.Pin), key+".pin", "must be what `chancery agent key FILE` prints where the agent runs")
		regions[p.Region] = true
	}
	k.must(len(names) != 1, "perspective."+first, "one remote perspective makes no quorum; configure at least two, or none")
	k.must(len(names) < 2 || len(regions) > 1, "perspective."+first, "all perspectives are in one region; a proof needs two")
	v := &k.c.Validation
	k.must(len(names) == 0 || v.PerspectiveTimeout <= v.Timeout+v.DNSTimeout, "validation.perspective_timeout", "is longer than a validation may take (%s)", FormatDuration(v.Timeout+v.DNSTimeout))
	for _, name := range slices.Sorted(maps.Keys(k.c.CA)) {
		n := k.c.CA[name].MinPerspectives
		k.must(n <= len(names), "ca."+name+".min_perspectives", "is %d, and there are %d [perspective.NAME] sections", n, len(names))
	}
}
