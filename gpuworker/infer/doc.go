// Package infer answers prompts with a model that is held in memory: what chat and the API server stand on.
//
// A Model is weights, tokenizer and chat template. An Engine answers several prompts at a time with it: a row of the key-value cache for each,
// prompts computed in pieces between the steps of the answers that are under way, one token of every answer a step. Which answers share a step
// changes no bit of any of them. What a row holds stays when its answer has ended, so that the next turn of a conversation computes its own words
// only.
package infer
