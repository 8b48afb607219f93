package config

import (
	"fmt"
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

// AlertChannel is one [[alert_channel]]: a place where people are told.
type AlertChannel struct {
	// What the channel is called: in rules, commands and logs.
	Name string `toml:"name"`

	// What sort of channel it is: email, slack, teams, pagerduty or webhook.
	// The keys of each kind, written beside these, are in docs/alerts.md.
	Kind string `toml:"kind"`

	// The mildest alerts that are told here by rules that name no channels:
	// info, warning or critical.
	Severity string `toml:"severity"`

	settings Settings
}

// DefaultAlertChannel returns what an [[alert_channel]] is unless it says
// otherwise.
func DefaultAlertChannel() AlertChannel { return AlertChannel{Severity: "warning"} }

// Settings returns the keys that belong to the kind.
func (c AlertChannel) Settings() Settings { return c.settings }

// alertChannels checks the [[alert_channel]] entries as far as they need no
// kind.
func (k *checker) alertChannels() {
	seen := map[string]bool{}
	for i, c := range k.c.AlertChannel {
		key := "alert_channel." + c.Name
		if c.Name == "" {
			key = fmt.Sprintf("alert_channel.%d", i+1)
		}
		k.must(namePattern.MatchString(c.Name), key+".name", "a name is 1 to 64 lower-case letters, digits and hyphens")
		k.must(!seen[c.Name], key+".name", "there are two channels with this name")
		k.must(c.Kind != "", key+".kind", "must be set: email, slack, teams, pagerduty or webhook")
		k.must(c.Severity == "info" || c.Severity == "warning" || c.Severity == "critical", key+".severity", "must be info, warning or critical")
		seen[c.Name] = true
	}
}
