package scan

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"chancery/internal/fault"
	"chancery/internal/scan/probe"
)

// State is a file that remembers a pass: a scan that was interrupted goes on
// from it, and the next pass learns from it which endpoints failed. It holds
// one JSON line per delivered result and a last one when the pass is complete.
// A torn last line, of a crash, is dropped: that target is scanned again.
type State struct {
	file   *os.File
	out    *bufio.Writer
	done   map[string]bool // by Target.String; true: failed
	resume bool
}

// stateLine is one line. The first one names the format.
type stateLine struct {
	Format   string      `json:"format,omitempty"`
	Target   string      `json:"target,omitempty"`
	Class    probe.Class `json:"class,omitempty"`
	Complete bool        `json:"complete,omitempty"`
}

const (
	stateFormat   = "chancery-scan-1"
	maxStateLine  = 4096
	stateFileMode = 0o600 // it lists an estate
)

// OpenState opens or creates the file. If it holds an unfinished pass, its
// targets count as done; if a finished one, a new pass begins, in which those
// that failed are suspects.
func OpenState(path string) (*State, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, stateFileMode)
	if err != nil {
		return nil, fmt.Errorf("open scan state: %w", err)
	}
	s := &State{file: f, done: make(map[string]bool)}
	if err := s.load(path); err != nil {
		f.Close()
		return nil, err
	}
	s.out = bufio.NewWriter(f)
	return s, nil
}

// load reads the file and leaves it ready to be appended to.
func (s *State) load(path string) error {
	lines := bufio.NewReaderSize(s.file, maxStateLine)
	complete, first := false, true
	var end int64
	for {
		text, err := lines.ReadSlice('\n')
		if err != nil {
			if len(text) == maxStateLine {
				return notState(path)
			}
			break // a torn line, or the end
		}
		var line stateLine
		if json.Unmarshal(text, &line) != nil || first && line.Format != stateFormat {
			return notState(path)
		}
		first = false
		end += int64(len(text))
		complete = complete || line.Complete
		if line.Target != "" {
			s.done[line.Target] = line.Class != probe.OK
		}
	}
	if first && end == 0 {
		if info, err := s.file.Stat(); err == nil && info.Size() > maxStateLine {
			return notState(path)
		}
	}
	s.resume = !complete && len(s.done) > 0
	if !s.resume {
		return s.restart()
	}
	return s.cut(end)
}

func notState(path string) error {
	return fault.New(fault.Invalid, "%s is not the state of a scan; name another file, or remove it", path)
}

// cut drops what follows the last whole line.
func (s *State) cut(end int64) error {
	if err := s.file.Truncate(end); err != nil {
		return fmt.Errorf("write scan state: %w", err)
	}
	if _, err := s.file.Seek(end, 0); err != nil {
		return fmt.Errorf("write scan state: %w", err)
	}
	return nil
}

// restart empties the file for a new pass.
func (s *State) restart() error {
	if err := s.cut(0); err != nil {
		return err
	}
	_, err := s.file.WriteString(`{"format":"` + stateFormat + `"}` + "\n")
	if err != nil {
		return fmt.Errorf("write scan state: %w", err)
	}
	return nil
}

// Resumed reports whether the file held an unfinished pass, and how many
// targets of it.
func (s *State) Resumed() (bool, int) {
	if !s.resume {
		return false, 0
	}
	return true, len(s.done)
}

// skip reports whether t was done in the unfinished pass.
func (s *State) skip(t Target) bool {
	if s == nil || !s.resume {
		return false
	}
	_, ok := s.done[t.String()]
	return ok
}

// suspect reports whether t failed in the finished pass before.
func (s *State) suspect(t Target) bool {
	return s != nil && !s.resume && s.done[t.String()]
}

// record notes results that were delivered.
func (s *State) record(batch []Result) error {
	if s == nil {
		return nil
	}
	for i := range batch {
		text, err := json.Marshal(stateLine{Target: batch[i].Target.String(), Class: batch[i].Class})
		if err != nil {
			return fmt.Errorf("write scan state: %w", err)
		}
		s.out.Write(append(text, '\n'))
	}
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write scan state: %w", err)
	}
	return nil
}

// finish notes that the pass is complete.
func (s *State) finish() error {
	if s == nil {
		return nil
	}
	s.out.WriteString(`{"complete":true}` + "\n")
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write scan state: %w", err)
	}
	return nil
}

// Close closes the file, on disk.
func (s *State) Close() error {
	err := errors.Join(s.out.Flush(), s.file.Sync(), s.file.Close())
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("close scan state: %w", err)
	}
	return nil
}
