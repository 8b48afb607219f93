package app

import (
	"context"
	"os"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/obs/otlp"
)

// openTraces prepares what sends traces, if the configuration names a collector.
func (a *App) openTraces(ctx context.Context) (err error) {
	t := a.cfg.Trace
	if t.Endpoint == "" {
		return nil
	}
	cfg := otlp.Config{Endpoint: t.Endpoint, Ratio: float64(t.SamplePercent) / 100, Instance: instanceName(), Build: a.opts.Build, Log: a.log, Registry: a.metrics.Registry}
	if t.HeadersFile != "" {
		if cfg.Headers, err = otlp.ReadHeaders(t.HeadersFile); err != nil {
			return fault.Wrap(err, fault.Invalid, "trace.headers_file %s cannot be used", t.HeadersFile)
		}
	}
	a.traces, err = otlp.New(ctx, cfg)
	return err
}

// instanceName tells this process apart from its replicas.
func instanceName() string {
	if host, err := os.Hostname(); err == nil {
		return host
	}
	return db.NewID(time.Now())
}

// traceGrace is how long the end of the program waits for a collector.
const traceGrace = 5 * time.Second

// closeTraces sends what is left.
func (a *App) closeTraces() error {
	if a.traces == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceGrace)
	defer cancel()
	if err := a.traces.Close(ctx); err != nil {
		a.log.Warn("the last traces were not sent", "error", err) // no reason to end badly
	}
	return nil
}
