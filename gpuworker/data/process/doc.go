// Package process makes training sequences of conversations and texts, as LLaMA-Factory's processors and collators do: supervised samples with
// label masks and truncation, packing, prompts to complete, pairs of answers, judged answers (KTO), pretraining blocks, and padded batches.
package process
