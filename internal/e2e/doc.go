// Package e2e holds no code: its tests build the program and run it as a user
// would, against software that others wrote, against crashes and against
// outages. docs/testing.md says what each suite proves and how to run it.
package e2e
