// Package pyjson reads and writes JSON the way Python's json module does, and keeps the order of keys.
//
// The reference pipelines pass tool descriptions and arguments through json.loads and json.dumps before they are tokenized, so spacing, number
// formatting and key order are part of the training data. Values are nil, bool, int64, *big.Int (integers beyond int64), float64, string,
// []any and *Object.
package pyjson
