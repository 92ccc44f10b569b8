// Package source reads data files as rows: JSON, JSON lines, CSV, TSV, plain text, Parquet and Arrow, compressed with gzip or zstd, in
// UTF-8, UTF-16 or GB18030. It also finds files (a file, a folder, a pattern) without leaving the folder that was named, reads
// dataset_info.json of LLaMA-Factory, and mixes data sets in its orders.
//
// Files are streams: memory is bounded by the largest row (Limits), whatever a file's length. What is wrong with one row is a *BadRowError and
// reading goes on after it; what is wrong with the file ends the reading.
package source
