package api

import (
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// adapter collects operations; Routes mounts them.
type adapter struct{ s *Server }

// Handle implements huma.Adapter.
func (a adapter) Handle(op *huma.Operation, h func(huma.Context)) {
	a.s.routes = append(a.s.routes, route{op: op, access: accessTable[op.OperationID], handle: h})
}

// ServeHTTP implements huma.Adapter. Requests come through Routes only.
func (a adapter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "routes are served by httpd.Server only", http.StatusInternalServerError)
}

func newContext(op *huma.Operation, r *http.Request, w http.ResponseWriter) huma.Context {
	return humago.NewContext(op, r, w)
}

// jsonFormat encodes without HTML escapes, and decodes strictly: a repeated
// member or bad UTF-8 is an error.
var jsonFormat = huma.Format{
	Marshal:   marshal,
	Unmarshal: func(b []byte, v any) error { return json.Unmarshal(b, v) },
}

func marshal(w io.Writer, v any) error {
	a, ok := v.(appender)
	if !ok {
		return json.MarshalWrite(w, v)
	}
	buf := bodyBuffers.Get().(*[]byte)
	defer bodyBuffers.Put(buf)
	body, err := a.appendJSON((*buf)[:0])
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if cap(body) <= maxBuffer {
		*buf = body
	}
	_, err = w.Write(body) // which keeps nothing of it
	return err
}

// maxBuffer bounds, in octets, what is kept of a body for the next one: a page
// of 1,000 certificates fits.
const maxBuffer = 1 << 20

var bodyBuffers = sync.Pool{New: func() any { return new([]byte) }}

// newHuma configures the library that turns functions into operations.
func newHuma(s *Server) huma.API {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	cfg := huma.DefaultConfig("Chancery", "1")
	cfg.Info.Description = "The control plane of Chancery. Lists are keyset-paged: pass `next` as `cursor` for the next page."
	cfg.Components = &huma.Components{
		Schemas: registry,
		SecuritySchemes: map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer", Description: "A token made by `chancery config token create`."},
			"session": {Type: "apiKey", In: "cookie", Name: cookieName, Description: "A browser's sign-in. What changes something also needs the header X-CSRF-Token, as get-session gives it."}},
	}
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", "", nil
	cfg.Formats = map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat}
	cfg.RejectUnknownQueryParameters = true
	cfg.Transformers = []huma.Transformer{s.transform}
	return huma.NewAPI(cfg, adapter{s})
}
