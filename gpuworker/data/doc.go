// Package data turns rows of text into token data that training and evaluation read: readers of JSONL, JSON and CSV, cleaning, the
// stratified split by groups, chat templates, encoding with label masks, packing, and columnar token shards.
//
// Everything here is a pure function of its input and a seed, so that every part of a prep stage makes the same plan and any later reader
// gets the same bytes. Names and semantics of templates, truncation, masks and packing are LLaMA-Factory's where it has them.
package data
