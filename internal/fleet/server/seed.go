package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"chancery/internal/db"
	"chancery/internal/fleet"
)

// SeedInstance is the instance of every agent that Seed makes; their generation
// is 1.
const SeedInstance = "seed"

// Seed adds n agents that are enrolled already, for measurements. They share one
// key (PKCS #8), and each has a certificate of its own (DER) that nobody signed
// but itself: the server compares it with the one of the row.
func Seed(ctx context.Context, d *db.DB, n int, now time.Time) (key []byte, certs [][]byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	if key, err = x509.MarshalPKCS8PrivateKey(k); err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	ids := make([]string, n)
	for i := range n {
		ids[i] = db.NewID(now)
		t := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), DNSNames: []string{ids[i] + fleet.NameSuffix}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
		if err != nil {
			return nil, nil, fmt.Errorf("make certificate: %w", err)
		}
		certs = append(certs, der)
	}
	const chunk = 1000
	for from := 0; from < n; from += chunk {
		err := d.Write(ctx, func(tx *db.Tx) error {
			for i := from; i < min(from+chunk, n); i++ {
				sum := sha256.Sum256(certs[i])
				tx.Queue(qInsertAgent, nil, ids[i], "seed-"+ids[i], "", sum[:], now.Add(24*time.Hour), SeedInstance, "seed", "127.0.0.1", now)
			}
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("store agents: %w", err)
		}
	}
	return key, certs, nil
}
