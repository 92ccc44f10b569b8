// Package consume is the worker: the agent that pulls messages, holds leases, forms gangs and watches rank processes, and the rank
// process's side that runs a stage's handler.
package consume
