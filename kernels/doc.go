// Package kernels runs the numerical operations of training and generation on a device.
//
// The contract is tunefleet.h: a table of coarse operations, forward and backward, that a backend fills. The CPU backend is compiled
// into this package; others (CUDA, the hostile test backend) are shared objects opened by path and refused unless they were built
// against the same header. See README.md for the Go API and for how the results stay equal, bit for bit, over thread counts and
// instruction sets.
package kernels
