package api

import (
	"encoding/base64"
	"strings"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// maxPage is the largest page of any list.
const maxPage = 1000

// ListInput are the parameters that every list has.
type ListInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"At most so many items"`
	Cursor string `query:"cursor" maxLength:"2048" doc:"next of the page before; none for the first page"`
}

// Page is one page of a list.
type Page[T any] struct {
	Items []T    `json:"items" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"Cursor of the next page; none on the last. A page of a filtered list may be short, or empty, and still have one"`
}

type pageOf[T any] struct{ Body Page[T] }

// pageFrom makes a page out of one row more than was asked for: the surplus
// row says that there is a next page.
func pageFrom[R, T any](rows []R, limit int, key func(*R) string, view func(*R) T) *pageOf[T] {
	p := &pageOf[T]{Page[T]{Items: make([]T, 0, min(len(rows), limit))}}
	if len(rows) > limit {
		rows = rows[:limit]
		p.Body.Next = encodeKey(key(&rows[limit-1]))
	}
	for i := range rows {
		p.Body.Items = append(p.Body.Items, view(&rows[i]))
	}
	return p
}

// pageOfAll is a page of a list that is in memory, ordered by key.
func pageOfAll[R, T any](all []R, in *ListInput, key func(*R) string, view func(*R) T) (*pageOf[T], error) {
	after, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	for len(all) > 0 && after != "" && key(&all[0]) <= after {
		all = all[1:]
	}
	return pageFrom(all[:min(len(all), in.Limit+1)], in.Limit, key, view), nil
}

// encodeKey makes a cursor of the key of the last row of a page.
func encodeKey(key string) string { return base64.RawURLEncoding.EncodeToString([]byte("k:" + key)) }

// decodeKey returns the key in a cursor, "" for none.
func decodeKey(cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	key, ok := strings.CutPrefix(string(b), "k:")
	if err != nil || !ok || key == "" || strings.ToValidUTF8(key, "") != key || strings.ContainsRune(key, 0) {
		return "", badCursor()
	}
	return key, nil
}

// decodeID is decodeKey for lists whose key is an id.
func decodeID(cursor string) (string, error) {
	key, err := decodeKey(cursor)
	if err == nil && key != "" && !db.ValidID(key) {
		err = badCursor()
	}
	return key, err
}

func badCursor() error {
	return fault.New(fault.Invalid, "the cursor is not one that a page of this list gave; start again without a cursor")
}
