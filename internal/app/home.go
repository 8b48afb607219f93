package app

import (
	"net/http"

	"chancery/internal/httpd"
	"chancery/web"
)

// homeRoutes adds the UI, where the root of the HTTPS listener leads, and the
// trust anchors.
func (a *App) homeRoutes(mux *httpd.Mux) error {
	ui, err := web.Handler()
	if err != nil {
		return err
	}
	g := mux.Group(httpd.OwnTypes, nil)
	g.HandleStd("GET "+web.Prefix, ui, 1<<10)
	g.Handle("GET /{$}", func(r *httpd.Request) (*httpd.Reply, error) {
		return httpd.Redirect(r, http.StatusFound, web.Prefix), nil
	})
	g.Handle("GET /root.pem", func(*httpd.Request) (*httpd.Reply, error) {
		return httpd.Bytes("application/pem-certificate-chain", rootPEM(a.ca)), nil
	})
	return nil
}
