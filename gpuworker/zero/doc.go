// Package zero shards parameters, gradients and optimizer state over the ranks of a gang (ZeRO, https://arxiv.org/abs/1910.02054) and
// reduces gradients in an order that does not depend on the number of ranks.
//
// Every unit (embedding, block, norm, head) is laid out flat, its trainable and its frozen parameters apart, and cut at chunks of 4,096
// elements counted from each tensor's start; a rank owns one contiguous range of each. With "zero3" only the owner holds values,
// gradients and moments: a unit is gathered into a window just before its forward, again before its backward, and freed after each.
// With "none" every rank holds all values and moments. With "zero2" it holds all values, and gradients and moments of its range; updated values
// are shared. With "hybrid" the ranks of a host share one copy of everything as with "zero3", and hosts have copies: what a rank reduces is a part of
// what it holds, and the ranks that hold the same exchange the reduced parts. Bits do not depend on any of this.
//
// Canonical reduction: leaf s*W+r of a step runs on rank r in micro-step s. After the backward of a unit (or of a group of small units)
// each rank sends every owner its slice of that leaf's gradient, and the owner adds the slices in leaf order: acc = g0, acc += g1, ...
// A rank without a leaf sends nothing. So the sums are the same for any number of ranks, one included.
//
// Exchanges overlap with computing where that is faster: the unit that the leaf before gathered next is gathered while the current one
// computes, and a bucket's leaves travel to their owners while the backward pass goes on. The calls stay in one order on all ranks, so bits do
// not depend on it. The first steps of a generation measure both ways (BenchmarkOverlap does for links of several speeds).
//
// Fast reduction adds the leaves of a rank on that rank and exchanges their sums once a step. BenchmarkReduction measures both.
package zero
