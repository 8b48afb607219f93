package app

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"chancery/internal/backup"
	"chancery/internal/config"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// openExisting opens the database of an installation that must exist. It takes
// no lock: a server may be running.
func openExisting(ctx context.Context, cfg *config.Config) (paths, *db.DB, error) {
	abs, err := filepath.Abs(cfg.Server.Data)
	if err != nil {
		return paths{}, nil, err
	}
	p := paths{abs}
	dc := dbConfig(cfg, p)
	if !db.IsPostgresURL(dc.URL) {
		if _, err := os.Stat(dc.URL); err != nil {
			return p, nil, fault.Wrap(err, fault.NotFound, "there is no database at %s; name the data directory with --data", dc.URL)
		}
	}
	d, err := db.Open(ctx, dc)
	return p, d, err
}

// installation says where the parts of an installation are.
func installation(cfg *config.Config, p paths, d *db.DB) backup.Installation {
	return backup.Installation{DB: d, KeyDir: keyDir(cfg, p), SignerLog: p.signerLog(), Root: p.root()}
}

// Backup writes a backup of an installation, which may be serving, to a new
// file. progress, if not nil, is told how many bytes have been written.
func Backup(ctx context.Context, cfg *config.Config, file, version string, progress func(bytes int64)) (_ *backup.Manifest, err error) {
	p, d, err := openExisting(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	pending, err := d.Pending(ctx)
	if err != nil {
		return nil, err
	}
	if len(pending) > 0 {
		return nil, fault.New(fault.Precondition, "the database lacks %d steps of this program's schema; back it up with the version that made it, or run `chancery migrate` first", len(pending))
	}
	return backup.WriteFile(ctx, file, installation(cfg, p, d), version, time.Now(), progress)
}

// Restore fills an empty data directory and an empty database from a backup.
// What it made is removed when it fails, but for rows in PostgreSQL.
func Restore(ctx context.Context, cfg *config.Config, file string) (_ *backup.Manifest, err error) {
	archive, err := os.Open(file)
	if err != nil {
		return nil, fault.Wrap(err, fault.NotFound, "the backup %s cannot be read", file)
	}
	defer archive.Close()
	// Before anything is made: most mistakes end here.
	if _, err := backup.Verify(archive); err != nil {
		return nil, err
	}
	if _, err := archive.Seek(0, 0); err != nil {
		return nil, err
	}
	p, lock, err := openData(cfg.Server.Data)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	dc := dbConfig(cfg, p)
	fresh := !db.IsPostgresURL(dc.URL) && isMissing(dc.URL)
	m, err := restoreInto(ctx, cfg, p, dc, archive)
	if err != nil && fresh {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if e := os.Remove(dc.URL + suffix); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	return m, err
}

func isMissing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func restoreInto(ctx context.Context, cfg *config.Config, p paths, dc db.Config, archive *os.File) (_ *backup.Manifest, err error) {
	d, err := db.Open(ctx, dc)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if _, err := d.Migrate(ctx, time.Now()); err != nil {
		return nil, err
	}
	return backup.Restore(ctx, archive, installation(cfg, p, d))
}

// Migrate brings the database of an installation up to this program's schema
// and returns the steps that it took; with dryRun, those that it would take,
// and nothing is changed. A SQLite database that does not exist is not made.
func Migrate(ctx context.Context, cfg *config.Config, dryRun bool) (steps []string, err error) {
	_, d, err := openExisting(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if dryRun {
		return d.Pending(ctx)
	}
	return d.Migrate(ctx, time.Now())
}
