package app

import (
	"bytes"
	"html/template"
	"maps"
	"slices"

	"chancery/internal/httpd"
)

// home is the page at the root of the HTTPS listener: where everything is.
var home = template.Must(template.New("home").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Chancery</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem}code{word-break:break-all}dt{font-weight:600;margin-top:.8rem}dd{margin:0}
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e6e6e6}a{color:#8ab4f8}}</style>
<h1>Chancery</h1>
<dl>
{{range .CAs}}<dt>ACME directory of {{.Name}}</dt><dd><a href="{{.URL}}"><code>{{.URL}}</code></a></dd>
{{end}}<dt>Trust anchors</dt><dd><a href="/root.pem"><code>root.pem</code></a></dd>
<dt>API</dt><dd><a href="{{.API}}/openapi.yaml"><code>{{.API}}</code></a></dd>
</dl>
</html>
`))

// homeCA is one line of the page.
type homeCA struct{ Name, URL string }

// homeRoutes adds the page and the trust anchors.
func (a *App) homeRoutes(mux *httpd.Mux) {
	g := mux.Group(httpd.OwnTypes, nil)
	g.Handle("GET /{$}", func(r *httpd.Request) (*httpd.Reply, error) {
		view := struct {
			CAs []homeCA
			API string
		}{API: a.where().API}
		for _, name := range slices.Sorted(maps.Keys(a.cfg.CA)) {
			view.CAs = append(view.CAs, homeCA{name, a.cfg.Server.URL + "/acme/" + name + "/directory"})
		}
		var b bytes.Buffer
		if err := home.Execute(&b, view); err != nil {
			return nil, err
		}
		r.SetHeader("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		r.SetHeader("X-Content-Type-Options", "nosniff")
		return httpd.Bytes("text/html; charset=utf-8", b.Bytes()), nil
	})
	g.Handle("GET /root.pem", func(*httpd.Request) (*httpd.Reply, error) {
		return httpd.Bytes("application/pem-certificate-chain", rootPEM(a.ca)), nil
	})
}
