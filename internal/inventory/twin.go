package inventory

import (
	"context"
	"strings"

	"chancery/internal/db"
	"chancery/internal/pki"
)

// Obtained are the sources that say that a certificate was obtained by us, or
// for us: all but what anybody may present or log.
const Obtained = FromCA | FromImport | FromCloud | FromAgent | FromRenew

var (
	qTwins = db.SQL("inventory.list_by_serial", `SELECT d.der FROM inventory c JOIN inventory_der d ON d.inventory_id = c.id
		WHERE c.serial_key = ANY($1::bigint[]) AND c.serial = $2 AND (c.managed = 1 OR (c.source & $3) <> 0) LIMIT 100`)
	qNextName = db.SQL("inventory.next_obtained_name", `SELECT n.rname FROM inventory_name n JOIN inventory c ON c.id = n.inventory_id
		WHERE n.rname > $1 AND (c.managed = 1 OR (c.source & $2) <> 0) ORDER BY n.rname LIMIT 1`)
)

// ObtainedBySerial returns the bytes of certificates with a serial number that
// were obtained by us or for us.
func (s *Store) ObtainedBySerial(ctx context.Context, serial pki.Serial) ([][]byte, error) {
	return db.List(ctx, s.db.Read(), qTwins, (*db.Row).Bytes, serialKeys(serial.Hex()), serial.Hex(), int64(Obtained))
}

// ObtainedDomains returns the domains of names in certificates that were
// obtained by us or for us, at most limit, sorted by their labels in reverse.
// domainOf maps a name to its domain, which is the name or an end of it ("":
// leave the name out). It costs one look-up per domain, not one per name.
func (s *Store) ObtainedDomains(ctx context.Context, domainOf func(name string) string, limit int) (domains []string, err error) {
	after := ""
	for len(domains) < limit {
		rname, err := s.nextName(ctx, after)
		if err != nil || rname == "" {
			return domains, err
		}
		after = rname
		if d := domainOf(strings.TrimPrefix(pki.ReverseName(rname), "*.")); d != "" {
			domains = append(domains, d)
			after = pki.ReverseName(d) + ".~" // after every name below: no label has a tilde
		}
	}
	return domains, nil
}

func (s *Store) nextName(ctx context.Context, after string) (string, error) {
	found, err := db.List(ctx, s.db.Read(), qNextName, (*db.Row).Text, after, int64(Obtained))
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}
