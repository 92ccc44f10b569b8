// Package verifydata computes every case of a folder of reference data (tokenizers, templates, processors, metrics, ...) and compares the
// results with those the folder holds.
//
// A Suite computes the files of one kind; suites() lists them. The frame around them reads the files, compares field by field, counts, names
// the first difference of each file, and can write the files anew with the computed values in place of the expected ones.
package verifydata
