// Package cbom writes the inventory as a cryptography bill of materials:
// CycloneDX 1.6 (ECMA-424), with a component for each certificate, for each
// public key, and for each algorithm. It is written page by page, so an
// inventory of any size takes the memory of its keys' names only.
package cbom

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json/v2"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"chancery/internal/inventory"
	"chancery/internal/pki"
)

// Options say what is written.
type Options struct {
	Query   inventory.Query // Limit and Cursor are set here
	Version string          // of the program
	Now     time.Time
}

// page is how many certificates are read at once.
const page = 1000

// component is one cryptographic asset.
type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Crypto     properties `json:"cryptoProperties"`
	Properties []property `json:"properties,omitzero"`
}

// property is a name and a value of our own.
type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// properties are those of one kind of asset.
type properties struct {
	Kind        string       `json:"assetType"`
	Algorithm   *algorithm   `json:"algorithmProperties,omitzero"`
	Certificate *certificate `json:"certificateProperties,omitzero"`
	Material    *material    `json:"relatedCryptoMaterialProperties,omitzero"`
	OID         string       `json:"oid,omitzero"`
}

type algorithm struct {
	Primitive string   `json:"primitive"`
	Parameter string   `json:"parameterSetIdentifier,omitzero"`
	Curve     string   `json:"curve,omitzero"`
	Functions []string `json:"cryptoFunctions,omitzero"`
	Classical int      `json:"classicalSecurityLevel,omitzero"`
	Quantum   *int     `json:"nistQuantumSecurityLevel,omitzero"`
}

type certificate struct {
	Subject   string    `json:"subjectName,omitzero"`
	Issuer    string    `json:"issuerName,omitzero"`
	NotBefore time.Time `json:"notValidBefore"`
	NotAfter  time.Time `json:"notValidAfter"`
	Signature string    `json:"signatureAlgorithmRef,omitzero"`
	Key       string    `json:"subjectPublicKeyRef"`
	Format    string    `json:"certificateFormat"`
}

type material struct {
	Kind      string `json:"type"`
	ID        string `json:"id"`
	State     string `json:"state,omitzero"`
	Algorithm string `json:"algorithmRef"`
	Size      int    `json:"size,omitzero"`
}

// writer writes components with commas between.
type writer struct {
	*bufio.Writer
	some bool
	err  error

	keys       map[[16]byte]bool // those written
	algorithms map[string]algorithmOf
}

// Write writes what o asks for. When it fails, what was written is no whole
// document: its last line is missing.
func Write(ctx context.Context, out io.Writer, store *inventory.Store, o Options) error {
	w := &writer{Writer: bufio.NewWriterSize(out, 64<<10), keys: map[[16]byte]bool{}, algorithms: map[string]algorithmOf{}}
	if err := w.begin(&o); err != nil {
		return err
	}
	q := o.Query
	q.Limit, q.Cursor = page, ""
	for {
		p, err := store.List(ctx, q)
		if err != nil {
			return err
		}
		if err := w.certificates(ctx, store, p.Certificates); err != nil {
			return err
		}
		if q.Cursor = p.Next; q.Cursor == "" {
			break
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(w.algorithms)) {
		w.add(w.algorithms[ref].component(ref))
	}
	return w.end()
}

// serial returns a random UUID (RFC 9562 section 5.4) as a URN.
func serial() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return "urn:uuid:" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func (w *writer) begin(o *Options) error {
	meta, err := json.Marshal(map[string]any{
		"timestamp":  o.Now.UTC().Truncate(time.Second),
		"tools":      map[string]any{"components": []any{map[string]any{"type": "application", "name": "chancery", "version": cmp.Or(o.Version, "unknown")}}},
		"properties": []property{{"chancery:query", cmp.Or(o.Query.Text, o.Query.Filter.String())}},
	}, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("encode bill of materials: %w", err)
	}
	_, err = fmt.Fprintf(w, "{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.6\",\"serialNumber\":%q,\"version\":1,\n\"metadata\":%s,\n\"components\":[", serial(), meta)
	return err
}

// End is the last line of a whole document.
const End = "]}\n"

func (w *writer) end() error {
	if w.err != nil {
		return w.err
	}
	w.WriteString("\n" + End) // a bufio.Writer keeps its first error
	return w.Flush()
}

// add writes one component.
func (w *writer) add(c component) {
	if w.some {
		w.WriteByte(',')
	}
	w.some = true
	w.WriteByte('\n')
	c.Type = "cryptographic-asset"
	text, err := json.Marshal(c)
	if err != nil {
		w.err = fmt.Errorf("encode %s: %w", c.Ref, err)
		return
	}
	w.Write(text)
}

// certificates writes one page of them, with the keys that are new.
func (w *writer) certificates(ctx context.Context, store *inventory.Store, all []inventory.Certificate) error {
	ids := make([]string, len(all))
	for i := range all {
		ids[i] = all[i].ID
	}
	keys, err := store.KeyHashes(ctx, ids)
	if err != nil {
		return err
	}
	for i := range all {
		c := &all[i]
		hash := hex.EncodeToString(keys[c.ID])
		w.add(component{Ref: "certificate:" + c.ID, Name: nameOf(c), Crypto: properties{Kind: "certificate", Certificate: &certificate{
			Subject: subject(c), Issuer: c.Issuer, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Signature: w.algorithm(signatureOf(c.Signature)), Key: "key:" + hash, Format: "X.509"}},
			Properties: own(c)})
		w.key(hash, keys[c.ID], c)
	}
	return w.err
}

// key writes a public key once.
func (w *writer) key(hash string, sum []byte, c *inventory.Certificate) {
	short := [16]byte{}
	copy(short[:], sum)
	if w.keys[short] {
		return
	}
	w.keys[short] = true
	state := "active"
	if c.Status != inventory.Active {
		state = ""
	}
	w.add(component{Ref: "key:" + hash, Name: c.KeyType + " public key", Crypto: properties{Kind: "related-crypto-material",
		Material: &material{Kind: "public-key", ID: hash, State: state, Algorithm: w.algorithm(keyAlgorithm(c.KeyType)), Size: sizeOf(c.KeyType)}}})
}

// algorithm remembers that an algorithm is used, and returns its reference.
func (w *writer) algorithm(a algorithmOf) string {
	if a.name == "" {
		return ""
	}
	ref := "algorithm:" + strings.ToLower(strings.ReplaceAll(a.name, " ", "-"))
	w.algorithms[ref] = a
	return ref
}

func nameOf(c *inventory.Certificate) string {
	if len(c.Names) > 0 {
		return c.Names[0]
	}
	return cmp.Or(c.CommonName, c.Serial)
}

func subject(c *inventory.Certificate) string {
	if c.CommonName == "" {
		return ""
	}
	return "CN=" + c.CommonName
}

// own are the properties that the standard has no place for.
func own(c *inventory.Certificate) []property {
	out := []property{{"chancery:fingerprint", c.Fingerprint}, {"chancery:serial", c.Serial}, {"chancery:status", string(c.Status)}}
	for _, p := range []property{{"chancery:owner", c.Owner}, {"chancery:team", c.Team}, {"chancery:environment", c.Environment}, {"chancery:names", strings.Join(c.Names, " ")}} {
		if p.Value != "" {
			out = append(out, p)
		}
	}
	if pki.StrengthOf(c.KeyType).Weak() {
		out = append(out, property{"chancery:weak", "true"})
	}
	return out
}
