// Package awskms keeps private keys in AWS Key Management Service: they are
// made there, and each signature is one request.
//
// It is in a program that was built with the tag "awskms"; otherwise Open says
// so. Credentials come from where the AWS SDK looks: the environment, the
// shared files, the role of the machine or the pod.
//
// Keys are found by an alias, PREFIX + NAME; a reference is "aws-kms:" and the
// key's id, or any id, ARN or alias that KMS takes. The caller needs
// kms:CreateKey, CreateAlias, ListAliases, DescribeKey, GetPublicKey and Sign,
// and ScheduleKeyDeletion to clean up after a name that was taken meanwhile.
package awskms

import "time"

// Config says which region, and how long to wait.
type Config struct {
	Region   string        // "" = as the SDK finds it
	Endpoint string        // URL of a private endpoint; "" = that of the region
	Prefix   string        // begins the alias of each key; "" = "chancery/"
	Timeout  time.Duration // of one operation with its repetitions; 0 = 10 s
	Attempts int           // of one request; 0 = 4
}

// withDefaults fills in what is not set.
func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "chancery/"
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Attempts <= 0 {
		c.Attempts = 4
	}
	return c
}
