package ctwatch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// match is an entry for one of our names.
type match struct {
	index   int64
	at      time.Time
	precert bool
	name    string // the first that matched
	key     [32]byte
	serial  pki.Serial
	spki    [32]byte
	der     []byte // certificate, or precertificate when the tree vouches for its content; nil otherwise
	parsed  *x509.Certificate
}

// newMatch keeps what is needed of an entry; nothing of the answer that it came
// in stays in memory.
func newMatch(e *entry, f *fields, name string, index int64) match {
	m := match{index: index, at: e.at, precert: e.precert, name: plain(name), serial: pki.Serial(f.serial), spki: sha256.Sum256(f.key)}
	if len(m.serial) > 100 {
		m.serial = "" // longer than anything that could be ours
	}
	var err error
	if m.key, err = f.common(); err != nil {
		m.key = sha256.Sum256(e.tbs)
	}
	m.der = bytes.Clone(e.cert)
	if e.precert {
		// The tree vouches for the TBSCertificate of a precertificate alone.
		if key, err := commonOf(e.cert); err != nil || key != m.key {
			m.der = nil
		}
	}
	if len(m.der) > inventory.MaxDER {
		m.der = nil
	}
	if m.parsed, err = x509.ParseCertificate(m.der); err != nil {
		m.der = nil
	}
	return m
}

// FindingState is what became of a finding.
type FindingState string

// States of a finding.
const (
	Open         FindingState = "open"
	Acknowledged FindingState = "acknowledged" // somebody knows of it
	Ours         FindingState = "ours"         // our issuance knows it by now, or somebody adopted it
)

// Finding is a certificate for our names that our issuance does not know.
type Finding struct {
	ID          string
	State       FindingState
	Log         string // where it was first seen, and at which index
	Index       int64
	LoggedAt    time.Time
	Precert     bool   // only a precertificate has been seen
	Fingerprint string // of the certificate, "" while only a precertificate has been seen
	Serial      string
	Issuer      string
	Names       []string
	Matched     string // the name that is ours
	NotBefore   time.Time
	NotAfter    time.Time
	FoundAt     time.Time
	AlertedAt   time.Time // zero: still within its grace
	DecidedBy   string
	DecidedAt   time.Time
	Comment     string

	key, spki []byte
}

const findingColumns = `id, state, log, leaf_index, logged_at, precert, fingerprint, serial, issuer, names, matched, not_before, not_after, found_at, alerted_at, decided_by, decided_at, comment, key, spki_hash`

func scanFinding(r *db.Row) Finding {
	return Finding{ID: r.Text(), State: FindingState(r.Text()), Log: r.Text(), Index: r.Int64(), LoggedAt: r.Time(), Precert: r.Bool(), Fingerprint: r.Text(), Serial: r.Text(),
		Issuer: r.Text(), Names: strings.Fields(r.Text()), Matched: r.Text(), NotBefore: r.Time(), NotAfter: r.Time(), FoundAt: r.Time(), AlertedAt: r.Time(),
		DecidedBy: r.Text(), DecidedAt: r.Time(), Comment: r.Text(), key: r.Bytes(), spki: r.Bytes()}
}

var (
	qFindings = db.SQL("ctwatch.list_findings", `SELECT `+findingColumns+` FROM ct_finding WHERE id < $1 ORDER BY id DESC LIMIT $2`)
	qInState  = db.SQL("ctwatch.list_findings_in_state", `SELECT `+findingColumns+` FROM ct_finding WHERE state = $1 AND id < $2 ORDER BY id DESC LIMIT $3`)
	qFinding  = db.SQL("ctwatch.get_finding", `SELECT `+findingColumns+` FROM ct_finding WHERE id = $1`)
	qFindDER  = db.SQL("ctwatch.get_finding_der", `SELECT der FROM ct_finding WHERE id = $1`)
	qFind     = db.SQL("ctwatch.put_finding", `INSERT INTO ct_finding (`+findingColumns+`, der)
		VALUES ($1, 'open', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, NULL, '', NULL, '', $14, $15, $16)
		ON CONFLICT (key) DO UPDATE SET precert = 0, fingerprint = $6, der = $16 WHERE ct_finding.precert = 1 AND $5 = 0::bigint`)
	qDecide = db.SQL("ctwatch.decide_finding", `UPDATE ct_finding SET state = $2, decided_by = $3, decided_at = $4, comment = $5 WHERE id = $1 AND state = 'open'`)
	qAdopt  = db.SQL("ctwatch.adopt_finding", `UPDATE ct_finding SET state = 'ours', decided_by = $2, decided_at = $3, comment = $4 WHERE id = $1 AND state <> 'ours'`)
	qAlert  = db.SQL("ctwatch.alert_finding", `UPDATE ct_finding SET alerted_at = $2 WHERE id = $1 AND state = 'open' AND alerted_at IS NULL`)
)

// known reports whether our issuance knows a certificate: an authority of ours
// allotted its serial number to its key, or what was obtained by us has the same
// content.
func (s *Service) known(ctx context.Context, serial pki.Serial, spki, key []byte) (bool, error) {
	allotted, err := ca.SerialKeys(ctx, s.cfg.DB.Read(), serial)
	if err != nil {
		return false, fmt.Errorf("look for our serial number: %w", err)
	}
	for _, k := range allotted {
		if bytes.Equal(k, spki) {
			return true, nil
		}
	}
	ders, err := s.cfg.Inventory.ObtainedBySerial(ctx, serial)
	if err != nil {
		return false, fmt.Errorf("look for our certificate: %w", err)
	}
	for _, der := range ders {
		if common, err := commonOf(der); err == nil && bytes.Equal(common[:], key) {
			return true, nil
		}
	}
	return false, nil
}

// record stores the matches of a chunk that our issuance does not know, and
// puts them into the inventory. Repeating it changes nothing.
func (f *follower) record(ctx context.Context, found []match) error {
	now := time.Now()
	var unknown []*match
	var observed []inventory.Observation
	for i := range found {
		m := &found[i]
		ours, err := f.known(ctx, m.serial, m.spki[:], m.key[:])
		if err != nil {
			return err
		}
		if ours {
			continue
		}
		unknown = append(unknown, m)
		if m.der != nil {
			o := inventory.Observation{DER: m.der, Source: inventory.FromCT, SeenAt: now, Tags: map[string]string{"ct_log": f.row.Name}}
			if m.precert {
				o.Tags["ct"] = "precertificate"
			}
			observed = append(observed, o)
		}
	}
	for from := 0; from < len(observed); from += 100 {
		if _, err := f.cfg.Inventory.Put(ctx, observed[from:min(from+100, len(observed))], now); err != nil {
			return err
		}
	}
	for from := 0; from < len(unknown); from += 100 {
		part := unknown[from:min(from+100, len(unknown))]
		err := f.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			for _, m := range part {
				m.queue(tx, f.row.Name, now)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("store findings: %w", err)
		}
	}
	return nil
}

// queue stores a finding.
func (m *match) queue(tx *db.Tx, log string, now time.Time) {
	fingerprint, issuer, names, der := "", "", m.name, m.der
	notBefore, notAfter := time.UnixMilli(0), time.UnixMilli(0)
	if m.parsed != nil {
		meta := pki.MetadataOf(m.parsed)
		issuer, names = plain(meta.Issuer), plain(strings.Join(meta.Names[:min(len(meta.Names), 100)], " "))
		notBefore, notAfter = meta.NotBefore, meta.NotAfter
	}
	if m.precert || m.der == nil {
		if der == nil {
			der = []byte{}
		}
	} else {
		sum := sha256.Sum256(m.der)
		fingerprint = hex.EncodeToString(sum[:])
	}
	tx.Queue(qFind, nil, db.NewID(now), log, m.index, m.at, m.precert, fingerprint, m.serial.Hex(), issuer, names, m.name, notBefore, notAfter, now, m.key[:], m.spki[:], der)
}

// Findings returns up to limit findings, of one state or ("") of all, the newest
// first, before the one with an id ("" = from the newest).
func (s *Service) Findings(ctx context.Context, state FindingState, before string, limit int) ([]Finding, error) {
	if before == "" {
		before = "~" // after every id
	}
	if state == "" {
		return db.List(ctx, s.cfg.DB.Read(), qFindings, scanFinding, before, limit)
	}
	return db.List(ctx, s.cfg.DB.Read(), qInState, scanFinding, string(state), before, limit)
}

// Finding returns a finding and the bytes that its log has (none when they
// cannot be read as a certificate), or a notFound fault.
func (s *Service) Finding(ctx context.Context, id string) (v Finding, der []byte, err error) {
	if v, err = db.Get(ctx, s.cfg.DB.Read(), qFinding, scanFinding, id); err == nil {
		der, err = db.Get(ctx, s.cfg.DB.Read(), qFindDER, (*db.Row).Bytes, id)
	}
	if errors.Is(err, db.ErrNotFound) {
		err = fault.New(fault.NotFound, "there is no finding %.80q", id)
	}
	return v, der, err
}

// MaxComment bounds the words that go with a decision, in bytes.
const MaxComment = 1000

// decidable returns a finding and what its log has, if the words that go with a
// decision about it can be kept.
func (s *Service) decidable(ctx context.Context, id, comment string) (v Finding, der []byte, err error) {
	if v, der, err = s.Finding(ctx, id); err == nil && (len(comment) > MaxComment || plain(comment) != comment) {
		err = fault.New(fault.Invalid, "the comment is one line of at most %d bytes", MaxComment)
	}
	return v, der, err
}

// Holder is whose a certificate is.
type Holder struct{ Owner, Team, Environment string }

// Adopt closes a finding that is open or acknowledged: its certificate is ours,
// as if it had been imported, and belongs to a holder where the inventory names
// none yet. A crash in between leaves the finding as it was, to be adopted
// again. The certificate behind an adopted precertificate is known when it is
// logged.
func (s *Service) Adopt(ctx context.Context, id string, to Holder, actor, comment string, now time.Time) error {
	v, der, err := s.decidable(ctx, id, comment)
	switch {
	case err != nil:
		return err
	case v.State == Ours:
		return errDecided(v.State)
	case len(der) == 0:
		return fault.New(fault.Precondition, "what the log has of it cannot be read as a certificate, so the inventory cannot hold it; acknowledge the finding instead")
	case strings.TrimSpace(to.Owner) == "":
		return fault.New(fault.Invalid, "say who owns the certificate")
	}
	res, err := s.cfg.Inventory.Put(ctx, []inventory.Observation{{DER: der, Source: inventory.FromImport, SeenAt: now, Owner: to.Owner, Team: to.Team, Environment: to.Environment}}, now)
	if err == nil && len(res.Refused) > 0 {
		err = res.Refused[0].Err
	}
	if err != nil {
		return err
	}
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qAdopt, db.ExactlyOne(errDecided(Ours)), id, actor, now, comment)
		return audit.Append(tx, audit.Entry{At: now, Kind: "ct.adopt", Actor: actor, Subject: "ct_finding:" + id,
			Data: map[string]any{"certificate": res.IDs[0], "owner": to.Owner, "team": to.Team, "environment": to.Environment, "comment": comment}})
	})
}

func errDecided(is FindingState) error {
	return fault.New(fault.Conflict, "the finding is not open any more: it is %s", is)
}

// Acknowledge closes an open finding: somebody knows of it, and it needs nothing
// more. No alert is made of it any more.
func (s *Service) Acknowledge(ctx context.Context, id, actor, comment string, now time.Time) error {
	v, _, err := s.decidable(ctx, id, comment)
	if err != nil {
		return err
	}
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qDecide, id, string(Acknowledged), actor, now, comment)
		if err == nil && n == 0 {
			err = errDecided(v.State)
		}
		if err != nil {
			return err
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "ct.acknowledge", Actor: actor, Subject: "ct_finding:" + id, Data: map[string]any{"comment": comment}})
	})
}

// reconcilePage is how many open findings are looked at again in one tick: the
// newest, which are those that may change.
const reconcilePage = 500

// reconcile closes open findings that our issuance knows by now, and tells of
// those whose grace is over.
func (s *Service) reconcile(ctx context.Context, now time.Time) (n loop.Count, err error) {
	open, err := s.Findings(ctx, Open, "", reconcilePage)
	if err != nil {
		return n, fmt.Errorf("list open findings: %w", err)
	}
	for i := range open {
		v := &open[i]
		serial, err := pki.ParseSerial(v.Serial)
		if err != nil {
			serial = ""
		}
		ours, err := s.known(ctx, serial, v.spki, v.key)
		if err != nil {
			return n, err
		}
		switch {
		case ours:
			err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
				_, err := tx.Exec(ctx, qDecide, v.ID, string(Ours), "system", now, "")
				return err
			})
		case v.AlertedAt.IsZero() && v.FoundAt.Add(s.cfg.Grace).Before(now):
			err = s.alert(ctx, v, now)
		default:
			continue
		}
		if err != nil {
			return n, fmt.Errorf("decide finding %s: %w", v.ID, err)
		}
		n.Claimed, n.Done = n.Claimed+1, n.Done+1
	}
	return n, nil
}

// alert writes the event that alerts are made of.
func (s *Service) alert(ctx context.Context, v *Finding, now time.Time) error {
	s.cfg.Log.WarnContext(ctx, "certificate for our name that our issuance does not know", "finding", v.ID, "name", v.Matched, "issuer", v.Issuer, "serial", v.Serial, "log", v.Log)
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qAlert, v.ID, now)
		if err != nil || n == 0 {
			return err
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "ct.finding", Actor: "system", Subject: "ct_finding:" + v.ID,
			Data: map[string]any{"name": v.Matched, "issuer": v.Issuer, "serial": v.Serial, "log": v.Log, "index": v.Index, "fingerprint": v.Fingerprint}})
	})
}

// plain makes foreign text storable on both engines and harmless on a screen.
func plain(s string) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.ToValidUTF8(s[:min(len(s), 8<<10)], "")
}
