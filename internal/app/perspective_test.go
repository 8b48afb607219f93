package app

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/config"
	"chancery/internal/fault"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/pki"
)

// An authority that lacks perspectives, today or soon, says so at the start.
func TestWarningOfPerspectives(t *testing.T) {
	var log bytes.Buffer
	cfg := config.Default()
	public := cfg.CA["default"]
	public.Trust = config.PublicWebPKI
	cfg.CA["default"] = public
	a := &App{cfg: cfg, log: slog.New(slog.NewTextHandler(&log, nil))}
	for i := range 4 {
		cfg.Perspective[fmt.Sprint(i)] = config.Perspective{}
	}
	for date, want := range map[string]string{"2026-09-01": "", "2026-11-22": "will soon need more remote perspectives", "2026-12-15": "cannot issue without more remote perspectives"} {
		now, err := time.Parse(time.DateOnly, date)
		if err != nil {
			t.Fatal(err)
		}
		log.Reset()
		a.warnOfPerspectives(now)
		if want == "" && log.Len() > 0 || !strings.Contains(log.String(), want) {
			t.Errorf("%s: %q, want %q", date, log.String(), want)
		}
	}
}

// What [perspective.NAME] and the keys of [validation] about it do.
func TestPerspectivesFollowTheConfiguration(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Validation.PerspectiveTimeout = 300 * time.Millisecond
	cfg.Validation.PerspectiveKeyFile = filepath.Join(dir, "own.key")
	pin := "sha256/47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
	cfg.Perspective = map[string]config.Perspective{
		"a": {Region: "eu", URL: "https://" + ln.Addr().String(), Pin: pin},
		"b": {Region: "us", URL: "https://" + ln.Addr().String(), Pin: pin},
	}
	a := &App{cfg: cfg, paths: paths{dir}, log: obs.Discard(), metrics: obs.NewMetrics(obs.Build{})}
	a.loops = loop.NewMetrics(a.metrics.Registry)
	if err := a.openPerspectives(); err != nil {
		t.Fatal(err)
	}
	defer a.perspectives.Close()
	if _, err := os.Stat(cfg.Validation.PerspectiveKeyFile); err != nil {
		t.Error(err)
	}
	if a.perspectives.Len() != 2 {
		t.Fatalf("%d perspectives", a.perspectives.Len())
	}
	start := time.Now()
	round := a.perspectives.Ask(t.Context(), perspective.Question{Method: challenge.DNS01, CAAOnly: true, Request: challenge.Request{
		Identifier: pki.Identifier{Type: pki.DNS, Value: "a.test"}, AccountURL: "x"}})
	_, record, err := round.ConfirmCAA(challenge.Clearance{})
	if took := time.Since(start); !fault.Is(err, fault.Unavailable) || took < 250*time.Millisecond || took > 10*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
	if len(record.Observations) != 2 || record.Observations[1].Region != "us" {
		t.Errorf("%+v", record)
	}

	cfg.Validation.PerspectiveKeyFile = ""
	b := &App{cfg: cfg, paths: paths{dir}, log: obs.Discard(), metrics: obs.NewMetrics(obs.Build{})}
	b.loops = loop.NewMetrics(b.metrics.Registry)
	if err := b.openPerspectives(); err != nil {
		t.Fatal(err)
	}
	defer b.perspectives.Close()
	if _, err := os.Stat(filepath.Join(dir, "perspective.key")); err != nil {
		t.Error(err)
	}
}
