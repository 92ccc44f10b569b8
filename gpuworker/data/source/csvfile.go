package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// csvFile reads comma- or tab-separated values whose first line names the columns, as pandas' C parser does with its defaults, which is
// what datasets reads CSV by: a quote begins a quoted value only at a value's beginning, and after it ended whatever follows belongs to the
// value; lines of blanks are skipped; a row that is too short is filled up; the words of notAvailable are null. Every other value is text, and so
// are numbers: prompts and answers are.
type csvFile struct {
	name    string
	cut     csvCutter
	head    []string
	limits  Limits
	decoded bool
	truths  []string
	literal bool
	values  []any
}

func openCSV(name string, r io.Reader, l Limits, decoded bool, comma byte, o *Options) (Reader, error) {
	c := &csvFile{name: name, cut: csvCutter{r: bufio.NewReaderSize(r, 256<<10), comma: comma, limit: l.RowBytes, line: 1}, limits: l, decoded: decoded, truths: o.Truths, literal: o.Literal}
	head, err := c.cut.record()
	if errors.Is(err, io.EOF) {
		return emptyReader{}, nil
	}
	if err != nil {
		return nil, c.fatal(err)
	}
	c.head = make([]string, len(head))
	seen := map[string]bool{}
	for i, h := range head {
		name1 := strings.TrimSpace(string(h))
		if why := textProblem([]byte(name1), decoded); why != "" {
			return nil, schemas.Errorf(schemas.CodeData, placeOf(name, 1), "the header %s", why)
		}
		if name1 == "" {
			name1 = fmt.Sprintf("Unnamed: %d", i)
		}
		if seen[name1] {
			return nil, schemas.Errorf(schemas.CodeData, placeOf(name, 1), "the column %q appears twice", name1)
		}
		seen[name1], c.head[i] = true, name1
	}
	c.values = make([]any, len(head))
	return c, nil
}

// Next implements Reader. A row with more values than the header is a bad row.
func (c *csvFile) Next(ctx context.Context) (Row, error) {
	if err := ctx.Err(); err != nil {
		return Row{}, err
	}
	rec, err := c.cut.record()
	if errors.Is(err, io.EOF) {
		return Row{}, io.EOF
	}
	if err != nil {
		return Row{}, c.fatal(err)
	}
	place := placeOf(c.name, c.cut.start)
	joined := func() []byte {
		var b []byte
		for i, v := range rec {
			if i > 0 {
				b = append(b, c.cut.comma)
			}
			b = append(b, v...)
		}
		return b
	}
	if len(rec) > len(c.head) {
		return Row{}, badRow(place, joined(), "has %d values, the header names %d columns", len(rec), len(c.head))
	}
	for i := range c.values {
		if i >= len(rec) {
			c.values[i] = c.value(c.head[i], "")
			continue
		}
		if why := textProblem(rec[i], c.decoded); why != "" {
			return Row{}, badRow(place, joined(), "column %q %s", c.head[i], why)
		}
		c.values[i] = c.value(c.head[i], string(rec[i]))
	}
	raw, err := encodeObject(c.head, c.values)
	if err != nil {
		return Row{}, badRow(place, nil, "%v", err)
	}
	return Row{Place: place, Raw: raw}, nil
}

// value is text, null for a word that means nothing is there, or a truth value in a column of those.
func (c *csvFile) value(column, s string) any {
	switch {
	case c.literal:
		return s
	case notAvailable(s):
		return nil
	case slices.Contains(c.truths, column):
		switch s {
		case "True", "TRUE", "true":
			return true
		case "False", "FALSE", "false":
			return false
		}
	}
	return s
}

// notAvailable reports whether pandas takes a value for a missing one.
func notAvailable(s string) bool {
	switch s {
	case "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null":
		return true
	}
	return false
}

// errOpenQuote is a quoted value that the file's end cuts.
var errOpenQuote = errors.New("a quote is never closed")

func (c *csvFile) fatal(err error) error {
	var info *schemas.ErrorInfo
	place := placeOf(c.name, c.cut.start)
	switch {
	case errors.As(err, &info):
		return info
	case errors.Is(err, errRowTooLong):
		return schemas.Errorf(schemas.CodeData, place, "a row is longer than %d bytes", c.limits.RowBytes).
			WithHint("a quote that is never closed makes one row of the rest of the file")
	case errors.Is(err, errOpenQuote):
		return schemas.Errorf(schemas.CodeData, place, "the quote that opens in this row is never closed").WithHint("a quote within a quoted value is doubled")
	}
	return schemas.Errorf(schemas.CodeData, c.name, "broken CSV: %v", err)
}

// Close implements Reader.
func (c *csvFile) Close() error { return nil }

// csvCutter cuts a stream into records, by the states of pandas' tokenizer.
type csvCutter struct {
	r     *bufio.Reader
	comma byte
	limit int
	// line is the line that the next byte is on, start the one that the last record began on.
	line, start int64
	buf         []byte
	ends        []int
	rec         [][]byte
}

type csvState int

const (
	csvFieldStart csvState = iota
	csvPlain
	csvQuoted
	csvQuoteEnds // a quote within quotes: doubled, or the end
)

// record gives the next record; its values are valid until the next call.
func (c *csvCutter) record() ([][]byte, error) {
	if err := c.skipBlank(); err != nil {
		return nil, err
	}
	c.buf, c.ends, c.start = c.buf[:0], c.ends[:0], c.line
	state := csvFieldStart
	for {
		b, err := c.r.ReadByte()
		if errors.Is(err, io.EOF) {
			if state == csvQuoted {
				return nil, errOpenQuote
			}
			c.ends = append(c.ends, len(c.buf))
			return c.values(), nil
		}
		if err != nil {
			return nil, err
		}
		if state == csvQuoted {
			switch b {
			case '"':
				state = csvQuoteEnds
			case '\n':
				c.line++
				fallthrough
			default:
				c.buf = append(c.buf, b)
			}
		} else {
			var done bool
			if state, done = c.step(state, b); done {
				return c.values(), c.endOfLine(b)
			}
		}
		if len(c.buf) > c.limit {
			return nil, errRowTooLong
		}
	}
}

// step takes a byte outside of quotes; done says that it ends the record.
func (c *csvCutter) step(state csvState, b byte) (next csvState, done bool) {
	switch {
	case b == '"' && state == csvFieldStart:
		return csvQuoted, false
	case b == '"' && state == csvQuoteEnds:
		c.buf = append(c.buf, b)
		return csvQuoted, false
	case b == c.comma:
		c.ends = append(c.ends, len(c.buf))
		return csvFieldStart, false
	case b == '\n' || b == '\r':
		c.ends = append(c.ends, len(c.buf))
		return csvFieldStart, true
	}
	c.buf = append(c.buf, b)
	return csvPlain, false
}

// endOfLine takes the line feed after a carriage return.
func (c *csvCutter) endOfLine(b byte) error {
	c.line++
	if b != '\r' {
		return nil
	}
	next, err := c.r.Peek(1)
	if err == nil && next[0] == '\n' {
		_, err = c.r.Discard(1)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// skipBlank skips lines of nothing but blanks.
func (c *csvCutter) skipBlank() error {
	blanks := 0
	for {
		head, err := c.r.Peek(blanks + 1)
		if len(head) <= blanks {
			if errors.Is(err, io.EOF) || err == nil {
				if _, derr := c.r.Discard(blanks); derr != nil {
					return derr
				}
				return io.EOF
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				return nil // a line of so many blanks is a row, whatever it is
			}
			return err
		}
		b := head[blanks]
		switch {
		case b == '\n' || b == '\r':
			if _, err := c.r.Discard(blanks + 1); err != nil {
				return err
			}
			if err := c.endOfLine(b); err != nil {
				return err
			}
			blanks = 0
		case (b == ' ' || b == '\t') && b != c.comma:
			blanks++
		default:
			return nil
		}
	}
}

func (c *csvCutter) values() [][]byte {
	c.rec = c.rec[:0]
	from := 0
	for _, to := range c.ends {
		c.rec = append(c.rec, c.buf[from:to])
		from = to
	}
	return c.rec
}
