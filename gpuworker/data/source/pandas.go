package source

import (
	"bufio"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

// CSVTable reads a whole file of comma-separated values as pandas' C parser cuts it, without names and types: rows of values, of one width. name
// is for errors, limit the largest row in bytes. A row that is shorter than the first is filled with empty values; a longer one is CodeData, as
// are bytes that are no UTF-8.
func CSVTable(name string, r io.Reader, limit int) ([][]string, error) {
	c := &csvFile{name: name, cut: csvCutter{r: bufio.NewReader(r), comma: ',', limit: limit, line: 1}, limits: Limits{RowBytes: limit}}
	if head, err := c.cut.r.Peek(3); err == nil && string(head) == "\xef\xbb\xbf" {
		if _, err := c.cut.r.Discard(3); err != nil {
			return nil, c.fatal(err)
		}
	}
	var out [][]string
	for {
		rec, err := c.cut.record()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, c.fatal(err)
		}
		row := make([]string, len(rec))
		for i, v := range rec {
			if why := textProblem(v, false); why != "" {
				return nil, schemas.Errorf(schemas.CodeData, placeOf(name, c.cut.start), "value %d %s", i+1, why)
			}
			row[i] = string(v)
		}
		if len(out) > 0 {
			width := len(out[0])
			if len(row) > width {
				return nil, schemas.Errorf(schemas.CodeData, placeOf(name, c.cut.start), "has %d values, the first row has %d", len(row), width).
					WithHint("a value with a comma in it needs quotes around it")
			}
			row = append(row, slices.Repeat([]string{""}, width-len(row))...)
		}
		out = append(out, row)
	}
}

// PandasText is what Python's str gives of a column's values when pandas.read_csv has guessed their type: whole numbers lose leading zeros,
// fractions are written as Python writes floats, whole numbers beside a missing value become floats, and a missing value (which the words None
// and NA are, too) is nan. Numbers of more than 15 digits, which pandas rounds in its own way, are rounded correctly.
func PandasText(column []string) []string {
	out, missing := make([]string, len(column)), make([]bool, len(column))
	var words []string
	for i, s := range column {
		if missing[i] = notAvailable(s); missing[i] {
			out[i] = "nan"
		} else {
			words = append(words, s)
		}
	}
	if len(words) == 0 {
		return out
	}
	var written func(string) string
	switch {
	case len(words) == len(column) && all(words, isInt64):
		written = func(s string) string {
			n, _ := strconv.ParseInt(blanks(s), 10, 64) // looked at before
			return strconv.FormatInt(n, 10)
		}
	case len(words) == len(column) && all(words, isUint64):
		written = func(s string) string {
			n, _ := strconv.ParseUint(strings.TrimPrefix(blanks(s), "+"), 10, 64) // looked at before
			return strconv.FormatUint(n, 10)
		}
	case all(words, isFloat):
		written = func(s string) string {
			f, _ := parseFloat(s)
			switch {
			case math.IsInf(f, 0):
				return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(f, 'g', -1, 64)), "+")
			case math.IsNaN(f):
				return "nan"
			}
			return pyjson.Float(f)
		}
	case all(words, isTruth):
		written = func(s string) string { return strings.ToUpper(s[:1]) + strings.ToLower(s[1:]) }
	default:
		written = func(s string) string { return s }
	}
	for i, s := range column {
		if !missing[i] {
			out[i] = written(s)
		}
	}
	return out
}

func all(words []string, is func(string) bool) bool {
	return !slices.ContainsFunc(words, func(s string) bool { return !is(s) })
}

// blanks takes off the blanks around a number, which the parser skips.
func blanks(s string) string { return strings.Trim(s, " \t\v\f") }

func isInt64(s string) bool {
	_, err := strconv.ParseInt(blanks(s), 10, 64)
	return err == nil
}

func isUint64(s string) bool {
	_, err := strconv.ParseUint(strings.TrimPrefix(blanks(s), "+"), 10, 64)
	return err == nil
}

func isFloat(s string) bool {
	_, ok := parseFloat(s)
	return ok
}

// parseFloat reads what pandas' parser does: decimal numbers and infinity, not the hexadecimal and underscored ones that Go knows too.
func parseFloat(s string) (float64, bool) {
	s = blanks(s)
	if strings.ContainsAny(s, "xX_pPnN") {
		switch strings.ToLower(strings.TrimLeft(s, "+-")) {
		case "inf", "infinity":
		default:
			return 0, false
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return f, true
}

func isTruth(s string) bool {
	return slices.Contains([]string{"True", "TRUE", "true", "False", "FALSE", "false"}, s)
}
