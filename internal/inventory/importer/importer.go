// Package importer reads certificates out of files: PEM, DER, PKCS#12, Java
// key stores, and tables that say who owns what. Files are hostile: sizes and
// counts are bounded, an item that cannot be read is reported and the rest is
// taken, and no private key is kept, whatever a file brings along.
package importer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"chancery/internal/fault"
	"chancery/internal/inventory"
)

// Bounds of one file.
const (
	MaxFile  = 32 << 20 // bytes
	MaxItems = 50000    // certificates, or rows of a table
)

// Format is a kind of file.
type Format string

// Formats, told apart by content; a table by its name.
const (
	PEM    Format = "pem"
	DER    Format = "der"
	PKCS12 Format = "pkcs12"
	JKS    Format = "jks"
	CSV    Format = "csv"
)

// Options say what is known about all certificates of a file.
type Options struct {
	Source      inventory.Source // 0 = FromImport
	Owner, Team string
	Environment string
	Tags        map[string]string
	Passwords   []string // tried for PKCS#12, besides the empty one and "changeit"
	SeenAt      time.Time
}

// File is what was found in a file.
type File struct {
	Format       Format
	Observations []inventory.Observation
	Items        []string     // by observation: what a user would call it
	Assignments  []Assignment // of a table
	Keys         int          // private keys, all dropped
	Refused      []inventory.ItemError
}

// Assignment is one row of a table: what to say about some certificates.
type Assignment struct {
	Line  int
	Query string // query language
	Edit  inventory.Edit
}

// Read takes a file apart. name chooses the format of tables (.csv) and is
// used in messages. The error is a *fault.Error when nothing at all can be
// read; single bad items are in File.Refused.
func Read(name string, data []byte, opt Options) (File, error) {
	if len(data) > MaxFile {
		return File{}, fault.New(fault.TooLarge, "%.80q is longer than %d MiB", name, MaxFile>>20)
	}
	if opt.Source == 0 {
		opt.Source = inventory.FromImport
	}
	r := reader{opt: opt, File: File{Format: detect(name, data)}}
	var err error
	switch r.Format {
	case PEM:
		err = r.pem(data)
	case DER:
		err = r.der(data)
	case PKCS12:
		err = r.pkcs12(data)
	case JKS:
		err = r.jks(data)
	case CSV:
		err = r.csv(data)
	default:
		err = fault.New(fault.Invalid, "%.80q is no PEM, DER, PKCS#12 or JKS file; name tables *.csv", name)
	}
	return r.File, err
}

// detect tells the format of a file, "" when it has none.
func detect(name string, data []byte) Format {
	switch {
	case strings.HasSuffix(strings.ToLower(name), ".csv"):
		return CSV
	case bytes.HasPrefix(data, magicJKS), bytes.HasPrefix(data, magicJCEKS):
		return JKS
	case bytes.Contains(data, []byte("-----BEGIN ")):
		return PEM
	case isPKCS12(data):
		return PKCS12
	case len(data) > 1 && data[0] == 0x30:
		return DER
	}
	return ""
}

// reader gathers what one file gives.
type reader struct {
	File
	opt Options
}

// add takes one certificate; item is what a user would call it.
func (r *reader) add(item string, der []byte) {
	if len(r.Observations) == MaxItems {
		r.refuse(item, fault.New(fault.TooLarge, "the file has more than %d certificates; this one and those behind it are left out", MaxItems))
		return
	}
	if len(r.Observations) > MaxItems {
		return
	}
	r.Observations = append(r.Observations, inventory.Observation{DER: bytes.Clone(der), Source: r.opt.Source, SeenAt: r.opt.SeenAt,
		Owner: r.opt.Owner, Team: r.opt.Team, Environment: r.opt.Environment, Tags: r.opt.Tags})
	r.Items = append(r.Items, item)
}

func (r *reader) refuse(item string, err error) {
	r.Refused = append(r.Refused, inventory.ItemError{Index: len(r.Observations) + len(r.Refused), Item: item, Err: err})
}

// pem reads every certificate block; keys are counted, other blocks named.
func (r *reader) pem(data []byte) error {
	begins := bytes.Count(data, []byte("-----BEGIN "))
	blocks := 0
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		blocks++
		item := fmt.Sprintf("PEM block %d", blocks)
		switch {
		case block.Type == "CERTIFICATE" || block.Type == "X509 CERTIFICATE":
			r.add(item, block.Bytes)
		case block.Type == "TRUSTED CERTIFICATE": // OpenSSL: the certificate, then its trust settings
			r.add(item, firstElement(block.Bytes))
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			r.Keys++
		default:
			r.refuse(item, fault.New(fault.Invalid, "a PEM block that is no certificate"))
		}
	}
	if blocks < begins {
		r.refuse("PEM", fault.New(fault.Invalid, "%d of %d PEM blocks are broken", begins-blocks, begins))
	}
	if len(r.Observations)+len(r.Refused) == 0 {
		return fault.New(fault.Invalid, "the PEM file has no certificate")
	}
	return nil
}

// der reads one certificate, or several one behind the other.
func (r *reader) der(data []byte) error {
	for n := 1; len(data) > 0; n++ {
		first := firstElement(data)
		if first == nil {
			r.refuse(fmt.Sprintf("certificate %d", n), fault.New(fault.Invalid, "broken DER"))
			return nil
		}
		r.add(fmt.Sprintf("certificate %d", n), first)
		data = data[len(first):]
	}
	return nil
}

// certificates adds parsed certificates.
func (r *reader) certificates(certs []*x509.Certificate) {
	for i, c := range certs {
		r.add(fmt.Sprintf("certificate %d", i+1), c.Raw)
	}
}

// Report is what an import did.
type Report struct {
	Format              Format
	New, Changed, Known int
	Assigned            int64 // certificates that a table's rows changed
	Keys                int   // private keys that were in the file and were dropped
	Refused             []inventory.ItemError
}

// Import reads a file and stores what is in it. The rows of a table overwrite
// owners and tags, on behalf of actor; certificates in files only fill gaps.
// Repeating an import changes nothing.
func Import(ctx context.Context, s *inventory.Store, name string, data []byte, opt Options, actor string, now time.Time) (Report, error) {
	if opt.SeenAt.IsZero() {
		opt.SeenAt = now
	}
	f, err := Read(name, data, opt)
	if err != nil {
		return Report{}, err
	}
	rep := Report{Format: f.Format, Keys: f.Keys, Refused: f.Refused}
	if err := rep.put(ctx, s, &f, now); err != nil {
		return rep, err
	}
	sum := sha256.Sum256(data)
	return rep, rep.assign(ctx, s, &f, hex.EncodeToString(sum[:12]), actor, now)
}

func (rep *Report) put(ctx context.Context, s *inventory.Store, f *File, now time.Time) error {
	for from := 0; from < len(f.Observations); from += inventory.MaxBatch {
		to := min(from+inventory.MaxBatch, len(f.Observations))
		res, err := s.Put(ctx, f.Observations[from:to], now)
		if err != nil {
			return fmt.Errorf("import certificates: %w", err)
		}
		rep.New, rep.Changed, rep.Known = rep.New+res.New, rep.Changed+res.Changed, rep.Known+res.Known
		for _, e := range res.Refused {
			e.Index += from
			e.Item = f.Items[e.Index]
			rep.Refused = append(rep.Refused, e)
		}
	}
	return nil
}

func (rep *Report) assign(ctx context.Context, s *inventory.Store, f *File, sum, actor string, now time.Time) error {
	for _, a := range f.Assignments {
		key := fmt.Sprintf("table/%s/%d/%d", sum, a.Line, now.UnixMilli())
		res, err := s.Apply(ctx, inventory.BulkEdit{Key: key, Query: a.Query, Edit: a.Edit, Actor: actor}, now)
		if err != nil {
			return fmt.Errorf("import line %d: %w", a.Line, err)
		}
		rep.Assigned += res.Changed
		if res.Matched == 0 {
			rep.Refused = append(rep.Refused, inventory.ItemError{Index: a.Line, Item: fmt.Sprintf("line %d", a.Line),
				Err: fault.New(fault.NotFound, "no certificate is known for %s", a.Query)})
		}
	}
	return nil
}
