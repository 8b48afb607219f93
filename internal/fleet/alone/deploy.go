package alone

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/fault"
	"chancery/internal/fleet"
)

// deploy puts certificates into service, one batch and one reload per target.
func (r *Runner) deploy(ctx context.Context, items []*item, force []string) {
	for _, name := range sorted(r.cfg.Targets) {
		t := r.cfg.Targets[name]
		for _, batch := range chunks(r.missing(items, name, force), cmp.Or(t.Batch, 500)) {
			if ctx.Err() != nil {
				return
			}
			r.batch(ctx, name, t, batch)
		}
	}
}

// missing returns the certificates that a target shall serve and does not.
func (r *Runner) missing(items []*item, target string, force []string) (out []*item) {
	now := r.cfg.Now()
	for _, it := range items {
		if it.err != nil || it.rec.Live == nil || !slices.Contains(it.c.Targets, target) {
			continue
		}
		p := it.rec.Placed[target]
		forced := slices.Contains(force, it.c.Name) || slices.Contains(force, "*")
		if p.Leaf != it.rec.Live.leaf() && (forced || !p.RetryAt.After(now)) {
			out = append(out, it)
		}
	}
	return out
}

func chunks(items []*item, size int) (out [][]*item) {
	for len(items) > 0 {
		n := min(size, len(items))
		out, items = append(out, items[:n]), items[n:]
	}
	return out
}

// batch deploys certificates to one target, and stores what became of each.
func (r *Runner) batch(ctx context.Context, name string, t *Target, items []*item) {
	call, cancel := context.WithTimeout(ctx, cmp.Or(t.Timeout, 8*time.Minute))
	defer cancel()
	opts := t.Options
	opts.Log = cmp.Or(opts.Log, r.log)
	var list []deploy.Item
	var at []*item
	for _, it := range items {
		key, err := it.rec.Live.signer()
		if err != nil {
			it.err = err
			continue
		}
		i := deploy.Item{ID: it.c.ID, Chain: it.rec.Live.Chain, Key: key}
		for _, n := range it.c.Names {
			i.Names = append(i.Names, n.Value)
		}
		list, at = append(list, i), append(at, it)
		opts.Urgent = opts.Urgent || it.urgent(r.cfg.Now())
	}
	if len(list) == 0 {
		return
	}
	outcomes := deploy.Run(call, t.Target, list, opts)
	fault.Point("alone.after_deploy")
	for i, o := range outcomes {
		r.placed(name, at[i], &o)
	}
	fault.Point("alone.after_placed")
}

// urgent reports whether a certificate does not wait for a window of a target:
// what it replaces should have been replaced already.
func (it *item) urgent(now time.Time) bool {
	return it.rec.Explanation != "" && !it.rec.WindowEnd.After(now)
}

// placed stores an outcome.
func (r *Runner) placed(target string, it *item, o *deploy.Outcome) {
	now, p := r.cfg.Now(), it.rec.Placed[target]
	var closed *deploy.ClosedError
	switch {
	case o.Live:
		p = placement{Leaf: it.rec.Live.leaf()}
		it.out.Deployed = append(it.out.Deployed, target)
		r.log.Info("certificate is live", "certificate", it.c.Name, "target", target, "took", o.Took)
	case errors.As(o.Err, &closed):
		p.RetryAt, p.Error = closed.OpensAt, ""
	default:
		step := min(retryStep<<min(p.Attempts, 16), retryCap)
		p.Attempts++
		p.RetryAt = now.Add(step/2 + time.Duration(random()*float64(step/2)))
		p.Error, p.Stderr = fleet.Clip(o.Err.Error()), fleet.Clip(o.Stderr)
		r.log.Warn("certificate not deployed", "certificate", it.c.Name, "target", target, "error", p.Error)
	}
	it.rec.Placed[target] = p
	it.err = r.save(it)
}
