// Command build rebuilds web/dist: go generate ./web.
package main

import (
	"log"
	"os"
	"path/filepath"

	"chancery/web/bundle"
)

func main() {
	files, err := bundle.Build(".")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.MkdirAll("dist", 0o755); err != nil {
		log.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join("dist", name), text, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
