// Package keystore is the target for programs that read a PKCS #12 keystore,
// those in Java above all: keytool and the JDK open the file as it is, so
// there is no JKS any more.
package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
)

// Config is the configuration of a target.
type Config struct {
	live.Config

	// File with the password of the keystores; a newline at its end does not
	// count. Read at each deployment.
	PasswordFile string `toml:"password_file"`

	// How they are encrypted: "modern" (AES-256, PBKDF2; Java 8u301, OpenSSL
	// 1.1.1 and later) or "legacy" (3DES, for older programs).
	Encoding Encoding `toml:"encoding"`
}

// Encoding is how a keystore is encrypted.
type Encoding string

// Encodings.
const (
	Modern Encoding = "modern"
	Legacy Encoding = "legacy"
)

// Choices returns the values an encoding may have.
func (Encoding) Choices() []string { return []string{string(Modern), string(Legacy)} }

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "pkcs12",
	Doc:  "PKCS #12 keystores, as Java reads them, and a program that reloads their user.",
	Config: func() any {
		return &Config{Encoding: Modern, Config: live.Config{Files: []string{live.Keystore}, Timeout: live.DefaultTimeout}}
	},
	Open: func(env deploy.Env, config any) (deploy.Target, error) {
		c := config.(*Config)
		if c.PasswordFile == "" {
			return nil, errors.New("password_file: must be set")
		}
		return live.Open(env, c.Config, live.Server{Password: c.password, LegacyKeystore: c.Encoding == Legacy})
	},
}

// password reads the password.
func (c *Config) password() (string, error) {
	text, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read keystore password: %w", err)
	}
	text = bytes.TrimRight(text, "\r\n")
	if len(text) == 0 {
		return "", errors.New("the keystore's password file is empty")
	}
	return string(text), nil
}
