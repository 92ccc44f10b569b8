package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tunefleet/tunefleet/schemas"
)

func itoa(n int) string { return strconv.Itoa(n) }

// openJSON reads a .json file: an array of objects, or objects one after the other (which may be one a line).
func openJSON(name string, r io.Reader, l Limits, decoded, texts bool) (Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	for {
		c, err := b.ReadByte()
		if errors.Is(err, io.EOF) {
			return emptyReader{}, nil
		}
		if err != nil {
			return nil, err
		}
		if bytes.IndexByte([]byte(" \t\r\n"), c) >= 0 {
			continue
		}
		if err := b.UnreadByte(); err != nil {
			return nil, err
		}
		if c != '[' && c != '{' && (c != '"' || !texts) {
			return nil, schemas.Errorf(schemas.CodeData, name, "is no JSON file of rows: it begins with %q", string(rune(c))).
				WithHint("expected an array of objects, or one object a line")
		}
		m := &metered{r: b, limit: int64(l.RowBytes)}
		return &jsonFile{name: name, m: m, d: jsontext.NewDecoder(m, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)), limits: l, decoded: decoded, array: c == '[', check: rowChecker{depth: l.Depth, texts: texts}}, nil
	}
}

type emptyReader struct{}

// Next implements Reader.
func (emptyReader) Next(context.Context) (Row, error) { return Row{}, io.EOF }

// Close implements Reader.
func (emptyReader) Close() error { return nil }

var errRowTooLong = errors.New("row too long")

// metered fails when more than limit bytes are read without a call of reset: one value may not fill memory.
type metered struct {
	r     io.Reader
	n     int64
	limit int64
}

// Read implements io.Reader.
func (m *metered) Read(p []byte) (int, error) {
	if m.n > m.limit {
		return 0, errRowTooLong
	}
	n, err := m.r.Read(p[:min(len(p), 64<<10)])
	m.n += int64(n)
	return n, err
}

type jsonFile struct {
	name    string
	m       *metered
	d       *jsontext.Decoder
	limits  Limits
	decoded bool
	array   bool
	begun   bool
	row     int64
	check   rowChecker
}

// Next implements Reader. Broken syntax ends the file: where the next row begins is not known.
func (j *jsonFile) Next(ctx context.Context) (Row, error) {
	if err := ctx.Err(); err != nil {
		return Row{}, err
	}
	if j.array && !j.begun {
		j.begun = true
		if _, err := j.d.ReadToken(); err != nil {
			return Row{}, j.broken(err)
		}
	}
	j.m.n = 0
	if j.array && j.d.PeekKind() == ']' {
		if _, err := j.d.ReadToken(); err != nil {
			return Row{}, j.broken(err)
		}
		if _, err := j.d.ReadToken(); !errors.Is(err, io.EOF) {
			return Row{}, schemas.Errorf(schemas.CodeData, placeOf(j.name, j.row), "there is more after the array")
		}
		j.array, j.begun = false, false
		return Row{}, io.EOF
	}
	raw, err := j.d.ReadValue()
	if errors.Is(err, io.EOF) && !j.array {
		return Row{}, io.EOF
	}
	if err != nil {
		return Row{}, j.broken(err)
	}
	j.row++
	place := placeOf(j.name, j.row)
	if len(raw) > j.limits.RowBytes {
		return Row{}, badRow(place, raw, "the row is longer than %d bytes", j.limits.RowBytes)
	}
	if why := textProblem(raw, j.decoded); why != "" {
		return Row{}, badRow(place, raw, "%s", why)
	}
	if why := j.check.object(raw); why != "" {
		return Row{}, badRow(place, raw, "%s", why)
	}
	return Row{Place: place, Raw: bytes.Clone(raw)}, nil
}

// broken is an error of the file itself.
func (j *jsonFile) broken(err error) error {
	var info *schemas.ErrorInfo
	place := placeOf(j.name, j.row+1)
	switch {
	case errors.As(err, &info):
		return info
	case errors.Is(err, errRowTooLong):
		return schemas.Errorf(schemas.CodeData, place, "the row is longer than %d bytes", j.limits.RowBytes)
	}
	return schemas.Errorf(schemas.CodeData, place, "broken JSON: %s", syntaxText(err)).WithHint("what follows cannot be read: rows of an array have no line to go on at")
}

// Close implements Reader.
func (j *jsonFile) Close() error { return nil }
