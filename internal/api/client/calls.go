package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"chancery/internal/api"
)

// Get fetches one resource at a path below /api/v1.
func Get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var v T
	err := c.Do(ctx, http.MethodGet, path, query, nil, &v)
	return v, err
}

// Post sends in to a path below /api/v1 and returns the answer.
func Post[T any](ctx context.Context, c *Client, path string, in any) (T, error) {
	var v T
	err := c.Do(ctx, http.MethodPost, path, nil, in, &v)
	return v, err
}

// PostOnce is Post for an operation that takes an Idempotency-Key: with the
// same key it is done once, however often it is sent, so a caller that got no
// answer may call it again.
func PostOnce[T any](ctx context.Context, c *Client, path, key string, in any) (T, error) {
	var v T
	r, err := c.request(ctx, http.MethodPost, path, nil, in)
	if err != nil {
		return v, err
	}
	r.Header.Set("Idempotency-Key", key)
	return v, c.send(r, &v)
}

// Pages yields the pages of a list one after the other, each of at most limit
// items. It ends after an error.
func Pages[T any](ctx context.Context, c *Client, path string, query url.Values, limit int) iter.Seq2[api.Page[T], error] {
	return func(yield func(api.Page[T], error) bool) {
		q := url.Values{}
		for k, v := range query {
			q[k] = v
		}
		q.Set("limit", strconv.Itoa(limit))
		for {
			page, err := Get[api.Page[T]](ctx, c, path, q)
			if !yield(page, err) || err != nil || page.Next == "" {
				return
			}
			q.Set("cursor", page.Next)
		}
	}
}

// List returns the first most items of a list (0 = all of them), and whether
// there are more.
func List[T any](ctx context.Context, c *Client, path string, query url.Values, most int) (items []T, more bool, err error) {
	size := 1000
	if most > 0 {
		size = min(size, most)
	}
	for page, err := range Pages[T](ctx, c, path, query, size) {
		if err != nil {
			return items, false, err
		}
		items = append(items, page.Items...)
		if most > 0 && len(items) >= most {
			return items[:most], len(items) > most || page.Next != "", nil
		}
	}
	return items, false, nil
}

// ID escapes an id or a name for use in a path.
func ID(id string) string { return url.PathEscape(id) }
