// Package oracle computes every kernel operation and its gradient in plain float64 Go, straight from the formula and without any regard
// for speed. It is what backends are measured against; its own gradients are proven by central differences (oracle_test.go).
//
// All matrices are dense, row-major slices with their extents as arguments.
package oracle
