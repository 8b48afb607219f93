package keys

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"

	"chancery/internal/fault"
)

// Bounds of a passphrase, in octets.
const (
	minPassphrase = 8
	maxPassphrase = 1024
)

// Passphrase is the secret that opens a FileStore. However it is printed,
// logged or marshalled, its text is "[redacted]".
type Passphrase struct{ secret []byte }

const redacted = "[redacted]"

// NewPassphrase returns a passphrase of 8 to 1024 octets.
func NewPassphrase(secret []byte) (Passphrase, error) {
	if len(secret) < minPassphrase || len(secret) > maxPassphrase {
		return Passphrase{}, fault.New(fault.Invalid, "the key store passphrase must have %d to %d bytes", minPassphrase, maxPassphrase)
	}
	return Passphrase{bytes.Clone(secret)}, nil
}

// PassphraseFromFile reads a passphrase from the first line of a file. Others
// than the owner and the group must not be able to read it.
func PassphraseFromFile(path string) (Passphrase, error) {
	f, err := os.Open(path)
	if err != nil {
		return Passphrase{}, fault.Wrap(err, fault.Invalid, "the key store passphrase file %s cannot be opened", path)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Passphrase{}, fmt.Errorf("read passphrase file: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o007 != 0 {
		return Passphrase{}, fault.New(fault.Invalid, "the passphrase file %s can be used by every user (mode %04o); run: chmod o= %s", path, perm, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPassphrase+2))
	if err != nil {
		return Passphrase{}, fmt.Errorf("read passphrase file: %w", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return NewPassphrase(bytes.TrimSuffix(line, []byte("\r")))
}

// PassphraseFromEnv reads a passphrase from an environment variable.
func PassphraseFromEnv(name string) (Passphrase, error) {
	value, ok := os.LookupEnv(name)
	if !ok {
		return Passphrase{}, fault.New(fault.Invalid, "the environment variable %s, which should hold the key store passphrase, is not set", name)
	}
	return NewPassphrase([]byte(value))
}

// IsZero reports whether p is not set.
func (p Passphrase) IsZero() bool { return len(p.secret) == 0 }

// String returns "[redacted]".
func (p Passphrase) String() string { return redacted }

// GoString returns "[redacted]".
func (p Passphrase) GoString() string { return redacted }

// Format writes "[redacted]" for every verb.
func (p Passphrase) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns "[redacted]".
func (p Passphrase) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]".
func (p Passphrase) MarshalText() ([]byte, error) { return []byte(redacted), nil }
