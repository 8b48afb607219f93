package cloud

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/internal/fault"
)

// take counts the tokens that n takers get in a time.
func take(t *testing.T, b *Bucket, during time.Duration) (got int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), during)
	defer cancel()
	for b.Wait(ctx) == nil {
		got++
	}
	return got
}

func TestBucketFollowsItsProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBucket(Rate{PerSecond: 10, Burst: 5}, time.Now())
		if got := take(t, b, 10*time.Second); got < 104 || got > 106 {
			t.Errorf("%d tokens in 10 s at 10/s with a burst of 5", got)
		}
		b.Throttled(time.Now(), 0)
		if b.Rate() != 5 {
			t.Errorf("after a throttle: %v", b.Rate())
		}
		if got := take(t, b, 10*time.Second); got < 48 || got > 51 {
			t.Errorf("%d tokens in 10 s at half the rate", got)
		}
		for range 50 {
			b.Throttled(time.Now(), 0)
		}
		if b.Rate() < 0.1 {
			t.Errorf("the rate falls to %v", b.Rate())
		}
		for range 25 { // 5 % of the full rate comes back each second
			time.Sleep(time.Second)
			b.Succeeded(time.Now())
		}
		if b.Rate() != 10 {
			t.Errorf("after 25 s without a throttle: %v", b.Rate())
		}
		b.Throttled(time.Now(), 7*time.Second)
		begin := time.Now()
		if err := b.Wait(context.Background()); err != nil || time.Since(begin) < 7*time.Second {
			t.Errorf("a token %s after Retry-After: 7, %v", time.Since(begin), err)
		}
	})
}

// Waiters are served, or leave when they are told to; none is forgotten.
func TestBucketServesManyWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBucket(Rate{PerSecond: 100}, time.Now())
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		var mu sync.Mutex
		served, left := 0, 0
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				err := b.Wait(ctx)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					served++
				} else {
					left++
				}
			})
		}
		wg.Wait()
		if served < 198 || served > 202 || served+left != 500 {
			t.Errorf("%d served, %d left", served, left)
		}
	})
}

func TestRetryAfter(t *testing.T) { // RFC 9110 section 10.2.3
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "0.5": 500 * time.Millisecond, "-1": 0, "soon": 0, "1e300": 0, "NaN": 0,
		"Tue, 10 Mar 2026 12:01:00 GMT": time.Minute, "Tue, 10 Mar 2026 11:01:00 GMT": 0} {
		if got := RetryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestPagesEnd(t *testing.T) {
	var p Pages
	if err := errors.Join(p.Next(1000, "a"), p.Next(1000, "b"), p.Next(3, "")); err != nil {
		t.Error(err)
	}
	if p.Next(1, "a") == nil {
		t.Error("a token that comes again")
	}
	if err := new(Pages).Next(MaxItems+1, ""); !fault.Is(err, fault.TooLarge) {
		t.Errorf("too many items: %v", err)
	}
	if new(Pages).Next(1, string(make([]byte, 1<<20))) == nil {
		t.Error("a token of a megabyte")
	}
}

func TestCertsAreBounded(t *testing.T) {
	good := Item{Ref: "r", Version: "v"}
	tags := map[string]string{}
	for i := range MaxTags + 1 {
		tags[string(rune('a'+i))] = ""
	}
	for name, c := range map[string]Cert{"no name": {}, "control": {Item: Item{"a\nb", "v"}}, "long": {Item: Item{string(make([]byte, 600)), "v"}}, "not utf-8": {Item: Item{"\xff", "v"}},
		"no version": {Item: Item{"r", ""}}, "large": {Item: good, DER: make([]byte, MaxCert+1)}, "tags": {Item: good, Tags: tags}} {
		if c.Check() == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if err := (&Cert{Item: good}).Check(); err != nil {
		t.Error(err)
	}
}

// FuzzLeafPEM reads foreign text.
func FuzzLeafPEM(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		der, err := LeafPEM("x", text)
		if err == nil && len(der) > len(text) {
			t.Errorf("%d bytes out of %d", len(der), len(text))
		}
	})
}
