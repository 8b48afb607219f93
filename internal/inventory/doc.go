// Package inventory knows every certificate there is: issued here, imported,
// or seen by a probe. It holds what people ask for (who owns it, which names,
// where it is served, when it ends) and answers searches, counts and edits in
// a bounded time whatever the size of the estate.
//
// # Reading
//
// A query is text for people (Parse) or a Filter for programs. List plans it
// onto one of a fixed set of access paths, each a named statement that walks
// one index from a keyset position. Where an index cannot answer a condition
// alone, List looks at a bounded number of rows and says so (Page.Partial);
// it is never slow instead. Counts and facets come from roll-ups, which are
// exact, or from a bounded look at the rows, which says whether it is.
//
// # Writing
//
// Writes come in batches. Sightings of known certificates only touch the rows
// of inventory_seen and endpoint. Structural changes (new certificates, new
// owners, another status) hold the row of inventory_version for the time of
// their transaction: they happen one after the other, in the whole fleet, so
// that roll-ups and successor chains need no other lock. The same row is the
// version that entity tags are made of.
//
// # Time
//
// Columns hold Unix milliseconds. A day is a whole UTC day; days and weeks in
// a query (expires:<14d) mean whole UTC days, so that answers come from the
// daily roll-ups and stay the same for a day. Instants before 1970 count as
// part of day 0.
package inventory
