// Package trainchaos holds the kill -9 test of real training: prep, pretraining and LoRA with ZeRO-3 over two worker processes, with every
// process of the cell killed at random moments. The toy's suite in package chaostest is the fast one.
package trainchaos
