package app

import (
	"maps"
	"os"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// weakKeys reads the files of acme.weak_key_files.
func weakKeys(files []string) (pki.WeakKeys, error) {
	all := pki.WeakKeys{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, fault.Wrap(err, fault.Precondition, "acme.weak_key_files: %v", err)
		}
		keys, err := pki.ParseWeakKeys(f)
		f.Close()
		if err != nil {
			return nil, fault.Wrap(err, fault.Precondition, "acme.weak_key_files: %s: %v", name, err)
		}
		maps.Copy(all, keys)
	}
	return all, nil
}
