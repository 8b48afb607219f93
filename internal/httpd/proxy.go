package httpd

import (
	"net/http"
	"net/netip"
	"strings"
)

// clientIP returns who sent the request. The peer's address counts, unless it
// is a trusted proxy: then X-Forwarded-For is read from the right, skipping
// trusted proxies, and the first stranger is the client. Whatever stands left
// of that was written by the stranger.
func clientIP(r *http.Request, trusted []netip.Prefix) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // a unix socket has no address
	}
	ip := peer.Addr().Unmap().WithZone("")
	if len(trusted) == 0 || !isTrusted(ip, trusted) {
		return ip
	}
	lines := r.Header.Values("X-Forwarded-For")
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; {
			var hop string
			rest, hop, more = cutLast(rest)
			next, err := netip.ParseAddr(strings.TrimSpace(hop))
			if err != nil {
				return ip // garbage: the last hop we could verify
			}
			if ip = next.Unmap().WithZone(""); !isTrusted(ip, trusted) {
				return ip
			}
		}
	}
	return ip
}

// cutLast splits s at its last comma.
func cutLast(s string) (rest, last string, more bool) {
	if i := strings.LastIndexByte(s, ','); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return "", s, false
}

// isTrusted reports whether ip belongs to one of the prefixes.
func isTrusted(ip netip.Addr, trusted []netip.Prefix) bool {
	for _, p := range trusted {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
