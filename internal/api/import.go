package api

import (
	"context"

	"chancery/internal/inventory"
	"chancery/internal/inventory/importer"
)

// maxImport bounds the body of an import, in bytes: a file of 12 MiB in
// base64. Larger ones are imported from a watched directory.
const maxImport = 17 << 20

type importInput struct {
	Body struct {
		Name        string            `json:"name" minLength:"1" maxLength:"255" doc:"Name of the file; tables end in .csv"`
		Data        []byte            `json:"data" doc:"The file, in base64; at most 12 MiB"`
		Owner       string            `json:"owner,omitempty" maxLength:"255" doc:"For certificates that have none; likewise the next two"`
		Team        string            `json:"team,omitempty" maxLength:"255"`
		Environment string            `json:"environment,omitempty" maxLength:"255"`
		Tags        map[string]string `json:"tags,omitempty"`
		Passwords   []string          `json:"passwords,omitempty" maxItems:"8" doc:"Tried for PKCS#12, besides the empty one and changeit"`
	}
}

// Import is what an import did.
type Import struct {
	Format   string    `json:"format" doc:"pem, der, pkcs12, jks or csv"`
	New      int       `json:"new"`
	Changed  int       `json:"changed" doc:"Known certificates that the file told something new about"`
	Known    int       `json:"known"`
	Assigned int64     `json:"assigned" doc:"Certificates that the rows of a table changed"`
	Keys     int       `json:"keys_dropped" doc:"Private keys that were in the file"`
	Refused  []Refused `json:"refused" nullable:"false" doc:"The rest was imported; the first 1000"`
}

// Refused is an item that was not taken.
type Refused struct {
	Item   string `json:"item"`
	Detail string `json:"detail"`
}

// maxRefused bounds the refusals of one answer.
const maxRefused = 1000

func (s *Server) importCertificates(ctx context.Context, in *importInput) (*bodyOf[Import], error) {
	b := &in.Body
	rep, err := importer.Import(ctx, s.cfg.Inventory, b.Name, b.Data, importer.Options{Owner: b.Owner, Team: b.Team, Environment: b.Environment,
		Tags: b.Tags, Passwords: b.Passwords, SeenAt: now()}, actorOf(ctx), now())
	if err != nil {
		return nil, err
	}
	return &bodyOf[Import]{Import{Format: string(rep.Format), New: rep.New, Changed: rep.Changed, Known: rep.Known, Assigned: rep.Assigned, Keys: rep.Keys,
		Refused: viewRefused(rep.Refused)}}, nil
}

func viewRefused(list []inventory.ItemError) []Refused {
	out := make([]Refused, 0, min(len(list), maxRefused))
	for _, r := range list[:min(len(list), maxRefused)] {
		out = append(out, Refused{r.Item, publicDetail(r.Err)})
	}
	return out
}
