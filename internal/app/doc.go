// Package app composes the program: New opens what a configuration names, Run
// serves until its context ends. It holds no rules of its own.
package app
