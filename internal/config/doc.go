// Package config reads what an operator sets: a TOML file, overlaid by the
// environment. It is strict, so that a slip never silently means the default:
// an unknown key, a wrong type or a value out of range is one line that names
// file, line and key. It opens nothing but the file itself; Check says
// whether the parts fit together.
package config
