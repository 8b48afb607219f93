package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/acme/server"
	"chancery/internal/config"
	"chancery/internal/fault"
	"chancery/internal/limit"
)

// Limit is a rate limit of the ACME server.
type Limit struct {
	Name string `json:"name"`
	By   string `json:"by" doc:"What it counts by: account, address, registered domain, ..."`
	Rate string `json:"rate" doc:"As configured: 300 per 3h, 300 per 3h burst 50, or unlimited"`
}

// Override is the rate of one key of a limit, in place of the configured one.
type Override struct {
	Limit     string     `json:"limit"`
	Key       string     `json:"key" doc:"What the limit counts by"`
	Rate      string     `json:"rate" doc:"300 per 3h, 300 per 3h burst 50, unlimited, or denied"`
	Note      string     `json:"note,omitempty"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"It has no effect from then on"`
}

func (s *Server) limits() {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/acme/limits" + path, Summary: summary, DefaultStatus: status, Tags: []string{"ACME"}}
	}
	register(s, op("list-limits", http.MethodGet, "", "List the rate limits and what each counts by", 200), s.listLimits)
	register(s, op("list-limit-overrides", http.MethodGet, "/overrides", "List the rates of single keys, also those that expired", 200), s.listOverrides)
	register(s, op("put-limit-override", http.MethodPut, "/{id}/override", "Give one key of a limit a rate of its own; it holds on every replica within seconds", 200), s.putOverride)
	register(s, op("delete-limit-override", http.MethodDelete, "/{id}/override", "Let the configured rate hold for a key again", 204), s.dropOverride)
}

func (s *Server) listLimits(_ context.Context, in *ListInput) (*pageOf[Limit], error) {
	return pageOfAll(s.cfg.ACME.Limits().List(), in, func(l *server.Limit) string { return l.Name }, func(l *server.Limit) Limit {
		return Limit{l.Name, l.By, rateText(l.Rate)}
	})
}

func viewOverride(o *server.Override) Override {
	return Override{Limit: o.Limit, Key: o.Key, Rate: rateText(o.Rate), Note: o.Note, CreatedAt: o.CreatedAt, ExpiresAt: instant(o.ExpiresAt)}
}

// overrideSeparator ends the limit in a cursor; no limit has it in its name.
const overrideSeparator = " "

func (s *Server) listOverrides(ctx context.Context, in *ListInput) (*pageOf[Override], error) {
	after, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	name, key, _ := strings.Cut(after, overrideSeparator)
	rows, err := server.ListOverrides(ctx, s.cfg.DB.Read(), name, key, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(o *server.Override) string { return o.Limit + overrideSeparator + o.Key }, viewOverride), nil
}

type putOverrideInput struct {
	ID   string `path:"id" maxLength:"64" doc:"Name of the limit"`
	Body struct {
		Key     string `json:"key" minLength:"1" maxLength:"512" doc:"Account id or URL, address, network, or names: what the limit counts by. A name stands for its registered domain where that is counted"`
		Rate    string `json:"rate" minLength:"1" maxLength:"64" doc:"300 per 3h, 300 per 3h burst 50, unlimited, or denied"`
		Note    string `json:"note,omitempty" maxLength:"500" doc:"Why"`
		Expires string `json:"expires,omitempty" maxLength:"32" doc:"How long it holds, such as 7d; for ever when it is not given"`
	}
}

func (s *Server) putOverride(ctx context.Context, in *putOverrideInput) (*bodyOf[Override], error) {
	rate, err := parseRate(in.Body.Rate)
	if err != nil {
		return nil, err
	}
	life, err := parsePeriod(in.Body.Expires)
	if err != nil {
		return nil, err
	}
	o := server.Override{Limit: in.ID, Key: in.Body.Key, Rate: rate, Note: in.Body.Note}
	if life > 0 {
		o.ExpiresAt = now().Add(life)
	}
	if o, err = s.cfg.ACME.PutOverride(ctx, o, actorOf(ctx), now()); err != nil {
		return nil, err
	}
	return &bodyOf[Override]{viewOverride(&o)}, nil
}

type dropOverrideInput struct {
	ID  string `path:"id" maxLength:"64" doc:"Name of the limit"`
	Key string `query:"key" required:"true" minLength:"1" maxLength:"512" doc:"Key of the override, as the list shows it"`
}

func (s *Server) dropOverride(ctx context.Context, in *dropOverrideInput) (*struct{}, error) {
	return nil, s.cfg.ACME.DropOverride(ctx, in.ID, in.Key, actorOf(ctx), now())
}

// denied is the rate of a key that may do nothing.
const denied = "denied"

// parseRate reads a rate as the configuration writes it, or denied.
func parseRate(text string) (limit.Rate, error) {
	if text == denied {
		return limit.Rate{Deny: true}, nil
	}
	r, err := config.ParseRate(text)
	if err != nil {
		return limit.Rate{}, fault.Wrap(err, fault.Invalid, "%.64q is not a rate; write one such as \"300 per 3h\", \"300 per 3h burst 50\", \"unlimited\" or \"denied\"", text)
	}
	return limit.Rate{Count: r.Count, Per: r.Per, Burst: r.Burst}, nil
}

// rateText is the inverse of parseRate.
func rateText(r limit.Rate) string {
	if r.Deny {
		return denied
	}
	return config.Rate{Count: r.Count, Per: r.Per, Burst: r.Burst}.String()
}
