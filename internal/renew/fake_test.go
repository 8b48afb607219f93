package renew_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/issuer"
)

// stepper is an issuer that takes every step of an ACME order before it asks
// another for the certificate.
type stepper struct {
	issuer.Issuer
	polls int // how often it asks for time first
}

var steps = []string{"ordered", "authz_pending", "posted", "ready", "finalizing"}

// Issue implements issuer.Issuer.
func (s stepper) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	at := -1
	for i, step := range steps {
		if r.State.Step == step {
			at = i
		}
	}
	for _, step := range steps[at+1:] {
		if err := r.Save(ctx, issuer.State{Step: step, Data: []byte(`{"order":"` + r.ID + `"}`)}); err != nil {
			return issuer.Reply{}, err
		}
		if step == "posted" && s.polls > 0 {
			return issuer.Reply{PollAt: time.Now()}, nil
		}
	}
	return s.Issuer.Issue(ctx, r)
}

// flaky fails as often as it is told, with what it is told.
type flaky struct {
	issuer.Issuer
	mu    sync.Mutex
	errs  []error // the next failures, in order
	all   error   // what every call fails with, nil = none
	calls int
	most  int // calls at once
	now   int
}

func (f *flaky) set(all error, errs ...error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all, f.errs = all, errs
}

func (f *flaky) count() (calls, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls, f.most
}

func (f *flaky) enter() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.now++
	f.most = max(f.most, f.now)
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return err
	}
	return f.all
}

// Issue implements issuer.Issuer.
func (f *flaky) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	err := f.enter()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.now--
	}()
	if err != nil {
		return issuer.Reply{}, err
	}
	return f.Issuer.Issue(ctx, r)
}

// folder is a target that writes the leaf of each item to a file, in one batch.
type folder struct {
	dir string

	mu      sync.Mutex
	batches []int
	refuse  map[string]error // by the value of the parameter "site"
}

func (f *folder) run(_ context.Context, items []deploy.Item) []deploy.Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches = append(f.batches, len(items))
	out := make([]deploy.Outcome, len(items))
	for i, it := range items {
		err := f.refuse[it.Params["site"]]
		if err == nil && it.Key == nil {
			err = errors.New("no key")
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(f.dir, it.Params["site"]), it.Chain[0], 0o600)
		}
		out[i] = deploy.Outcome{ID: it.ID, Live: err == nil, Err: err, Stderr: fmt.Sprint("tested ", it.Params["site"])}
	}
	return out
}

func (f *folder) set(site string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse == nil {
		f.refuse = map[string]error{}
	}
	f.refuse[site] = err
}

func (f *folder) sizes() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]int(nil), f.batches...)
}
