// Command gen writes docs/config.md from the comments of package config. It
// runs in that package's directory, by go generate.
package main

import (
	"fmt"
	"os"

	"chancery/internal/config"
)

func main() {
	text, err := config.Manual()
	if err == nil {
		err = os.WriteFile("../../docs/config.md", []byte(text), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}
