package data

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/schemas"
)

// Limits of what is read.
const (
	maxLine = 4 << 20
	maxRows = 50_000_000
)

// Record is one row as read: column name to text. Values that are not strings are kept as their JSON.
type Record struct {
	// Place is "file:row", rows counted from 1.
	Place  string
	Fields map[string]string
}

// FormatOf returns the format of a file by its name, "" when unknown.
func FormatOf(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".jsonl", ".ndjson":
		return "jsonl"
	case ".json":
		return "json"
	case ".csv":
		return "csv"
	}
	return ""
}

// ReadRecords reads all rows of a file. Errors are CodeData and name file and row: broken syntax, a row that is not an object, invalid
// UTF-8, an empty file, a line over 4 MiB.
func ReadRecords(name, format string, r io.Reader) ([]Record, error) {
	if format == "" {
		format = FormatOf(name)
	}
	read := map[string]func(string, io.Reader) ([]Record, error){"jsonl": readJSONL, "json": readJSON, "csv": readCSV}[format]
	if read == nil {
		return nil, schemas.Errorf(schemas.CodeData, name, "unknown data format").WithHint("set format to jsonl, json or csv")
	}
	out, err := read(name, r)
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, schemas.Errorf(schemas.CodeData, name, "the data set is empty")
	}
	return out, nil
}

func at(name string, row int) string { return name + ":" + strconv.Itoa(row) }

func readJSONL(name string, r io.Reader) ([]Record, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	var out []Record
	row := 0
	for sc.Scan() {
		row++
		line := bytes.TrimSpace(sc.Bytes())
		if row == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if len(line) == 0 {
			continue
		}
		rec, err := object(at(name, row), line)
		if err != nil {
			return nil, err
		}
		if out = append(out, rec); len(out) > maxRows {
			return nil, schemas.Errorf(schemas.CodeData, at(name, row), "more than %d rows", maxRows)
		}
	}
	if err := sc.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, schemas.Errorf(schemas.CodeData, at(name, row+1), "the line is longer than %d bytes", maxLine)
	} else if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return out, nil
}

func readJSON(name string, r io.Reader) ([]Record, error) {
	d := json.NewDecoder(r)
	tok, err := d.Token()
	if errors.Is(err, io.EOF) {
		return nil, schemas.Errorf(schemas.CodeData, name, "the data set is empty")
	}
	if err != nil || tok != json.Delim('[') {
		return nil, schemas.Errorf(schemas.CodeData, name, "must be a JSON array of objects")
	}
	var out []Record
	for d.More() {
		var raw json.RawMessage
		place := at(name, len(out)+1)
		if err := d.Decode(&raw); err != nil {
			return nil, schemas.Errorf(schemas.CodeData, place, "broken JSON: %v", err)
		}
		rec, err := object(place, raw)
		if err != nil {
			return nil, err
		}
		if out = append(out, rec); len(out) > maxRows {
			return nil, schemas.Errorf(schemas.CodeData, place, "more than %d rows", maxRows)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, schemas.Errorf(schemas.CodeData, at(name, len(out)+1), "broken JSON: %v", err)
	}
	return out, nil
}

// object reads one JSON object as a record.
func object(place string, b []byte) (Record, error) {
	if !utf8.Valid(b) {
		return Record{}, schemas.Errorf(schemas.CodeData, place, "is not valid UTF-8")
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return Record{}, schemas.Errorf(schemas.CodeData, place, "broken JSON: %v", err).WithHint("each row must be one JSON object")
	}
	if m == nil {
		return Record{}, schemas.Errorf(schemas.CodeData, place, "is null, not a JSON object")
	}
	rec := Record{Place: place, Fields: make(map[string]string, len(m))}
	for k, v := range m {
		var s string
		switch {
		case json.Unmarshal(v, &s) == nil && string(v) != "null":
			rec.Fields[k] = s
		case string(v) != "null":
			rec.Fields[k] = string(v)
		}
	}
	return rec, nil
}

func readCSV(name string, r io.Reader) ([]Record, error) {
	cr := csv.NewReader(r)
	cr.ReuseRecord = true
	head, err := cr.Read()
	if errors.Is(err, io.EOF) {
		return nil, schemas.Errorf(schemas.CodeData, name, "the data set is empty")
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeData, at(name, 1), "broken CSV: %v", err)
	}
	head = slices.Clone(head)
	head[0] = strings.TrimPrefix(head[0], "\ufeff")
	var out []Record
	for {
		row, err := cr.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if broken := (*csv.ParseError)(nil); errors.As(err, &broken) {
			return nil, schemas.Errorf(schemas.CodeData, at(name, broken.Line), "broken CSV: %v", broken.Err)
		}
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeData, name, "cannot read: %v", err)
		}
		line, _ := cr.FieldPos(0)
		place := at(name, line)
		rec := Record{Place: place, Fields: make(map[string]string, len(head))}
		for i, v := range row {
			if !utf8.ValidString(v) {
				return nil, schemas.Errorf(schemas.CodeData, place, "is not valid UTF-8")
			}
			rec.Fields[head[i]] = v
		}
		if out = append(out, rec); len(out) > maxRows {
			return nil, schemas.Errorf(schemas.CodeData, place, "more than %d rows", maxRows)
		}
	}
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
