// Package choice is multiple choice as LLaMA-Factory's evaluator (eval/evaluator.py, after the test of MMLU, arXiv:2009.03300) asks and counts
// it: questions with four answers, a few solved ones of the same subject before each, and the answer whose letter the model finds likeliest. It
// reads the folders of its evaluation data, draws the same examples for the same seed, and writes the same files.
package choice
