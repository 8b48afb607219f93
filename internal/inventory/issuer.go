package inventory

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"chancery/internal/db"
	"chancery/internal/pki"
)

// selfSigned is the one issuer of all self-signed certificates, which would
// otherwise be an issuer each.
const selfSigned = "self-signed"

// issuer is who signed a certificate: a name and a key.
type issuer struct {
	id    int64
	name  string // RFC 2253 text
	label string // what lists and facets show: common name, else organization
	keyID []byte
}

var (
	putIssuer   = db.BulkInsert("inventory.insert_issuers", "inventory_issuer", true, "id", "name", "label", "key_id", "created_at")
	qLabels     = db.SQL("inventory.list_labels", `SELECT id, label FROM inventory_issuer WHERE id = ANY($1::bigint[])`)
	qIssuerLike = db.SQL("inventory.find_issuers", `SELECT id, label FROM inventory_issuer
		WHERE lower(name) LIKE $1 ESCAPE '\' OR lower(label) LIKE $1 ESCAPE '\' ORDER BY id LIMIT $2`, db.Scan("a few rows per CA"))
)

// issuerID is the id of the issuer of a certificate that is not self-issued.
func issuerID(meta *pki.Metadata, rawName []byte) int64 {
	return sum64(string(rawName), string(meta.AuthorityKeyID))
}

// issuerOf returns the issuer of a certificate. text is asked for the issuer's
// name only if it is not among known, to which it is then added.
func issuerOf(meta *pki.Metadata, rawName []byte, known map[int64]issuer, text func() string) issuer {
	if meta.SelfIssued {
		return issuer{id: sum64(selfSigned), name: selfSigned, label: selfSigned}
	}
	id := issuerID(meta, rawName)
	if i, ok := known[id]; ok {
		return i
	}
	name := clean(text(), 4*maxText)
	label := attribute(name, "CN=")
	if label == "" {
		label = attribute(name, "O=")
	}
	if label == "" {
		label = name
	}
	i := issuer{id: id, name: name, label: clean(label, maxText), keyID: meta.AuthorityKeyID}
	known[id] = i
	return i
}

// attribute returns the value of the first attribute with a prefix in RFC 2253
// text, "" if there is none.
func attribute(name, prefix string) string {
	for at := 0; at < len(name); {
		end := at
		for end < len(name) && name[end] != ',' && name[end] != '+' {
			if name[end] == '\\' {
				end++
			}
			end++
		}
		end = min(end, len(name))
		if v, ok := strings.CutPrefix(name[at:end], prefix); ok {
			return strings.ReplaceAll(v, `\`, "")
		}
		at = end + 1
	}
	return ""
}

// issuers remembers the labels of issuers. An issuer's row never changes, so
// neither does what is remembered.
type issuers struct {
	mu     sync.RWMutex
	labels map[int64]string
}

// maxIssuers bounds the memory of issuers; beyond it they are read again.
const maxIssuers = 10000

// of returns the labels of ids, reading those that are not remembered.
func (c *issuers) of(ctx context.Context, q db.Q, ids []int64) (map[int64]string, error) {
	out := make(map[int64]string, len(ids))
	var missing []int64
	c.mu.RLock()
	for _, id := range ids {
		if label, ok := c.labels[id]; ok {
			out[id] = label
		} else if _, asked := out[id]; !asked {
			out[id] = ""
			missing = append(missing, id)
		}
	}
	c.mu.RUnlock()
	if len(missing) == 0 {
		return out, nil
	}
	found := map[int64]string{}
	err := q.All(ctx, qLabels, func(r *db.Row) error { found[r.Int64()] = r.Text(); return nil }, missing)
	if err != nil {
		return nil, err
	}
	maps.Copy(out, found)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.labels == nil || len(c.labels)+len(found) > maxIssuers {
		c.labels = map[int64]string{}
	}
	maps.Copy(c.labels, found)
	return out, nil
}

// matchLimit is how many issuers one word may stand for.
const matchLimit = 200

// matching returns the ids of the issuers that users mean by text: those with
// exactly this label, or else those with it in their name.
func matching(ctx context.Context, q db.Q, text string) ([]int64, error) {
	text = lower(text)
	var exact, all []int64
	err := q.All(ctx, qIssuerLike, func(r *db.Row) error {
		id, label := r.Int64(), r.Text()
		if all = append(all, id); lower(label) == text {
			exact = append(exact, id)
		}
		return nil
	}, "%"+escapeLike(text)+"%", matchLimit)
	if len(exact) > 0 {
		return exact, err
	}
	return all, err
}

// lower is lower-case for ASCII letters alone, as both engines' lower() with
// binary collation.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// escapeLike makes s stand for itself in a LIKE pattern with ESCAPE '\'.
func escapeLike(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
}

// issuerRows are the rows of the distinct issuers of records.
func issuerRows(records []*record, now time.Time) [][]any {
	seen := map[int64]bool{}
	var rows [][]any
	for _, r := range records {
		if i := r.issuer; r.meta != nil && !seen[i.id] {
			seen[i.id] = true
			rows = append(rows, []any{i.id, i.name, i.label, i.keyID, now})
		}
	}
	return rows
}
