// Package bench measures servers: load generators for ACME issuance, OCSP and
// HTTP APIs, the cost of signatures in this process, and the reports over all
// of them. It assumes nothing about the server but its protocol, so it
// measures foreign servers as well as our own.
//
// Run drives one Workload through a Plan: for each number of clients some
// rounds, each with a warm-up and a measured window. With a Plan.Rate the load
// is an open loop: operations start by the clock, whatever the server does,
// and latency counts from the intended start, so that a stalled server cannot
// hide its queue (no coordinated omission). Otherwise each client starts its
// next operation when the last one is done.
//
// What is quoted first is CPU per operation, because machines are shared and
// wall time is not. A Probe reads it for the server, for this process and for
// everybody else over exactly the measured window.
package bench
