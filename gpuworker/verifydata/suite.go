package verifydata

import (
	"context"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// Suite computes the files of one kind.
type Suite struct {
	// Name is for messages.
	Name string
	// Match says whether the suite computes a file, given its path from the folder with slashes ("metrics/pairs.jsonl").
	Match func(path string) bool
	// Run computes the cases of a file, one for each row (a .json file has one row: the whole document). What is wrong with one row belongs to its Case;
	// an error means that the file as a whole cannot be computed.
	Run func(ctx context.Context, env *Env, f *File) ([]Case, error)
	// Input, when not nil, says which matched files are inputs of others only; they are copied, not compared.
	Input func(path string) bool
}

// File is one file of the folder.
type File struct {
	// Path is from the folder, with slashes.
	Path string
	// Rows are the rows of a JSONL file, or the one value of a JSON file.
	Rows []any
	// indent is the style of a JSON document, for writing it again.
	indent  int
	newline bool
}

// Row returns a row that is an object; nil when it is something else.
func (f *File) Row(i int) *pyjson.Object {
	o, _ := f.Rows[i].(*pyjson.Object)
	return o
}

// Field is one computed value.
type Field struct {
	Key   string
	Value any
	// Tolerance is the accepted absolute difference of numbers anywhere in the value; 0 means equal.
	Tolerance float64
}

// Case is what was computed for one row.
type Case struct {
	// Fields are the computed values.
	Fields []Field
	// Order lists all keys of such a row as the reference writes them, so that a computed field that the row lacks is put in its place.
	Order []string
	// Results are the keys that only a row without error has, for telling a stripped row from a wrong one when computing fails.
	Results []string
	// Err says that computing failed, which is right when the row holds a non-null "error".
	Err error
	// Doc, when not nil, is the whole row (for rows that are no objects, or for nested documents); Fields and Order are not used then.
	Doc *Field
}

// suites lists what this build can compute. The first that matches a file computes it.
func suites() []Suite {
	return append([]Suite{tokenizerSuite(), templateSuite(), processorSuite(), jinjaSuite(), goldenSuite()}, metricsSuites()...)
}
