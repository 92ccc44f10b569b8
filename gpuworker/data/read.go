package data

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// maxRows bounds the rows of one file.
const maxRows = 50_000_000

// Record is one row as read: column name to text. Values that are not strings are kept as their JSON.
type Record struct {
	// Place is "file:row", rows counted from 1.
	Place  string
	Fields map[string]string
}

// ReadRecords reads all rows of a file in any format of source; bad decides about rows that cannot be used (nil: the first is an error).
// Errors are CodeData and name file and row; a file without a row is one.
func ReadRecords(ctx context.Context, name, format string, body []byte, bad *source.Bad) (out []Record, err error) {
	err = EachRecord(ctx, File{Name: name, Format: format, In: bytes.NewReader(body), Size: int64(len(body))}, bad, func(r Record) error {
		out = append(out, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// File is an open data file of Size bytes. Format is one of source's, "" is the format of its name. Dir is for scratch files.
type File struct {
	Name, Format, Dir string
	In                source.Input
	Size              int64
}

// EachRecord gives every row of a file to f, one at a time in memory; bad and errors are as for ReadRecords, and an error of f ends it.
func EachRecord(ctx context.Context, file File, bad *source.Bad, f func(Record) error) (err error) {
	if bad == nil {
		bad = &source.Bad{}
	}
	before, n := bad.Skipped, 0
	r, err := source.Open(ctx, file.Name, file.In, file.Size, source.Options{Format: file.Format, Literal: true, Dir: file.Dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	err = source.Each(ctx, r, bad, 0, func(row source.Row) error {
		rec, err := record(row)
		if err != nil {
			return err
		}
		if n++; n > maxRows {
			return schemas.Errorf(schemas.CodeData, row.Place, "more than %d rows", maxRows)
		}
		return f(rec)
	})
	switch {
	case err != nil:
		return err
	case n == 0 && bad.Skipped > before:
		return schemas.Errorf(schemas.CodeData, file.Name, "none of the %d rows can be used", bad.Skipped-before)
	case n == 0:
		return schemas.Errorf(schemas.CodeData, file.Name, "the data set is empty")
	}
	return nil
}

// record keeps the values of a row as texts; what is no text is kept as its JSON, null as nothing.
func record(row source.Row) (Record, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(row.Raw, &m); err != nil {
		return Record{}, schemas.Errorf(schemas.CodeData, row.Place, "broken JSON: %v", err)
	}
	rec := Record{Place: row.Place, Fields: make(map[string]string, len(m))}
	for k, v := range m {
		var s string
		switch {
		case string(v) == "null":
		case json.Unmarshal(v, &s) == nil:
			rec.Fields[k] = s
		default:
			rec.Fields[k] = string(v)
		}
	}
	return rec, nil
}

// Rows maps records to rows, numbered from 0, as Record.Row does.
func Rows(records []Record, columns map[string]string) ([]Row, error) {
	out := make([]Row, 0, len(records))
	for i, rec := range records {
		r, err := rec.Row(columns)
		if err != nil {
			return nil, err
		}
		r.Index = i
		out = append(out, r)
	}
	return out, nil
}

// Row maps a record to a row by the columns of the spec: a role names a column ("text": "clause"), or is a text with columns in braces
// ("prompt": "Which type is this?\n{clause}"). A role that is not given takes the column of its own name. Errors are CodeData with the place.
func (r Record) Row(columns map[string]string) (Row, error) {
	var row Row
	for role, dst := range map[string]*string{"text": &row.Text, "system": &row.System, "prompt": &row.Prompt, "response": &row.Response,
		"label": &row.Label, "explanation": &row.Explanation, "group": &row.Group} {
		from, given := columns[role]
		if !given {
			*dst = r.Fields[role]
			continue
		}
		v, err := r.render(from)
		if err != nil {
			return Row{}, err
		}
		*dst = v
	}
	if q := columns["query"]; q != "" {
		v, err := r.render(q)
		if err != nil {
			return Row{}, err
		}
		if v != "" {
			row.Prompt = strings.TrimPrefix(row.Prompt+"\n"+v, "\n")
		}
	}
	if row.Text == "" && row.Prompt == "" {
		return Row{}, schemas.Errorf(schemas.CodeData, r.Place, "has neither text nor prompt").
			WithHint("columns maps text or prompt to one of: %s", strings.Join(r.names(), ", "))
	}
	return row, nil
}

func (r Record) names() []string {
	var out []string
	for k := range r.Fields {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// render is a column's value, or a text with {columns} filled in.
func (r Record) render(from string) (string, error) {
	if !strings.Contains(from, "{") {
		v, ok := r.Fields[from]
		if !ok {
			return "", r.missing(from)
		}
		return v, nil
	}
	var b strings.Builder
	for rest := from; ; {
		before, after, ok := strings.Cut(rest, "{")
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		name, tail, ok := strings.Cut(after, "}")
		if !ok {
			return "", schemas.Errorf(schemas.CodeInvalid, "columns", "%q has an open brace", from)
		}
		v, found := r.Fields[name]
		if !found {
			return "", r.missing(name)
		}
		b.WriteString(v)
		rest = tail
	}
}

func (r Record) missing(column string) error {
	e := schemas.Errorf(schemas.CodeData, r.Place, "has no column %q", column)
	if near := schemas.Nearest(column, r.names()); near != "" {
		return e.WithHint("did you mean %q?", near)
	}
	return e.WithHint("it has: %s", strings.Join(r.names(), ", "))
}
