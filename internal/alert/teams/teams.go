// Package teams is the channel for Microsoft Teams, by the webhook of a
// workflow ("Post to a channel when a webhook request is received"), as an
// Adaptive Card. The older Office 365 connectors are no longer made.
//
// Teams has nothing by which a message could be known again: one that was
// taken just when the program died comes twice. Its id is at its end.
package teams

import (
	"chancery/internal/alert"
	"chancery/internal/alert/post"
)

// Config is the configuration of a channel.
type Config struct {
	// File with the URL of the workflow's webhook, which is a secret.
	URLFile string `toml:"url_file"`
}

// Kind is the plug-in.
var Kind = alert.Kind{
	Name:   "teams",
	Doc:    "A channel of Microsoft Teams, by the webhook of a workflow.",
	Config: func() any { return &Config{} },
	Open:   open,
}

// colors are words of Adaptive Cards.
var colors = map[alert.Severity]string{alert.Info: "accent", alert.Warning: "warning", alert.Critical: "attention"}

func open(_ alert.Env, config any) (alert.Send, error) {
	return post.Webhook("url_file", config.(*Config).URLFile, payload)
}

// block is one block of text. TextRuns, and not TextBlocks: these read
// Markdown, which names of certificates are not.
func block(text string, more map[string]any) map[string]any {
	run := map[string]any{"type": "TextRun", "text": text}
	for name, value := range more {
		run[name] = value
	}
	return map[string]any{"type": "RichTextBlock", "inlines": []any{run}}
}

func payload(m *alert.Message) any {
	color := colors[m.Severity]
	if m.Event == alert.Resolve {
		color = "good"
	}
	body := []any{block(m.Title(), map[string]any{"weight": "bolder", "color": color})}
	for _, line := range m.Lines() {
		body = append(body, block(line, nil))
	}
	body = append(body, block(m.Instance+" | "+m.ID, map[string]any{"size": "small", "isSubtle": true}))
	card := map[string]any{"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": body,
		"actions": []any{map[string]string{"type": "Action.OpenUrl", "title": "Open", "url": m.URL}}}
	return map[string]any{"type": "message", "attachments": []any{map[string]any{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}}}
}
