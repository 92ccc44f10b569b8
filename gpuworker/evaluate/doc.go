// Package evaluate scores models on a held-out split: slices of the rows are scored by workers, and a reducer writes the report.
//
// Every model is scored by the same procedure. The class of a row is the label whose string has the greatest summed log-likelihood after
// the templated prompt; the explanation is what greedy decoding writes after the label; the perplexity is that of the reference answer.
package evaluate
