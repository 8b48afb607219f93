package config

import (
	"maps"
	"slices"
	"time"
)

// Alert is the [alert] section.
type Alert struct {
	// How long a message waits for more alerts of the same rule, so that they
	// come together. 0: not at all.
	GroupWait time.Duration `toml:"group_wait" zero:"ok"`

	// How long a message is tried that its channel does not take.
	GiveUp time.Duration `toml:"give_up"`

	// How long alerts that are over, and the log of messages, can be read.
	Keep time.Duration `toml:"keep"`
}

// AlertChannel is one [alert_channel.NAME] section: a place where people are
// told. The keys below hold for every kind; each kind has further ones.
type AlertChannel struct {
	// What sort of channel it is: email, slack, teams, pagerduty or webhook.
	// The keys of each kind, written beside these, are in docs/alerts.md.
	Kind string `toml:"kind"`

	// The mildest alerts that are told here by rules that name no channels:
	// info, warning or critical.
	Severity string `toml:"severity"`

	settings settings // the keys of its kind
}

func (c *AlertChannel) more() *settings { return &c.settings }

// Bind is Issuer.Bind for an alert channel.
func (c *AlertChannel) Bind(name string, into any) error {
	return c.settings.bind("alert_channel."+name, into)
}

// DefaultAlertChannel returns the values of a channel that sets nothing.
func DefaultAlertChannel() AlertChannel { return AlertChannel{Severity: "warning"} }

// alertChannels checks the [alert_channel.NAME] sections as far as they need
// no kind.
func (k *checker) alertChannels() {
	for _, name := range slices.Sorted(maps.Keys(k.c.AlertChannel)) {
		c, key := k.c.AlertChannel[name], "alert_channel."+name
		k.must(c.Kind != "", key+".kind", "must be set: email, slack, teams, pagerduty or webhook")
		k.must(c.Severity == "info" || c.Severity == "warning" || c.Severity == "critical", key+".severity", "must be info, warning or critical")
	}
}
