// Package consume is the worker: the agent that pulls messages, holds leases, forms gangs and watches rank processes, and the rank
// process's side that runs a stage's handler.
//
// One agent runs per host. It pulls a message only when idle, reads in the object store that the message is not obsolete, and takes the
// lease of its seat or part. Then it starts a rank: this very binary again, talking JSON lines over two pipes, killed by the kernel when
// the agent dies. The agent renews the lease and extends the delivery only while the rank's phase advances.
//
// A train message is the right to hold one seat. The seat outlives its ranks: each rank joins one generation. It listens, the agent offers
// its address, the holder of the lowest seat swaps HEAD to the next generation once every wanted seat is offered, and all ranks connect
// their mesh and pass a barrier. When any of them is lost, the others fail at their next collective call, their agents record the end of
// the generation and offer fresh ranks, which start from the commit that HEAD names.
//
// What keeps this safe is not here: commits are fenced by HEAD's generation (package checkpoint). The agent only stops early what could not
// commit any more: a lease that is another's, a HEAD of a newer generation or of a higher issue. A message is acked after reading that it
// is obsolete, never as a commit; a lost one is not touched again. Leases and broker may be away for any time while a gang trains.
package consume
