package cbom_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/inventory"
	"chancery/internal/inventory/cbom"
	"chancery/internal/pki"
	"chancery/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// document is what the tests read of one.
type document struct {
	BOMFormat, SpecVersion, SerialNumber string
	Components                           []struct {
		Ref    string `json:"bom-ref"`
		Name   string
		Crypto struct {
			AssetType string
			OID       string
			Algorithm struct {
				Primitive string
				Classical int  `json:"classicalSecurityLevel"`
				Quantum   *int `json:"nistQuantumSecurityLevel"`
			} `json:"algorithmProperties"`
			Certificate struct {
				Signature string    `json:"signatureAlgorithmRef"`
				Key       string    `json:"subjectPublicKeyRef"`
				NotAfter  time.Time `json:"notValidAfter"`
			} `json:"certificateProperties"`
			Material struct {
				ID        string
				Algorithm string `json:"algorithmRef"`
			} `json:"relatedCryptoMaterialProperties"`
		} `json:"cryptoProperties"`
		Properties []struct{ Name, Value string }
	}
}

// fill stores certificates of every kind of key, two of which share one.
func fill(t *testing.T, d *db.DB) *inventory.Store {
	t.Helper()
	s := inventory.New(d)
	now := time.Now().UTC().Truncate(time.Second)
	var all []inventory.Observation
	keys := []string{"p256", "p256", "p192", "p384", "p521", "rsa1024", "rsa2048", "rsa3072", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "unknown"}
	algorithms := []string{"ECDSA-SHA256", "ECDSA-SHA384", "SHA1-RSA", "SHA256-RSA", "SHA384-RSAPSS", "Ed25519", "ML-DSA-65", "MD2-RSA", "0"}
	for i, key := range keys {
		sum := sha256.Sum256(fmt.Appendf(nil, "certificate %d", i))
		m := &pki.Metadata{Fingerprint: sum, SPKIHash: sha256.Sum256([]byte(key)), Issuer: "CN=Test \"CA\" <1>,O=Tést", Key: key, SignatureAlgo: algorithms[i%len(algorithms)],
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), Names: []string{fmt.Sprintf("h%d.example.com", i)}, CommonName: fmt.Sprintf("h%d.example.com", i),
			Serial: pki.SerialFromBig(new(big.Int).SetBytes(sum[:16]))}
		if i == 3 {
			m.Names, m.CommonName = nil, "Somebody, \"quoted\" & \u00fc"
		}
		all = append(all, inventory.Observation{Metadata: m, Source: inventory.FromScan, SeenAt: now, Owner: "pay"})
	}
	r, err := s.Put(context.Background(), all, now)
	if err != nil || r.New != len(keys) {
		t.Fatalf("%+v %v", r, err)
	}
	return s
}

func write(t *testing.T, s *inventory.Store, query string) (text []byte, doc document) {
	t.Helper()
	now := time.Now()
	f, err := inventory.Parse(query, now)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := cbom.Write(context.Background(), &b, s, cbom.Options{Query: inventory.Query{Filter: f, Text: query}, Version: "v9", Now: now}); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatalf("%v\n%s", err, b.Bytes())
	}
	if !strings.HasSuffix(b.String(), "\n"+cbom.End) {
		t.Error("the last line is not the one by which a reader knows that it has all")
	}
	return b.Bytes(), doc
}

// TestDocument: names are unique, references lead somewhere, keys are listed
// once, and their strength is the one that NIST gives them.
func TestDocument(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := fill(t, d)
		_, doc := write(t, s, "")
		refs, kinds := map[string]int{}, map[string]int{}
		for i, c := range doc.Components {
			if _, twice := refs[c.Ref]; twice {
				t.Errorf("%s is there twice", c.Ref)
			}
			refs[c.Ref] = i
			kinds[c.Crypto.AssetType]++
		}
		if doc.BOMFormat != "CycloneDX" || doc.SpecVersion != "1.6" || kinds["certificate"] != 13 || kinds["related-crypto-material"] != 12 {
			t.Errorf("%s %s %v", doc.BOMFormat, doc.SpecVersion, kinds)
		}
		levels := map[string][2]int{}
		for _, c := range doc.Components {
			for _, ref := range []string{c.Crypto.Certificate.Signature, c.Crypto.Certificate.Key, c.Crypto.Material.Algorithm} {
				if _, ok := refs[ref]; ref != "" && !ok {
					t.Errorf("%s refers to %s, which is not there", c.Ref, ref)
				}
			}
			if c.Crypto.AssetType == "related-crypto-material" {
				a := doc.Components[refs[c.Crypto.Material.Algorithm]].Crypto.Algorithm
				level := -1
				if a.Quantum != nil {
					level = *a.Quantum
				}
				levels[strings.TrimSuffix(c.Name, " public key")] = [2]int{a.Classical, level}
			}
		}
		for key, want := range map[string][2]int{"p256": {128, 0}, "p192": {96, 0}, "p384": {192, 0}, "p521": {256, 0}, "rsa1024": {80, 0}, "rsa2048": {112, 0}, "rsa3072": {128, 0}, "ed25519": {128, 0},
			"ml-dsa-44": {128, 2}, "ml-dsa-65": {192, 3}, "ml-dsa-87": {256, 5}, "unknown": {0, -1}} {
			if levels[key] != want {
				t.Errorf("%s: %v, want %v", key, levels[key], want)
			}
		}
		if _, some := write(t, s, "key:weak"); len(some.Components) == 0 || len(some.Components) >= len(doc.Components) {
			t.Errorf("%d components for weak keys, %d for all", len(some.Components), len(doc.Components))
		}
		if _, none := write(t, s, "owner:nobody-at-all"); len(none.Components) != 0 {
			t.Errorf("%+v", none)
		}
	})
}

// TestSchema has the validator of the CycloneDX project judge it.
func TestSchema(t *testing.T) {
	node := testenv.NodeModules(t, "@cyclonedx/cyclonedx-library")
	s := fill(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	for _, query := range []string{"", "key:weak", "owner:nobody-at-all"} {
		text, _ := write(t, s, query)
		if got := validate(t, node, text); got != "valid" {
			t.Errorf("%q: %s\n%s", query, got, text)
		}
		if query == "" { // and it judges at all
			if got := validate(t, node, bytes.Replace(text, []byte(`"assetType":"certificate"`), []byte(`"assetType":"picture"`), 1)); got == "valid" {
				t.Error("a picture is no cryptographic asset, and the validator took it")
			}
		}
	}
}

func validate(t *testing.T, node string, text []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bom.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "node", "testdata/validate.mjs", node, file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// full fails after a while, as a disk or a reader does.
type full struct{ left int }

var errFull = errors.New("no space left")

func (f *full) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errFull
	}
	return len(b), nil
}

// TestCutOff: an error of the reader ends the work and is told.
func TestCutOff(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	if err := inventory.Seed(context.Background(), d, 2500, time.Now()); err != nil {
		t.Fatal(err)
	}
	err := cbom.Write(context.Background(), &full{left: 200 << 10}, inventory.New(d), cbom.Options{Now: time.Now()})
	if !errors.Is(err, errFull) {
		t.Errorf("%v", err)
	}
}
