// Package ops holds the coarse operations of the engine, one a file, each with its forward and its backward over package kernels.
// Activations are float32 matrices [tokens, features]. An operation on a tape that has failed does nothing.
package ops
