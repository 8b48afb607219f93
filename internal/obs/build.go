package obs

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// Build says which program this is.
type Build struct {
	Version  string `json:"version"`  // release tag, or "dev"
	Revision string `json:"revision"` // commit hash, "" when unknown
	Time     string `json:"time"`     // commit time, RFC 3339, "" when unknown
	Modified bool   `json:"modified"` // built from a tree with local changes
	Go       string `json:"go"`       // toolchain
	Platform string `json:"platform"` // GOOS/GOARCH
}

// ReadBuild returns the build information that the toolchain embedded.
// version and revision, set by the linker, win when not empty.
func ReadBuild(version, revision string) Build {
	b := Build{Version: "dev", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Revision = s.Value
			case "vcs.time":
				b.Time = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	if version != "" {
		b.Version = version
	}
	if revision != "" {
		b.Revision = revision
	}
	return b
}

// buildInfo is the constant gauge that joins other series with the version.
func buildInfo(b Build) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_build_info",
		Help: "Constant 1, labelled with the build.",
		ConstLabels: prometheus.Labels{
			"version": b.Version, "revision": b.Revision, "go": b.Go,
		},
	})
	g.Set(1)
	return g
}
