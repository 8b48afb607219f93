// Package house holds no code: its tests read the whole module and check the
// conventions of CONTRIBUTING.md. Each failure says what to do.
package house
