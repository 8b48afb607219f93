package db

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
)

// Row reads the columns of one result row from left to right. A read of the
// wrong kind is a programming error and is reported by Err, which the engines
// check after each row.
type Row struct {
	lite *sqlite.Stmt
	pg   [][]byte
	text func(col int) bool // PostgreSQL: column arrived in text format
	col  int
	err  error
}

// Err returns the first reading error of the row.
func (r *Row) Err() error { return r.err }

func (r *Row) next() int { r.col++; return r.col - 1 }

func (r *Row) fail(col int, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("column %d is not a %s", col+1, want)
	}
}

// Null reports whether the next column is NULL, without consuming it.
func (r *Row) Null() bool {
	if r.lite != nil {
		return r.lite.ColumnIsNull(r.col)
	}
	return r.pg[r.col] == nil
}

// Int64 returns the next column; NULL is 0.
func (r *Row) Int64() int64 {
	c := r.next()
	if r.lite != nil {
		return r.lite.ColumnInt64(c)
	}
	b := r.pg[c]
	if b == nil {
		return 0
	}
	if r.text(c) {
		n, err := strconv.ParseInt(string(b), 10, 64)
		if err != nil {
			r.fail(c, "integer")
		}
		return n
	}
	switch len(b) {
	case 8:
		return int64(binary.BigEndian.Uint64(b))
	case 4:
		return int64(int32(binary.BigEndian.Uint32(b)))
	case 2:
		return int64(int16(binary.BigEndian.Uint16(b)))
	case 1:
		return int64(b[0])
	}
	r.fail(c, "integer")
	return 0
}

// Int returns the next column as an int; NULL is 0.
func (r *Row) Int() int { return int(r.Int64()) }

// Bool returns whether the next column is not 0; NULL is false.
func (r *Row) Bool() bool { return r.Int64() != 0 }

// Float returns the next column; NULL is 0.
func (r *Row) Float() float64 {
	c := r.next()
	if r.lite != nil {
		return r.lite.ColumnFloat(c)
	}
	switch b := r.pg[c]; {
	case b == nil:
		return 0
	case r.text(c):
		f, err := strconv.ParseFloat(string(b), 64)
		if err != nil {
			r.fail(c, "number")
		}
		return f
	case len(b) == 8:
		return math.Float64frombits(binary.BigEndian.Uint64(b))
	}
	r.fail(c, "number")
	return 0
}

// Text returns the next column; NULL is "".
func (r *Row) Text() string {
	c := r.next()
	if r.lite != nil {
		return r.lite.ColumnText(c)
	}
	return string(r.pg[c])
}

// AppendText appends the next column, text, to b; NULL is nothing.
func (r *Row) AppendText(b []byte) []byte {
	c := r.next()
	if r.lite == nil {
		return append(b, r.pg[c]...)
	}
	n := r.lite.ColumnLen(c)
	b = slices.Grow(b, n)
	return b[:len(b)+r.lite.ColumnBytes(c, b[len(b):len(b)+n])]
}

// maxWords bounds what Word keeps, in values and in octets of each.
const (
	maxWords = 1024
	maxWord  = 64
)

// words are the values that Word has seen.
var words struct {
	sync.RWMutex
	known map[string]string
}

// Word returns the next column as Text does. It is for columns that hold few
// different values, such as kinds and states: each is kept once.
func (r *Row) Word() string {
	var buf [maxWord]byte
	var b []byte
	if c := r.col; r.lite != nil {
		n := r.lite.ColumnLen(c)
		if n > maxWord {
			return r.Text()
		}
		b = buf[:r.lite.ColumnBytes(c, buf[:n])]
		r.col++
	} else if b = r.pg[r.next()]; len(b) > maxWord {
		return string(b)
	}
	words.RLock()
	w, ok := words.known[string(b)]
	words.RUnlock()
	if ok {
		return w
	}
	words.Lock()
	defer words.Unlock()
	if words.known == nil {
		words.known = map[string]string{}
	}
	w = string(b)
	if len(words.known) < maxWords {
		words.known[w] = w
	}
	return w
}

// Bytes returns a copy of the next column; NULL is nil.
func (r *Row) Bytes() []byte {
	c := r.next()
	if r.lite != nil {
		if r.lite.ColumnIsNull(c) {
			return nil
		}
		b := make([]byte, r.lite.ColumnLen(c))
		r.lite.ColumnBytes(c, b)
		return b
	}
	if r.pg[c] == nil {
		return nil
	}
	return append([]byte{}, r.pg[c]...)
}

// Time returns the next column, Unix milliseconds, as UTC; NULL and 0 are the
// zero Time.
func (r *Row) Time() time.Time {
	ms := r.Int64()
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// Any returns the next column as nil, int64, float64, string or []byte; for
// code that does not know the schema (backup).
func (r *Row) any(kind columnKind) any {
	if r.Null() {
		r.col++
		return nil
	}
	switch kind {
	case kindInt:
		return r.Int64()
	case kindFloat:
		return r.Float()
	case kindBytes:
		return r.Bytes()
	default:
		return r.Text()
	}
}

// reflected handles named kinds (type State string) in argument.
func reflected(v any) any {
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.String:
		return rv.String()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return rv.Int()
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return int64(rv.Uint())
	case reflect.Slice:
		if rv.Type().Elem().Kind() == reflect.Uint8 {
			return rv.Bytes()
		}
		if rv.Type().Elem().Kind() == reflect.String {
			out := make([]string, rv.Len())
			for i := range out {
				out[i] = rv.Index(i).String()
			}
			return out
		}
	case reflect.Array:
		if rv.Type().Elem().Kind() == reflect.Uint8 {
			out := make([]byte, rv.Len())
			reflect.Copy(reflect.ValueOf(out), rv)
			return out
		}
	}
	panic(fmt.Sprintf("db: cannot bind a %T", v))
}
