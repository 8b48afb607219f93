// Package server is the ACME server: RFC 8555 and its extensions over HTTP,
// with the tables behind them.
package server
