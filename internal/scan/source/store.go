package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/scan/cloud"
)

var (
	qKnown = db.SQL("source.list_known", `SELECT ref, version, fingerprint FROM source_item WHERE source = $1 AND ref = ANY($2::text[])`)
	qTouch = db.SQL("source.touch_items", `UPDATE source_item SET generation = $3, seen_at = $4, gone_at = NULL WHERE source = $1 AND ref = ANY($2::text[])`)
	qPut   = db.SQL("source.put_item", `INSERT INTO source_item (source, ref, version, fingerprint, account, region, error, generation, seen_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (source, ref) DO UPDATE
		SET version = $3, fingerprint = $4, account = $5, region = $6, error = $7, generation = $8, seen_at = $9, gone_at = NULL`)
	qDrop = db.SQL("source.drop_item", `UPDATE source_item SET gone_at = $3 WHERE source = $1 AND ref = $2 AND gone_at IS NULL`)
)

// lookUp is cloud.Since.Known: what the inventory has in this version. What it
// refused counts as known as well: the same bytes would be refused again.
func (r *run) lookUp(ctx context.Context, items []cloud.Item) ([]bool, error) {
	out := make([]bool, len(items))
	for from := 0; from < len(items); from += 500 {
		part := items[from:min(from+500, len(items))]
		refs := make([]string, len(part))
		for i := range part {
			refs[i] = part[i].Ref
		}
		type state struct{ version, fingerprint string }
		have := make(map[string]state, len(part))
		err := r.cfg.DB.Read().All(ctx, qKnown, func(row *db.Row) error {
			have[row.Text()] = state{row.Text(), row.Text()}
			return nil
		}, r.name, refs)
		if err != nil {
			return nil, fmt.Errorf("look up known certificates: %w", err)
		}
		r.mu.Lock()
		for i := range part {
			if h, ok := have[part[i].Ref]; ok && h.version == part[i].Version {
				out[from+i] = true
				r.known[part[i].Ref] = h.fingerprint
			}
		}
		r.mu.Unlock()
	}
	return out, nil
}

// taken returns the fingerprint of a known item, once.
func (r *run) taken(ref string) (fingerprint string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fingerprint, ok = r.known[ref]
	delete(r.known, ref)
	return fingerprint, ok
}

// put stores a batch: first into the inventory, then which versions it has.
// Repeating it changes nothing.
func (r *run) put(ctx context.Context, batch []cloud.Cert) error {
	now := time.Now()
	b := batchOf(r, batch, now)
	if len(b.observations) > 0 {
		res, err := r.cfg.Inventory.Put(ctx, b.observations, now)
		if err != nil {
			return err
		}
		r.tally.New += res.New
		for _, refused := range res.Refused {
			if it := b.of[refused.Index]; it >= 0 {
				b.fresh[it].fingerprint, b.fresh[it].err = "", refused.Err
			}
		}
	}
	for i := range b.fresh {
		r.tally.Changed++
		if b.fresh[i].err != nil {
			r.tally.Refused++
		}
	}
	err := r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if len(b.same) > 0 {
			tx.Queue(qTouch, nil, r.name, b.same, r.status.generation, now)
		}
		for i := range b.fresh {
			f := &b.fresh[i]
			tx.Queue(qPut, nil, r.name, f.Ref, f.Version, f.fingerprint, f.Account, f.Region, text(f.err), r.status.generation, now)
		}
		for _, ref := range b.gone {
			tx.Queue(qDrop, nil, r.name, ref, now)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store versions: %w", err)
	}
	if b.cursor != "" {
		r.cursor = b.cursor
	}
	return nil
}

// fresh is an item that is new or changed.
type fresh struct {
	*cloud.Cert
	fingerprint string
	err         error
}

// batch is a batch, sorted by what is done with it.
type batch struct {
	observations []inventory.Observation
	of           []int    // by observation: the place in fresh, -1 = a known one
	same         []string // refs of known versions
	fresh        []fresh
	gone         []string
	cursor       string
}

func batchOf(r *run, certs []cloud.Cert, now time.Time) (b batch) {
	for i := range certs {
		c := &certs[i]
		if c.Cursor != "" {
			b.cursor = c.Cursor
		}
		if c.Ref == "" {
			continue
		}
		if err := c.Check(); err != nil {
			r.tally.Refused++ // it has no name that could be kept
			continue
		}
		switch fp, known := r.taken(c.Ref); {
		case c.Gone:
			b.gone = append(b.gone, c.Ref)
		case known && c.DER == nil && c.Err == nil, known && fp == "":
			b.same = append(b.same, c.Ref)
			if fp != "" {
				b.add(inventory.Observation{Fingerprint: fp, Source: inventory.FromCloud, SeenAt: now}, -1)
			}
		case c.Err != nil || c.DER == nil:
			err := c.Err
			if err == nil {
				err = errors.New("the provider sent no certificate")
			}
			b.fresh = append(b.fresh, fresh{c, "", err})
		default:
			sum := sha256.Sum256(c.DER)
			b.fresh = append(b.fresh, fresh{c, hex.EncodeToString(sum[:]), nil})
			b.add(r.observation(c, now), len(b.fresh)-1)
		}
	}
	return b
}

func (b *batch) add(o inventory.Observation, of int) {
	b.observations, b.of = append(b.observations, o), append(b.of, of)
}

// observation is what the inventory is told of a certificate.
func (r *run) observation(c *cloud.Cert, now time.Time) inventory.Observation {
	s := r.settings
	o := inventory.Observation{DER: c.DER, Source: inventory.FromCloud, SeenAt: now, RevokedAt: c.RevokedAt, Tags: map[string]string{"source": r.name, "provider": s.Kind.Provider}}
	account := s.Account
	if account == "" {
		account = c.Account
	}
	for name, value := range map[string]string{"account": account, "region": c.Region} {
		if usable(value) {
			o.Tags[name] = value
		}
	}
	for _, t := range []struct {
		tag  string
		into *string
	}{{s.OwnerTag, &o.Owner}, {s.TeamTag, &o.Team}, {s.EnvironmentTag, &o.Environment}} {
		if value := strings.TrimSpace(c.Tags[t.tag]); t.tag != "" && usable(value) {
			*t.into = value
		}
	}
	return o
}

// usable reports whether the inventory would take a foreign text as an owner or
// the value of a tag: "none" stands for nobody in queries.
func usable(s string) bool {
	return s != "" && s != "none" && len(s) <= 255 && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// text is what a row says of an error. Providers have a part in it: it is made
// storable, and short.
func text(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	if f, ok := errors.AsType[*fault.Error](err); ok {
		text = f.Detail
	}
	text = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	return strings.ToValidUTF8(text[:min(len(text), 1000)], "")
}
