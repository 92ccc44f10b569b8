// Package verifye2e repeats whole runs of LLaMA-Factory from their configuration and data, and compares what they log: the loss of every
// step, evaluation losses, predictions. Runs go through the handlers of production.
package verifye2e
