package app

import (
	"encoding/json"
	"os"

	"chancery/web"
)

// Ready says where a running program can be reached. Its JSON is what
// --ready-file holds; scripts rely on the names.
type Ready struct {
	Directory string `json:"directory"` // ACME directory of the first CA
	API       string `json:"api"`
	UI        string `json:"ui"`
	OCSP      string `json:"ocsp"`
	CRL       string `json:"crl"`
	Root      string `json:"root"`  // file with the trust anchors
	Token     string `json:"token"` // file with the administrator's API token
	Metrics   string `json:"metrics,omitempty"`
	PID       int    `json:"pid"`

	// Chaos says what goes wrong on purpose (--chaos); "" on every server that
	// anybody relies on.
	Chaos string `json:"chaos,omitempty"`
}

// announce writes the ready files and tells the caller.
func (a *App) announce(listeners []listener) error {
	r := a.where()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	// One copy stays in the data directory, so that commands given only
	// --data find the server.
	if err := writeFile(a.paths.ready(), b, 0o644); err != nil {
		return err
	}
	if a.opts.ReadyFile != "" {
		if err := writeFile(a.opts.ReadyFile, b, 0o644); err != nil {
			return err
		}
	}
	for _, l := range listeners {
		a.log.Info("listening", "name", l.name, "addr", l.ln.Addr().String())
	}
	if a.opts.OnReady != nil {
		a.opts.OnReady(r)
	}
	return nil
}

func (a *App) where() Ready {
	name := firstCA(a.cfg)
	r := Ready{
		Directory: a.cfg.Server.URL + "/acme/" + name + "/directory",
		API:       a.cfg.Server.URL + "/api/v1",
		UI:        a.cfg.Server.URL + web.Prefix,
		Root:      a.paths.root(),
		Token:     a.paths.adminToken(),
		PID:       os.Getpid(),
	}
	if issuing, err := a.ca.Issuing(name); err == nil {
		r.OCSP = a.ca.URLs().OCSP(issuing)
		r.CRL = a.ca.URLs().CRL(issuing, 0)
	}
	if a.opts.Chaos != nil {
		r.Chaos = a.opts.Chaos.String()
	}
	if a.cfg.Server.DebugListen != "" {
		r.Metrics = "http://" + a.cfg.Server.DebugListen + "/metrics"
	}
	return r
}
