package inventory_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/inventory"
)

// estateSize is how many certificates the benchmarks search: 20,000, or what
// CHANCERY_ESTATE says (docs/design/inventory.md has the figures for 1000000).
func estateSize(b *testing.B) int {
	text := os.Getenv("CHANCERY_ESTATE")
	if text == "" {
		return 20000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// cpuTime is what the process has used: on a shared machine, the figure that
// means something (on PostgreSQL it leaves out the server).
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// timed runs f b.N times and reports the percentiles.
func timed(b *testing.B, f func(i int) error) {
	b.Helper()
	took := make([]time.Duration, 0, 1024)
	before := cpuTime(b)
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		if err := f(i); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(len(took)), "cpu-µs")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds()), "p95-µs")
}

func BenchmarkSQLite(b *testing.B)   { benchmarkEstate(b, dbtest.SQLiteURL(b)) }
func BenchmarkPostgres(b *testing.B) { benchmarkEstate(b, dbtest.PostgresURL(b)) }

var benchQueries = []string{"", "status:active", "owner:pay", "owner:pay status:active", "owner:none", "team:team-07 env:prod", "key:rsa1024 status:active",
	"issuer:R11 expires:<14d", "expires:<14d key:rsa2048 env:prod", "source:ct managed:no", "status:revoked", "tag:app=shop", "tag:app=shop owner:mail",
	"name:*.pay.example.com", "name:app-000007.pay.example.com", "endpoint:*.shop.example.com", "endpoint:app-000007.shop.example.com:443",
	"app-000017", "seen:>30d", "managed:yes team:team-03 key:ml-dsa-65 env:dev", "video-4.example.com"}

func benchmarkEstate(b *testing.B, url string) {
	ctx := context.Background()
	d := dbtest.Open(b, url)
	n := estateSize(b)
	start := time.Now()
	if err := inventory.Seed(ctx, d, n, epoch); err != nil {
		b.Fatal(err)
	}
	took := time.Since(start)
	b.Logf("seeded %d certificates in %.1f s: %.0f per second", n, took.Seconds(), float64(n)/took.Seconds())
	settle(b, d)
	s := inventory.New(d)
	for _, text := range benchQueries {
		b.Run("list/"+text, func(b *testing.B) { benchmarkPages(b, s, text, 100) })
	}
	b.Run("page1000", func(b *testing.B) { benchmarkPages(b, s, "status:active", 1000) })
	b.Run("expiring1000", func(b *testing.B) {
		timed(b, func(i int) error {
			_, err := s.Expiring(ctx, epoch.Add(time.Duration(i%80)*day), "", epoch.Add(90*day), 1000)
			return err
		})
	})
	benchmarkCounts(b, s)
	benchmarkWrites(b, s)
}

// settle lets PostgreSQL gather statistics, as autovacuum would in time.
func settle(b *testing.B, d *db.DB) {
	if d.Engine() == db.Postgres {
		if _, err := d.Read().Exec(context.Background(), db.SQL("inventorytest.analyze", "ANALYZE")); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkPages reads up to ten pages in a row, then begins again.
func benchmarkPages(b *testing.B, s *inventory.Store, text string, limit int) {
	q := inventory.Query{Filter: filter(b, text), Limit: limit, Text: text}
	rows, partial, pages := 0, 0, 0
	timed(b, func(i int) error {
		if i%10 == 0 {
			q.Cursor = ""
		}
		p, err := s.List(context.Background(), q)
		rows, pages = rows+len(p.Certificates), pages+1
		if p.Partial {
			partial++
		}
		q.Cursor = p.Next
		return err
	})
	b.ReportMetric(float64(rows)/float64(pages), "rows/page")
	b.ReportMetric(float64(partial)/float64(pages), "partial/page")
}

func benchmarkCounts(b *testing.B, s *inventory.Store) {
	ctx := context.Background()
	for _, text := range []string{"", "owner:pay", "expires:<14d", "owner:pay expires:<14d", "key:rsa2048 issuer:R11", "name:*.pay.example.com", "tag:app=shop"} {
		b.Run("facets/"+text, func(b *testing.B) {
			exact := true
			timed(b, func(int) error {
				fs, err := s.Facets(ctx, filter(b, text), inventory.Dimensions...)
				for _, f := range fs {
					exact = exact && f.Exact
				}
				return err
			})
			if !exact {
				b.ReportMetric(1, "bounded")
			}
		})
	}
	for _, text := range []string{"", "status:active owner:pay", "managed:no status:active", "tag:app=shop"} {
		b.Run("count/"+text, func(b *testing.B) {
			timed(b, func(int) error { _, err := s.Count(ctx, filter(b, text)); return err })
		})
	}
	for _, text := range []string{"", "owner:pay"} {
		by := inventory.ByIssuer
		if text != "" {
			by = inventory.ByStatus
		}
		b.Run("timeline26weeks/"+text, func(b *testing.B) {
			timed(b, func(int) error {
				_, err := s.Timeline(ctx, filter(b, text), epoch, epoch.AddDate(0, 0, 182), by)
				return err
			})
		})
	}
}

// benchmarkWrites stores batches: new certificates, then the same again.
func benchmarkWrites(b *testing.B, s *inventory.Store) {
	made := 0
	batch := func(size int) []inventory.Observation {
		obs := make([]inventory.Observation, size)
		for i := range obs {
			made++
			m := described(1<<30+made, epoch.Add(time.Duration(made%90)*day), fmt.Sprintf("new-%d.pay.example.com", made))
			obs[i] = seen(m, inventory.FromImport)
			obs[i].Owner, obs[i].Environment = "pay", "prod"
		}
		return obs
	}
	var last []inventory.Observation
	for _, size := range []int{inventory.MaxBatch, 1000} {
		b.Run(fmt.Sprint("import", size), func(b *testing.B) {
			timed(b, func(int) error {
				last = batch(size)
				_, err := s.Put(context.Background(), last, epoch)
				return err
			})
			b.ReportMetric(float64(size*b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
	b.Run("seen1000", func(b *testing.B) {
		timed(b, func(i int) error {
			for j := range last {
				last[j].SeenAt = epoch.Add(time.Duration(i+1) * 2 * time.Hour)
			}
			_, err := s.Put(context.Background(), last, epoch)
			return err
		})
		b.ReportMetric(float64(len(last)*b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}
