package app_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chancery/internal/app"
	"chancery/internal/backup"
	"chancery/internal/config"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/pki"
)

// testdata/schema1.tar.gz is a backup made by a program with schema 1. This
// program restores it into either engine, finds every invariant of issuance
// in order, and issues with the keys in it.
func TestBackupOfSchema1ServesHere(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		cfg := config.Default()
		cfg.Server.Data, cfg.Database.URL = t.TempDir(), url
		cfg.Server.Listen, cfg.Server.HTTPListen, cfg.Server.DebugListen = "127.0.0.1:0", "127.0.0.1:0", ""
		restore(t, cfg, url)
		rep, err := app.CheckIssuance(ctx, cfg)
		if err != nil || len(rep.Findings) > 0 || rep.Serials < 5 {
			t.Fatalf("%+v %v", rep, err)
		}
		ready := make(chan app.Ready, 1)
		a, err := app.New(ctx, cfg, app.Options{OnReady: func(r app.Ready) { ready <- r }})
		if err != nil {
			t.Fatal(err)
		}
		run, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- a.Run(run) }()
		select {
		case r := <-ready:
			checkRoot(t, r.Root)
		case err := <-done:
			t.Fatalf("the program ended: %v", err)
		case <-time.After(time.Minute):
			t.Fatal("the program is not ready after a minute")
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		after, err := app.CheckIssuance(ctx, cfg)
		if err != nil || len(after.Findings) > 0 || after.Serials <= rep.Serials {
			t.Fatalf("nothing was issued with the restored keys: %+v %v", after, err)
		}
	})
}

// restore fills the installation of cfg from the archive.
func restore(t *testing.T, cfg *config.Config, url string) {
	t.Helper()
	d := dbtest.Open(t, url)
	defer d.Close()
	f, err := os.Open("testdata/schema1.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := backup.Restore(context.Background(), f, backup.Installation{DB: d, KeyDir: filepath.Join(cfg.Server.Data, "keys"),
		SignerLog: filepath.Join(cfg.Server.Data, "signer.log"), Root: filepath.Join(cfg.Server.Data, "root.pem")})
	if err != nil {
		t.Fatal(err)
	}
	if m.Schema != 1 || m.Engine != db.SQLite {
		t.Fatalf("the archive is of schema %d on %s", m.Schema, m.Engine)
	}
}

func checkRoot(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.DecodeChain(text, 1<<20, 10); err != nil {
		t.Fatal(err)
	}
}
