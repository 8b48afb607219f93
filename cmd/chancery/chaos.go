package main

import (
	"github.com/spf13/cobra"

	"chancery/internal/chaos"
)

// chaosFlag is --chaos. There is no other way to switch it on.
type chaosFlag struct{ spec *chaos.Spec }

func (f *chaosFlag) add(cmd *cobra.Command) {
	cmd.Flags().Var(f, "chaos", "for tests of ACME clients only: misbehave at a `rate` (0.1), or as a list says: 429, 503, nonce, lost, slow, processing (rates), delay, hold, retry (durations), seed; such as nonce=0.3,lost=0.1,seed=7")
}

// String implements pflag.Value.
func (f *chaosFlag) String() string {
	if f.spec == nil {
		return ""
	}
	return f.spec.String()
}

// Set implements pflag.Value.
func (f *chaosFlag) Set(text string) error {
	spec, err := chaos.Parse(text)
	f.spec = &spec
	return err
}

// Type implements pflag.Value.
func (f *chaosFlag) Type() string { return "spec" }
