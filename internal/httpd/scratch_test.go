package httpd

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Each request has memory of its own until its answer is written, however much it
// asks for and whatever others do meanwhile.
func TestScratch(t *testing.T) {
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).Handle("POST /{size}", func(r *Request) (*Reply, error) {
			body, err := r.ReadBodyTo(r.Scratch(int(r.ContentLength)+1), 1<<20)
			if err != nil {
				return nil, err
			}
			second := r.Scratch(len(body))
			if len(second) != 0 || cap(second) != len(body) || cap(r.Scratch(-1)) != 0 {
				return nil, fmt.Errorf("%d octets of %d", len(second), cap(second))
			}
			second = append(second, body...)
			for i := range body { // what is written to one is not in the other
				body[i] = 0
			}
			return Bytes("text/plain", second), nil
		})
	})
	var all sync.WaitGroup
	for i, size := range []int{0, 1, 100, scratchSize/2 - 1, scratchSize / 2, scratchSize, 5 * scratchSize} {
		all.Go(func() {
			body := strings.Repeat(string(rune('a'+i)), size)
			for range 20 {
				resp, got := f.do(t, "POST", fmt.Sprintf("http://x/%d", size), body)
				if resp.StatusCode != http.StatusOK || got != body {
					t.Errorf("%d octets: %s, %d octets back", size, resp.Status, len(got))
				}
			}
		})
	}
	all.Wait()
}

// Who keeps memory of a request is found by tests under the race detector.
func TestScratchIsOverwritten(t *testing.T) {
	if spoiled == nil {
		t.Skip("only with the race detector")
	}
	kept := make(chan []byte, 1)
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).Handle("GET /", func(r *Request) (*Reply, error) {
			b := append(r.Scratch(4), "mine"...)
			kept <- b
			return Bytes("text/plain", b), nil
		})
	})
	_, got := f.do(t, "GET", "http://x/", "")
	f.stop()
	if b := <-kept; got != "mine" || !bytes.Equal(b, []byte{0xdd, 0xdd, 0xdd, 0xdd}) {
		t.Errorf("answered %q, %x is left", got, b)
	}
}
