// Command gen writes packaging/grafana/*.json; go generate ./packaging runs it.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"chancery/packaging"
)

func main() {
	for _, d := range packaging.Dashboards() {
		text, err := d.JSON()
		if err == nil {
			err = os.WriteFile(filepath.Join("grafana", d.UID+".json"), text, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
