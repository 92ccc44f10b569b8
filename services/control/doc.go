// Package control schedules runs: it accepts specs (Front), answers the API (Service), and moves every open run of a pool through its
// stages (Control).
//
// Decide is a pure function of a View of the pool and of time; the loop builds the view from the listing of open objects, HEADs, leases and
// the worker inventory, and applies the actions that Decide returns in the order ledger, HEAD, messages. Every action is idempotent and
// may be cut off between any two writes: what is true lies in S3, and the next tick, of this replica or of another one, goes on from
// there. HEAD swaps of control are bound to the revision that was looked at, so that two replicas that both believe to own a pool cannot
// both succeed (DESIGN 2 and 3).
package control
