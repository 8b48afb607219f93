package challenge

import "strconv"

// maxQuote bounds foreign text in a message, in bytes before escaping.
const maxQuote = 80

// quote returns s in double quotes, ASCII only, at most maxQuote bytes of it.
// Every foreign byte in a public text goes through here, so that an answer can
// neither inject markup, terminal codes or log lines, nor leak at length.
func quote(s string) string {
	if len(s) > maxQuote {
		return strconv.QuoteToASCII(s[:maxQuote]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
