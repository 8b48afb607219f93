package config

// Agents is the [agents] section.
type Agents struct {
	// Name of the CA that certifies agents, and issues what they keep in
	// service. Empty: "default", or the first there is.
	CA string `toml:"ca"`

	// Profile of what they keep in service. Empty: the CA's default.
	Profile string `toml:"profile"`

	// Names that operators may assign to agents, without any validation:
	// "www.example.com", "*.example.com" (and all below), "10.0.0.0/8". Empty:
	// none. The rules of the CA and of the profile hold as well.
	AllowNames []string `toml:"allow_names"`

	// Names that they may not, whatever allow_names says.
	DenyNames []string `toml:"deny_names"`

	// Most agents whose question this process holds until there is something
	// to do. More are told to come back every five minutes.
	MaxParked int `toml:"max_parked" min:"1" max:"1000000"`
}

// agents checks the [agents] section.
func (k *checker) agents() {
	a := k.c.Agents
	_, known := k.c.CA[a.CA]
	k.must(a.CA == "" || known, "agents.ca", "there is no [ca.%s]", a.CA)
	_, known = k.c.Profile[a.Profile]
	k.must(a.Profile == "" || known, "agents.profile", "there is no [profile.%s]", a.Profile)
	k.names("agents", map[string][]string{"allow_names": a.AllowNames, "deny_names": a.DenyNames})
}
