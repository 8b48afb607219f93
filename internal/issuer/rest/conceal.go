package rest

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// concealed takes the place of a secret.
const concealed = "[hidden]"

// minSecret is the shortest text, in bytes, that is looked for: shorter ones
// occur in replies by chance.
const minSecret = 6

// plainHeaders are those of a request that hold nothing confidential. All
// others do: each API has a header of its own for its key.
var plainHeaders = []string{"Accept", "Accept-Encoding", "Content-Type", "User-Agent", "If-Match", "If-None-Match", "X-Amz-Date", "X-Amz-Content-Sha256"}

// sentSecrets returns what a request told in confidence: the values of headers
// that authorize it, and members of its body that are named like a secret.
func sentSecrets(r *http.Request, body []byte) []string {
	var out []string
	add := func(text string) {
		if len(text) >= minSecret && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	for name, values := range r.Header {
		if slices.Contains(plainHeaders, name) {
			continue
		}
		for _, v := range values {
			add(v)
			if scheme, rest, ok := strings.Cut(v, " "); ok && !strings.Contains(scheme, "=") {
				add(rest)
			}
		}
	}
	if _, password, ok := r.BasicAuth(); ok {
		add(password)
	}
	for name, v := range members(r, body) {
		if secretName(name) {
			add(v)
		}
	}
	// Longest first, so that no part of one is left when it holds another.
	slices.SortFunc(out, func(a, b string) int { return len(b) - len(a) })
	return out
}

// members are the texts at the top of a JSON object, or of a form.
func members(r *http.Request, body []byte) map[string]string {
	out := map[string]string{}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil
		}
		for name := range form {
			out[name] = form.Get(name)
		}
		return out
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil {
		return nil
	}
	for name, raw := range object {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			out[name] = text
		}
	}
	return out
}

func secretName(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"secret", "password", "token", "api_key", "apikey"}, func(part string) bool { return strings.Contains(name, part) })
}

// conceal takes secrets out of a text, as they are and in the encodings in
// which a reply may repeat them.
func conceal(text string, secrets []string) string {
	for _, s := range secrets {
		once := quoted(s)
		for _, form := range []string{quoted(once), once, s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s)), base64.RawURLEncoding.EncodeToString([]byte(s))} {
			text = strings.ReplaceAll(text, form, concealed)
		}
	}
	return text
}

// quoted is a text as JSON has it between quotation marks.
func quoted(s string) string {
	text, err := json.Marshal(s)
	if err != nil { // no string fails
		return s
	}
	return string(text[1 : len(text)-1])
}
