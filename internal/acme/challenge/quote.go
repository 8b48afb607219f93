package challenge

import (
	"strconv"
	"strings"
)

// Bounds of foreign text in a message, in bytes before escaping.
const (
	maxQuote = 100
	maxURL   = 400 // a 253 octet name, the path and the token
)

// quote returns s in double quotes: ASCII only, at most maxQuote bytes of it,
// control and mark-up characters escaped. Every foreign byte in a public text
// goes through here, so that an answer can neither inject mark-up, terminal
// codes or log lines, nor leak at length.
func quote(s string) string { return quoteUpTo(maxQuote, s) }

// quoteURL is quote for URLs, which are of use only when nearly whole.
func quoteURL(s string) string { return quoteUpTo(maxURL, s) }

func quoteUpTo(limit int, s string) string {
	more := ""
	if len(s) > limit {
		s, more = s[:limit], "..."
	}
	return markup.Replace(strconv.QuoteToASCII(s)) + more
}

var markup = strings.NewReplacer("<", `\x3c`, ">", `\x3e`, "&", `\x26`)
