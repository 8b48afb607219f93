package ctwatch

import "strings"

// matcher finds out whether a name is one of our domains or below one. It is a
// tree over labels, the last one first: most foreign names are told apart at
// their second label. It is never changed once it is in use.
type matcher struct {
	root  node
	count int
}

type node struct {
	next map[string]*node
	ours bool // the name up to here is one of our domains
}

// newMatcher returns a matcher of domains, in lower case.
func newMatcher(domains []string) *matcher {
	m := &matcher{}
	for _, d := range domains {
		at := &m.root
		for rest := strings.Trim(d, "."); rest != ""; {
			i := strings.LastIndexByte(rest, '.')
			label := rest[i+1:]
			if rest = rest[:max(i, 0)]; at.next == nil {
				at.next = map[string]*node{}
			}
			if at.next[label] == nil {
				at.next[label] = &node{}
			}
			at = at.next[label]
		}
		if at != &m.root && !at.ours {
			at.ours = true
			m.count++
		}
	}
	return m
}

// maxLabel is the longest label of a DNS name (RFC 1035 section 2.3.4).
const maxLabel = 63

// match reports whether name is ours.
func (m *matcher) match(name []byte) bool {
	at := &m.root
	var lower [maxLabel]byte
	for len(name) > 0 {
		i := len(name)
		for i > 0 && name[i-1] != '.' {
			i--
		}
		label := name[i:]
		if name = name[:max(i-1, 0)]; len(label) == 0 && at == &m.root {
			continue // a final dot
		}
		if len(label) > maxLabel {
			return false
		}
		for j, c := range label {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			lower[j] = c
		}
		next := at.next[string(lower[:len(label)])]
		if next == nil {
			return false
		}
		if at = next; at.ours {
			return true
		}
	}
	return false
}
