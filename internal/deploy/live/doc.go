// Package live keeps certificates in files that a server reads, and changes
// all of them with one rename. It is the common part of the targets whose
// server is configured with paths.
//
// Dir, say /etc/chancery/live, is a symbolic link:
//
//	/etc/chancery/live -> .live/v8
//	/etc/chancery/.live/v8/web-1 -> ../items/web-1.8      changed by batch 8
//	/etc/chancery/.live/v8/web-2 -> ../items/web-2.3      as batch 3 left it
//	/etc/chancery/.live/items/web-1.8/{fullchain.pem,privkey.pem}
//
// A batch writes the files of its own items and one directory of links, fsyncs
// them, and moves the one link. What it replaces stays until the server was
// seen to serve the new certificates.
//
// A journal in the target's State directory is written before each step that
// changes something outside of it. After a crash Recover reads it: a batch
// that was verified is finished, any other is undone.
package live
