package pkcs11

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"chancery/internal/fault"
)

// maxPIN bounds a PIN, in octets.
const maxPIN = 255

// pinSource names where the PIN comes from, for messages.
func (c *Config) pinSource() string {
	if c.PINFile != "" {
		return c.PINFile
	}
	return "$" + c.PINEnv
}

// readPIN reads the user PIN.
func (c *Config) readPIN() ([]byte, error) {
	pin, err := c.pinText()
	if err != nil {
		return nil, err
	}
	if len(pin) == 0 || len(pin) > maxPIN {
		return nil, fault.New(fault.Invalid, "%s holds no PIN of 1 to %d bytes", c.pinSource(), maxPIN)
	}
	return pin, nil
}

func (c *Config) pinText() ([]byte, error) {
	if c.PINFile != "" {
		return pinFromFile(c.PINFile)
	}
	if c.PINEnv == "" {
		return nil, fault.New(fault.Invalid, "no PIN is configured; set keys.pkcs11.pin_file or keys.pkcs11.pin_env")
	}
	pin, ok := os.LookupEnv(c.PINEnv)
	if !ok {
		return nil, fault.New(fault.Invalid, "the environment variable %s, which should hold the token's PIN, is not set", c.PINEnv)
	}
	return []byte(pin), nil
}

// pinFromFile reads the first line of a file that only its owner and group can
// use.
func pinFromFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the PIN file %s cannot be opened", path)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read PIN file: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o007 != 0 {
		return nil, fault.New(fault.Invalid, "the PIN file %s can be used by every user (mode %04o); run: chmod o= %s", path, perm, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPIN+2))
	if err != nil {
		return nil, fmt.Errorf("read PIN file: %w", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), nil
}
