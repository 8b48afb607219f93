package keys

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Names in a FileStore's directory.
const (
	fileScheme = "file:"
	keySuffix  = ".key"
	masterFile = "master.secret"

	pemEncryptedKey = "ENCRYPTED PRIVATE KEY" // RFC 7468 section 11
	pemMaster       = "CHANCERY MASTER KEY"
)

// maxKeyFile bounds a key file; an RSA-4096 key takes 3.4 KB.
const maxKeyFile = 64 << 10

// FileStore keeps each private key in a file of its own, NAME.key: PEM of
// PKCS #8 encrypted with the store's passphrase, readable with
// "openssl pkey -in NAME.key". The directory has mode 0700, files 0600; files
// that others can read are refused. It is safe for concurrent use, and several
// processes may share the directory.
//
// All files of a store share one salt, so that opening the store costs one
// key derivation (about 35 ms) and each further key nothing.
type FileStore struct {
	dir    string
	pass   Passphrase
	kdf    kdf // for new files
	sealer *Sealer

	mu      sync.Mutex
	derived map[derivedKey][]byte
}

// derivedKey names a key that was derived from the passphrase.
type derivedKey struct {
	kdf  kdf
	size int
}

// OpenFileStore opens the store in dir, and makes the directory and the
// master key when they do not exist. A passphrase that does not fit is found
// out here, as a *fault.Error (invalid).
func OpenFileStore(dir string, pass Passphrase) (*FileStore, error) {
	s, err := newFileStore(dir, pass)
	if err != nil {
		return nil, err
	}
	text, err := s.read(masterFile)
	if errors.Is(err, fs.ErrNotExist) {
		var master [masterLen]byte
		_, _ = rand.Read(master[:]) // cannot fail
		text, err = s.writeMaster(master[:])
	}
	if errors.Is(err, fs.ErrExist) { // another process was faster
		text, err = s.read(masterFile)
	}
	if err != nil {
		return nil, err
	}
	if err := s.openMaster(text); err != nil {
		return nil, err
	}
	return s, nil
}

// newFileStore returns a store whose directory exists but which has no master
// key yet.
func newFileStore(dir string, pass Passphrase) (*FileStore, error) {
	if pass.IsZero() {
		return nil, fault.New(fault.Invalid, "the key store %s needs a passphrase", dir)
	}
	if err := openDir(dir); err != nil {
		return nil, err
	}
	return &FileStore{dir: dir, pass: pass, derived: make(map[derivedKey][]byte)}, nil
}

// CopyTo makes a second store in dir, which must not hold one yet, with the
// same keys and the same master key under another passphrase. It is how a
// passphrase is changed: copy, then swap the directories while nothing runs;
// a crash half way leaves the old store as it was.
func (s *FileStore) CopyTo(ctx context.Context, dir string, pass Passphrase) error {
	to, err := newFileStore(dir, pass)
	if err != nil {
		return err
	}
	text, err := to.writeMaster(s.sealer.master[:])
	if errors.Is(err, fs.ErrExist) {
		return fault.New(fault.Conflict, "%s already holds a key store", dir)
	}
	if err != nil {
		return err
	}
	if err := to.openMaster(text); err != nil {
		return err
	}
	refs, err := s.List(ctx)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		key, err := s.Open(ctx, ref)
		if err != nil {
			return err
		}
		if _, err := to.Import(ctx, strings.TrimPrefix(ref, fileScheme), key); err != nil {
			return err
		}
	}
	return nil
}

// Sealer returns the sealer under the store's master key.
func (s *FileStore) Sealer() *Sealer { return s.sealer }

// masterAD is the associated data of the sealed master key.
const masterAD = "chancery master key"

// writeMaster seals master under the passphrase, with a salt of its own, into
// the store's directory, and returns the file's text.
func (s *FileStore) writeMaster(master []byte) ([]byte, error) {
	k := newKDF()
	wrapping, err := s.derive(k, 32)
	if err != nil {
		return nil, fmt.Errorf("create master key: %w", err)
	}
	aead, err := newGCM(wrapping)
	if err != nil {
		return nil, fmt.Errorf("create master key: %w", err)
	}
	sealed := append([]byte(k.salt), seal(aead, master, []byte(masterAD))...)
	text := pem.EncodeToMemory(&pem.Block{Type: pemMaster, Bytes: sealed})
	return text, writeNew(s.dir, masterFile, text)
}

// openMaster decrypts the master key and takes over the store's salt.
func (s *FileStore) openMaster(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemMaster || len(block.Bytes) != saltLen+masterLen+SealOverhead {
		return fault.New(fault.Invalid, "%s is not a Chancery master key; restore it from a backup", s.path(masterFile))
	}
	s.kdf = kdf{salt: string(block.Bytes[:saltLen]), n: scryptN, r: scryptR, p: scryptP}
	wrapping, err := s.derive(s.kdf, 32)
	if err != nil {
		return fmt.Errorf("open master key: %w", err)
	}
	aead, err := newGCM(wrapping)
	if err != nil {
		return fmt.Errorf("open master key: %w", err)
	}
	master, err := unseal(aead, block.Bytes[saltLen:], []byte(masterAD))
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "the passphrase does not open the key store %s; give the one it was made with", s.dir)
	}
	s.sealer, err = newSealer(master)
	return err
}

// derive is the deriver of this store: each derivation is done once.
func (s *FileStore) derive(k kdf, size int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := derivedKey{k, size}
	if key, ok := s.derived[id]; ok {
		return key, nil
	}
	key, err := k.derive(s.pass, size)
	if err == nil {
		s.derived[id] = key
	}
	return key, err
}

// Create makes a key in the file NAME.key and returns "file:NAME". See Store.
func (s *FileStore) Create(ctx context.Context, name string, kt pki.KeyType) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	key, err := Generate(kt)
	if err != nil {
		return "", err
	}
	return s.Import(ctx, name, key)
}

// Import stores an existing private key under a new name and returns its
// reference.
func (s *FileStore) Import(ctx context.Context, name string, key crypto.Signer) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("store key %s: %w", name, err)
	}
	if _, err := pki.KeyTypeOf(key.Public()); err != nil {
		return "", err
	}
	der, err := encrypt(key, s.kdf, s.derive)
	if err != nil {
		return "", fmt.Errorf("store key %s: %w", name, err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: pemEncryptedKey, Bytes: der})
	err = writeNew(s.dir, name+keySuffix, text)
	if errors.Is(err, fs.ErrExist) {
		return "", fault.New(fault.Conflict, "the key store %s already has a key named %q", s.dir, name)
	}
	if err != nil {
		return "", err
	}
	return fileScheme + name, nil
}

// Open returns the key of a reference "file:NAME". See Store.
func (s *FileStore) Open(ctx context.Context, ref string) (crypto.Signer, error) {
	name, ok := strings.CutPrefix(ref, fileScheme)
	if !ok {
		return nil, fault.New(fault.NotFound, "the key reference %q is not of the form file:NAME", ref)
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open key %s: %w", ref, err)
	}
	text, err := s.read(name + keySuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "the key store %s has no key named %q", s.dir, name)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemEncryptedKey {
		return nil, fault.New(fault.Invalid, "%s is not an encrypted PKCS #8 key in PEM; encrypt it with: openssl pkcs8 -topk8 -v2 aes-256-cbc -scrypt", s.path(name+keySuffix))
	}
	signer, err := decrypt(block.Bytes, s.derive)
	if errors.Is(err, errDecrypt) {
		return nil, fault.Wrap(err, fault.Invalid, "%s does not open: it is damaged or has another passphrase than the store", s.path(name+keySuffix))
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "%s cannot be read: %v", s.path(name+keySuffix), err)
	}
	return signer, nil
}

// List returns the references of all keys, sorted. See Store.
func (s *FileStore) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	var refs []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), keySuffix)
		if ok && CheckName(name) == nil {
			refs = append(refs, fileScheme+name)
		}
	}
	slices.Sort(refs)
	return refs, nil
}

func (s *FileStore) path(file string) string { return filepath.Join(s.dir, file) }

// read returns the content of a file in the store, after checking that only
// its owner can use it.
func (s *FileStore) read(file string) ([]byte, error) { return readPrivate(s.path(file)) }
