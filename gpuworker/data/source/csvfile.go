package source

import (
	"context"
	"encoding/csv"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// csvFile reads comma- or tab-separated values whose first line names the columns. Every value is text.
type csvFile struct {
	name    string
	m       *metered
	r       *csv.Reader
	head    []string
	limits  Limits
	decoded bool
	values  []any
	line    int
}

func openCSV(name string, r io.Reader, l Limits, decoded bool, comma rune) (Reader, error) {
	m := &metered{r: r, limit: int64(l.RowBytes)}
	c := &csvFile{name: name, m: m, r: csv.NewReader(m), limits: l, decoded: decoded}
	c.r.Comma, c.r.ReuseRecord = comma, true
	head, err := c.r.Read()
	if errors.Is(err, io.EOF) {
		return emptyReader{}, nil
	}
	if err != nil {
		return nil, c.fatal(err)
	}
	c.head = slices.Clone(head)
	seen := map[string]bool{}
	for i, h := range c.head {
		h = strings.TrimSpace(h)
		if why := textProblem([]byte(h), decoded); why != "" {
			return nil, schemas.Errorf(schemas.CodeData, placeOf(name, 1), "the header %s", why)
		}
		if seen[h] {
			return nil, schemas.Errorf(schemas.CodeData, placeOf(name, 1), "the column %q appears twice", h)
		}
		seen[h], c.head[i] = true, h
	}
	c.values = make([]any, len(head))
	return c, nil
}

// Next implements Reader. A row with another number of values than the header is a bad row, as is a quote out of place.
func (c *csvFile) Next(ctx context.Context) (Row, error) {
	if err := ctx.Err(); err != nil {
		return Row{}, err
	}
	c.m.n = 0
	rec, err := c.r.Read()
	if errors.Is(err, io.EOF) {
		return Row{}, io.EOF
	}
	var p *csv.ParseError
	if errors.As(err, &p) {
		text := []byte(strings.Join(rec, string(c.r.Comma)))
		if errors.Is(err, csv.ErrFieldCount) {
			return Row{}, badRow(placeOf(c.name, int64(p.StartLine)), text, "has %d values, the header names %d columns", len(rec), len(c.head))
		}
		return Row{}, badRow(placeOf(c.name, int64(p.StartLine)), text, "broken CSV: %v", p.Err)
	}
	if err != nil {
		return Row{}, c.fatal(err)
	}
	c.line, _ = c.r.FieldPos(0)
	place := placeOf(c.name, int64(c.line))
	for i, v := range rec {
		if why := textProblem([]byte(v), c.decoded); why != "" {
			return Row{}, badRow(place, []byte(strings.Join(rec, string(c.r.Comma))), "column %q %s", c.head[i], why)
		}
		c.values[i] = strings.Clone(v)
	}
	raw, err := encodeObject(c.head, c.values)
	if err != nil {
		return Row{}, badRow(place, nil, "%v", err)
	}
	return Row{Place: place, Raw: raw}, nil
}

func (c *csvFile) fatal(err error) error {
	var info *schemas.ErrorInfo
	switch {
	case errors.As(err, &info):
		return info
	case errors.Is(err, errRowTooLong):
		return schemas.Errorf(schemas.CodeData, placeOf(c.name, int64(c.line+1)), "a row is longer than %d bytes", c.limits.RowBytes).
			WithHint("a quote that is never closed makes one row of the rest of the file")
	}
	return schemas.Errorf(schemas.CodeData, c.name, "broken CSV: %v", err)
}

// Close implements Reader.
func (c *csvFile) Close() error { return nil }
