package packaging_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
)

// selects reports whether a selector fits labels, and is not empty.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return len(selector) > 0
}

// hasPort reports whether a pod has a port with a name.
func hasPort(s *apps.StatefulSet, name string) bool {
	return slices.ContainsFunc(s.Spec.Template.Spec.Containers[0].Ports, func(p core.ContainerPort) bool { return p.Name == name })
}

// TestSelectorsSelect: what names pods by their labels names those that exist. A
// label that is misspelt would be accepted by Kubernetes, and do nothing.
func TestSelectorsSelect(t *testing.T) {
	for _, dir := range []string{"base", "hpa", "keda"} {
		o := build(t, filepath.Join("kubernetes", dir))
		sets := only[apps.StatefulSet](o)
		if len(sets) < 2 {
			t.Fatalf("%s has %d workloads", dir, len(sets))
		}
		services := map[string]*core.Service{}
		for _, v := range only[core.Service](o) {
			services[v.Name] = v
		}
		for _, s := range sets {
			labels := s.Spec.Template.Labels
			if !selects(s.Spec.Selector.MatchLabels, labels) {
				t.Errorf("%s: %s does not select its own pods", dir, s.Name)
			}
			if v := services[s.Spec.ServiceName]; v == nil || v.Spec.ClusterIP != core.ClusterIPNone || !selects(v.Spec.Selector, labels) {
				t.Errorf("%s: %s has no headless service %q", dir, s.Name, s.Spec.ServiceName)
			}
			for _, c := range s.Spec.Template.Spec.TopologySpreadConstraints {
				if !selects(c.LabelSelector.MatchLabels, labels) {
					t.Errorf("%s: %s spreads others", dir, s.Name)
				}
			}
			budgets := 0
			for _, b := range only[policy.PodDisruptionBudget](o) {
				if selects(b.Spec.Selector.MatchLabels, labels) {
					budgets++
				}
			}
			if budgets != 1 { // with two, nothing can be evicted
				t.Errorf("%s: %d budgets are for %s", dir, budgets, s.Name)
			}
			for _, p := range only[networking.NetworkPolicy](o) {
				if !selects(p.Spec.PodSelector.MatchLabels, labels) {
					t.Errorf("%s: %s leaves out %s", dir, p.Name, s.Name)
				}
				for _, in := range p.Spec.Ingress {
					for _, port := range in.Ports {
						if !hasPort(s, port.Port.StrVal) {
							t.Errorf("%s: %s has no port %s", dir, s.Name, port.Port)
						}
					}
				}
			}
			if p := s.Spec.Template.Spec.Containers[0].StartupProbe; p == nil || p.HTTPGet.Path != "/readyz" || !hasPort(s, p.HTTPGet.Port.StrVal) {
				t.Errorf("%s: %s is not given time to start: %+v", dir, s.Name, p)
			}
		}
		for name, v := range services {
			behind := slices.DeleteFunc(slices.Clone(sets), func(s *apps.StatefulSet) bool { return !selects(v.Spec.Selector, s.Spec.Template.Labels) })
			if len(behind) != 1 {
				t.Errorf("%s: %d workloads are behind %s", dir, len(behind), name)
				continue
			}
			for _, p := range v.Spec.Ports {
				if !hasPort(behind[0], p.TargetPort.StrVal) {
					t.Errorf("%s: %s leads to no port %s", dir, name, p.TargetPort.String())
				}
			}
		}
	}
}

var adapterName = regexp.MustCompile(`(?m)^\s+as: (\S+)$`)

// TestScalersScale: both variants scale what renews by its queue, and the
// External metric is one that the adapter serves.
func TestScalersScale(t *testing.T) {
	served := adapterName.FindStringSubmatch(read(t, "kubernetes/hpa/prometheus-adapter.yaml"))
	if served == nil {
		t.Fatal("the adapter serves nothing")
	}
	target := func(dir string, o overlay, ref autoscaling.CrossVersionObjectReference, least int) {
		t.Helper()
		for _, s := range only[apps.StatefulSet](o) {
			if s.Name == ref.Name && ref.Kind == "StatefulSet" && ref.APIVersion == "apps/v1" {
				if int(*s.Spec.Replicas) < least {
					t.Errorf("%s: %s begins with %d replicas, below the least of %d", dir, s.Name, *s.Spec.Replicas, least)
				}
				return
			}
		}
		t.Errorf("%s: %+v does not exist", dir, ref)
	}
	hpa, queue := build(t, "kubernetes/hpa"), 0
	for _, h := range only[autoscaling.HorizontalPodAutoscaler](hpa) {
		target("hpa", hpa, h.Spec.ScaleTargetRef, int(*h.Spec.MinReplicas))
		for _, m := range h.Spec.Metrics {
			switch {
			case m.External != nil && m.Type == autoscaling.ExternalMetricSourceType && m.External.Metric.Name == served[1] && m.External.Target.AverageValue != nil:
				queue++
			case m.Resource != nil && m.Type == autoscaling.ResourceMetricSourceType && m.Resource.Target.AverageUtilization != nil:
			default:
				t.Errorf("hpa: %s has a metric that nobody serves: %+v", h.Name, m)
			}
		}
	}
	keda := build(t, "kubernetes/keda")
	for _, s := range only[scaledObject](keda) {
		target("keda", keda, s.Spec.ScaleTargetRef, s.Spec.MinReplicaCount)
		for _, trigger := range s.Spec.Triggers {
			if trigger.Type == "prometheus" && trigger.Metadata["serverAddress"] != "" && trigger.Metadata["threshold"] != "" && strings.Contains(trigger.Metadata["query"], served[1]) {
				queue += 10
			}
		}
	}
	if queue != 11 {
		t.Errorf("the queue scales %d, want one HPA and one ScaledObject (11)", queue)
	}
	if n := len(only[autoscaling.HorizontalPodAutoscaler](keda)); n != 0 {
		t.Errorf("%d autoscalers of both kinds are for one workload", n)
	}
}

var (
	dockerCopy = regexp.MustCompile(`(?m)^COPY (?:--\S+ )*(.+) \S+$`)
	dockerFrom = regexp.MustCompile(`(?m)^FROM golang:([0-9.]+)`)
	goVersion  = regexp.MustCompile(`(?m)^go ([0-9]+\.[0-9]+)`)
)

// TestDockerfileCopiesWhatIsThere: files of the source tree exist and are part of
// the context, files of the first stage are made there, and its Go is the
// module's.
func TestDockerfileCopiesWhatIsThere(t *testing.T) {
	text := read(t, "container/Dockerfile")
	copies := dockerCopy.FindAllStringSubmatch(text, -1)
	if len(copies) < 6 {
		t.Fatalf("only %d copies", len(copies))
	}
	made := 0
	for _, c := range copies {
		for _, path := range strings.Fields(c[1]) {
			if !strings.HasPrefix(c[0], "COPY --from=build") {
				if _, err := os.Stat(filepath.Join("..", path)); err != nil {
					t.Error(err)
				}
				continue
			}
			if out, ok := strings.CutPrefix(path, "/out/"); ok {
				if made++; !regexp.MustCompile(`(-o|mkdir -p)[^\n]* /out/` + out + `\b`).MatchString(text) {
					t.Errorf("%s is not made", path)
				}
			}
		}
	}
	if made != 3 {
		t.Errorf("%d copies are of what the build made", made)
	}
	want, got := goVersion.FindStringSubmatch(read(t, "../go.mod")), dockerFrom.FindStringSubmatch(text)
	if want == nil || got == nil || want[1] != got[1] {
		t.Errorf("built by Go %q, the module wants %q", got, want)
	}
	for line := range strings.Lines(read(t, "container/Dockerfile.dockerignore")) { // patterns are of the root of the context
		pattern := strings.TrimSpace(line)
		for _, needed := range []string{"go.mod", "go.sum", "cmd", "internal", "web", "web/dist", "web/dist/app.js", "packaging"} {
			if ok, err := filepath.Match(strings.TrimPrefix(pattern, "**/"), needed); ok || err != nil {
				t.Errorf("%q keeps %s out of the context: %v", pattern, needed, err)
			}
		}
	}
}
