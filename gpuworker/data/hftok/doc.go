// Package hftok runs Hugging Face tokenizers: tokenizer.json (the byte-level and the SentencePiece kind of BPE) and SentencePiece's
// tokenizer.model, with the attributes that transformers resolves from tokenizer_config.json.
//
// Encoding goes through the stages of the tokenizers library (github.com/huggingface/tokenizers 0.22: added tokens, normalizer,
// pre-tokenizer, model), but keeps the ids of pre-tokens in a cache in front of the merges; tests and a fuzz target hold the ids equal to the
// library's. A tokenizer with a part that is not built here is run by the library itself (github.com/daulet/tokenizers).
package hftok
