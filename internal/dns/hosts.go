package dns

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
)

// maxHostsLines bounds a hosts file; block lists of 100,000 lines are common.
const maxHostsLines = 1 << 20

// hosts is the names that are never asked in DNS. A key "*.example" covers
// every name below example, but not example itself.
type hosts map[string][]netip.Addr

// newHosts checks the names of the configuration and adds the hosts file under them.
func newHosts(static map[string][]netip.Addr, file string) (hosts, error) {
	h := make(hosts, len(static))
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("open hosts file: %w", err)
		}
		defer f.Close()
		if err := h.read(f); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
	}
	for name, addrs := range static {
		key := normalize(strings.TrimPrefix(name, "*."))
		if key == "" {
			return nil, fmt.Errorf("read static hosts: %q is not a host name", name)
		}
		if strings.HasPrefix(name, "*.") {
			key = "*." + key
		}
		h[key] = addrs
	}
	return h, nil
}

// read adds the lines of a hosts file: an address, then names. Unlike libc it
// does not skip what it cannot read: an unreadable line is an error.
func (h hosts) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil || len(fields) < 2 || n > maxHostsLines {
			return fmt.Errorf("line %d: want an address and at least one name", n)
		}
		for _, f := range fields[1:] {
			name := normalize(f)
			if name == "" {
				return fmt.Errorf("line %d: %q is not a host name", n, f)
			}
			h[name] = append(h[name], addr.WithZone(""))
		}
	}
	return lines.Err()
}

// find returns the addresses of name and whether h covers it.
func (h hosts) find(name string) ([]netip.Addr, bool) {
	if len(h) == 0 {
		return nil, false
	}
	if addrs, ok := h[name]; ok {
		return addrs, true
	}
	for up := parent(name); up != ""; up = parent(up) {
		if addrs, ok := h["*."+up]; ok {
			return addrs, true
		}
	}
	return nil, false
}
