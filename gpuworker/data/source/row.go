package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/tunefleet/tunefleet/schemas"
)

// Row is one row of a file: a JSON object, keys in the order of the file.
type Row struct {
	// Place is "file:row": the line of line-based formats, else the row, both counted from 1.
	Place string
	// Raw is a JSON object in UTF-8 without duplicate keys. It is the caller's to keep.
	Raw json.RawMessage
}

// BadRowError is a row that cannot be used. Reading may go on after it.
type BadRowError struct {
	// Place is the row's, as in Row.
	Place string
	// Reason says what is wrong.
	Reason string
	// Text is the beginning of the row as it stands in the file, at most maxQuoted bytes.
	Text string
}

// maxQuoted bounds how much of a bad row is kept.
const maxQuoted = 64 << 10

// Error implements error.
func (b *BadRowError) Error() string { return b.Place + ": " + b.Reason }

// Info is the error as users see it, with CodeData.
func (b *BadRowError) Info() *schemas.ErrorInfo {
	return schemas.Errorf(schemas.CodeData, b.Place, "%s", b.Reason).WithHint("mend the row, or set on_bad_row: skip or quarantine")
}

func badRow(place string, text []byte, format string, args ...any) *BadRowError {
	return &BadRowError{Place: place, Reason: fmt.Sprintf(format, args...), Text: string(text[:min(len(text), maxQuoted)])}
}

// Reader gives the rows of one file.
type Reader interface {
	// Next returns the next row, a *BadRowError (go on), io.EOF at the end, or another error, after which there is nothing more.
	Next(ctx context.Context) (Row, error)
	// Close frees what the reader holds; it does not close the file it was given.
	Close() error
}

// Limits bound what a file may make a reader do.
type Limits struct {
	// RowBytes is the largest row (default 16 MiB).
	RowBytes int
	// Depth is the deepest nesting of a JSON row (default 64).
	Depth int
	// Ratio is the largest growth by decompression beyond the first 64 MiB (default 250); Bytes the most that is read (default 1 TiB).
	Ratio int64
	Bytes int64
}

// WithDefaults fills what is zero.
func (l Limits) WithDefaults() Limits {
	if l.RowBytes == 0 {
		l.RowBytes = 16 << 20
	}
	if l.Depth == 0 {
		l.Depth = 64
	}
	if l.Ratio == 0 {
		l.Ratio = 250
	}
	if l.Bytes == 0 {
		l.Bytes = 1 << 40
	}
	return l
}

// Policy is what happens to bad rows.
type Policy string

// Policies: the first bad row is an error; bad rows are counted and left out; and they are kept aside with the reason.
const (
	PolicyFail       Policy = "fail"
	PolicySkip       Policy = "skip"
	PolicyQuarantine Policy = "quarantine"
)

// Validate refuses an unknown policy; "" is PolicyFail.
func (p Policy) Validate() error {
	switch p {
	case "", PolicyFail, PolicySkip, PolicyQuarantine:
		return nil
	}
	return schemas.Errorf(schemas.CodeInvalid, "on_bad_row", "%q is unknown (fail, skip, quarantine)", string(p))
}

// Bad collects what became of bad rows.
type Bad struct {
	Policy Policy
	// Skipped counts the rows that were left out.
	Skipped int64
	// Quarantined holds them under PolicyQuarantine, at most maxQuarantined.
	Quarantined []BadRowError
}

// maxQuarantined bounds the rows kept aside; more than that means that the file is not what it is taken for.
const maxQuarantined = 100_000

// Take applies the policy to an error of a Reader: nil means that reading goes on.
func (b *Bad) Take(err error) error {
	var bad *BadRowError
	if !errors.As(err, &bad) {
		return err
	}
	if b.Policy == "" || b.Policy == PolicyFail {
		return bad.Info()
	}
	b.Skipped++
	if b.Policy == PolicyQuarantine {
		if len(b.Quarantined) >= maxQuarantined {
			return schemas.Errorf(schemas.CodeData, bad.Place, "more than %d rows are bad", maxQuarantined).WithHint("look at the file's format and encoding")
		}
		b.Quarantined = append(b.Quarantined, *bad)
	}
	return nil
}

// Each gives every row of r, at most limit (0: all), to f under a policy.
func Each(ctx context.Context, r Reader, bad *Bad, limit int, f func(Row) error) error {
	for n := 0; limit == 0 || n < limit; {
		row, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if err = bad.Take(err); err != nil {
				return err
			}
			continue
		}
		if err := f(row); err != nil {
			return err
		}
		n++
	}
	return nil
}

// All reads every row of r, at most limit (0: all), under a policy.
func All(ctx context.Context, r Reader, bad *Bad, limit int) ([]Row, error) {
	var out []Row
	err := Each(ctx, r, bad, limit, func(row Row) error {
		out = append(out, row)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func placeOf(name string, row int64) string { return name + ":" + strconv.FormatInt(row, 10) }
