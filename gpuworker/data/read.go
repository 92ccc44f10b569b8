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
	if bad == nil {
		bad = &source.Bad{}
	}
	before := bad.Skipped
	r, err := source.Open(ctx, name, bytes.NewReader(body), int64(len(body)), source.Options{Format: format, Literal: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	err = source.Each(ctx, r, bad, 0, func(row source.Row) error {
		rec, err := record(row)
		if err != nil {
			return err
		}
		if out = append(out, rec); len(out) > maxRows {
			return schemas.Errorf(schemas.CodeData, row.Place, "more than %d rows", maxRows)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(out) == 0 && bad.Skipped > before:
		return nil, schemas.Errorf(schemas.CodeData, name, "none of the %d rows can be used", bad.Skipped-before)
	case len(out) == 0:
		return nil, schemas.Errorf(schemas.CodeData, name, "the data set is empty")
	}
	return out, nil
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

// Rows maps records to rows by the columns of the spec: a role names a column ("text": "clause"), or is a text with columns in braces
// ("prompt": "Which type is this?\n{clause}"). A role that is not given takes the column of its own name. Errors are CodeData with the place.
func Rows(records []Record, columns map[string]string) ([]Row, error) {
	out := make([]Row, 0, len(records))
	for i, rec := range records {
		r := Row{Index: i}
		for role, dst := range map[string]*string{"text": &r.Text, "system": &r.System, "prompt": &r.Prompt, "response": &r.Response,
			"label": &r.Label, "explanation": &r.Explanation, "group": &r.Group} {
			from, given := columns[role]
			if !given {
				*dst = rec.Fields[role]
				continue
			}
			v, err := rec.render(from)
			if err != nil {
				return nil, err
			}
			*dst = v
		}
		if q := columns["query"]; q != "" {
			v, err := rec.render(q)
			if err != nil {
				return nil, err
			}
			if v != "" {
				r.Prompt = strings.TrimPrefix(r.Prompt+"\n"+v, "\n")
			}
		}
		if r.Text == "" && r.Prompt == "" {
			return nil, schemas.Errorf(schemas.CodeData, rec.Place, "has neither text nor prompt").
				WithHint("columns maps text or prompt to one of: %s", strings.Join(rec.names(), ", "))
		}
		out = append(out, r)
	}
	return out, nil
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
