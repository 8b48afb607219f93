// Command gen writes docs/openapi.yaml from the operations of the API.
package main

import (
	"fmt"
	"os"

	"chancery/internal/api"
)

func main() {
	if err := write("../../docs/openapi.yaml"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(path string) error {
	s, err := api.New(api.Config{})
	if err != nil {
		return err
	}
	text, err := s.OpenAPI()
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
