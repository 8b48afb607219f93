// Package obs makes the program observable: structured logs that carry the
// request they belong to, a private metric registry, W3C trace context, and a
// private debug listener (metrics, health, profiles, build information).
//
// Nothing here is global. The composition root makes one Metrics and one
// logger and hands them down; tests make their own.
package obs
