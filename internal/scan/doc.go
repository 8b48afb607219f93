// Package scan examines the TLS endpoints of an estate.
//
// Targets pass through stages: resolve, admit, connect and shake hands, judge,
// deliver. Every stage is bounded, and waiting in one never holds a place in
// another: names are resolved ahead of admission, a target that must wait for
// its address holds no connection, and results wait in a queue that no
// connection waits for. A slow sink slows admission; nothing is dropped, and
// the summary accounts for every target.
package scan
