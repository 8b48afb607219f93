package packaging_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"

	"chancery/internal/config"
)

// kustomization is what is used of the format of kustomize.
type kustomization struct {
	APIVersion         string   `json:"apiVersion"`
	Kind               string   `json:"kind"`
	Namespace          string   `json:"namespace"`
	Resources          []string `json:"resources"`
	ConfigMapGenerator []struct {
		Name  string   `json:"name"`
		Files []string `json:"files"`
	} `json:"configMapGenerator"`
	Images []struct {
		Name   string `json:"name"`
		NewTag string `json:"newTag"`
	} `json:"images"`
	Labels []struct {
		Pairs map[string]string `json:"pairs"`
	} `json:"labels"`
}

// scaledObject is what is used of keda.sh/v1alpha1, whose module would bring
// half of Kubernetes along.
type scaledObject struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		ScaleTargetRef  autoscaling.CrossVersionObjectReference `json:"scaleTargetRef"`
		MinReplicaCount int                                     `json:"minReplicaCount"`
		MaxReplicaCount int                                     `json:"maxReplicaCount"`
		PollingInterval int                                     `json:"pollingInterval"`
		CooldownPeriod  int                                     `json:"cooldownPeriod"`
		Triggers        []struct {
			Type     string            `json:"type"`
			Metadata map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

// kinds are the types that manifests are decoded into, strictly.
var kinds = map[string]func() any{
	"v1/Namespace":                                  func() any { return new(core.Namespace) },
	"v1/Service":                                    func() any { return new(core.Service) },
	"v1/ServiceAccount":                             func() any { return new(core.ServiceAccount) },
	"v1/PersistentVolumeClaim":                      func() any { return new(core.PersistentVolumeClaim) },
	"apps/v1/StatefulSet":                           func() any { return new(apps.StatefulSet) },
	"batch/v1/Job":                                  func() any { return new(batch.Job) },
	"policy/v1/PodDisruptionBudget":                 func() any { return new(policy.PodDisruptionBudget) },
	"networking.k8s.io/v1/NetworkPolicy":            func() any { return new(networking.NetworkPolicy) },
	"autoscaling/v2/HorizontalPodAutoscaler":        func() any { return new(autoscaling.HorizontalPodAutoscaler) },
	"keda.sh/v1alpha1/ScaledObject":                 func() any { return new(scaledObject) },
	"kustomize.config.k8s.io/v1beta1/Kustomization": func() any { return new(kustomization) },
}

// strictly decodes one YAML document into v; a field that v does not have is an
// error.
func strictly(t *testing.T, doc any, v any) error {
	t.Helper()
	text, err := json.Marshal(doc)
	check(t, err)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// manifests decodes every document of a file.
func manifests(t *testing.T, file string) (out []any) {
	t.Helper()
	text, err := os.ReadFile(file)
	check(t, err)
	docs := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc map[string]any
		if err := docs.Decode(&doc); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		kind, _ := doc["kind"].(string)
		version, _ := doc["apiVersion"].(string)
		make, ok := kinds[version+"/"+kind]
		if !ok {
			t.Fatalf("%s: no type for %s/%s", file, version, kind)
		}
		v := make()
		if err := strictly(t, doc, v); err != nil {
			t.Errorf("%s: %s: %v", file, kind, err)
		}
		out = append(out, v)
	}
}

// overlay is everything that a kustomization stands for.
type overlay struct {
	objects []any
	maps    map[string][]string // generated ConfigMaps: their files
}

func build(t *testing.T, dir string) (o overlay) {
	t.Helper()
	o.maps = map[string][]string{}
	k, ok := manifests(t, filepath.Join(dir, "kustomization.yaml"))[0].(*kustomization)
	if !ok {
		t.Fatalf("%s has no kustomization", dir)
	}
	for _, r := range k.Resources {
		path := filepath.Join(dir, r)
		if info, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", dir, err)
		} else if info.IsDir() {
			below := build(t, path)
			o.objects = append(o.objects, below.objects...)
			maps.Copy(o.maps, below.maps)
		} else {
			o.objects = append(o.objects, manifests(t, path)...)
		}
	}
	for _, g := range k.ConfigMapGenerator {
		for _, f := range g.Files {
			name, file, ok := strings.Cut(f, "=")
			if !ok {
				name, file = filepath.Base(f), f
			}
			if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
				t.Errorf("%s: %v", dir, err)
			}
			o.maps[g.Name] = append(o.maps[g.Name], name)
		}
	}
	return o
}

// only returns the objects of one type.
func only[T any](o overlay) (out []*T) {
	for _, v := range o.objects {
		if x, ok := v.(*T); ok {
			out = append(out, x)
		}
	}
	return out
}

// TestEveryManifestIsPartOfSomething: a file that no kustomization names is
// forgotten, and one that is not decoded is not checked.
func TestEveryManifestIsPartOfSomething(t *testing.T) {
	files, err := filepath.Glob("kubernetes/*/*.yaml")
	check(t, err)
	if len(files) < 10 {
		t.Fatalf("only %d files", len(files))
	}
	for _, f := range files {
		if filepath.Base(f) == "prometheus-adapter.yaml" { // values of a chart
			continue
		}
		if base := filepath.Base(f); base != "kustomization.yaml" {
			k := manifests(t, filepath.Join(filepath.Dir(f), "kustomization.yaml"))[0].(*kustomization)
			if !slices.Contains(k.Resources, base) {
				t.Errorf("%s is named by no kustomization", f)
			}
		}
	}
	var v core.Service
	if err := strictly(t, map[string]any{"spec": map[string]any{"prots": []any{}}}, &v); err == nil {
		t.Error("a field that does not exist was not noticed")
	}
}

// kubernetesConfig loads the configuration of the replicas as the program does.
func kubernetesConfig(t *testing.T, environ ...string) *config.Config {
	t.Helper()
	c, err := config.Load("kubernetes/base/chancery.toml", environ)
	check(t, err)
	for _, p := range c.Check() {
		t.Error(p)
	}
	return c
}

func TestKubernetesFitsTheProgram(t *testing.T) {
	known := measured(t)
	for _, dir := range []string{"base", "hpa", "keda", "init"} {
		t.Run(dir, func(t *testing.T) {
			o := build(t, filepath.Join("kubernetes", dir))
			workloads := map[string]bool{}
			for _, s := range only[apps.StatefulSet](o) {
				workloads[s.Name] = true
				checkPod(t, o, s.Name, &s.Spec.Template.Spec, len(s.Spec.VolumeClaimTemplates))
				checkServing(t, s)
			}
			for _, j := range only[batch.Job](o) {
				checkPod(t, o, j.Name, &j.Spec.Template.Spec, 0)
			}
			for _, h := range only[autoscaling.HorizontalPodAutoscaler](o) {
				if !workloads[h.Spec.ScaleTargetRef.Name] || *h.Spec.MinReplicas >= h.Spec.MaxReplicas {
					t.Errorf("%s scales %+v", h.Name, h.Spec.ScaleTargetRef)
				}
				for _, m := range h.Spec.Metrics {
					if m.External != nil {
						query := m.External.Metric.Name + `{` + selector(m.External.Metric.Selector.MatchLabels) + `}`
						if bad := unknown(query, known); len(bad) > 0 {
							t.Errorf("%s: the program has no %v", h.Name, bad)
						}
					}
				}
			}
			for _, s := range only[scaledObject](o) {
				if !workloads[s.Spec.ScaleTargetRef.Name] || s.Spec.MinReplicaCount >= s.Spec.MaxReplicaCount || len(s.Spec.Triggers) == 0 {
					t.Errorf("%s scales %+v", s.Metadata.Name, s.Spec)
				}
				for _, trigger := range s.Spec.Triggers {
					if bad := unknown(trigger.Metadata["query"], known); len(bad) > 0 {
						t.Errorf("%s: the program has no %v", s.Metadata.Name, bad)
					}
				}
			}
			for _, b := range only[policy.PodDisruptionBudget](o) {
				if !workloads[b.Name] || b.Spec.MaxUnavailable.IntValue() != 1 || b.Spec.Selector.MatchLabels["app.kubernetes.io/component"] == "" {
					t.Errorf("the budget %s fits no workload", b.Name)
				}
			}
		})
	}
	adapter, err := os.ReadFile("kubernetes/hpa/prometheus-adapter.yaml")
	check(t, err)
	for _, m := range regexp.MustCompile(`(?m)(?:seriesQuery|metricsQuery): (.*)$`).FindAllStringSubmatch(string(adapter), -1) {
		if bad := unknown(m[1], known); len(bad) > 0 {
			t.Errorf("prometheus-adapter: the program has no %v", bad)
		}
	}
}

func selector(labels map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+`="`+labels[k]+`"`)
	}
	return strings.Join(parts, ",")
}

// checkPod holds the containers of a pod against the program, and the pod
// against what a restricted namespace takes.
func checkPod(t *testing.T, o overlay, name string, p *core.PodSpec, claims int) {
	t.Helper()
	volumes := map[string]bool{}
	for _, v := range p.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap != nil && o.maps[v.ConfigMap.Name] == nil {
			t.Errorf("%s: there is no ConfigMap %s", name, v.ConfigMap.Name)
		}
	}
	for _, c := range p.Containers {
		environ := []string{}
		for _, e := range c.Env {
			value := e.Value
			if e.ValueFrom != nil {
				value = "postgres://chancery@db/chancery"
			}
			environ = append(environ, e.Name+"="+value)
		}
		kubernetesConfig(t, environ...) // an unknown variable or role is refused
		commandExists(t, c.Args)
		mounted := 0
		for _, m := range c.VolumeMounts {
			if volumes[m.Name] {
				mounted++
			}
		}
		if mounted+claims != len(c.VolumeMounts) || mounted != len(volumes) {
			t.Errorf("%s: the mounts %v do not fit the volumes %v", name, c.VolumeMounts, volumes)
		}
		if s := c.SecurityContext; *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Contains(s.Capabilities.Drop, "ALL") {
			t.Errorf("%s: %+v is not restricted", name, s)
		}
	}
	if !*p.SecurityContext.RunAsNonRoot || p.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: %+v is not restricted", name, p.SecurityContext)
	}
}

// checkServing holds ports, probes and times against the configuration.
func checkServing(t *testing.T, s *apps.StatefulSet) {
	t.Helper()
	cfg := kubernetesConfig(t)
	c := s.Spec.Template.Spec.Containers[0]
	ports := map[string]string{"https": cfg.Server.Listen, "http": cfg.Server.HTTPListen, "debug": cfg.Server.DebugListen}
	for _, p := range c.Ports {
		if ports[p.Name] != ":"+itoa(p.ContainerPort) {
			t.Errorf("%s: the port %s is %d, the program listens on %s", s.Name, p.Name, p.ContainerPort, ports[p.Name])
		}
		delete(ports, p.Name)
	}
	if len(ports) > 0 {
		t.Errorf("%s: ports %v are missing", s.Name, ports)
	}
	for path, p := range map[string]*core.Probe{"/readyz": c.ReadinessProbe, "/livez": c.LivenessProbe} {
		if p.HTTPGet.Path != path || p.HTTPGet.Port.StrVal != "debug" {
			t.Errorf("%s: a probe asks %+v, not %s", s.Name, p.HTTPGet, path)
		}
	}
	answers(t, "/readyz", "/livez", s.Spec.Template.Annotations["prometheus.io/path"])
	if grace := *s.Spec.Template.Spec.TerminationGracePeriodSeconds; float64(grace) < cfg.Server.ShutdownGrace.Seconds()+10 {
		t.Errorf("%s: %d s do not hold the %s that the program takes to end", s.Name, grace, cfg.Server.ShutdownGrace)
	}
}
