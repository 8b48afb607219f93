package keys

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// SignerLog is an append-only file of the SHA-256 of everything that was
// signed, one hash in hexadecimal per line: the independent witness against
// which "chancery doctor issuance" compares the database. Lines survive the
// death of the process at once, and that of the machine after Sync.
type SignerLog struct{ file *os.File }

// OpenSignerLog opens or makes the log at path, with mode 0600.
func OpenSignerLog(path string) (*SignerLog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open signer log: %w", err)
	}
	return &SignerLog{f}, nil
}

// Append writes one line in one system call, so that lines of several
// processes do not mix. It is the log function for NewSigner.
func (l *SignerLog) Append(tbsHash [32]byte) error {
	var line [2*len(tbsHash) + 1]byte
	hex.Encode(line[:], tbsHash[:])
	line[len(line)-1] = '\n'
	if _, err := l.file.Write(line[:]); err != nil {
		return fmt.Errorf("write signer log: %w", err)
	}
	return nil
}

// Sync brings all lines to the disk.
func (l *SignerLog) Sync() error {
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("sync signer log: %w", err)
	}
	return nil
}

// Close syncs and closes the log.
func (l *SignerLog) Close() error {
	if err := errors.Join(l.file.Sync(), l.file.Close()); err != nil {
		return fmt.Errorf("close signer log: %w", err)
	}
	return nil
}

// ReadSignerLog calls f for every hash in a log, in order, until f fails. A
// last line that is cut off (the machine died while writing) is an error too.
func ReadSignerLog(r io.Reader, f func(tbsHash [32]byte) error) error {
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		var hash [32]byte
		if err != nil || len(line) != hex.EncodedLen(len(hash))+1 {
			return fmt.Errorf("read signer log: line %d is broken", n)
		}
		if _, err := hex.Decode(hash[:], line[:len(line)-1]); err != nil {
			return fmt.Errorf("read signer log: line %d is broken", n)
		}
		if err := f(hash); err != nil {
			return err
		}
	}
}
