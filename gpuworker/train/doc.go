// Package train runs a train stage: one rank of a gang computes its leaves of every step, reduces gradients in canonical order, updates
// its shard, and commits a checkpoint at every boundary.
//
// What a step computes is a pure function of the spec and the step's number: the order of samples depends on (seed, epoch), a leaf's
// content and shape on (seed, step, leaf), so that a run resumed at any boundary, by any number of ranks, ends with the same bits.
package train
