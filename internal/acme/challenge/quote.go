package challenge

import (
	"strconv"
	"strings"
)

// maxQuote bounds foreign text in a message, in bytes before escaping.
const maxQuote = 80

// quote returns s in double quotes: ASCII only, at most maxQuote bytes of it,
// control and mark-up characters escaped. Every foreign byte in a public text
// goes through here, so that an answer can neither inject mark-up, terminal
// codes or log lines, nor leak at length.
func quote(s string) string {
	more := ""
	if len(s) > maxQuote {
		s, more = s[:maxQuote], "..."
	}
	return markup.Replace(strconv.QuoteToASCII(s)) + more
}

var markup = strings.NewReplacer("<", `\x3c`, ">", `\x3e`, "&", `\x26`)
