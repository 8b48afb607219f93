package app

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/loop"
	"chancery/internal/status"
)

// openStatus prepares OCSP, CRLs and the checker of certificates.
func (a *App) openStatus() (err error) {
	c := a.cfg.Status
	cfg := status.Config{CA: a.ca, DB: a.db, Validity: c.OCSPValidity, CRLValidity: c.CRLValidity, CRLRefresh: c.CRLRefresh,
		Direct: c.OCSPDirect, EchoNonce: c.OCSPNonce, LiveRate: c.OCSPLiveRate, SignWorkers: c.SignWorkers, Directory: c.CRLDirectory,
		Log: a.log, Registry: a.metrics.Registry, Loops: a.loops}
	if c.BucketURL != "" {
		cfg.Bucket = &status.Bucket{URL: c.BucketURL, Region: c.BucketRegion, AccessKey: c.BucketAccessKey}
		if cfg.Bucket.SecretKey, err = firstLine(c.BucketSecretKeyFile); err != nil {
			return err
		}
	}
	if c.PurgeURL != "" {
		cfg.Purge = &status.Purge{URL: c.PurgeURL}
		if cfg.Purge.Token, err = firstLine(c.PurgeTokenFile); err != nil {
			return err
		}
	}
	a.checker = ca.NewChecker(a.ca, ca.CheckerConfig{Rate: c.CheckRate, Registry: a.metrics.Registry, Loops: a.loops})
	a.status, err = status.New(cfg)
	return err
}

// firstLine reads a secret from a file; "" for no file.
func firstLine(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", fault.New(fault.Invalid, "the first line of %s is empty; write the secret there", path)
	}
	return line, nil
}

// incidents is the tick that works on incidents; one wake-up tells the status
// service of all that it revoked.
func (a *App) incidents(ctx context.Context) (loop.Count, error) {
	n, err := a.ca.RunIncidents(ctx)
	if n.Done > 0 {
		a.status.Wake()
	}
	return n, err
}

// statusLoops are the loops around revocation.
func (a *App) statusLoops() []loop.Every {
	return append(a.status.Loops(), a.checker.Loop(),
		loop.Every{Name: "ca.incident", Interval: time.Second, Timeout: time.Minute, Wake: a.wake.incidents, Tick: a.incidents, Log: a.log, Metrics: a.loops})
}
