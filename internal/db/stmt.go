package db

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Stmt is a named SQL statement, the same text for both engines.
type Stmt struct {
	// Name is "package.verb_noun": the label of metrics and logs.
	Name string
	// Text is the statement in PostgreSQL's dialect.
	Text string
	// FullScan is true for a statement that may read a whole table (see Scan).
	FullScan bool

	long   bool // see Long
	sqlite string
	one    *Stmt // the same with `= $n` for its `= ANY($n)`, or nil
	list   int   // that n
}

// Option changes how a statement is checked.
type Option func(*Stmt)

// Scan marks a statement that reads whole tables on purpose (small tables,
// maintenance); the plan test lets it pass. why is for the reader.
func Scan(why string) Option { return func(s *Stmt) { s.FullScan = why != "" } }

// Long marks a statement that may run for milliseconds although nothing is wrong
// with it: a count, a walk over thousands of rows. On SQLite such statements
// leave some connections to the short ones, which would otherwise queue behind
// them. why is for the reader.
func Long(why string) Option { return func(s *Stmt) { s.long = why != "" } }

// registry lists every statement of the program, so that tests can prepare and
// explain each on both engines. It is written by package variables only.
var registry struct {
	sync.Mutex
	stmts map[string]*Stmt
	bulks map[string]*Bulk
}

// SQL registers a statement under a unique name. Call it from a package
// variable. Parameters are $1..$n; instants and casts follow the package rules.
// The rewriting for SQLite: $n becomes ?n, ::type is dropped, a trailing
// FOR UPDATE/FOR SHARE clause is dropped, `= ANY($n::text[])` becomes a
// membership test over a JSON array, LIMIT $n becomes LIMIT +?n. A list that turns
// out to have one element, as most have, is compared with that.
func SQL(name, text string, opts ...Option) *Stmt {
	s := &Stmt{Name: name, Text: text, sqlite: toSQLite(text)}
	if s.list = onlyList(text); s.list > 0 {
		text = reAny.ReplaceAllStringFunc(text, func(list string) string {
			m := reAny.FindStringSubmatch(list)
			return "= $" + m[1] + strings.TrimSuffix(m[2], "[]")
		})
		s.one = &Stmt{Name: name, Text: text, sqlite: toSQLite(text)}
	}
	for _, o := range opts {
		o(s)
		if s.one != nil {
			o(s.one)
		}
	}
	registry.Lock()
	defer registry.Unlock()
	if registry.stmts == nil {
		registry.stmts = map[string]*Stmt{}
	}
	if registry.stmts[name] != nil {
		panic("db: two statements named " + name)
	}
	registry.stmts[name] = s
	return s
}

// onlyList returns the number of the parameter that text compares with `= ANY` and
// uses for nothing else, or 0 if there is none, or several.
func onlyList(text string) int {
	lists := reAny.FindAllStringSubmatch(text, -1)
	if len(lists) == 0 {
		return 0
	}
	uses := 0 // of the parameter of the first
	for _, p := range reParam.FindAllStringSubmatch(text, -1) {
		if p[1] == lists[0][1] {
			uses++
		}
	}
	if uses != len(lists) || slices.ContainsFunc(lists, func(l []string) bool { return l[1] != lists[0][1] }) {
		return 0
	}
	n, _ := strconv.Atoi(lists[0][1]) // it matched \d+
	return n
}

// of returns the statement for args: s or, for a list of one, that with its only
// element, which stands for the list. PostgreSQL cannot know how long a list will
// be, and prefers to read, say, all authorizations of an account; SQLite makes a
// table of each list.
func (s *Stmt) of(args []any) (_ *Stmt, only any) {
	if s.one == nil || len(args) < s.list {
		return s, nil
	}
	switch list := args[s.list-1].(type) {
	case []string:
		if len(list) == 1 {
			return s.one, list[0]
		}
	case []int64:
		if len(list) == 1 {
			return s.one, list[0]
		}
	}
	return s, nil
}

// Statements returns every registered statement, ordered by name, each followed by
// its form for a list of one.
func Statements() []*Stmt {
	registry.Lock()
	defer registry.Unlock()
	all := make([]*Stmt, 0, len(registry.stmts))
	for _, s := range registry.stmts {
		all = append(all, s)
		if s.one != nil {
			all = append(all, s.one)
		}
	}
	slices.SortStableFunc(all, func(a, b *Stmt) int { return strings.Compare(a.Name, b.Name) })
	return all
}

var (
	reAny   = regexp.MustCompile(`(?i)=\s*ANY\s*\(\s*\$(\d+)\s*(::\w+\[\])?\s*\)`)
	reCast  = regexp.MustCompile(`::\w+(\[\])?`)
	reLock  = regexp.MustCompile(`(?is)\s+FOR\s+(UPDATE|SHARE|NO KEY UPDATE)(\s+OF\s+\w+)?(\s+SKIP\s+LOCKED|\s+NOWAIT)?`)
	reLimit = regexp.MustCompile(`(?i)\b(LIMIT)\s+\$`)
	reParam = regexp.MustCompile(`\$(\d+)`)
)

// toSQLite rewrites PostgreSQL text for SQLite. Parameters keep their numbers:
// positional binding of "$n" is silently out of order on some drivers.
func toSQLite(text string) string {
	text = reAny.ReplaceAllString(text, "IN (SELECT value FROM json_each($$$1))")
	text = reCast.ReplaceAllString(text, "")
	text = reLock.ReplaceAllString(text, "")
	// A bare parameter of LIMIT counts for the plan, so SQLite would parse and plan
	// the statement again at every execution. It does not look behind a plus.
	text = reLimit.ReplaceAllString(text, "$1 +$$")
	return reParam.ReplaceAllString(text, "?$1")
}

// Bulk names a table and its columns for Tx.Insert.
type Bulk struct {
	Name    string // label, "package.verb_noun"
	Table   string
	Columns []string
	// Ignore keeps an existing row on a key conflict instead of failing.
	Ignore bool

	insert *Stmt
}

// BulkInsert registers a bulk insert. ignore keeps existing rows on conflict.
func BulkInsert(name, table string, ignore bool, columns ...string) *Bulk {
	ph := make([]string, len(columns))
	for i := range columns {
		ph[i] = fmt.Sprintf("$%d", i+1)
	}
	text := "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES (" + strings.Join(ph, ", ") + ")"
	if ignore {
		text += " ON CONFLICT DO NOTHING"
	}
	return &Bulk{Name: name, Table: table, Columns: columns, Ignore: ignore, insert: SQL(name, text)}
}

// argument turns a Go value into one of nil, int64, float64, string, []byte,
// []string, []int64; the engines bind nothing else.
func argument(v any) any {
	switch v := v.(type) {
	case nil, int64, float64, string, []byte, []string, []int64:
		if b, ok := v.([]byte); ok && b == nil {
			return nil
		}
		return v
	case int:
		return int64(v)
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case time.Time:
		if v.IsZero() {
			return nil
		}
		return v.UnixMilli()
	case *time.Time:
		if v == nil {
			return nil
		}
		return argument(*v)
	case *[]byte:
		if v == nil {
			return nil
		}
		return argument(*v)
	case *string:
		if v == nil {
			return nil
		}
		return *v
	case *int64:
		if v == nil {
			return nil
		}
		return *v
	case time.Duration:
		return v.Milliseconds()
	}
	return reflected(v)
}
