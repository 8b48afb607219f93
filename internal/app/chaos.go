package app

import (
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"

	"chancery/internal/config"
)

// RunningChaos returns what goes wrong on purpose in the server that runs on the
// data directory of cfg now; "" if none runs, or it behaves.
func RunningChaos(cfg *config.Config) string {
	dir, err := filepath.Abs(cfg.Server.Data)
	if err != nil {
		return ""
	}
	text, err := os.ReadFile(paths{dir}.ready())
	var r Ready
	if err != nil || json.Unmarshal(text, &r) != nil || r.PID <= 1 || syscall.Kill(r.PID, 0) != nil {
		return ""
	}
	return r.Chaos
}
