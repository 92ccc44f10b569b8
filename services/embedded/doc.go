// Package embedded runs everything tunefleet needs on one machine: a nats-server (JetStream on file, every write synced), a
// Redis-compatible server and an S3 server (versitygw over a folder), on loopback ports, over one data directory.
//
// Clients speak to them over loopback exactly as to real ones; there is no bypass. Ports and credentials are chosen once per data
// directory and kept in its record (embedded.json, readable by its owner only), so that a restart is found again and other processes find
// the servers with Load. Each part may run in a process of its own. The promise is to survive kill -9, not a power cut: the S3 server does
// not fsync; the Redis-compatible server keeps nothing at all, which costs no step (DESIGN 2, rule 7).
package embedded
