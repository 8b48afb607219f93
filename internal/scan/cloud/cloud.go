// Package cloud lists the certificates that other systems keep: the
// certificate stores of clouds, clusters and secret managers.
//
// A kind of source is a folder below this one that exports a Kind and one line
// in internal/app/kinds.go. Kinds hold no tables and no schedule; they list,
// and they are told what is known already, so that a list that has not changed
// costs the pages of the list and nothing else.
//
// # Bounds
//
// A request takes a token of the bucket of its (provider, account, region,
// operation) first, then a place among the provider's requests in flight, then
// one among those of the whole process: whoever waits for a provider holds
// nothing that others wait for. Throttles halve the rate of the bucket, and
// Retry-After is honoured by all who share it.
//
// What a provider sends is hostile: answers, pages, items, names and tags are
// bounded, a page token that comes again ends the list with an error, and no
// redirect is followed.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"chancery/internal/fault"
)

// Bounds of what a source may send.
const (
	MaxItems   = 1_000_000 // certificates of one source
	MaxPages   = 100_000   // of one list
	MaxRef     = 512       // bytes of a Ref
	MaxVersion = 160       // bytes of a Version
	MaxTags    = 64        // tags that a provider keeps with a certificate
	MaxAnswer  = 32 << 20  // bytes of one answer
	MaxCert    = 128 << 10 // bytes of one certificate, DER
)

// Source is one configured place. Its methods are called by one goroutine at a
// time.
type Source interface {
	// List yields the certificates of the place. Without since.Cursor that is
	// all of them, and what is not among them is gone. With a cursor it is what
	// happened since: ErrExpired says that the cursor is too old, and that the
	// caller has to list everything again.
	//
	// An error ends the list. It is a *fault.Error where the user must act
	// (credentials, permissions, a wrong name).
	List(ctx context.Context, since Since) iter.Seq2[Cert, error]
}

// Checker is a Source that can say, with one cheap request, whether its
// configuration works.
type Checker interface {
	Check(ctx context.Context) error
}

// Since is what the caller has already.
type Since struct {
	// Known reports which of some certificates the caller has in exactly this
	// version: their bytes are not asked for again. Nil: none. The answer has
	// the length of the question.
	Known func(ctx context.Context, items []Item) ([]bool, error)
	// Cursor is the Cursor of a Cert that an earlier List yielded, or "".
	Cursor string
	// Until is when a List that waits for changes returns; zero: it does not
	// wait.
	Until time.Time
}

// Item names one state of one certificate of a source.
type Item struct {
	Ref     string // the provider's name of it, which survives renewals
	Version string // changes when anything that the inventory shows may have changed
}

// Cert is one certificate of a source, or the news that it is gone. One without
// a Ref only moves the cursor.
type Cert struct {
	Item
	DER       []byte // nil when Since.Known has the version, or Gone, or Err is set
	RevokedAt time.Time
	Tags      map[string]string // the provider's own; at most MaxTags
	Account   string            // whose; "" = the source's
	Region    string            // where; "" = the source's
	Gone      bool              // the provider does not have it any more
	Err       error             // a *fault.Error: this one cannot be read; the list goes on
	Cursor    string            // where a later List may begin when this and all before it are stored; "" = nowhere yet
}

// ErrExpired says that a cursor is too old (410 Gone in Kubernetes).
var ErrExpired = errors.New("the place to go on from is too old")

// Kind is a plug-in: how to describe, configure and open sources of one sort.
type Kind struct {
	Name     string // as configuration writes it, e.g. "aws-acm"
	Provider string // what certificates are tagged with, e.g. "aws"
	Doc      string // one sentence
	Config   func() any
	// Open checks a configuration that came from Config and returns the
	// source. It does no I/O over the network.
	Open func(env Env, config any) (Source, error)
}

// Env is what the program gives every source.
type Env struct {
	Name  string       // of the source in the configuration
	Log   *slog.Logger // never nil
	Gates *Gates       // never nil
	// WantTags says that the provider's tags are used: kinds that have to ask
	// for them apart need not otherwise.
	WantTags bool
	// Rate, if set, is what every operation gets in place of the kind's own
	// rates.
	Rate Rate
}

// Scope describes the requests of this source. rates are the kind's.
func (e *Env) Scope(provider, account, region string, rates map[string]Rate) Scope {
	if e.Rate.PerSecond > 0 {
		rates = map[string]Rate{"": e.Rate}
	}
	return Scope{Source: e.Name, Provider: provider, Account: account, Region: region, Rates: rates}
}

// Check returns why c cannot be taken, or nil. Kinds need not check what they
// yield: the caller does.
func (c *Cert) Check() error {
	switch {
	case !word(c.Ref, MaxRef) || !word(c.Version, MaxVersion):
		return fault.New(fault.Invalid, "the provider's name of a certificate is empty, longer than %d bytes or not plain text: %.80q", MaxRef, c.Ref)
	case len(c.DER) > MaxCert:
		return fault.New(fault.TooLarge, "%.80q is longer than %d bytes", c.Ref, MaxCert)
	case len(c.Tags) > MaxTags:
		return fault.New(fault.TooLarge, "%.80q has more than %d tags", c.Ref, MaxTags)
	}
	return nil
}

// word reports whether s is text of 1 to limit bytes without control
// characters.
func word(s string, limit int) bool {
	return s != "" && len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// Pages guards the walk over the pages of a list: against a token that comes
// again, and against a list without an end.
type Pages struct {
	seen  map[string]bool
	count int
	items int
}

// Next notes a page of items that names the token of the next one, and returns
// an error when the list cannot be sound.
func (p *Pages) Next(items int, token string) error {
	p.count++
	p.items += items
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	switch {
	case p.items > MaxItems:
		return fault.New(fault.TooLarge, "the source has more than %d certificates; split it", MaxItems)
	case p.count > MaxPages:
		return fmt.Errorf("the list has more than %d pages", MaxPages)
	case len(token) > 64<<10:
		return fmt.Errorf("the token of the next page has %d bytes", len(token))
	case token != "" && p.seen[token]:
		return errors.New("the provider gives the same page again and again")
	}
	p.seen[token] = true
	return nil
}

// Fetch calls get for every certificate that is news, at most workers at once.
// An error of get ends the list; what is wrong with one certificate alone
// belongs into its Err.
func Fetch(ctx context.Context, certs []Cert, news []bool, workers int, get func(context.Context, *Cert) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i := range certs {
		if news[i] {
			g.Go(func() error { return get(ctx, &certs[i]) })
		}
	}
	return g.Wait()
}

// Page is one page of a list: certs as far as the list tells, and how the
// bytes of those that are news are got (nil: the list has them).
type Page struct {
	Certs []Cert
	Get   func(context.Context, *Cert) error
}

// workers is how many certificates of one source are fetched at once.
const workers = 8

// Yield completes a page and hands it on. more is false when the list ends
// here.
func (p *Page) Yield(ctx context.Context, since *Since, yield func(Cert, error) bool) (more bool) {
	items := make([]Item, len(p.Certs))
	for i := range p.Certs {
		items[i] = p.Certs[i].Item
	}
	news, err := since.Unknown(ctx, items)
	if err == nil && p.Get != nil {
		err = Fetch(ctx, p.Certs, news, workers, p.Get)
	}
	if err != nil {
		yield(Cert{}, err)
		return false
	}
	for i := range p.Certs {
		if !news[i] {
			p.Certs[i].DER = nil
		}
		if !yield(p.Certs[i], nil) {
			return false
		}
	}
	return true
}

// Unknown asks since which items are news; all of them without Since.Known.
func (s *Since) Unknown(ctx context.Context, items []Item) (news []bool, err error) {
	news = make([]bool, len(items))
	known := news
	if s.Known != nil {
		if known, err = s.Known(ctx, items); err != nil {
			return nil, err
		}
	}
	for i := range news {
		news[i] = !known[i]
	}
	return news, nil
}
