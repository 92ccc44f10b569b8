// Package checkpoint reads and swaps HEAD, the one object per run that says what is true, and stores, commits, verifies, reshards and
// prunes checkpoints.
//
// A commit is: every rank uploads its parts under keys that are unique per generation, rank 0 writes the manifest with a single PUT,
// and HEAD is swapped with If-Match, fenced by the generation. Readers trust only manifests that HEAD names, verify every part against
// its SHA-256, and walk back to the parent when one does not match (DESIGN 2, rules 1 and 2).
package checkpoint
