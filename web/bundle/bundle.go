// Package bundle makes the files that a browser loads from the sources of the
// UI, with nothing but Go: esbuild's own API over TypeScript and vendored
// libraries.
package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/evanw/esbuild/pkg/api"
)

// libraries are the import names that the sources use, and the vendored files
// behind them.
var libraries = map[string]string{
	"preact":               "preact.mjs",
	"preact/hooks":         "preact-hooks.mjs",
	"preact/jsx-runtime":   "preact-jsx-runtime.mjs",
	"@preact/signals-core": "signals-core.mjs",
	"@preact/signals":      "signals.mjs",
}

// Build bundles the UI in dir (web/) and returns its files by name. The same
// sources give the same bytes on every machine.
func Build(dir string) (map[string][]byte, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	alias := map[string]string{}
	for name, file := range libraries {
		alias[name] = filepath.Join(dir, "vendor", file)
	}
	result := api.Build(api.BuildOptions{
		AbsWorkingDir:       dir,
		EntryPointsAdvanced: []api.EntryPoint{{InputPath: "src/main.tsx", OutputPath: "app"}},
		Outdir:              "dist",
		Bundle:              true,
		Format:              api.FormatESModule,
		Target:              api.ES2022,
		JSX:                 api.JSXAutomatic,
		JSXImportSource:     "preact",
		Alias:               alias,
		MinifyWhitespace:    true,
		MinifyIdentifiers:   true,
		MinifySyntax:        true,
		LegalComments:       api.LegalCommentsNone, // the licences are in vendor/
		Charset:             api.CharsetUTF8,
		LogLevel:            api.LogLevelSilent,
		TsconfigRaw:         `{"compilerOptions":{"strict":true}}`,
	})
	var errs []error
	for _, m := range append(result.Errors, result.Warnings...) {
		where := ""
		if m.Location != nil {
			where = fmt.Sprintf("%s:%d: ", m.Location.File, m.Location.Line)
		}
		errs = append(errs, errors.New(where+m.Text))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	files := map[string][]byte{}
	for _, f := range result.OutputFiles {
		files[filepath.Base(f.Path)] = f.Contents
	}
	for _, name := range []string{"index.html", "icon.svg"} {
		if files[name], err = os.ReadFile(filepath.Join(dir, "src", name)); err != nil {
			return nil, fmt.Errorf("read static file: %w", err)
		}
	}
	return files, nil
}
