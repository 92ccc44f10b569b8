// Package optim holds the optimizers, gradient clipping and learning-rate schedules.
//
// An Optimizer declares what state each parameter needs; whoever shards the model allocates it, stores it in checkpoints and hands it back
// in stretches of consecutive elements. Elementwise optimizers take any stretch that begins at a chunk of 4,096 elements, so their state
// is sharded flat; what others need whole (Whole) they get whole. All updates are operations of the device; the host draws torch's random
// numbers for APOLLO, and has a part in GaLore's singular vectors: subspace says which. Nothing depends on how a model is cut: the same
// gradients give the same bits.
package optim
