package deploy_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/obs"
)

// A batch is one attempt in the trace, with a span for each of its steps.
func TestDeploymentIsTraced(t *testing.T) {
	for name, c := range map[string]struct {
		target *shelf
		want   []string
	}{
		"live":        {&shelf{}, []string{"deploy.apply", "deploy.attempt", "deploy.commit", "deploy.stage", "deploy.verify"}},
		"rolled back": {&shelf{bad: []string{"c000"}}, []string{"deploy.apply failed", "deploy.attempt failed", "deploy.rollback", "deploy.stage"}},
	} {
		rec := tracetest.NewSpanRecorder()
		tracer := obs.NewTracer(sdk.NewTracerProvider(sdk.WithSpanProcessor(rec)).Tracer("test"))
		ctx, root := obs.Begin(obs.WithTracer(t.Context(), tracer), "test")
		deploy.Run(ctx, c.target, deploytest.NewCA(t).Items(t, 1), deploy.Options{})
		root.End(nil)
		var got []string
		for _, s := range rec.Ended() {
			text := s.Name()
			if text == "test" {
				continue
			}
			if s.Status().Code.String() == "Error" {
				text += " failed"
			}
			got = append(got, text)
		}
		slices.Sort(got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
