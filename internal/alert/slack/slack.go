// Package slack is the channel for Slack, by an incoming webhook.
//
// Slack has nothing by which a message could be known again: one that was
// taken just when the program died comes twice. Its id is in the footer.
package slack

import (
	"strings"

	"chancery/internal/alert"
	"chancery/internal/alert/post"
)

// Config is the configuration of a channel.
type Config struct {
	// File with the URL of the incoming webhook, which is a secret.
	URLFile string `toml:"url_file"`
}

// Kind is the plug-in.
var Kind = alert.Kind{
	Name:   "slack",
	Doc:    "A channel of Slack, by an incoming webhook.",
	Config: func() any { return &Config{} },
	Open:   open,
}

// colors mark severities; what is over is green.
var colors = map[alert.Severity]string{alert.Info: "#439fe0", alert.Warning: "#daa038", alert.Critical: "#a30200"}

const colorResolved = "#2eb886"

// maxBlock is the most text of one block, in bytes; Slack takes 3000
// characters.
const maxBlock = 2900

// escape is what Slack wants to be escaped, and nothing else.
var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func open(_ alert.Env, config any) (alert.Send, error) {
	return post.Webhook("url_file", config.(*Config).URLFile, payload)
}

func payload(m *alert.Message) any {
	color := colors[m.Severity]
	if m.Event == alert.Resolve {
		color = colorResolved
	}
	text := escape.Replace(strings.Join(m.Lines(), "\n"))
	if len(text) > maxBlock {
		text = strings.ToValidUTF8(text[:maxBlock], "") + "..."
	}
	section := func(kind, text string) map[string]any {
		return map[string]any{"type": "section", "text": map[string]string{"type": kind, "text": text}}
	}
	foot := map[string]any{"type": "context", "elements": []map[string]string{{"type": "mrkdwn", "text": escape.Replace(m.Instance + " | " + m.URL + " | " + m.ID)}}}
	return map[string]any{"text": escape.Replace(m.Title()), "attachments": []map[string]any{{"color": color, "blocks": []any{section("mrkdwn", text), foot}}}}
}
