// Package exchange moves device memory between the ranks of a gang without the host: by NCCL where every rank is a process with a GPU of its
// own, by copies where ranks are goroutines that share one device. Ranks on CPUs, and GPUs that NCCL cannot connect, exchange host bytes
// through package collective instead, as if this one were not there.
//
// Rules that hold for every implementation:
//
//   - All ranks make the same calls in the same order, one at a time a rank. Tensors are contiguous; the pieces that one rank sends to another
//     have the sizes of those that the other one receives, in the same order. A nil list means that nothing moves in that direction.
//   - A call returns before anything has moved. It begins after what was queued on q so far, and runs on a queue of its own. What is queued
//     after q.Wait(event) may read what was received and overwrite what was sent. The event of a call is good for the next 15 calls.
//   - Bytes are moved and nothing is added: sums are made by kernels.SliceAdd in leaf order, so that they do not depend on how many ranks
//     there are, on ring or tree, nor on timing.
//   - A rank that is lost, or does not take part before the deadline, breaks the exchange for good: calls fail with collective.ErrPeerLost,
//     queues whose results depended on it fail with kernels.StatusLost when they are synchronized, and Failure tells why. The gang forms a
//     new generation, whose communicator has another id.
//   - Where giving up hangs as well, in the driver, nothing in the process can end it: Config.Kill is called.
package exchange
