package agent

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/fleet"
	"chancery/internal/pki"
)

// record is what the journal says about an assignment.
type record struct {
	ID      string    `json:"id"`
	Names   []string  `json:"names"`
	Targets []string  `json:"targets"`
	Leaf    string    `json:"leaf,omitempty"` // hex SHA-256 of what every target serves
	At      time.Time `json:"at,omitzero"`
}

// idPattern is what the id of an assignment may be: it names files here.
var idPattern = regexp.MustCompile(`^[0-9a-z]{26}$`)

// request makes a certificate request.
func request(key crypto.Signer, names []string) ([]byte, error) {
	ids, err := pki.ParseNames(names)
	if err != nil {
		return nil, err
	}
	return pki.CreateRequest(key, ids)
}

// nextRequest returns a request for the next key of an assignment, which is
// made unless there is one.
func (a *Agent) nextRequest(id string, names []string) ([]byte, error) {
	path := a.path("keys", id+".next")
	der, err := readKey(path)
	if errors.Is(err, os.ErrNotExist) {
		if der, _, err = newKey(names); err == nil {
			err = deploy.ReplaceFile(path, pemKey(der), 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	key, err := signer(der)
	if err != nil {
		return nil, err
	}
	return request(key, names)
}

func signer(der []byte) (crypto.Signer, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	return s, nil
}

// outbox is where results wait until the server has them: what was done once is
// not done again because a report was lost.
const outbox = "outbox.json"

// work does tasks and stores the results for delivery.
func (a *Agent) work(ctx context.Context, tasks []fleet.Task) []fleet.Result {
	results := make([]fleet.Result, 0, len(tasks))
	batches := map[string][]int{} // by targets: what goes to the same places goes at once
	var order []string
	for i := range tasks {
		if !a.admit(&tasks[i]) {
			continue
		}
		if len(tasks[i].Chain) == 0 {
			results = append(results, a.ask1(&tasks[i]))
			continue
		}
		key := strings.Join(tasks[i].Targets, " ")
		if batches[key] == nil {
			order = append(order, key)
		}
		batches[key] = append(batches[key], i)
	}
	for _, key := range order {
		var batch []fleet.Task
		for _, i := range batches[key] {
			batch = append(batch, tasks[i])
		}
		results = append(results, a.deploy(ctx, batch)...)
	}
	if err := a.keep(results); err != nil {
		a.log.Error("results not stored", "error", err)
	}
	return results
}

// admit refuses what could name something outside of the configuration.
func (a *Agent) admit(t *fleet.Task) bool {
	if !idPattern.MatchString(t.ID) || len(t.Names) == 0 || len(t.Targets) == 0 {
		a.log.Error("task is not one", "task", t.ID)
		return false
	}
	return true
}

// ask1 answers a task that asks for a request.
func (a *Agent) ask1(t *fleet.Task) fleet.Result {
	csr, err := a.nextRequest(t.ID, t.Names)
	if err != nil {
		a.log.Error("certificate request not made", "assignment", t.ID, "error", err)
	}
	return fleet.Result{ID: t.ID, CSR: csr}
}

// deploy puts certificates into service at the targets that they have in
// common, one target after the other.
func (a *Agent) deploy(ctx context.Context, tasks []fleet.Task) []fleet.Result {
	start := time.Now()
	results := make([]fleet.Result, len(tasks))
	var items []deploy.Item
	var at []int
	for i := range tasks {
		leaf := sha256.Sum256(tasks[i].Chain[0])
		results[i] = fleet.Result{ID: tasks[i].ID, Leaf: leaf[:]}
		if a.serves(&tasks[i], leaf) {
			results[i].Live = true
			continue
		}
		item, err := a.item(&tasks[i])
		if err != nil {
			results[i].Error = err.Error()
			// A request for a key that is here lets the server begin anew.
			if results[i].CSR, err = a.nextRequest(tasks[i].ID, tasks[i].Names); err != nil {
				results[i].Error += "; " + err.Error()
			}
			continue
		}
		items, at = append(items, item), append(at, i)
	}
	if len(items) > 0 {
		a.run(ctx, tasks[0].Targets, items, at, results)
	}
	for i := range results {
		results[i].TookMS = time.Since(start).Milliseconds()
		if results[i].Live {
			a.settle(&tasks[i], &results[i])
		}
	}
	return results
}

// serves reports whether the journal has a certificate as live already.
func (a *Agent) serves(t *fleet.Task, leaf [32]byte) bool {
	var r record
	text, err := os.ReadFile(a.path("journal", t.ID+".json"))
	return err == nil && json.Unmarshal(text, &r) == nil && r.Leaf == hex.EncodeToString(leaf[:]) && slices.Equal(r.Targets, t.Targets)
}

// item puts chain and key together.
func (a *Agent) item(t *fleet.Task) (deploy.Item, error) {
	leaf, err := x509.ParseCertificate(t.Chain[0])
	if err != nil {
		return deploy.Item{}, fmt.Errorf("the certificate does not parse: %w", err)
	}
	for _, name := range []string{t.ID + ".next", t.ID + ".key"} {
		der, err := readKey(a.path("keys", name))
		if err != nil {
			continue
		}
		key, err := signer(der)
		if err != nil {
			return deploy.Item{}, err
		}
		if pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && pub.Equal(key.Public()) {
			id := strings.NewReplacer("*", "_", ":", "-").Replace(t.Names[0])
			return deploy.Item{ID: id, Names: t.Names, Chain: t.Chain, Key: key}, nil
		}
	}
	return deploy.Item{}, errors.New("the key of this certificate is not on this host")
}

// run deploys items to each target in turn; a failure at one is that of the
// item, and the next targets are not touched for it.
func (a *Agent) run(ctx context.Context, targets []string, items []deploy.Item, at []int, results []fleet.Result) {
	for _, name := range targets {
		t, ok := a.cfg.Targets[name]
		if !ok {
			for _, i := range at {
				results[i].Error = fmt.Sprintf("the configuration of this agent has no target %q", name)
			}
			return
		}
		var left []deploy.Item
		var leftAt []int
		for k, o := range deploy.Run(ctx, t.Target, items, t.Options) {
			if o.Live {
				left, leftAt = append(left, items[k]), append(leftAt, at[k])
				continue
			}
			results[at[k]].Error, results[at[k]].Stderr = fleet.Clip(name+": "+o.Err.Error()), fleet.Clip(o.Stderr)
		}
		if items, at = left, leftAt; len(items) == 0 {
			return
		}
	}
	for _, i := range at {
		results[i].Live = true
	}
}

// settle remembers what is live: the next key becomes that of the certificate,
// and another is made for the one after it.
func (a *Agent) settle(t *fleet.Task, r *fleet.Result) {
	if leaf, err := x509.ParseCertificate(t.Chain[0]); err == nil {
		next := a.path("keys", t.ID+".next")
		if der, err := readKey(next); err == nil {
			if key, err := signer(der); err == nil && leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
				if err := os.Rename(next, a.path("keys", t.ID+".key")); err != nil {
					a.log.Error("key not kept", "error", err)
				}
			}
		}
	}
	text, err := json.Marshal(record{ID: t.ID, Names: t.Names, Targets: t.Targets, Leaf: hex.EncodeToString(r.Leaf), At: time.Now().UTC()})
	if err == nil {
		err = replace(a.path("journal", t.ID+".json"), text)
	}
	if err == nil {
		r.CSR, err = a.nextRequest(t.ID, t.Names)
	}
	if err != nil {
		a.log.Error("deployment not recorded", "assignment", t.ID, "error", err)
	}
}

// keep adds results to the outbox.
func (a *Agent) keep(results []fleet.Result) error {
	if len(results) == 0 {
		return nil
	}
	old, err := a.waiting()
	if err != nil {
		a.log.Error("outbox not readable, begun anew", "error", err)
	}
	text, err := json.Marshal(append(old, results...))
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	return replace(filepath.Join(a.cfg.State, outbox), text)
}

// waiting returns what the outbox holds.
func (a *Agent) waiting() (out []fleet.Result, err error) {
	text, err := os.ReadFile(filepath.Join(a.cfg.State, outbox))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	return out, err
}

// deliver reports what the outbox holds. The session begins first: a report of
// an earlier run would come from a generation that has ended.
func (a *Agent) deliver(ctx context.Context) error {
	results, err := a.waiting()
	if err != nil || len(results) == 0 || !a.started {
		return err
	}
	for len(results) > 0 {
		n := min(len(results), fleet.MaxBatch)
		var out fleet.Received
		if err := a.client.post(ctx, "report", fleet.Report{Session: a.id.session(), Results: results[:n]}, &out); err != nil {
			return err
		}
		results = results[n:]
	}
	return os.Remove(filepath.Join(a.cfg.State, outbox))
}
