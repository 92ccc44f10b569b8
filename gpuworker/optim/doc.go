// Package optim holds the optimizers, gradient clipping and learning-rate schedules.
//
// An Optimizer declares what state each parameter needs; whoever shards the model allocates it, stores it in checkpoints and hands it back
// in stretches of consecutive elements. Elementwise optimizers take any stretch that begins at a chunk of 4,096 elements, so their state
// is sharded flat; what others need whole (Whole) they get whole. AdamW and SGD are device kernels, and so are the matrix products of Muon,
// GaLore and APOLLO; the rest of the arithmetic runs on the host (type host), exact on every backend but not made for a GPU's speed.
// GaLore's singular vectors take a time that grows with the cube of a matrix' smaller side. Nothing depends on how a model is cut: the same gradients give the same bits.
package optim
