// Package schemas holds the wire contracts of tunefleet: the run spec, the work messages, HEAD, the ledger, manifests, events,
// the run and stage state machines as data, the error codes with their exit codes, and every object key, Redis key and NATS subject.
//
// It imports the standard library and schema tags only, does no I/O and reads no clock. Everything that two processes must agree on
// is written here once; JSON Schema is generated from these types (see gen/).
package schemas

//go:generate go run ./gen jsonschema
