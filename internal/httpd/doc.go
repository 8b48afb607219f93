// Package httpd is the HTTP platform under every edge: listeners and TLS,
// time-outs and body caps, request ids, one wide log event per request,
// recovery from panics, and the only place that writes a reply.
//
// A handler is func(*Request) (*Reply, error). It computes and returns; it
// never touches a ResponseWriter. Errors become problem documents (RFC 7807)
// in one place: a *fault.Error shows its public text, anything else is logged
// and shown as a bare internal error.
package httpd
